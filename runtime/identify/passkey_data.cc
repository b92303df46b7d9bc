#include "runtime/identify/passkey_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/base/read_file.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr const char* kWords[] = {"alfa",   "bravo",   "charlie", "delta",  "echo",   "foxtrot", "golf",
                                  "hotel",  "india",   "juliett", "kilo",   "lima",   "mike",    "november",
                                  "oscar",  "papa",    "quebec",  "romeo",  "sierra", "tango",   "uniform",
                                  "victor", "whiskey", "xray",    "yankee", "zulu"};
constexpr const char* kOrdinals[] = {"first",     "second",      "third",      "fourth",     "fifth",
                                     "sixth",     "seventh",     "eighth",     "ninth",      "tenth",
                                     "eleventh",  "twelfth",     "thirteenth", "fourteenth", "fifteenth",
                                     "sixteenth", "seventeenth", "eighteenth", "nineteenth", "twentieth"};
// Of the keys that needle-6m was trained on, enough for any document.
constexpr const char* kAdjectives[] = {"amber",  "brave",  "bronze", "calm",  "cobalt", "coral", "emerald", "frosty",
                                       "gentle", "golden", "hidden", "ivory", "lunar",  "misty", "silent",  "velvet"};
constexpr const char* kNouns[] = {"anchor", "beacon", "canyon",  "castle", "comet", "falcon", "forest", "glacier",
                                  "harbor", "island", "lantern", "meadow", "otter", "raven",  "tiger",  "willow"};
constexpr char kMarker[] = "DOCUMENT";    // where the document will stand, while a chat is rendered
constexpr int kDepths = 1000;             // evenly spaced depths that facts are drawn from
constexpr int kLineReach = 64;            // tokens that a fact moves down, to begin on a line of its own
constexpr int64_t kLeastHaystack = 1000;  // tokens

// A stream of numbers that follows from its seed.
class Draws {
 public:
  explicit Draws(uint64_t seed) : seed_(SplitMix64(seed)) {}
  int64_t Below(int64_t n) { return static_cast<int64_t>(SplitMix64(seed_ + next_++) % static_cast<uint64_t>(n)); }
  // The first `count` of 0 .. n - 1, shuffled.
  std::vector<int> Distinct(int n, int count) {
    std::vector<int> all(n);
    std::iota(all.begin(), all.end(), 0);
    for (int i = 0; i < count; ++i) std::swap(all[i], all[i + Below(n - i)]);
    all.resize(count);
    return all;
  }

 private:
  uint64_t seed_, next_ = 0;
};

uint64_t SeedOf(uint64_t seed, int64_t index, bool held_out) {
  return SplitMix64(SplitMix64(seed) + 2 * static_cast<uint64_t>(index) + (held_out ? 1 : 0));
}

// Cuts segments after the first place where a segment that is not the template's holds `text`; what is before `text`
// goes to `before`, what follows it stays in `segments`. False if none does: the template changes what people write.
bool CutAt(const std::string& text, std::vector<TextSegment>* segments, std::vector<TextSegment>* before) {
  for (size_t i = 0; i < segments->size(); ++i) {
    TextSegment& segment = (*segments)[i];
    const size_t at = segment.parse_special ? std::string::npos : segment.text.find(text);
    if (at == std::string::npos) continue;
    before->assign(segments->begin(), segments->begin() + i);
    before->push_back({segment.text.substr(0, at), false});
    segment.text.erase(0, at + text.size());
    segments->erase(segments->begin(), segments->begin() + i);
    return true;
  }
  return false;
}

// Of each token of an answer, the one in `fact` that it is a copy of: where the answer's tokens stand there.
std::vector<PasskeySample::Range> CopiedTokens(const std::vector<int32_t>& tokens, const PasskeySample::Range& fact,
                                               const std::vector<int32_t>& answer) {
  const auto begin = tokens.begin() + fact.begin, end = tokens.begin() + fact.end;
  const auto found = std::search(begin, end, answer.begin(), answer.end());
  std::vector<PasskeySample::Range> copied(answer.size(), fact);
  for (size_t i = 0; i < answer.size() && found != end; ++i) {
    const int64_t at = found - tokens.begin() + static_cast<int64_t>(i);
    copied[i] = {at, at + 1};
  }
  return copied;
}

}  // namespace

const char* Name(RecallTask task) { return task == RecallTask::kPasskey ? "passkey" : "needle"; }

std::vector<PasskeyData::Fact> PasskeyData::MakeFacts(uint64_t seed) const {
  Draws draws(seed);
  std::vector<Fact> facts(options_.facts);
  if (options_.task == RecallTask::kPasskey) {
    for (int i = 0; i < options_.facts; ++i) {
      std::vector<const char*> words(options_.words);
      for (const char*& word : words) word = kWords[draws.Below(std::size(kWords))];
      const std::string passkey = absl::StrJoin(words, " "), lead = absl::StrCat("The ", kOrdinals[i], " passkey is");
      facts[i] = {absl::StrCat("Keep this in mind. ", lead, " ", passkey, "."),
                  absl::StrCat("What is the ", kOrdinals[i], " passkey?"), lead, absl::StrCat(" ", passkey)};
    }
    return facts;
  }
  constexpr int kNounCount = std::size(kNouns), kKeys = std::size(kAdjectives) * kNounCount;
  const std::vector<int> keys = draws.Distinct(kKeys, options_.facts);
  for (int i = 0; i < options_.facts; ++i) {
    const std::string key = absl::StrCat(kAdjectives[keys[i] / kNounCount], " ", kNouns[keys[i] % kNounCount]);
    const std::string value = absl::StrFormat("%06d", draws.Below(1000000));
    facts[i] = {absl::StrCat("Note: the passcode for the ", key, " is ", value, "."),
                absl::StrCat("What is the passcode for the ", key, "?"), "", value};
    if (chat_.has_value()) {  // an assistant would say more than the digits
      facts[i].lead = absl::StrCat("The passcode for the ", key, " is");
      facts[i].answer = absl::StrCat(" ", value);
    }
  }
  return facts;
}

// Of texts like these Create has encoded one of each kind: encoding does not fail here.
PasskeyData::Document PasskeyData::Assemble(const std::vector<Fact>& facts, const std::vector<double>& depths,
                                            int64_t document_tokens, bool held_out, uint64_t seed) const {
  std::vector<std::vector<int32_t>> on_line, inside_line;
  int64_t fact_tokens = 0;
  for (const Fact& fact : facts) {
    on_line.push_back(tokenizer_.Encode(absl::StrCat(fact.sentence, "\n"), {.add_special_tokens = false}).value());
    inside_line.push_back(
        tokenizer_.Encode(absl::StrCat("\n", fact.sentence, "\n"), {.add_special_tokens = false}).value());
    fact_tokens += static_cast<int64_t>(inside_line.back().size());
  }
  const int64_t begin = held_out ? held_out_ : 0;
  const int64_t room = (held_out ? static_cast<int64_t>(haystack_.size()) : held_out_) - begin;
  const int64_t text = std::max<int64_t>(document_tokens - fact_tokens, 1);
  int64_t at = Draws(SplitMix64(seed)).Below(room);
  for (int i = 0; i < kLineReach && !ends_line_[begin + at]; ++i) at = (at + 1) % room;

  Document document;
  bool line_start = true;
  size_t next = 0;
  int64_t waited = 0;
  for (int64_t i = 0; i <= text; ++i) {
    while (next < facts.size() && i >= std::llround(depths[next] * static_cast<double>(text))) {
      if (!line_start && waited < kLineReach && i < text) {
        ++waited;
        break;
      }
      const std::vector<int32_t>& sentence = line_start ? on_line[next] : inside_line[next];
      document.depths.push_back(static_cast<double>(document.tokens.size()));
      const auto begin = static_cast<int64_t>(document.tokens.size());
      document.facts.push_back({begin, begin + static_cast<int64_t>(sentence.size())});
      document.tokens.insert(document.tokens.end(), sentence.begin(), sentence.end());
      line_start = true;
      waited = 0;
      ++next;
    }
    if (i == text) break;
    at = (at + 1) % room;
    document.tokens.push_back(haystack_[begin + at]);
    line_start = ends_line_[begin + at] != 0;
  }
  for (double& depth : document.depths) depth /= static_cast<double>(document.tokens.size());
  return document;
}

std::vector<int32_t> PasskeyData::Opening() const {
  if (!chat_.has_value()) return tokenizer_.Encode("").value();  // BOS, where the tokenizer puts one
  const std::string question = "?";
  absl::StatusOr<DocumentTurns> turns = RenderQuestions(*chat_, "", kMarker, {&question, 1});
  DUO_CHECK(turns.ok());  // Create has rendered one
  std::vector<TextSegment> before;
  DUO_CHECK(CutAt(kMarker, &turns->document, &before));
  return tokenizer_.EncodeSegments(before).value();
}

absl::StatusOr<std::vector<PasskeyData::Piece>> PasskeyData::Conversation(const std::vector<Fact>& facts) const {
  std::vector<Piece> pieces;
  if (!chat_.has_value()) {
    std::string given;
    for (const Fact& fact : facts) {
      absl::StrAppend(&given, "\nQuestion: ", fact.question, "\nAnswer: ", fact.lead);
      pieces.push_back({{{given, false}}, fact.answer});
      given = ".\n";
    }
    pieces.push_back({{{given, false}}, ""});
    return pieces;
  }
  std::vector<Message> messages;
  for (const Fact& fact : facts) {
    messages.push_back({"user", messages.empty() ? absl::StrCat(kMarker, "\n\n", fact.question) : fact.question});
    messages.push_back({"assistant", absl::StrCat(fact.lead, fact.answer, ".")});
  }
  absl::StatusOr<std::vector<TextSegment>> rest = chat_->Render(messages, false);
  if (!rest.ok()) return rest.status();
  std::vector<TextSegment> before;
  const absl::Status changes = absl::UnimplementedError(
      absl::StrCat(chat_->file(), ": this chat template changes what users and assistants write"));
  if (!CutAt(kMarker, &*rest, &before)) return changes;
  for (const Fact& fact : facts) {
    // The answer alone may also stand in another answer's words: it is found behind its lead.
    if (!CutAt(absl::StrCat(fact.lead, fact.answer), &*rest, &before)) return changes;
    before.push_back({fact.lead, false});
    pieces.push_back({before, fact.answer});
  }
  pieces.push_back({*rest, ""});
  return pieces;
}

absl::StatusOr<PasskeyData> PasskeyData::Create(const Tokenizer& tokenizer, const std::optional<ChatTemplate>& chat,
                                                std::string_view haystack, const PasskeyOptions& options) {
  if (options.facts < 1 || options.facts > static_cast<int>(std::size(kOrdinals))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a document takes 1 to %d facts, asked for %d", std::size(kOrdinals), options.facts));
  }
  PasskeyData data(tokenizer, chat, options);
  absl::StatusOr<std::vector<int32_t>> read = tokenizer.Encode(haystack, {.add_special_tokens = false});
  if (!read.ok()) return read.status();
  data.haystack_ = *std::move(read);
  const auto size = static_cast<int64_t>(data.haystack_.size());
  if (size < kLeastHaystack) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the haystack has %d tokens, expected at least %d; give a longer text with --haystack", size, kLeastHaystack));
  }
  data.held_out_ = size - size / 5;
  std::vector<int8_t> ends(std::max<int32_t>(tokenizer.vocab_size(), 1), -1);
  for (const int32_t id : data.haystack_) {
    if (ends[id] < 0) ends[id] = tokenizer.Decode({&id, 1}, false).ends_with('\n');
    data.ends_line_.push_back(static_cast<uint8_t>(ends[id]));
  }
  // Facts differ by a few tokens from sample to sample: an eighth of room for that.
  const std::vector<Fact> facts = data.MakeFacts(0);
  absl::StatusOr<std::vector<Piece>> pieces = data.Conversation(facts);
  if (!pieces.ok()) return pieces.status();
  if (chat.has_value()) {
    const std::string question = "?";
    absl::StatusOr<DocumentTurns> turns = RenderQuestions(*chat, "", kMarker, {&question, 1});
    if (!turns.ok()) return turns.status();
  }
  for (const Fact& fact : facts) {
    const absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(absl::StrCat("\n", fact.sentence, "\n"));
    if (!tokens.ok()) return tokens.status();
    data.facts_tokens_ += static_cast<int64_t>(tokens->size());
  }
  data.facts_tokens_ += data.facts_tokens_ / 8;
  for (const Piece& piece : *pieces) {
    const absl::StatusOr<std::vector<int32_t>> given = tokenizer.EncodeSegments(piece.given);
    const absl::StatusOr<std::vector<int32_t>> answer = tokenizer.Encode(piece.answer);
    if (!given.ok() || !answer.ok()) return given.ok() ? answer.status() : given.status();
    data.questions_tokens_ += static_cast<int64_t>(given->size() + answer->size());
  }
  data.questions_tokens_ += data.questions_tokens_ / 8;
  return data;
}

PasskeySample PasskeyData::Sample(uint64_t seed, int64_t index, int64_t document_tokens) const {
  const uint64_t own = SeedOf(seed, index, false);
  const std::vector<Fact> facts = MakeFacts(own);
  Draws draws(own + 1);
  std::vector<int> places = draws.Distinct(kDepths, options_.facts);
  std::sort(places.begin(), places.end());
  std::vector<double> depths;
  for (const int place : places) {
    depths.push_back(options_.min_depth + (options_.max_depth - options_.min_depth) * place / (kDepths - 1));
  }
  PasskeySample sample;
  sample.tokens = Opening();
  const Document document = Assemble(facts, depths, document_tokens, false, own + 2);
  sample.tokens.insert(sample.tokens.end(), document.tokens.begin(), document.tokens.end());
  sample.first_label = static_cast<int64_t>(sample.tokens.size());
  sample.depths = document.depths;
  const absl::StatusOr<std::vector<Piece>> pieces = Conversation(facts);
  DUO_CHECK(pieces.ok());  // Create has rendered one
  for (const Piece& piece : *pieces) {
    const std::vector<int32_t> given = tokenizer_.EncodeSegments(piece.given).value();
    sample.tokens.insert(sample.tokens.end(), given.begin(), given.end());
    if (piece.answer.empty()) continue;
    const std::vector<int32_t> answer = tokenizer_.Encode(piece.answer, {.add_special_tokens = false}).value();
    const auto begin = static_cast<int64_t>(sample.tokens.size());
    sample.answers.push_back({begin, begin + static_cast<int64_t>(answer.size())});
    sample.tokens.insert(sample.tokens.end(), answer.begin(), answer.end());
  }
  return sample;
}

std::vector<int32_t> PasskeyData::AskTokens(const std::string& question, const std::string& lead) const {
  std::vector<TextSegment> segments = {{absl::StrCat("\nQuestion: ", question, "\nAnswer: "), false}};
  if (chat_.has_value()) {
    absl::StatusOr<DocumentTurns> turns = RenderQuestions(*chat_, "", kMarker, {&question, 1});
    DUO_CHECK(turns.ok());
    segments = std::move(turns->questions[0]);
  }
  segments.push_back({lead, false});
  return tokenizer_.EncodeSegments(segments).value();
}

PasskeyDocument PasskeyData::HeldOut(uint64_t seed, int64_t index, int64_t document_tokens) const {
  const uint64_t own = SeedOf(seed, index, true);
  const std::vector<Fact> facts = MakeFacts(own);
  std::vector<double> depths;
  for (int i = 0; i < options_.facts; ++i) {
    depths.push_back(options_.min_depth + (options_.max_depth - options_.min_depth) * (i + 0.5) / options_.facts);
  }
  PasskeyDocument out;
  out.tokens = Opening();
  const auto opening = static_cast<int64_t>(out.tokens.size());
  const Document document = Assemble(facts, depths, document_tokens, true, own + 2);
  out.tokens.insert(out.tokens.end(), document.tokens.begin(), document.tokens.end());
  if (chat_.has_value()) {
    const std::vector<int32_t> gap = tokenizer_.Encode("\n\n", {.add_special_tokens = false}).value();
    out.tokens.insert(out.tokens.end(), gap.begin(), gap.end());
  }
  for (size_t i = 0; i < facts.size(); ++i) {
    const Fact& fact = facts[i];
    PasskeyDocument::Question question;
    question.tokens = AskTokens(fact.question, fact.lead);
    question.answer = fact.answer.substr(fact.answer.find_first_not_of(' '));
    const std::vector<int32_t> answer = tokenizer_.Encode(fact.answer, {.add_special_tokens = false}).value();
    question.answer_tokens = static_cast<int>(answer.size());
    question.depth = document.depths[i];
    question.fact = {opening + document.facts[i].begin, opening + document.facts[i].end};
    question.copied = CopiedTokens(out.tokens, question.fact, answer);
    out.questions.push_back(std::move(question));
  }
  out.empty_question = AskTokens("?", "");
  return out;
}

int64_t SampleLength(uint64_t seed, int64_t index, int64_t least, int64_t most) {
  const std::vector<int> order = Draws(seed ^ SplitMix64(index / kLengths)).Distinct(kLengths, kLengths);
  return least + std::llround(static_cast<double>(most - least) * order[index % kLengths] / (kLengths - 1));
}

std::string SystemText(size_t bytes) {
  namespace fs = std::filesystem;
  std::vector<fs::path> files;
  std::error_code error;
  auto add_files_of = [&](const fs::path& folder) {
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      std::error_code ignored;
      if (it->is_regular_file(ignored) && !it->is_symlink(ignored)) files.push_back(it->path());
    }
  };
  add_files_of("/usr/share/common-licenses");
  for (fs::directory_iterator it("/usr/share/perl", error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (!it->is_symlink(ignored)) add_files_of(it->path() / "pod");
  }
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files) {
    const absl::StatusOr<std::string> content = ReadFile(file.string(), bytes);
    if (!content.ok()) continue;  // one of them is as good as another
    absl::StrAppend(&text, *content, "\n");
    if (text.size() >= bytes) break;
  }
  text.resize(std::min(text.size(), bytes));
  return text;
}

}  // namespace duo
