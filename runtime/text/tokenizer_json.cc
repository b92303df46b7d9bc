#include "runtime/text/tokenizer_json.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/files/json_fields.h"
#include "runtime/text/tokenizer_json_steps.h"

namespace duo {
namespace {

using nlohmann::json;

constexpr int64_t kMaxId = 1 << 24;  // no vocabulary comes near; a lying id must not allocate
constexpr int kMaxProcessorDepth = 16;

const json& Section(const json& root, const char* key) {
  static const json null;
  const auto found = root.find(key);
  return found == root.end() ? null : *found;
}

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status CheckId(const json& value, const std::string& text, int32_t* id) {
  if (!value.is_number_integer() || value.is_number_float())
    return Wrong(absl::StrCat("token \"", text, "\": its id is not an integer"));
  const int64_t n = value.is_number_unsigned()
                        ? static_cast<int64_t>(std::min<uint64_t>(value.get<uint64_t>(), INT64_MAX))
                        : value.get<int64_t>();
  if (n < 0 || n >= kMaxId)
    return Wrong(absl::StrCat("token \"", text, "\": expected an id from 0 to ", kMaxId - 1, ", found ", n));
  *id = static_cast<int32_t>(n);
  return absl::OkStatus();
}

absl::Status AddText(int32_t id, const std::string& text, TokenizerParts* parts) {
  if (static_cast<size_t>(id) >= parts->texts.size()) {
    parts->texts.resize(id + 1);
    parts->special.resize(id + 1);
  }
  if (!parts->texts[id].empty() && parts->texts[id] != text) {
    return Wrong(absl::StrCat("tokens \"", parts->texts[id], "\" and \"", text, "\" both have id ", id));
  }
  parts->texts[id] = text;
  parts->ids[text] = id;
  return absl::OkStatus();
}

absl::Status ParseVocabulary(const json& model, TokenizerParts* parts) {
  const json& vocab = Section(model, "vocab");
  if (!vocab.is_object()) return Wrong("model: expected an object \"vocab\" of token texts and ids");
  for (const auto& [text, value] : vocab.items()) {
    int32_t id = 0;
    DUO_RETURN_IF_ERROR(CheckId(value, text, &id));
    DUO_RETURN_IF_ERROR(AddText(id, text, parts));
    parts->model.vocab[text] = id;
  }
  return absl::OkStatus();
}

// A merge is "left right" in older files, ["left", "right"] in newer ones, whose tokens may hold spaces.
absl::Status ReadMerge(const json& entry, size_t rank, std::string* left, std::string* right) {
  if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
    *left = entry[0].get<std::string>();
    *right = entry[1].get<std::string>();
    return absl::OkStatus();
  }
  if (entry.is_string()) {
    const std::string& both = entry.get_ref<const std::string&>();
    const size_t space = both.find(' ');
    if (space != std::string::npos && both.find(' ', space + 1) == std::string::npos) {
      *left = both.substr(0, space);
      *right = both.substr(space + 1);
      return absl::OkStatus();
    }
  }
  return Wrong(absl::StrCat("model: merge ", rank, " is not a pair of tokens"));
}

absl::Status ParseMerges(const json& model, TokenizerParts* parts) {
  const json& merges = Section(model, "merges");
  if (!merges.is_array()) return Wrong("model: expected an array \"merges\"");
  if (merges.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) return Wrong("model: too many merges");
  BpeModel& bpe = parts->model;
  bpe.merges.reserve(merges.size());
  std::string left, right;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    DUO_RETURN_IF_ERROR(ReadMerge(merges[rank], rank, &left, &right));
    const size_t prefix = bpe.continuing_subword_prefix.size();
    if (right.size() < prefix)
      return Wrong(absl::StrCat("model: merge ", rank, ": its right token lacks the continuing_subword_prefix"));
    const std::string merged = left + right.substr(prefix);
    int32_t ids[3];
    const std::string* texts[3] = {&left, &right, &merged};
    for (int i = 0; i < 3; ++i) {
      const auto found = bpe.vocab.find(*texts[i]);
      if (found == bpe.vocab.end())
        return Wrong(absl::StrCat("model: merge ", rank, ": token \"", *texts[i], "\" is not in the vocabulary"));
      ids[i] = found->second;
    }
    bpe.merges[BpePair(ids[0], ids[1])] = {static_cast<int32_t>(rank), ids[2]};
  }
  return absl::OkStatus();
}

absl::Status ParseModel(const json& model, TokenizerParts* parts) {
  if (!model.is_object()) return Wrong("expected an object \"model\"");
  std::string type = model.contains("merges") ? "BPE" : "";  // the oldest files name no type
  DUO_RETURN_IF_ERROR(ReadField(model, "type", &type));
  if (type != "BPE")
    return absl::UnimplementedError(absl::StrCat("model of type \"", type, "\" is not supported, only BPE is"));
  const json& dropout = Section(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0.0)) {
    return absl::UnimplementedError("model: dropout is not supported");
  }
  BpeModel& bpe = parts->model;
  DUO_RETURN_IF_ERROR(ReadField(model, "fuse_unk", &bpe.fuse_unk));
  DUO_RETURN_IF_ERROR(ReadField(model, "byte_fallback", &bpe.byte_fallback));
  DUO_RETURN_IF_ERROR(ReadField(model, "ignore_merges", &bpe.ignore_merges));
  DUO_RETURN_IF_ERROR(ReadField(model, "continuing_subword_prefix", &bpe.continuing_subword_prefix));
  DUO_RETURN_IF_ERROR(ReadField(model, "end_of_word_suffix", &bpe.end_of_word_suffix));
  DUO_RETURN_IF_ERROR(ParseVocabulary(model, parts));
  DUO_RETURN_IF_ERROR(ParseMerges(model, parts));
  std::string unk;
  DUO_RETURN_IF_ERROR(ReadField(model, "unk_token", &unk));
  if (!unk.empty()) {
    const auto found = bpe.vocab.find(unk);
    if (found == bpe.vocab.end()) return Wrong(absl::StrCat("model: unk_token \"", unk, "\" is not in the vocabulary"));
    bpe.unk_id = found->second;
  }
  return absl::OkStatus();
}

absl::Status ParseAddedTokens(const json& list, TokenizerParts* parts) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array()) return Wrong("expected \"added_tokens\" to be an array");
  int32_t next = static_cast<int32_t>(parts->model.vocab.size());
  for (const json& entry : list) {
    if (!entry.is_object()) return Wrong("added_tokens: expected objects");
    AddedToken token;
    DUO_RETURN_IF_ERROR(ReadField(entry, "content", &token.content));
    DUO_RETURN_IF_ERROR(CheckId(Section(entry, "id"), token.content, &token.id));
    DUO_RETURN_IF_ERROR(ReadField(entry, "single_word", &token.single_word));
    DUO_RETURN_IF_ERROR(ReadField(entry, "lstrip", &token.lstrip));
    DUO_RETURN_IF_ERROR(ReadField(entry, "rstrip", &token.rstrip));
    DUO_RETURN_IF_ERROR(ReadField(entry, "special", &token.special));
    token.normalized = !token.special;
    DUO_RETURN_IF_ERROR(ReadField(entry, "normalized", &token.normalized));
    if (token.content.empty()) continue;
    // As in the library, a token that is there already keeps its id, and those behind the vocabulary are counted on from
    // its size, whatever the file says: what was trained with such a file saw no gaps.
    const auto known = parts->ids.find(token.content);
    if (known != parts->ids.end()) {
      token.id = known->second;
    } else if (token.id > next && (static_cast<size_t>(next) >= parts->texts.size() || parts->texts[next].empty())) {
      token.id = next;
    }
    next = std::max(next, token.id + 1);
    DUO_RETURN_IF_ERROR(AddText(token.id, token.content, parts));
    if (token.special) {
      parts->special[token.id] = true;
      parts->model.never_whole_words.insert(token.id);
    }
    absl::StatusOr<std::string> pattern = token.content;
    if (token.normalized) pattern = Normalize(parts->normalizer, token.content);
    if (!pattern.ok()) return pattern.status();
    if (!pattern->empty()) (token.normalized ? parts->normalized_added : parts->raw_added).Add(*pattern, token);
  }
  return absl::OkStatus();
}

absl::Status CheckKnownId(int64_t id, const TokenizerParts& parts, const std::string& text) {
  if (id >= 0 && id < static_cast<int64_t>(parts.texts.size()) && !parts.texts[id].empty()) return absl::OkStatus();
  return Wrong(absl::StrCat("post_processor: token \"", text, "\" with id ", id, " is not in the vocabulary"));
}

// The ids of one special token of a TemplateProcessing.
absl::Status TemplateIds(const json& processor, const std::string& name, const TokenizerParts& parts,
                         std::vector<int32_t>* out) {
  const json& tokens = Section(processor, "special_tokens");
  const json* ids = nullptr;
  if (tokens.is_object() && tokens.contains(name) && tokens[name].is_object()) ids = &Section(tokens[name], "ids");
  if (ids == nullptr || !ids->is_array())
    return Wrong(absl::StrCat("post_processor: special token \"", name, "\" is not defined"));
  for (const json& value : *ids) {
    int32_t id = 0;
    DUO_RETURN_IF_ERROR(CheckId(value, name, &id));
    DUO_RETURN_IF_ERROR(CheckKnownId(id, parts, name));
    out->push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ParseTemplate(const json& processor, TokenizerParts* parts) {
  const json& single = Section(processor, "single");
  if (!single.is_array()) return Wrong("post_processor TemplateProcessing: expected an array \"single\"");
  std::vector<int32_t> before, after;
  int sequences = 0;
  for (const json& item : single) {
    if (item.is_object() && item.contains("Sequence")) {
      ++sequences;
      continue;
    }
    std::string name;
    const json& special = item.is_object() ? Section(item, "SpecialToken") : item;
    if (!special.is_object())
      return Wrong("post_processor TemplateProcessing: expected SpecialToken or Sequence items");
    DUO_RETURN_IF_ERROR(ReadField(special, "id", &name));
    DUO_RETURN_IF_ERROR(TemplateIds(processor, name, *parts, sequences == 0 ? &before : &after));
  }
  if (sequences != 1) {
    return absl::UnimplementedError(
        absl::StrCat("post_processor TemplateProcessing: expected the sequence once, found it ", sequences, " times"));
  }
  parts->prefix.insert(parts->prefix.begin(), before.begin(), before.end());
  parts->suffix.insert(parts->suffix.end(), after.begin(), after.end());
  return absl::OkStatus();
}

// BertProcessing and RobertaProcessing: "cls" and "sep" are [text, id].
absl::Status ParseClsSep(const json& processor, TokenizerParts* parts) {
  for (const char* key : {"cls", "sep"}) {
    const json& pair = Section(processor, key);
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string())
      return Wrong(absl::StrCat("post_processor: expected \"", key, "\" to be [text, id]"));
    int32_t id = 0;
    const std::string text = pair[0].get<std::string>();
    DUO_RETURN_IF_ERROR(CheckId(pair[1], text, &id));
    DUO_RETURN_IF_ERROR(CheckKnownId(id, *parts, text));
    if (key[0] == 'c') {
      parts->prefix.insert(parts->prefix.begin(), id);
    } else {
      parts->suffix.push_back(id);
    }
  }
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const json& processor, int depth, TokenizerParts* parts) {
  if (processor.is_null()) return absl::OkStatus();
  absl::StatusOr<std::string> type = ReadType(processor);
  if (!type.ok()) return Wrong(absl::StrCat("post_processor: ", type.status().message()));
  if (*type == "ByteLevel") return absl::OkStatus();  // changes offsets, which nothing here uses
  if (*type == "TemplateProcessing") return ParseTemplate(processor, parts);
  if (*type == "BertProcessing" || *type == "RobertaProcessing") return ParseClsSep(processor, parts);
  if (*type != "Sequence")
    return absl::UnimplementedError(absl::StrCat("post_processor of type \"", *type, "\" is not supported"));
  const json& list = Section(processor, "processors");
  if (!list.is_array() || depth >= kMaxProcessorDepth)
    return Wrong("post_processor Sequence: expected an array \"processors\", not nested deeply");
  for (const json& child : list) DUO_RETURN_IF_ERROR(ParsePostProcessor(child, depth + 1, parts));
  return absl::OkStatus();
}

// A decoder's patterns are searched for in tokens' own texts alone: that no such search is given up is seen here, so
// that decoding cannot fail.
absl::Status CheckDecoderPatterns(const TokenizerParts& parts) {
  using Kind = DetokenizerStep::Kind;
  for (size_t i = 0; i < parts.decoder.size(); ++i) {
    if (parts.decoder[i].kind != Kind::kReplace || !parts.decoder[i].pattern.literal().empty()) continue;
    const bool behind_replaces = std::all_of(parts.decoder.begin(), parts.decoder.begin() + static_cast<ptrdiff_t>(i),
                                             [](const DetokenizerStep& step) { return step.kind == Kind::kReplace; });
    if (!behind_replaces) {
      return absl::UnimplementedError("decoder Replace: a \"Regex\" behind steps other than Replace is not supported");
    }
    for (std::string text : parts.texts) {
      for (size_t k = 0; k <= i; ++k) {
        absl::StatusOr<std::string> replaced = ReplaceAll(parts.decoder[k].pattern, parts.decoder[k].text, text);
        if (!replaced.ok()) return replaced.status();
        text = *std::move(replaced);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ParseRoot(const json& root, TokenizerParts* parts) {
  absl::StatusOr<std::vector<NormalizerStep>> normalizer = ParseNormalizer(Section(root, "normalizer"));
  if (!normalizer.ok()) return normalizer.status();
  parts->normalizer = *std::move(normalizer);
  absl::StatusOr<std::vector<PreTokenizerStep>> pre_tokenizer = ParsePreTokenizer(Section(root, "pre_tokenizer"));
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  parts->pre_tokenizer = *std::move(pre_tokenizer);
  absl::StatusOr<std::vector<DetokenizerStep>> decoder = ParseDecoder(Section(root, "decoder"));
  if (!decoder.ok()) return decoder.status();
  parts->decoder = *std::move(decoder);
  DUO_RETURN_IF_ERROR(ParseModel(Section(root, "model"), parts));
  DUO_RETURN_IF_ERROR(ParseAddedTokens(Section(root, "added_tokens"), parts));
  DUO_RETURN_IF_ERROR(ParsePostProcessor(Section(root, "post_processor"), 0, parts));
  DUO_RETURN_IF_ERROR(CheckDecoderPatterns(*parts));
  BpeFinish(parts->texts, &parts->model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view text, const std::string& name) {
  const absl::StatusOr<json> root = ParseJsonObject(text, name);
  if (!root.ok()) return root.status();
  TokenizerParts parts;
  const absl::Status status = ParseRoot(*root, &parts);
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
  return parts;
}

}  // namespace duo
