#include "launcher/serve/prefix/prefix_index.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <tuple>
#include <utility>

namespace duo {

void PrefixIndex::Set(std::vector<SavedText> texts) {
  texts_.clear();
  for (SavedText& text : texts) texts_[text.id] = std::move(text);
  std::erase_if(used_, [this](const auto& used) { return texts_.count(used.first) == 0; });
  order_.clear();
  for (const auto& [id, text] : texts_) order_.push_back(&text);
  std::sort(order_.begin(), order_.end(), [](const SavedText* a, const SavedText* b) {
    return std::tie(a->realm, a->chain) < std::tie(b->realm, b->chain);
  });
}

void PrefixIndex::Erase(const std::string& id) {
  std::erase_if(order_, [&](const SavedText* text) { return text->id == id; });
  texts_.erase(id);
}

const SavedText* PrefixIndex::Find(const std::string& realm, const std::vector<uint32_t>& chain, int64_t* links) const {
  *links = 0;
  const auto place = std::lower_bound(
      order_.begin(), order_.end(), std::tie(realm, chain),
      [](const SavedText* text, const auto& wanted) { return std::tie(text->realm, text->chain) < wanted; });
  const auto common = [&](const SavedText* text) {
    const auto most = static_cast<std::ptrdiff_t>(std::min(text->chain.size(), chain.size()));
    return std::mismatch(chain.begin(), chain.begin() + most, text->chain.begin()).first - chain.begin();
  };
  if (place != order_.end() && (*place)->realm == realm) *links = common(*place);
  if (place != order_.begin() && (*std::prev(place))->realm == realm) {
    *links = std::max<int64_t>(*links, common(*std::prev(place)));
  }
  if (*links == 0) return nullptr;
  const SavedText* best = nullptr;  // of those that begin like it for so long, which lie side by side
  const auto take = [&](const SavedText* text) {
    if (text->realm != realm || std::ssize(text->chain) < *links || text->chain[*links - 1] != chain[*links - 1])
      return false;
    if (best == nullptr || text->bytes < best->bytes || (text->bytes == best->bytes && text->id < best->id))
      best = text;
    return true;
  };
  for (auto it = place; it != order_.end() && take(*it);) ++it;
  for (auto it = place; it != order_.begin() && take(*std::prev(it));) --it;
  return best;
}

int64_t PrefixIndex::LeftBytes() const {
  int64_t bytes = 0;
  for (const auto& [id, text] : texts_) bytes += text.left ? text.bytes : 0;
  return bytes;
}

const SavedText* PrefixIndex::Oldest() const {
  const SavedText* oldest = nullptr;
  int64_t least = 0;
  for (const auto& [id, text] : texts_) {
    if (!text.left) continue;
    const auto found = used_.find(id);
    const int64_t used = found == used_.end() ? 0 : found->second;
    if (oldest != nullptr && used >= least) continue;
    oldest = &text;
    least = used;
  }
  return oldest;
}

}  // namespace duo
