// JsonFields: typed, range-checked reads from one JSON object. The first thing that is wrong is remembered as a
// sentence that names the file, the key, what was expected and what was found; later reads then return harmless values,
// so that a parser reads straight down and asks status() once. Private to runtime's .cc files: it brings in the JSON
// library. Not thread-safe; the object must outlive it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace duo {

// The object that `text` is. Refused: what is not JSON or not an object, and nesting deeper than 64, which no file of
// ours has and recursive code would not survive.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, const std::string& file);

// The value as JSON, cut to a length that fits a sentence.
std::string Shown(const nlohmann::json& value);

class JsonFields {
 public:
  // `inside` prefixes keys in messages: "rope_scaling." for the fields of that object.
  JsonFields(const nlohmann::json& object, std::string file, std::string inside = "")
      : object_(object), file_(std::move(file)), inside_(std::move(inside)) {}

  const nlohmann::json* Find(const char* key) const;  // null when absent or null in the file
  bool Has(const char* key) const { return Find(key) != nullptr; }
  bool IsNull(const char* key) const { return object_.contains(key) && !Has(key); }  // there, and null

  // Without a fallback the key must be there.
  int64_t Int(const char* key, int64_t least, int64_t most, std::optional<int64_t> fallback = std::nullopt);
  double Number(const char* key, double least, double most, std::optional<double> fallback = std::nullopt);
  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, std::optional<std::string> fallback = std::nullopt);
  // Absent: empty. A whole number or a list of them, each from 0 to 2^31 - 1.
  std::vector<int> Ids(const char* key);
  // Absent: empty.
  std::vector<std::string> Strings(const char* key);

  // Remembers "FILE: MESSAGE", if nothing came before.
  void Fail(const std::string& message);
  // Takes over another object's error, if nothing came before.
  void Adopt(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  void Expected(const char* key, const std::string& what, const nlohmann::json* found);
  const nlohmann::json& object_;
  std::string file_, inside_;
  absl::Status status_;
};

}  // namespace duo
