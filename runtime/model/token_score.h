// TokenScore: the log-probability of a token of a text, and of the tokens that the model found likeliest in its place.
// They are the model's own, of its softmax over the whole vocabulary: temperature, penalties, biases and what is
// allowed do not change them. Plain values.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
};

struct TokenScore {
  TokenLogprob chosen;
  std::vector<TokenLogprob> best;  // as many as were asked for, likeliest first; the chosen one may be among them
};

constexpr int32_t kMostBest = 20;

}  // namespace duo
