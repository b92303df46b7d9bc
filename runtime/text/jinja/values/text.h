// Text: a string of a template that knows which of its bytes were given to the template.
// Why: what people wrote (messages, tools, documents) must never become special tokens, while the template's own words
// may. A template cuts, trims, joins and escapes both, so every string carries where it came from, byte by byte, and
// the rendered text can be handed out in pieces of one origin. Bytes are valid UTF-8. Ownership: a plain value.
// Threads: const use from any. Errors: none.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace duo::jinja {

enum class Origin { kTemplate, kGiven };

class Text {
 public:
  struct Range {
    size_t begin = 0, end = 0;
  };

  Text() = default;
  explicit Text(std::string bytes, Origin origin = Origin::kTemplate);

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  const std::vector<Range>& given() const { return given_; }  // ascending, apart from each other
  Origin OriginAt(size_t at) const;

  void Append(const Text& other) { AppendPart(other, 0, other.size()); }
  void AppendPart(const Text& other, size_t begin, size_t end);
  void Append(std::string_view bytes, Origin origin);
  Text Part(size_t begin, size_t end) const;

 private:
  void Mark(size_t begin, size_t end);

  std::string bytes_;
  std::vector<Range> given_;
};

// Walks over a text's bytes in ascending order and says where each came from, without searching anew.
class OriginCursor {
 public:
  explicit OriginCursor(const Text& text) : given_(text.given()) {}
  Origin At(size_t at) {
    while (next_ < given_.size() && given_[next_].end <= at) ++next_;
    return next_ < given_.size() && given_[next_].begin <= at ? Origin::kGiven : Origin::kTemplate;
  }

 private:
  const std::vector<Text::Range>& given_;
  size_t next_ = 0;
};

}  // namespace duo::jinja
