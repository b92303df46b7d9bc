// TokenTrie: the bytes of a vocabulary's tokens as one tree, laid out in the order of a walk, so that a mask is one
// pass over it that skips what cannot follow. Immutable once built: shared by all matchers, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace duo {

class TokenTrie {
 public:
  struct Node {
    int32_t depth = 0;   // of its byte in the token, from 1 on
    int32_t end = 0;     // the first node behind everything below it
    int32_t tokens = 0;  // its first token in tokens(); up to the next node's
    uint8_t byte = 0;
  };

  // bytes: by token id; an empty one is no text and is never allowed.
  explicit TokenTrie(const std::vector<std::string>& bytes);

  int64_t vocab() const { return vocab_; }
  int32_t deepest() const { return deepest_; }
  const std::vector<Node>& nodes() const { return nodes_; }  // with one more at the end
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const std::string& BytesOf(int32_t token) const { return bytes_[token]; }

 private:
  int64_t vocab_;
  int32_t deepest_ = 0;
  std::vector<std::string> bytes_;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;
};

}  // namespace duo
