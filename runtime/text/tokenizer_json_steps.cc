#include "runtime/text/tokenizer_json_steps.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/bpe.h"

namespace duo {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;          // of Sequences in Sequences
constexpr size_t kMaxSteps = 256;      // of one section
constexpr double kMaxGrowth = 4096.0;  // a normaliser may not blow a text up beyond this

// GPT-2's words: a contraction, or letters, digits or others with the space before them, or white space.
constexpr const char* kGpt2Words = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// The members of Rust's \w, which has the joiners besides Oniguruma's.
constexpr const char* kRustWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}";

// The library's punctuation is that of Unicode 8 (and ASCII's symbols): without what later versions added, with the two
// characters that they moved to other categories.
constexpr const char* kPunctuation =
    "(?![\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b4e}\\x{1b4f}\\x{1b7d}-\\x{1b7f}\\x{2e43}-\\x{2e5d}\\x{10d6e}\\x{"
    "10ead}"
    "\\x{10f55}-\\x{10f59}\\x{10f86}-\\x{10f89}\\x{113d4}-\\x{113d8}\\x{1144b}-\\x{1144f}\\x{1145a}-\\x{1145d}\\x{"
    "11660}-\\x{1166c}"
    "\\x{116b9}\\x{1183b}\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11aa2}\\x{11b00}-\\x{11b09}"
    "\\x{11be1}"
    "\\x{11c41}-\\x{11c45}\\x{11c70}\\x{11c71}\\x{11ef7}\\x{11ef8}\\x{11f43}-\\x{11f4f}\\x{11fff}\\x{12ff1}\\x{12ff2}"
    "\\x{16d6d}-\\x{16d6f}"
    "\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e5ff}\\x{1e95e}\\x{1e95f}])[\\p{P}$+<=>^`|~]|[\\x{166d}\\x{111c9}]";

absl::Status WrongField(const char* key, const char* expected, const json& found) {
  return absl::InvalidArgumentError(
      absl::StrCat("field \"", key, "\": expected ", expected, ", found ", found.type_name()));
}

// {"String": text} or {"Regex": pattern}. *shortest: the fewest bytes that a match has.
absl::StatusOr<Regex> ParsePattern(const json& object, size_t* shortest) {
  const auto found = object.find("pattern");
  if (found == object.end() || !found->is_object()) {
    return absl::InvalidArgumentError("field \"pattern\": expected {\"String\": ...} or {\"Regex\": ...}");
  }
  std::string text;
  const bool literal = found->contains("String");
  DUO_RETURN_IF_ERROR(ReadField(*found, literal ? "String" : "Regex", &text));
  if (text.empty())
    return absl::InvalidArgumentError("field \"pattern\": expected a \"String\" or \"Regex\" that is not empty");
  if (shortest != nullptr) *shortest = literal ? text.size() : 0;
  return literal ? Regex::Literal(text) : Regex::Compile(text);
}

// The children of a Sequence under `key`.
absl::StatusOr<const json*> Children(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("a Sequence lacks its array \"", key, "\""));
  }
  return &*found;
}

absl::Status CheckGrowth(double growth) {
  if (growth <= kMaxGrowth) return absl::OkStatus();
  return absl::InvalidArgumentError("with the steps before it, could make a text 4096 times longer");
}

// A normalizer's or a decoder's.
template <typename Step>
absl::Status ReadReplace(const json& object, double* growth, Step* step) {
  step->kind = Step::Kind::kReplace;
  size_t shortest = 0;
  absl::StatusOr<Regex> pattern = ParsePattern(object, &shortest);
  if (!pattern.ok()) return pattern.status();
  step->pattern = *std::move(pattern);
  DUO_RETURN_IF_ERROR(ReadField(object, "content", &step->text));
  const double size = static_cast<double>(step->text.size());
  *growth *= std::max(1.0, shortest > 0 ? size / static_cast<double>(shortest) : size + 1);
  return CheckGrowth(*growth);
}

// Walks Sequences and calls parse(object, type) for every other object.
template <typename Parse>
absl::Status Walk(const json& section, const char* what, const char* children_key, int depth, size_t* steps,
                  const Parse& parse) {
  if (section.is_null()) return absl::OkStatus();
  if (depth > kMaxDepth)
    return absl::InvalidArgumentError(absl::StrCat(what, ": Sequences are nested more than ", kMaxDepth, " deep"));
  if (++*steps > kMaxSteps) return absl::InvalidArgumentError(absl::StrCat(what, ": more than ", kMaxSteps, " steps"));
  absl::StatusOr<std::string> type = ReadType(section);
  if (!type.ok()) return absl::InvalidArgumentError(absl::StrCat(what, ": ", type.status().message()));
  if (*type != "Sequence") {
    absl::Status status = parse(section, *type);
    if (status.ok()) return status;
    return absl::Status(status.code(), absl::StrCat(what, " ", *type, ": ", status.message()));
  }
  absl::StatusOr<const json*> children = Children(section, children_key);
  if (!children.ok()) return absl::InvalidArgumentError(absl::StrCat(what, ": ", children.status().message()));
  for (const json& child : **children) DUO_RETURN_IF_ERROR(Walk(child, what, children_key, depth + 1, steps, parse));
  return absl::OkStatus();
}

absl::Status AddNormalizer(const json& object, const std::string& type, double* growth,
                           std::vector<NormalizerStep>* steps) {
  using Kind = NormalizerStep::Kind;
  NormalizerStep step;
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    step.form = type == "NFC"    ? NormalizationForm::kNfc
                : type == "NFD"  ? NormalizationForm::kNfd
                : type == "NFKC" ? NormalizationForm::kNfkc
                                 : NormalizationForm::kNfkd;
    *growth *= 11;  // bytes, at most, by the Unicode FAQ on normalisation
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
    *growth *= 1.5;
  } else if (type == "StripAccents") {
    step.kind = Kind::kStripAccents;
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    DUO_RETURN_IF_ERROR(ReadField(object, "strip_left", &step.strip_left));
    DUO_RETURN_IF_ERROR(ReadField(object, "strip_right", &step.strip_right));
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    DUO_RETURN_IF_ERROR(ReadField(object, "prepend", &step.text));
  } else if (type == "Replace") {
    DUO_RETURN_IF_ERROR(ReadReplace(object, growth, &step));
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
    *growth *= 2;
  } else {
    return absl::UnimplementedError("is not supported");
  }
  DUO_RETURN_IF_ERROR(CheckGrowth(*growth));
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status AddSplit(absl::StatusOr<Regex> pattern, SplitBehavior behavior, bool invert,
                      std::vector<PreTokenizerStep>* steps) {
  if (!pattern.ok()) return pattern.status();
  PreTokenizerStep step;
  step.pattern = *std::move(pattern);
  step.behavior = behavior;
  step.invert = invert;
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ReadBehavior(const json& object, SplitBehavior* behavior) {
  std::string name;
  DUO_RETURN_IF_ERROR(ReadField(object, "behavior", &name));
  if (name.empty()) return absl::OkStatus();
  const std::pair<const char*, SplitBehavior> known[] = {{"Removed", SplitBehavior::kRemoved},
                                                         {"Isolated", SplitBehavior::kIsolated},
                                                         {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
                                                         {"MergedWithNext", SplitBehavior::kMergedWithNext},
                                                         {"Contiguous", SplitBehavior::kContiguous}};
  for (const auto& [text, value] : known) {
    if (name == text) {
      *behavior = value;
      return absl::OkStatus();
    }
  }
  return absl::UnimplementedError(absl::StrCat("behavior \"", name, "\" is not supported"));
}

struct Metaspace {
  std::string marker{kWordMarker};
  std::string scheme;
  bool split = true;
};

absl::StatusOr<Metaspace> ReadMetaspace(const json& object) {
  Metaspace m;
  bool add_prefix_space = true;
  DUO_RETURN_IF_ERROR(ReadField(object, "replacement", &m.marker));
  DUO_RETURN_IF_ERROR(ReadField(object, "prepend_scheme", &m.scheme));
  DUO_RETURN_IF_ERROR(ReadField(object, "split", &m.split));
  DUO_RETURN_IF_ERROR(ReadField(object, "add_prefix_space", &add_prefix_space));
  if (m.scheme.empty()) m.scheme = add_prefix_space ? "always" : "never";
  if (m.scheme != "always" && m.scheme != "first" && m.scheme != "never") {
    return absl::UnimplementedError(absl::StrCat("prepend_scheme \"", m.scheme, "\" is not supported"));
  }
  size_t end = 0;
  if (!m.marker.empty()) NextCodePoint(m.marker, &end);
  if (m.marker.empty() || end != m.marker.size())
    return absl::InvalidArgumentError("field \"replacement\": expected one character");
  return m;
}

absl::Status AddPreTokenizer(const json& object, const std::string& type, std::vector<PreTokenizerStep>* steps) {
  using Kind = PreTokenizerStep::Kind;
  if (type == "ByteLevel") {
    bool add_prefix_space = true, use_regex = true;
    DUO_RETURN_IF_ERROR(ReadField(object, "add_prefix_space", &add_prefix_space));
    DUO_RETURN_IF_ERROR(ReadField(object, "use_regex", &use_regex));
    if (add_prefix_space) {
      PreTokenizerStep prefix;
      prefix.kind = Kind::kPrefix;
      prefix.text = " ";
      steps->push_back(std::move(prefix));
    }
    if (use_regex) DUO_RETURN_IF_ERROR(AddSplit(Regex::Compile(kGpt2Words), SplitBehavior::kIsolated, false, steps));
    PreTokenizerStep bytes;
    bytes.kind = Kind::kByteLevel;
    steps->push_back(std::move(bytes));
    return absl::OkStatus();
  }
  if (type == "Metaspace") {
    absl::StatusOr<Metaspace> m = ReadMetaspace(object);
    if (!m.ok()) return m.status();
    PreTokenizerStep replace;
    replace.kind = Kind::kReplaceSpaces;
    replace.text = m->marker;
    steps->push_back(std::move(replace));
    if (m->scheme != "never") {
      PreTokenizerStep prefix;
      prefix.kind = Kind::kPrefix;
      prefix.text = m->marker;
      prefix.prefix_where = m->scheme == "first" ? PreTokenizerStep::PrefixWhere::kFirstPiece
                                                 : PreTokenizerStep::PrefixWhere::kEveryPiece;
      steps->push_back(std::move(prefix));
    }
    if (!m->split) return absl::OkStatus();
    return AddSplit(Regex::Literal(m->marker), SplitBehavior::kMergedWithNext, false, steps);
  }
  if (type == "Split") {
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    DUO_RETURN_IF_ERROR(ReadBehavior(object, &behavior));
    DUO_RETURN_IF_ERROR(ReadField(object, "invert", &invert));
    return AddSplit(ParsePattern(object, nullptr), behavior, invert, steps);
  }
  if (type == "Digits") {
    bool individual = false;
    DUO_RETURN_IF_ERROR(ReadField(object, "individual_digits", &individual));
    return AddSplit(Regex::Compile("\\p{N}"), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false,
                    steps);
  }
  if (type == "Punctuation") {
    SplitBehavior behavior = SplitBehavior::kIsolated;
    DUO_RETURN_IF_ERROR(ReadBehavior(object, &behavior));
    return AddSplit(Regex::Compile(kPunctuation), behavior, false, steps);
  }
  if (type == "Whitespace") {
    const std::string words = absl::StrCat("[", kRustWord, "]+|[^", kRustWord, "\\s]+");
    return AddSplit(Regex::Compile(words), SplitBehavior::kRemoved, true, steps);
  }
  if (type == "WhitespaceSplit") return AddSplit(Regex::Compile("\\s"), SplitBehavior::kRemoved, false, steps);
  if (type == "CharDelimiterSplit") {
    std::string delimiter;
    DUO_RETURN_IF_ERROR(ReadField(object, "delimiter", &delimiter));
    if (delimiter.empty()) return absl::InvalidArgumentError("field \"delimiter\" is missing");
    return AddSplit(Regex::Literal(delimiter), SplitBehavior::kRemoved, false, steps);
  }
  return absl::UnimplementedError("is not supported");
}

absl::Status AddDecoder(const json& object, const std::string& type, double* growth,
                        std::vector<DetokenizerStep>* steps) {
  using Kind = DetokenizerStep::Kind;
  DetokenizerStep step;
  if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = Kind::kFuse;
  } else if (type == "Metaspace") {
    absl::StatusOr<Metaspace> m = ReadMetaspace(object);
    if (!m.ok()) return m.status();
    step.kind = Kind::kMetaspace;
    step.text = m->marker;
    step.drop_first = m->scheme != "never";
  } else if (type == "Replace") {
    DUO_RETURN_IF_ERROR(ReadReplace(object, growth, &step));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    int64_t left = 0, right = 0;
    DUO_RETURN_IF_ERROR(ReadField(object, "content", &step.text));
    DUO_RETURN_IF_ERROR(ReadField(object, "start", &left));
    DUO_RETURN_IF_ERROR(ReadField(object, "stop", &right));
    if (step.text.empty() || left < 0 || right < 0)
      return absl::InvalidArgumentError("expected one character as content and counts of 0 or more");
    step.left = static_cast<size_t>(left);
    step.right = static_cast<size_t>(right);
  } else {
    return absl::UnimplementedError("is not supported");
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadField(const json& object, const char* key, bool* out) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_boolean()) return WrongField(key, "true or false", *found);
  *out = found->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadField(const json& object, const char* key, std::string* out) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_string()) return WrongField(key, "a string", *found);
  *out = found->get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadField(const json& object, const char* key, int64_t* out) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_number_integer()) return WrongField(key, "an integer", *found);
  *out = found->get<int64_t>();
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadType(const json& object) {
  std::string type;
  if (!object.is_object())
    return absl::InvalidArgumentError(absl::StrCat("expected an object, found ", object.type_name()));
  DUO_RETURN_IF_ERROR(ReadField(object, "type", &type));
  if (type.empty()) return absl::InvalidArgumentError("an object lacks its \"type\"");
  return type;
}

absl::StatusOr<std::vector<NormalizerStep>> ParseNormalizer(const json& section) {
  std::vector<NormalizerStep> steps;
  double growth = 1;
  size_t count = 0;
  DUO_RETURN_IF_ERROR(
      Walk(section, "normalizer", "normalizers", 0, &count,
           [&](const json& o, const std::string& type) { return AddNormalizer(o, type, &growth, &steps); }));
  return steps;
}

absl::StatusOr<std::vector<PreTokenizerStep>> ParsePreTokenizer(const json& section) {
  std::vector<PreTokenizerStep> steps;
  size_t count = 0;
  DUO_RETURN_IF_ERROR(Walk(section, "pre_tokenizer", "pretokenizers", 0, &count,
                           [&](const json& o, const std::string& type) { return AddPreTokenizer(o, type, &steps); }));
  return steps;
}

absl::StatusOr<std::vector<DetokenizerStep>> ParseDecoder(const json& section) {
  std::vector<DetokenizerStep> steps;
  if (section.is_null()) {  // the library joins tokens with spaces then
    steps.emplace_back();
    steps.back().kind = DetokenizerStep::Kind::kSpaces;
    return steps;
  }
  double growth = 1;
  size_t count = 0;
  DUO_RETURN_IF_ERROR(Walk(section, "decoder", "decoders", 0, &count, [&](const json& o, const std::string& type) {
    return AddDecoder(o, type, &growth, &steps);
  }));
  return steps;
}

}  // namespace duo
