#include "runtime/text/jinja/template.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <ctime>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/run.h"
#include "runtime/text/jinja/syntax/parser.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {

struct Template::Parts {
  std::string source, name;
  ResolvedTemplate resolved;
};

namespace {

absl::Status Refusal(const std::string& name, std::string_view source, const SourceError& error) {
  const Position position = PositionOf(source, error.offset);
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": line ", position.line, ", column ", position.column, ": ", error.message));
}

bool IsPlainWord(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c == '-' || c == '_' || std::isalnum(static_cast<unsigned char>(c)) != 0; });
}

// JSON as values, with what it weighs in bytes.
class Reader {
 public:
  explicit Reader(const std::string& role_key) : role_key_(role_key) {}

  Value Read(const nlohmann::ordered_json& json, Origin origin, int depth) {
    if (depth > 100) {
      problem_ = "the input's lists and objects lie too deeply in each other";
      return Value::None();
    }
    ++bytes_;
    switch (json.type()) {
      case nlohmann::ordered_json::value_t::boolean:
        return Value::Bool(json.get<bool>());
      case nlohmann::ordered_json::value_t::number_unsigned:
        if (json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
          problem_ = "the input has a whole number larger than 64 bits";
        return Value::Int(json.get<int64_t>());
      case nlohmann::ordered_json::value_t::number_integer:
        return Value::Int(json.get<int64_t>());
      case nlohmann::ordered_json::value_t::number_float:
        return Value::Float(json.get<double>());
      case nlohmann::ordered_json::value_t::string: {
        const std::string& text = json.get_ref<const std::string&>();
        bytes_ += text.size();
        return Value::Str(Text(ReplaceInvalidUtf8(text), origin));
      }
      case nlohmann::ordered_json::value_t::array: {
        std::vector<Value> items;
        for (const auto& item : json) items.push_back(Read(item, origin, depth + 1));
        return Value::List(std::move(items));
      }
      case nlohmann::ordered_json::value_t::object: {
        auto made = std::make_shared<Dict>();
        for (const auto& [key, value] : json.items()) {
          const bool role = key == role_key_ && value.is_string() && IsPlainWord(value.get_ref<const std::string&>());
          bytes_ += key.size();
          made->Set(Value::Str(Text(ReplaceInvalidUtf8(key), origin)),
                    Read(value, role ? Origin::kTemplate : origin, depth + 1));
        }
        return Value::Of(std::shared_ptr<const Dict>(std::move(made)));
      }
      default:
        return Value::None();
    }
  }

  size_t bytes() const { return bytes_; }
  const std::string& problem() const { return problem_; }

 private:
  const std::string& role_key_;
  size_t bytes_ = 0;
  std::string problem_;
};

std::vector<Piece> PiecesOf(const Text& text) {
  std::vector<Piece> pieces;
  size_t at = 0;
  const auto add = [&](size_t end, bool given) {
    if (end > at) pieces.push_back({text.bytes().substr(at, end - at), given});
    at = end;
  };
  for (const Text::Range& range : text.given()) {
    add(range.begin, false);
    add(range.end, true);
  }
  add(text.size(), false);
  return pieces;
}

}  // namespace

absl::StatusOr<Template> Template::Parse(std::string_view source, std::string name) {
  auto parts = std::make_shared<Parts>();
  parts->source = NormaliseLineEnds(ReplaceInvalidUtf8(source));
  parts->name = std::move(name);
  SourceError error;
  std::vector<Token> tokens;
  const KnownNames known{HasFilter, HasTest};
  if (!Lex(parts->source, &tokens, &error) || !ParseTemplate(std::move(tokens), &parts->resolved.body, &error) ||
      !ResolveNames(known, &parts->resolved, &error)) {
    return Refusal(parts->name, parts->source, error);
  }
  return Template(std::move(parts));
}

absl::StatusOr<std::vector<Piece>> Template::Render(const Inputs& inputs) const {
  Context context;
  AddGlobals(&context);
  Reader reader(inputs.role_key);
  for (const auto& [name, text] : inputs.own) context[name] = Value::Str(text);
  for (const auto& [name, value] : inputs.given.items()) context[name] = reader.Read(value, Origin::kGiven, 0);
  if (!reader.problem().empty()) return absl::InvalidArgumentError(absl::StrCat(parts_->name, ": ", reader.problem()));
  Limits limits;
  limits.steps = inputs.most_steps + 64 * static_cast<int64_t>(reader.bytes());
  limits.bytes = inputs.most_bytes + 8 * reader.bytes();
  Run run(context, inputs.clock, limits);
  const Text text = run.Render(parts_->resolved);
  if (run.failed()) return Refusal(parts_->name, parts_->source, run.error());
  return PiecesOf(text);
}

std::string LocalTime(const std::string& format) {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() % 1'000'000;
  std::tm local{};
  localtime_r(&seconds, &local);
  // Python's time has no zone, and has microseconds, which strftime does not know.
  std::string known;
  for (size_t i = 0; i < format.size(); ++i) {
    const char letter = format[i] == '%' && i + 1 < format.size() ? format[i + 1] : 0;
    if (letter == 'f') {
      known += absl::StrFormat("%06d", micros);
    } else if (letter != 0 && letter != 'z' && letter != 'Z') {
      known += format.substr(i, 2);
    } else if (letter == 0) {
      known += format[i];
      continue;
    }
    ++i;
  }
  std::string text(known.size() * 8 + 256, '\0');
  text.resize(std::strftime(text.data(), text.size(), known.c_str(), &local));
  return text;
}

}  // namespace duo::jinja
