#include "runtime/drafts/draft_index.h"

#include <algorithm>
#include <utility>

#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr size_t kFewestHeads = 1024;
constexpr int kMostLevels = 8;  // of forks of forks; beyond it a fork begins anew

int Matched(std::span<const int32_t> text, int64_t next, std::span<const int32_t> context) {
  const auto most = std::min<int64_t>({next, static_cast<int64_t>(context.size()), DraftIndex::kLongestMatch});
  int matched = 0;
  while (matched < most && text[next - 1 - matched] == context[context.size() - 1 - matched]) ++matched;
  return matched;
}

}  // namespace

uint32_t DraftIndex::Hash(const int32_t* gram) {
  uint64_t hash = 0;
  for (int i = 0; i < kGram; ++i) hash = SplitMix64(hash ^ static_cast<uint32_t>(gram[i]));
  return static_cast<uint32_t>(hash >> 32);
}

void DraftIndex::Insert(const int32_t* gram, int64_t end) {
  int32_t& head = heads_[Hash(gram) & (heads_.size() - 1)];
  const auto own = static_cast<int32_t>(end - first_);
  before_[own] = head;
  head = own + 1;
}

void DraftIndex::Grow(std::span<const int32_t> text) {
  heads_.assign(std::max(kFewestHeads, 2 * heads_.size()), 0);
  for (int64_t end = std::max<int64_t>(first_, kGram - 1); end < size(); ++end) Insert(&text[end - kGram + 1], end);
}

bool DraftIndex::Extend(std::span<const int32_t> text, int64_t most) {
  const auto tokens = static_cast<int64_t>(text.size());
  const int64_t to = std::min(tokens, size() + most);
  while (size() < to) {
    if (before_.size() == heads_.size()) Grow(text);
    const int64_t end = size();
    before_.push_back(0);
    if (end >= kGram - 1) Insert(&text[end - kGram + 1], end);
  }
  return size() >= tokens;
}

void DraftIndex::Cut(int64_t tokens) {
  if (tokens >= size()) return;
  if (tokens >= first_) {
    for (int32_t& head : heads_) {
      while (head > tokens - first_) head = before_[head - 1];
    }
    before_.resize(tokens - first_);
    return;
  }
  // Of the base its first tokens count.
  first_ = tokens;
  heads_.clear();
  before_.clear();
}

DraftIndex DraftIndex::Fork() {
  if (!before_.empty()) {
    const int64_t size_now = size();
    const int levels = base_depth_ + 1;
    auto shared = std::make_shared<const DraftIndex>(std::move(*this));
    *this = DraftIndex();
    if (levels <= kMostLevels) {
      base_ = std::move(shared);
      base_depth_ = levels;
      first_ = size_now;
    }
  }
  return *this;
}

DraftMatch DraftIndex::Find(std::span<const int32_t> text, std::span<const int32_t> context) const {
  DraftMatch best;
  if (context.size() < kGram) return best;
  const int32_t* gram = context.data() + context.size() - kGram;
  const uint32_t hash = Hash(gram);
  const auto size = static_cast<int64_t>(text.size());
  int64_t limit = size;  // of the positions that count at a level
  int places = kPlaces, steps = kSteps;
  for (const DraftIndex* level = this; level != nullptr && places > 0; level = level->base_.get()) {
    if (!level->heads_.empty()) {
      int32_t at = level->heads_[hash & (level->heads_.size() - 1)];
      for (; at > 0 && places > 0 && steps > 0; at = level->before_[at - 1], --steps) {
        const int64_t next = level->first_ + at;  // behind the gram's last token
        if (next > limit || next >= size) continue;
        const int matched = Matched(text, next, context);
        if (matched < kGram) continue;
        --places;
        if (matched > best.matched) best = {next, matched};
      }
    }
    limit = std::min(limit, level->first_);
  }
  return best;
}

}  // namespace duo
