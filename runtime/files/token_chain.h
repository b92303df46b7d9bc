// A chain of checksums over a run of tokens: one after each 1,024 of them, of everything before. Two runs agree as far
// as their chains do, but for one chance in 2^32: who acts on it compares the tokens too. So a text of a million tokens
// is looked up among a thousand others in far less time than reading one of them takes. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

inline constexpr int64_t kChainTokens = 1024;

// Goes on with `chain`, which is that of a beginning of `tokens`, to their last whole 1,024; where they are fewer, the
// chain is cut.
void FollowTokens(const std::vector<int32_t>& tokens, std::vector<uint32_t>* chain);

// How many entries two chains have in common.
int64_t CommonLinks(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b);

// Tokens that two runs may have in common at most, by their chains alone.
int64_t MostCommonTokens(const std::vector<int32_t>& a, const std::vector<uint32_t>& chain_a,
                         const std::vector<int32_t>& b, const std::vector<uint32_t>& chain_b);

// Tokens that two runs begin with alike, by their chains and, behind what these agree on, by the tokens themselves.
int64_t CommonTokens(const std::vector<int32_t>& a, const std::vector<uint32_t>& chain_a, const std::vector<int32_t>& b,
                     const std::vector<uint32_t>& chain_b);

}  // namespace duo
