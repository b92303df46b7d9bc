#include "runtime/files/json_fields.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& file) {
  using json = nlohmann::json;
  bool too_deep = false;
  const auto keep = [&](int depth, json::parse_event_t, json&) {
    too_deep |= depth > kMaxDepth;
    return !too_deep;
  };
  json value;
  try {
    value = json::parse(text.begin(), text.end(), keep);
  } catch (const json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected JSON, found an error at byte ", error.byte));
  } catch (const json::exception& error) {  // a number beyond f64, say
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected JSON, found ", error.what()));
  }
  if (too_deep) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": JSON nested deeper than ", kMaxDepth, " levels"));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": expected a JSON object, found ", Shown(value)));
  }
  return value;
}

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

const nlohmann::json* JsonFields::Find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_, ": ", message));
}

void JsonFields::Expected(const char* key, const std::string& what, const nlohmann::json* found) {
  Fail(absl::StrCat(inside_, key, " must be ", what, ", found ", found ? Shown(*found) : "none"));
}

int64_t JsonFields::Int(const char* key, int64_t least, int64_t most, std::optional<int64_t> fallback) {
  const nlohmann::json* value = Find(key);
  if (!value && fallback) return *fallback;
  // An unsigned value beyond int64 would turn negative: compare it as unsigned.
  const bool fits = value && value->is_number_integer() &&
                    !(value->is_number_unsigned() &&
                      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (fits && value->get<int64_t>() >= least && value->get<int64_t>() <= most) return value->get<int64_t>();
  Expected(key, absl::StrCat("a whole number from ", least, " to ", most), value);
  return least;
}

double JsonFields::Number(const char* key, double least, double most, std::optional<double> fallback) {
  const nlohmann::json* value = Find(key);
  if (!value && fallback) return *fallback;
  if (value && value->is_number()) {
    const double x = value->get<double>();
    if (x >= least && x <= most) return x;
  }
  Expected(key, absl::StrFormat("a number from %g to %g", least, most), value);
  return least;
}

bool JsonFields::Bool(const char* key, bool fallback) {
  const nlohmann::json* value = Find(key);
  if (!value) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Expected(key, "true or false", value);
  return fallback;
}

std::string JsonFields::String(const char* key, std::optional<std::string> fallback) {
  const nlohmann::json* value = Find(key);
  if (!value && fallback) return *fallback;
  if (value && value->is_string()) return value->get<std::string>();
  Expected(key, "a text", value);
  return "";
}

std::vector<int> JsonFields::Ids(const char* key) {
  const nlohmann::json* value = Find(key);
  if (!value) return {};
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  std::vector<int> ids;
  const auto add = [&](const nlohmann::json& id) {
    const bool good =
        id.is_number_integer() && (id.is_number_unsigned() ? id.get<uint64_t>() <= uint64_t{kMost}
                                                           : id.get<int64_t>() >= 0 && id.get<int64_t>() <= kMost);
    if (good) ids.push_back(id.get<int>());
    return good;
  };
  if (value->is_array()) {
    for (const nlohmann::json& id : *value) {
      if (!add(id)) {
        Expected(key, "token ids (whole numbers of 0 or more)", &id);
        return {};
      }
    }
  } else if (!add(*value)) {
    Expected(key, "a token id (a whole number of 0 or more) or a list of them", value);
  }
  return ids;
}

std::vector<std::string> JsonFields::Strings(const char* key) {
  const nlohmann::json* value = Find(key);
  if (!value) return {};
  std::vector<std::string> texts;
  if (value->is_array()) {
    for (const nlohmann::json& text : *value) {
      if (text.is_string()) {
        texts.push_back(text.get<std::string>());
      } else {
        Expected(key, "a list of texts", value);
        return {};
      }
    }
  } else {
    Expected(key, "a list of texts", value);
  }
  return texts;
}

}  // namespace duo
