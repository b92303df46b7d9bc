// Whether there is room, and how it is made. Prefixes are there only until something else needs theirs: they are
// dropped, first those whose tokens take the least time to read again for each byte that they hold. What is not used
// falls behind: a prefix that is used is counted from what the last one that was dropped was worth.
#include <algorithm>

#include "runtime/scheduler/scheduler.h"

namespace duo {

// What is available, or will be when the prefixes are dropped, but for the first tokens of `kept`, and, with `answers`,
// when the questions that run have been answered. A page that several share comes back with the last of them.
Scheduler::Room Scheduler::RoomAfter(bool answers, const Prefix* kept, int64_t kept_tokens) const {
  Room room = RoomNow();
  std::vector<int> shared(pool_.pages().size()), split_shared(pool_.split_pages().size());
  const auto count = [](const std::vector<int32_t>& ids, int64_t from, const PagePool& pool, std::vector<int>& by,
                        int64_t* come) {
    for (size_t i = from; i < ids.size(); ++i) *come += ++by[ids[i]] == pool.references(ids[i]) ? 1 : 0;
  };
  const auto add = [&](const Sequence& sequence, int64_t from, int64_t split_from) {
    room.pages += sequence.reserved;
    room.split_pages += sequence.split_reserved;
    count(sequence.pages, from, pool_.pages(), shared, &room.pages);
    count(sequence.split_pages, split_from, pool_.split_pages(), split_shared, &room.split_pages);
  };
  for (const auto& [id, prefix] : prefixes_) {
    if (prefix.filling && !answers) continue;
    const int64_t tokens = &prefix == kept ? kept_tokens : 0;
    add(prefix.sequence, pool_.PagesFor(tokens), pool_.SplitPagesFor(tokens));
  }
  if (!answers) return room;
  for (const auto& [id, request] : running_) {
    if (!request->ask) continue;
    if (!request->params.keep) {
      add(request->fork, 0, 0);
      continue;
    }
    room.pages += request->sequence->reserved;  // of a kept answer: what it does not use of its length
    room.split_pages += request->sequence->split_reserved;
  }
  return room;
}

// Page ids for `tokens` tokens of which a fork shares the first `shared`.
Scheduler::Room Scheduler::NeededBehind(int64_t shared, int64_t tokens) const {
  return {pool_.PagesFor(tokens) - pool_.FullPages(shared), pool_.SplitPagesFor(tokens) - pool_.FullSplitPages(shared)};
}

// Page ids that a sequence lacks to have room for `room` tokens.
Scheduler::Room Scheduler::NeededFor(const Sequence& sequence, int64_t room) const {
  return {pool_.PagesFor(room) - static_cast<int64_t>(sequence.pages.size()) - sequence.reserved,
          pool_.SplitPagesFor(room) - static_cast<int64_t>(sequence.split_pages.size()) - sequence.split_reserved};
}

// Drops prefixes until there is room; false, and nothing is dropped, where that is not enough. origin: a place that is
// about to be forked and stays, though what is behind it may go.
bool Scheduler::MakeRoom(const Room& needed, const Origin* origin) {
  if (RoomNow().holds(needed)) return true;
  if (prefixes_.empty()) return false;
  Prefix* kept = origin == nullptr ? nullptr : origin->prefix;
  if (!RoomAfter(false, kept, kept == nullptr ? 0 : origin->at).holds(needed)) return false;
  while (!RoomNow().holds(needed)) {
    if (DropCheapest(kept)) continue;
    if (kept == nullptr) return false;
    CutOff(kept->sequence, origin->at);
    return RoomNow().holds(needed);
  }
  return true;
}

// Of what comes back when it is dropped.
double Scheduler::WorthOf(const Prefix& prefix) const {
  const Sequence& s = prefix.sequence;
  const auto first_own = [](const std::vector<int32_t>& ids, const PagePool& pool) {
    size_t first = ids.size();
    while (first > 0 && pool.references(ids[first - 1]) == 1) --first;
    return static_cast<int64_t>(first);
  };
  const int64_t own = first_own(s.pages, pool_.pages()), split_own = first_own(s.split_pages, pool_.split_pages());
  int64_t from = s.length;
  if (pool_.PagesFor(1) > 0) from = std::min(from, own * s.length / std::max<int64_t>(1, std::ssize(s.pages)));
  if (pool_.SplitPagesFor(1) > 0) {
    from = std::min(from, split_own * s.length / std::max<int64_t>(1, std::ssize(s.split_pages)));
  }
  if (s.pages.empty() && s.split_pages.empty()) from = 0;
  const double bytes = static_cast<double>(std::ssize(s.pages) - own) * options_.page_bytes +
                       static_cast<double>(std::ssize(s.split_pages) - split_own) * options_.split_page_bytes +
                       options_.ring_bytes + 1;
  return (PredictRead(s.length - from, from) + PredictRebuild(s.length)) / bytes;
}

// False: there is none, or only `but`.
bool Scheduler::DropCheapest(const Prefix* but) {
  auto cheapest = prefixes_.end();
  double least = 0;
  for (auto it = prefixes_.begin(); it != prefixes_.end(); ++it) {
    if (&it->second == but || it->second.filling) continue;
    const double worth = it->second.age + WorthOf(it->second);
    if (cheapest != prefixes_.end() && worth >= least) continue;
    cheapest = it;
    least = worth;
  }
  if (cheapest == prefixes_.end()) return false;
  prefix_age_ = std::max(prefix_age_, least);
  pool_.Close(&cheapest->second.sequence);
  prefixes_.erase(cheapest);
  ++stats_.prefix.evictions;
  may_start_ = true;
  return true;
}

// The sequence gives back what is behind its first tokens, and its rings are to be rebuilt. False: it cannot.
bool Scheduler::CutOff(Sequence& s, int64_t tokens) {
  if (tokens >= s.length) return true;
  if (!pool_.Shrink(&s, tokens, tokens, &cache_updates_).ok()) return false;
  s.tokens.resize(tokens);
  FollowTokens(s.tokens, &s.chain);
  s.length = tokens;
  s.rings_at = s.ring_begin = std::max<int64_t>(0, tokens - options_.refeed);
  may_start_ = true;
  return true;
}

}  // namespace duo
