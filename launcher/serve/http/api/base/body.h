// Body: a request's JSON body, read field by field. The first thing that is wrong is remembered as an error that names
// the field; later reads then give harmless values, so that a route reads straight down and asks status() once. null
// means absent. Fields that nobody knows are ignored and logged once each; fields that would change the answer and are
// not there yet are refused where they ask for something.
//
// A value; one thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace duo::http {

using Json = nlohmann::ordered_json;

// The object that a body is. Refused: what is not JSON, not UTF-8, not an object, or nested too deep.
absl::StatusOr<Json> ParseBody(absl::string_view text);

class Body {
 public:
  explicit Body(const Json& object) : object_(object) {}

  const Json* Find(const char* name);  // null when absent or null
  bool Has(const char* name) { return Find(name) != nullptr; }
  std::optional<int64_t> Int(const char* name, int64_t least, int64_t most);
  std::optional<double> Number(const char* name, double least, double most);
  bool Bool(const char* name, bool fallback);
  std::optional<std::string> String(const char* name);
  std::vector<std::string> Strings(const char* name, size_t most);  // a string or a list of them
  // Token ids; out of range ones are found by the calls.
  std::vector<int32_t> Tokens(const char* name);

  // These names are known and change nothing here: not logged.
  void Ignore(std::initializer_list<const char*> names);
  // Known, but not there yet: refused unless the value is one of `neutral`, which asks for nothing.
  void NotThere(const char* name, std::initializer_list<Json> neutral = {});

  // Remembers an error about this field, if none came before.
  void Fail(absl::string_view name, absl::string_view message, absl::string_view code = "");
  void Adopt(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }
  const absl::Status& status() const { return status_; }
  // Names that were not asked for.
  std::vector<std::string> Unknown() const;

 private:
  void Expected(const char* name, absl::string_view what, const Json& found);
  const Json& object_;
  std::set<std::string> known_;
  absl::Status status_;
};

// The value as JSON, cut to a length that fits a sentence.
std::string Shown(const Json& value);

// JSON as text; bytes that are not UTF-8 become U+FFFD.
std::string Text(const Json& value);

// The token ids that a JSON list holds; nothing where it holds anything else.
std::optional<std::vector<int32_t>> TokensOf(const Json& list);

}  // namespace duo::http
