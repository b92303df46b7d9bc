#include "runtime/text/grammar/token_trie.h"

#include <algorithm>
#include <numeric>

namespace duo {

TokenTrie::TokenTrie(const std::vector<std::string>& bytes)
    : vocab_(static_cast<int64_t>(bytes.size())), bytes_(bytes) {
  std::vector<int32_t> order(bytes.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t id) { return bytes[id].empty(); });
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return bytes[a] != bytes[b] ? bytes[a] < bytes[b] : a < b; });
  std::vector<int32_t> path;  // the nodes of the last token's bytes
  const auto close = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) nodes_[path.back()].end = static_cast<int32_t>(nodes_.size());
  };
  std::string_view last;
  for (const int32_t id : order) {
    const std::string_view text = bytes[id];
    const size_t common = std::mismatch(text.begin(), text.end(), last.begin(), last.end()).first - text.begin();
    close(common);
    for (size_t at = common; at < text.size(); ++at) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      nodes_.push_back(
          {static_cast<int32_t>(at) + 1, 0, static_cast<int32_t>(tokens_.size()), static_cast<uint8_t>(text[at])});
    }
    tokens_.push_back(id);
    deepest_ = std::max(deepest_, static_cast<int32_t>(text.size()));
    last = text;
  }
  close(0);
  nodes_.push_back({0, static_cast<int32_t>(nodes_.size()) + 1, static_cast<int32_t>(tokens_.size()), 0});
}

}  // namespace duo
