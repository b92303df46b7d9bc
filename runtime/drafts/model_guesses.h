// What another, smaller model is asked to guess of answers (--draft-model), and what it says. Guesses are drafts like
// any other: they are checked by the model that answers, and need not be right. Plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/ops.h"

namespace duo {

struct GuessAsked {
  int64_t answer = 0;                    // whose next tokens
  std::span<const int32_t> before, own;  // its text so far, in two pieces; the second is not empty
  SampleParams draw;                     // of the next token; those behind it differ in their position alone
  int wanted = 0;                        // tokens; 0: none now, but what is known of its text is still of use
  int64_t read = INT64_MAX;  // tokens before the next one that are worth reading for it, where none were read
  int64_t size() const { return static_cast<int64_t>(before.size() + own.size()); }
  int32_t at(int64_t i) const {
    const auto shared = static_cast<int64_t>(before.size());
    return i < shared ? before[i] : own[i - shared];
  }
};

struct ModelGuessed {
  std::vector<std::vector<int32_t>> tokens;  // [asked], each at most as many as are wanted
  int steps = 0;                             // that drew them
  bool read = false;                         // it read more than was new since its last guesses
};

using ModelGuesses = std::function<ModelGuessed(std::span<const GuessAsked>)>;

}  // namespace duo
