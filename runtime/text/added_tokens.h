// Added tokens: texts such as <|im_end|> that become one token wherever they stand, before the model sees the text.
// Ownership: plain values. Threads: const functions are safe from any thread. Errors: none.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "runtime/text/regex/regex.h"

namespace duo {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for after normalisation, as its normalised self
  bool special = false;
};

// Finds the longest added token at each place, left to right.
class AddedTokenMatcher {
 public:
  // pattern: what to look for (the content, or its normalised form), not empty. The first of two equal patterns wins.
  void Add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  struct Segment {
    size_t begin = 0;  // bytes of the text
    size_t end = 0;
    int32_t token = -1;  // -1: plain text
  };
  // Cuts text (valid UTF-8) into tokens and the plain text between them. A special token is one only inside one of the
  // ranges `special` (ascending, disjoint); elsewhere its text is plain text.
  std::vector<Segment> Cut(std::string_view text, std::span<const TextRange> special) const;

  // Where the part of text begins that a token may claim once more text follows: one whose text has begun at the end,
  // one at the end that wants to know its neighbour, white space that a token may take. text.size() where there is
  // none.
  size_t PendingAtEnd(std::string_view text) const;

 private:
  const AddedToken* Longest(std::string_view text, size_t* length) const;

  struct Node {
    absl::flat_hash_map<char, int32_t> children;
    int32_t token = -1;
  };
  std::vector<Node> trie_{Node{}};
  std::vector<AddedToken> tokens_;
  bool first_bytes_[256] = {};
  size_t longest_ = 0;       // bytes of a pattern
  bool takes_left_ = false;  // a token has lstrip
};

}  // namespace duo
