// Chains of checksums over tokens: they find what comparing all tokens finds.
#include "runtime/files/token_chain.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

std::vector<int32_t> Text(int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(SplitMix64(seed * 1000003 + i) % 100);
  return tokens;
}
std::vector<uint32_t> ChainOf(const std::vector<int32_t>& tokens) {
  std::vector<uint32_t> chain;
  FollowTokens(tokens, &chain);
  return chain;
}

TEST(TokenChain, FindsWhatComparingAllTokensFinds) {
  const std::vector<int32_t> text = Text(10 * kChainTokens, 1);
  for (int64_t at : {int64_t{0}, int64_t{1}, kChainTokens - 1, kChainTokens, kChainTokens + 1, 5 * kChainTokens + 77,
                     10 * kChainTokens - 1}) {
    for (const int64_t more : {int64_t{0}, int64_t{1}, 3 * kChainTokens}) {
      std::vector<int32_t> other(text.begin(), text.begin() + at);
      for (int32_t token : Text(more, 2)) other.push_back(200 + token);
      EXPECT_EQ(CommonTokens(text, ChainOf(text), other, ChainOf(other)), at) << more << " tokens behind";
      EXPECT_EQ(CommonTokens(other, ChainOf(other), text, ChainOf(text)), at);
      const int64_t most = MostCommonTokens(other, ChainOf(other), text, ChainOf(text));
      EXPECT_GE(most, at);
      EXPECT_LE(most, at + kChainTokens);
    }
  }
  EXPECT_EQ(CommonTokens(text, ChainOf(text), text, ChainOf(text)), std::ssize(text));
  EXPECT_EQ(CommonTokens(text, {}, text, ChainOf(text)), std::ssize(text)) << "without one chain";
}

TEST(TokenChain, FollowsTokensThatGrowAndAreCut) {
  std::vector<int32_t> text = Text(7000, 1);
  std::vector<uint32_t> chain;
  for (const int64_t length : {10, 1024, 1500, 5000, 7000}) {
    const std::vector<int32_t> beginning(text.begin(), text.begin() + length);
    FollowTokens(beginning, &chain);
    EXPECT_EQ(chain, ChainOf(beginning));
    EXPECT_EQ(std::ssize(chain), length / kChainTokens);
  }
  text.resize(2100);
  FollowTokens(text, &chain);
  EXPECT_EQ(chain, ChainOf(text));
}

}  // namespace
}  // namespace duo
