#include "launcher/serve/prefix/prefix_index.h"

#include <utility>

#include "runtime/files/token_chain.h"

namespace duo {

void PrefixIndex::Set(std::vector<SavedText> texts) {
  texts_.clear();
  for (SavedText& text : texts) texts_[text.id] = std::move(text);
  std::erase_if(used_, [this](const auto& used) { return texts_.count(used.first) == 0; });
}

const SavedText* PrefixIndex::Find(const std::string& realm, const std::vector<uint32_t>& chain, int64_t* links) const {
  const SavedText* best = nullptr;
  *links = 0;
  for (const auto& [id, text] : texts_) {
    if (text.realm != realm) continue;
    const int64_t common = CommonLinks(text.chain, chain);
    if (common == 0 || common < *links || (common == *links && best != nullptr && best->bytes <= text.bytes)) continue;
    best = &text;
    *links = common;
  }
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
