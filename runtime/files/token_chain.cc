#include "runtime/files/token_chain.h"

#include <algorithm>

#include "runtime/files/crc32c.h"

namespace duo {

void FollowTokens(const std::vector<int32_t>& tokens, std::vector<uint32_t>* chain) {
  const size_t links = tokens.size() / kChainTokens;
  if (chain->size() > links) chain->resize(links);
  uint32_t crc = chain->empty() ? 0 : chain->back();
  while (chain->size() < links) {
    crc = Crc32c(tokens.data() + chain->size() * kChainTokens, kChainTokens * sizeof(int32_t), crc);
    chain->push_back(crc);
  }
}

// Once they differ they do so for ever, but for chance.
int64_t CommonLinks(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  int64_t same = 0, most = static_cast<int64_t>(std::min(a.size(), b.size()));
  while (same < most) {
    const int64_t middle = (same + most) / 2;
    if (a[middle] == b[middle]) {
      same = middle + 1;
    } else {
      most = middle;
    }
  }
  return same;
}

int64_t MostCommonTokens(const std::vector<int32_t>& a, const std::vector<uint32_t>& chain_a,
                         const std::vector<int32_t>& b, const std::vector<uint32_t>& chain_b) {
  const int64_t links = CommonLinks(chain_a, chain_b);
  const bool parted = links < std::ssize(chain_a) && links < std::ssize(chain_b);
  const auto shorter = static_cast<int64_t>(std::min(a.size(), b.size()));
  return parted ? (links + 1) * kChainTokens - 1 : shorter;
}

int64_t CommonTokens(const std::vector<int32_t>& a, const std::vector<uint32_t>& chain_a, const std::vector<int32_t>& b,
                     const std::vector<uint32_t>& chain_b) {
  const int64_t from = kChainTokens * CommonLinks(chain_a, chain_b);
  return std::mismatch(a.begin() + from, a.end(), b.begin() + from, b.end()).first - a.begin();
}

}  // namespace duo
