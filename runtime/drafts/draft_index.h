// DraftIndex: where in a text each run of kGram tokens was read before, so that what followed there can be proposed for
// what follows here. It holds no tokens: whoever asks brings the text that was indexed, and what is found is compared
// with it, so that an index which is behind its text, or ahead of one that was cut, costs proposals and nothing else.
//
// About 12 bytes a token, at most kMostBytesPerToken: 12 MB at a million tokens. Forks share what their parent had
// indexed. Not thread-safe, but for const calls on what forks share, which never changes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace duo {

// A place in a text that the end of another text equals: the last `matched` tokens before `next` are the same.
struct DraftMatch {
  int64_t next = 0;  // position of what followed
  int matched = 0;   // tokens, at most kLongestMatch; 0: there is no such place
};

class DraftIndex {
 public:
  static constexpr int kGram = 3;
  static constexpr int kLongestMatch = 32;  // longer ones are not told apart
  static constexpr int64_t kMostBytesPerToken = 20;

  // Indexes up to `most` more tokens of the text, of which all before size() are indexed. Returns whether it has all.
  bool Extend(std::span<const int32_t> text, int64_t most);
  // The text was cut to `tokens` tokens, whatever is appended then.
  void Cut(int64_t tokens);
  // An index of the same text, which both go on from: what there is becomes shared. O(1).
  DraftIndex Fork();
  int64_t size() const { return first_ + static_cast<int64_t>(before_.size()); }

  // The place in `text`, which was indexed, where the longest run of tokens equals the end of `context`, at least kGram
  // of them, and something follows; of equal ones the last. Of the places with the same last kGram tokens the
  // kPlaces last are compared, so that it takes microseconds in any text.
  DraftMatch Find(std::span<const int32_t> text, std::span<const int32_t> context) const;

 private:
  static constexpr int kPlaces = 16, kSteps = 256;
  static uint32_t Hash(const int32_t* gram);
  void Insert(const int32_t* gram, int64_t end);
  void Grow(std::span<const int32_t> text);

  std::shared_ptr<const DraftIndex> base_;  // of the tokens before first_
  int64_t first_ = 0;
  int base_depth_ = 0;
  // Positions are of a gram's last token, less first_. heads_[hash]: the last gram with it, plus 1; 0: none. before_
  // [own tokens]: the one before, likewise; always smaller than its own.
  std::vector<int32_t> heads_, before_;
};

}  // namespace duo
