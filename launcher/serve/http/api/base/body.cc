#include "launcher/serve/http/api/base/body.h"

#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/http/api/base/errors.h"

namespace duo::http {
namespace {

constexpr int kMaxDepth = 64;
constexpr int kMostKeys = 1024;  // of one object: looking a name up in it takes a time that grows with them
constexpr size_t kLongestShown = 60;

// Whole numbers only; one beyond int64 is none.
std::optional<int64_t> Whole(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  return value.get<int64_t>();
}

}  // namespace

absl::StatusOr<Json> ParseBody(absl::string_view text) {
  bool too_deep = false, too_wide = false;
  std::vector<int> keys;  // of the objects that are open
  const auto keep = [&](int depth, Json::parse_event_t event, Json&) {
    too_deep |= depth > kMaxDepth;
    if (event == Json::parse_event_t::object_start) keys.push_back(0);
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty()) too_wide |= ++keys.back() > kMostKeys;
    return !too_deep && !too_wide;
  };
  Json value;
  try {
    value = Json::parse(text.begin(), text.end(), keep);
  } catch (const Json::parse_error& error) {
    return FieldError("", absl::StrCat("the body is not JSON: an error at byte ", error.byte), "invalid_json");
  } catch (const Json::exception&) {  // a number beyond f64
    return FieldError("", "the body holds a number that is too large", "invalid_json");
  }
  if (too_deep) return FieldError("", absl::StrCat("the body is nested deeper than ", kMaxDepth, " levels"));
  if (too_wide) return FieldError("", absl::StrCat("an object in the body has more than ", kMostKeys, " keys"));
  if (!value.is_object()) return FieldError("", absl::StrCat("the body must be an object, found ", Shown(value)));
  return value;
}

const Json* Body::Find(const char* name) {
  known_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<int64_t> Body::Int(const char* name, int64_t least, int64_t most) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = Whole(*value);
  if (number.has_value() && *number >= least && *number <= most) return number;
  Expected(name, absl::StrCat("a whole number from ", least, " to ", most), *value);
  return std::nullopt;
}

std::optional<double> Body::Number(const char* name, double least, double most) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const auto number = value->get<double>();
    if (number >= least && number <= most) return number;
  }
  Expected(name, absl::StrFormat("a number from %g to %g", least, most), *value);
  return std::nullopt;
}

bool Body::Bool(const char* name, bool fallback) {
  const Json* value = Find(name);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Expected(name, "true or false", *value);
  return fallback;
}

std::optional<std::string> Body::String(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  Expected(name, "a string", *value);
  return std::nullopt;
}

std::vector<std::string> Body::Strings(const char* name, size_t most) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> strings;
  bool good = value->is_array() && value->size() <= most;
  for (size_t i = 0; good && i < value->size(); ++i) {
    good = (*value)[i].is_string();
    if (good) strings.push_back((*value)[i].get<std::string>());
  }
  if (good) return strings;
  Expected(name, absl::StrCat("a string or a list of at most ", most, " strings"), *value);
  return {};
}

std::optional<std::vector<int32_t>> TokensOf(const Json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<int32_t> tokens;
  tokens.reserve(list.size());
  for (const Json& element : list) {
    const std::optional<int64_t> id = Whole(element);
    if (!id.has_value() || *id < 0 || *id > std::numeric_limits<int32_t>::max()) return std::nullopt;
    tokens.push_back(static_cast<int32_t>(*id));
  }
  return tokens;
}

std::vector<int32_t> Body::Tokens(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (std::optional<std::vector<int32_t>> tokens = TokensOf(*value)) return *std::move(tokens);
  Expected(name, "a list of token ids", *value);
  return {};
}

void Body::Ignore(std::initializer_list<const char*> names) { known_.insert(names.begin(), names.end()); }

void Body::NotThere(const char* name, std::initializer_list<Json> neutral) {
  const Json* value = Find(name);
  if (value == nullptr) return;
  if (value->is_boolean() && !value->get<bool>()) return;
  if ((value->is_array() || value->is_object() || value->is_string()) && value->empty()) return;
  for (const Json& nothing : neutral) {
    if (*value == nothing) return;
  }
  Fail(name, absl::StrCat(name, " is not supported here, found ", Shown(*value), "; leave it out"), "unsupported");
}

void Body::Fail(absl::string_view name, absl::string_view message, absl::string_view code) {
  if (status_.ok()) status_ = FieldError(name, message, code);
}

void Body::Expected(const char* name, absl::string_view what, const Json& found) {
  Fail(name, absl::StrCat(name, " must be ", what, ", found ", Shown(found)));
}

std::vector<std::string> Body::Unknown() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_.items()) {
    if (known_.count(name) == 0) names.push_back(name);
  }
  return names;
}

std::string Shown(const Json& value) {
  // A large value is not written out whole to be cut.
  if (value.is_array() && value.size() > kLongestShown) return absl::StrCat("a list of ", value.size());
  if (value.is_object() && value.size() > kLongestShown) return "an object";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kLongestShown) return "a long string";
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kLongestShown) text = text.substr(0, kLongestShown - 3) + "...";
  return text;
}

std::string Text(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

}  // namespace duo::http
