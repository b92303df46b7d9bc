// The keys of a model's tokenizer to tokenizer.json and tokenizer_config.json.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"
#include "runtime/gguf/folder_texts.h"

namespace duo {
namespace {

using nlohmann::json;

constexpr int64_t kMost = (int64_t{1} << 31) - 1;
constexpr char kSpace[] = "\xE2\x96\x81";  // SentencePiece's mark of a word

// tokenizer.ggml.token_type.
enum TokenType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// How text is split, by the names that converters give to what a model's own tokenizer.json has.
struct Splitter {
  const char* name;
  const char* regex;  // null: byte-level BPE's own
  bool lone_digits;   // each digit by itself, before anything else
  bool nfc;
  bool whole_words;  // a word that is a token is that token, whatever the merges say
  bool adds_bos;     // where the file does not say
};
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kTekken[] =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr Splitter kSplitters[] = {
    {"gpt-2", nullptr, false, false, false, false},    {"smollm", nullptr, true, false, false, false},
    {"starcoder", nullptr, true, false, false, false}, {"refact", nullptr, true, false, false, false},
    {"llama-bpe", kLlama3, false, false, true, true},  {"llama3", kLlama3, false, false, true, true},
    {"llama-v3", kLlama3, false, false, true, true},   {"smaug-bpe", kLlama3, false, false, true, true},
    {"qwen2", kQwen2, false, true, false, false},      {"deepseek-r1-qwen", kQwen2, false, false, false, true},
    {"tekken", kTekken, false, false, true, true},
};

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int> types;  // [tokens]
};

Vocabulary ReadVocabulary(GgufFields& in) {
  Vocabulary v;
  v.tokens = in.Strings("tokenizer.ggml.tokens");
  if (v.tokens.empty()) in.Fail("has no tokenizer.ggml.tokens");
  for (double given : in.Numbers("tokenizer.ggml.token_type")) {
    const int type = given >= 1 && given <= 6 ? static_cast<int>(given) : kNormal;
    v.types.push_back(type);
  }
  if (v.types.empty()) v.types.assign(v.tokens.size(), kNormal);
  if (v.types.size() != v.tokens.size()) {
    in.Fail(absl::StrCat("tokenizer.ggml.token_type: expected ", v.tokens.size(), " entries, one a token, found ",
                         v.types.size()));
  }
  return v;
}

// Ids must not collide when texts do: the first one keeps the text.
json VocabJson(const Vocabulary& v) {
  json vocab = json::object();
  for (size_t i = 0; i < v.tokens.size(); ++i) vocab.emplace(std::string(v.tokens[i]), i);
  return vocab;
}

json AddedTokens(const Vocabulary& v) {
  json added = json::array();
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const bool special = v.types[i] == kControl || v.types[i] == kUnknown;
    if ((!special && v.types[i] != kUserDefined) || v.tokens[i].empty()) continue;
    added.push_back({{"id", i},
                     {"content", std::string(v.tokens[i])},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

json Step(const char* type) { return {{"type", type}}; }
json Sequence(const char* list, json steps) { return {{"type", "Sequence"}, {list, std::move(steps)}}; }
json Replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

void WriteByteLevel(const Vocabulary& v, const Splitter& splitter, GgufFields& in, json& out) {
  json byte_level = {{"type", "ByteLevel"},
                     {"add_prefix_space", in.Bool("tokenizer.ggml.add_space_prefix", false)},
                     {"trim_offsets", true},
                     {"use_regex", splitter.regex == nullptr}};
  json steps = json::array();
  if (splitter.lone_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  if (splitter.regex != nullptr) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", splitter.regex}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(byte_level);
  out["normalizer"] = splitter.nfc ? Step("NFC") : json();
  out["pre_tokenizer"] = Sequence("pretokenizers", std::move(steps));
  out["decoder"] = byte_level;
  json merges = json::array();
  for (std::string_view merge : in.Strings("tokenizer.ggml.merges")) merges.push_back(std::string(merge));
  if (merges.empty()) in.Fail("has no tokenizer.ggml.merges");
  out["model"] = {
      {"type", "BPE"}, {"ignore_merges", splitter.whole_words}, {"vocab", VocabJson(v)}, {"merges", std::move(merges)}};
}

// SentencePiece gives each token a score, and joins first what gives the token of the highest. As merges: every way to
// cut a token into two tokens, ordered by the token's score, then as the `tokenizers` library orders them.
json MergesOfScores(const Vocabulary& v, const std::vector<double>& scores) {
  std::unordered_map<std::string_view, size_t> ids;
  const auto joins = [&](size_t i) { return v.types[i] == kNormal || v.types[i] == kUserDefined; };
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (joins(i)) ids.emplace(v.tokens[i], i);
  }
  struct Merge {
    double score;
    size_t left, right;  // characters
    size_t left_id, right_id;
    std::string_view token;
    size_t cut;  // bytes
  };
  std::vector<Merge> merges;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string_view token = v.tokens[i];
    if (!joins(i)) continue;
    const auto starts = [&](size_t at) { return (static_cast<uint8_t>(token[at]) & 0xC0) != 0x80; };
    size_t characters = 0, seen = 0;
    for (size_t at = 0; at < token.size(); ++at) characters += starts(at);
    for (size_t at = 1; at < token.size(); ++at) {
      seen += starts(at - 1);
      if (!starts(at)) continue;
      const auto left = ids.find(token.substr(0, at)), right = ids.find(token.substr(at));
      if (left == ids.end() || right == ids.end()) continue;
      merges.push_back({scores[i], seen, characters - seen, left->second, right->second, token, at});
    }
  }
  std::stable_sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(-a.score, -static_cast<int64_t>(a.left), -static_cast<int64_t>(a.right)) <
           std::tuple(-b.score, -static_cast<int64_t>(b.left), -static_cast<int64_t>(b.right));
  });
  json out = json::array();
  for (const Merge& m : merges)
    out.push_back(json::array({std::string(m.token.substr(0, m.cut)), std::string(m.token.substr(m.cut))}));
  return out;
}

void WriteSentencePiece(const Vocabulary& v, GgufFields& in, json& out) {
  const std::vector<double> scores = in.Numbers("tokenizer.ggml.scores");
  if (scores.size() != v.tokens.size()) {
    in.Fail(absl::StrCat("tokenizer.ggml.scores: expected ", v.tokens.size(), " entries, one a token, found ",
                         scores.size()));
    return;
  }
  if (in.Has("tokenizer.ggml.precompiled_charsmap"))
    in.Unsupported("tokenizer.ggml.precompiled_charsmap (a normaliser of its own) is not supported");
  const bool prefix = in.Bool("tokenizer.ggml.add_space_prefix", true);
  const json space = Replace(" ", kSpace);
  json before = json::array(), after = json::array({Replace(kSpace, " "), Step("ByteFallback"), Step("Fuse")});
  if (prefix) {
    before.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
    after.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  before.push_back(space);
  out["normalizer"] = Sequence("normalizers", std::move(before));
  out["pre_tokenizer"] = nullptr;
  out["decoder"] = Sequence("decoders", std::move(after));
  out["model"] = {{"type", "BPE"},
                  {"fuse_unk", true},
                  {"byte_fallback", true},
                  {"vocab", VocabJson(v)},
                  {"merges", MergesOfScores(v, scores)}};
  const int64_t unknown = in.Int("tokenizer.ggml.unknown_token_id", 0, kMost, 0);
  if (unknown < static_cast<int64_t>(v.tokens.size())) out["model"]["unk_token"] = std::string(v.tokens[unknown]);
}

// The text of the token that a key names; empty where there is none.
std::string TokenOf(const Vocabulary& v, GgufFields& in, const char* key) {
  const std::string name = absl::StrCat("tokenizer.ggml.", key);
  const int64_t id = in.Int(name, -1, kMost, -1);
  if (id < 0) return "";
  if (id < static_cast<int64_t>(v.tokens.size())) return std::string(v.tokens[id]);
  in.Fail(absl::StrCat(name, ": expected a token below ", v.tokens.size(), ", found ", id));
  return "";
}

// BOS before a text and EOS behind it, where the file wants them.
void WriteEnds(const Vocabulary& v, bool adds_bos, GgufFields& in, json& out) {
  json single = json::array(), tokens = json::object();
  const auto add = [&](const char* key) {
    const std::string text = TokenOf(v, in, key);
    if (text.empty()) return;
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    tokens[text] = {
        {"id", text}, {"ids", {in.Int(absl::StrCat("tokenizer.ggml.", key), 0, kMost, 0)}}, {"tokens", {text}}};
  };
  if (in.Bool("tokenizer.ggml.add_bos_token", adds_bos)) add("bos_token_id");
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (in.Bool("tokenizer.ggml.add_eos_token", false)) add("eos_token_id");
  out["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", tokens}};
}

}  // namespace

absl::StatusOr<std::string> GgufTokenizerJson(const GgufFile& file) {
  GgufFields in(file);
  const std::string model = in.String("tokenizer.ggml.model");
  const Vocabulary v = ReadVocabulary(in);
  if (!in.ok()) return in.status();
  json out = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", AddedTokens(v)}};
  bool adds_bos = true;
  if (model == "llama") {
    WriteSentencePiece(v, in, out);
  } else if (model == "gpt2") {
    const std::string pre = in.String("tokenizer.ggml.pre", "");
    const Splitter* found =
        std::find_if(std::begin(kSplitters), std::end(kSplitters), [&](const Splitter& s) { return pre == s.name; });
    if (found == std::end(kSplitters)) {
      std::string known;
      for (const Splitter& s : kSplitters) absl::StrAppend(&known, known.empty() ? "" : ", ", s.name);
      in.Unsupported(pre.empty() ? std::string("has no tokenizer.ggml.pre, which says how text is split; convert the "
                                               "model again with a converter of today")
                                 : absl::StrCat("tokenizer.ggml.pre \"", Printable(pre),
                                                "\" is not supported; supported are ", known));
      return in.status();
    }
    adds_bos = found->adds_bos;
    WriteByteLevel(v, *found, in, out);
  } else {
    in.Unsupported(
        absl::StrCat("tokenizer.ggml.model \"", Printable(model), "\" is not supported; supported are gpt2, llama"));
  }
  WriteEnds(v, adds_bos, in, out);
  if (!in.ok()) return in.status();
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::string> GgufTokenizerConfigJson(const GgufFile& file) {
  GgufFields in(file);
  const Vocabulary v = ReadVocabulary(in);
  json out = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  for (const auto& [key, name] :
       {std::pair("bos_token_id", "bos_token"), std::pair("eos_token_id", "eos_token"),
        std::pair("unknown_token_id", "unk_token"), std::pair("padding_token_id", "pad_token")}) {
    if (const std::string text = TokenOf(v, in, key); !text.empty()) out[name] = text;
  }
  for (const char* key : {"add_bos_token", "add_eos_token"}) {
    const std::string full = absl::StrCat("tokenizer.ggml.", key);
    if (in.Has(full)) out[key] = in.Bool(full, false);
  }
  // Beside the template there may be named ones, tokenizer.chat_template.tool_use.
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  json templates = json::array();
  for (const auto& [key, value] : file.values()) {
    if (!key.starts_with(kTemplate) || !value.String().has_value()) continue;
    const bool named = key.size() > kTemplate.size();
    if (named && key[kTemplate.size()] != '.') continue;
    templates.push_back(
        {{"name", named ? key.substr(kTemplate.size() + 1) : "default"}, {"template", std::string(*value.String())}});
  }
  if (templates.size() == 1) {
    out["chat_template"] = templates[0]["template"];
  } else if (!templates.empty()) {
    out["chat_template"] = templates;
  }
  if (!in.ok()) return in.status();
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace duo
