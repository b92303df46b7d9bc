// Template: a Jinja template that can be run, as far as chat templates go.
// What: the language of jinja2's immutable sandbox as transformers sets it up for apply_chat_template (trim_blocks,
// lstrip_blocks, break and continue, `generation`, tojson without escapes, raise_exception, strftime_now): the same
// text, or a refusal where that refuses. Left out: other templates (include, import, extends, block), autoescape, whole
// numbers beyond 64 bits, and the filters pprint, random, striptags, urlize and wordwrap; each is refused by name. Why
// own code: no packaged library does this, and none keeps apart what people wrote from what the template says. Safety:
// a template is a stranger's program. It can reach nothing but its inputs, and its steps, depth and texts are limited.
// Ownership: a Template is a cheap value; copies share one tree. Threads: const use from any. Errors: a Status whose
// sentence has the template's name, line and column.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace duo::jinja {

// A part of a rendered text, of one origin.
struct Piece {
  std::string text;
  bool given = false;  // it came with the inputs: what people wrote; otherwise the template's own
};

struct Inputs {
  // An object: the variables that the template sees. Texts in it count as given.
  nlohmann::ordered_json given;
  // More variables, texts that count as the template's own: the names of special tokens.
  std::vector<std::pair<std::string, std::string>> own;
  // Where a key of this name has a value of letters, digits, - and _ only, that text is the template's own too: a role
  // is part of the form (`<|user|>`), not of what is said.
  std::string role_key = "role";
  // The time now in a format of strftime.
  std::function<std::string(const std::string& format)> clock;
  // Of one rendering; beyond 64 steps and 8 bytes for each byte given.
  int64_t most_steps = 20'000'000;
  size_t most_bytes = 16 << 20;
};

class Template {
 public:
  // name: what errors call it.
  static absl::StatusOr<Template> Parse(std::string_view source, std::string name);

  absl::StatusOr<std::vector<Piece>> Render(const Inputs& inputs) const;

 private:
  struct Parts;
  explicit Template(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const Parts> parts_;
};

// The local time, as Python's datetime.now().strftime(format) has it.
std::string LocalTime(const std::string& format);

}  // namespace duo::jinja
