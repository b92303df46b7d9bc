// Prompts that begin alike are read once. A prompt starts on a fork of whatever agrees with it for longest at the least
// cost: a prefix, which is what an earlier prompt left, an open session, or a read under way, which it waits for where
// that will get further. Where that has more tokens than they share, the fork's rings are rebuilt, and the place is
// left as a prefix of its own, so that the next one finds its rings there.
//
// A question that ends leaves its fork, text and answer, as a prefix; also one whose client went away, so that a retry
// goes on there. A long prompt leaves one before its last token, too, for whoever sends it again.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "runtime/scheduler/busy.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

// Of what rebuilding rings takes, the part that counts against it: the place is kept, and who comes next finds it.
constexpr double kRebuildCounts = 0.5;

}  // namespace

absl::Status Scheduler::LetMatch(SessionId id, const std::string& realm) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) return NoSession(id);
  found->second.realm = realm;
  return absl::OkStatus();
}

std::vector<PrefixInfo> Scheduler::Prefixes() {
  std::vector<PrefixInfo> all;
  for (auto& [id, prefix] : prefixes_) {
    if (prefix.filling) continue;
    Sequence& s = prefix.sequence;
    FollowTokens(s.tokens, &s.chain);
    all.push_back({id, prefix.realm, s.length, 0, prefix.hits, s.chain, SecondsSince(prefix.used)});
  }
  return all;
}

// A prefix of these tokens whose pages and rings the caller fills; others meet it when that is done.
absl::StatusOr<SessionId> Scheduler::AdoptPrefix(std::vector<int32_t> tokens, bool rings_valid,
                                                 const std::string& realm) {
  const auto length = static_cast<int64_t>(tokens.size());
  if (absl::Status s = CheckLimit(length); !s.ok()) return s;
  if (!PlaceForPrefix()) return Busy("every place for a prefix is being filled; try again later");
  MakeRoom(NeededBehind(0, length));
  Sequence sequence;
  if (absl::Status s = pool_.Open(length, &sequence); !s.ok()) return s;
  sequence.length = length;
  sequence.tokens = std::move(tokens);
  pool_.Grow(&sequence, length, &cache_updates_);
  sequence.rings_at = rings_valid ? length : std::max<int64_t>(0, length - options_.refeed);
  sequence.ring_begin = rings_valid ? 0 : sequence.rings_at;
  const SessionId id = AddPrefix(realm, std::move(sequence));
  prefixes_.at(id).filling = true;
  return id;
}

absl::Status Scheduler::Filled(SessionId id) {
  const auto found = prefixes_.find(id);
  if (found == prefixes_.end()) return NoSession(id);
  found->second.filling = false;
  may_start_ = true;
  return absl::OkStatus();
}

// Tokens of a prompt that need not be read, as things are, or will be when the reads under way are done.
int64_t Scheduler::FindPrefix(const std::vector<int32_t>& tokens, const std::string& realm) {
  std::vector<uint32_t> chain;
  FollowTokens(tokens, &chain);
  int64_t most = 0;
  if (options_.sparsity.on()) return most;
  const auto look = [&](Sequence& sequence) {
    if (!ReadAlike(sequence)) return;
    FollowTokens(sequence.tokens, &sequence.chain);
    if (MostCommonTokens(tokens, chain, sequence.tokens, sequence.chain) <= most) return;
    most = std::max(most, CommonTokens(tokens, chain, sequence.tokens, sequence.chain));
  };
  for (auto& [id, prefix] : prefixes_) {
    if (prefix.realm == realm && !prefix.filling) look(prefix.sequence);
  }
  for (auto& [id, session] : sessions_) {
    if (session.realm == realm) look(session.sequence);
  }
  for (auto& [id, request] : running_) {
    if (Shares(*request) && request->params.prefix.realm == realm)
      most = std::max(most, WillShare(tokens, chain, *request));
  }
  return most;
}

int Scheduler::DropPrefixes() {
  int count = 0;
  while (DropCheapest()) ++count;
  return count;
}

// Reading it, in steps none of which takes less than one of a few rows.
double Scheduler::PredictPrompt(int64_t tokens, int64_t history) const {
  const auto steps = static_cast<double>(CeilDiv(tokens, int64_t{options_.chunk}));
  return std::max(PredictRead(tokens, history), steps * rows_base_);
}

double Scheduler::PredictRebuild(int64_t at) const {
  const int64_t rows = std::min(at, options_.refeed);
  const auto steps = static_cast<double>(CeilDiv(rows, int64_t{kMaxDecodeRows}));
  return steps * rows_base_ + chunk_time_.Predict(0, 0, {rows, rows * at});
}

// candidate: what might be gone on with; its place follows from the tokens.
void Scheduler::Consider(const Request& request, Origin candidate, Origin* best) const {
  Sequence& sequence = *candidate.sequence;
  if (!ReadAlike(sequence)) return;
  FollowTokens(sequence.tokens, &sequence.chain);
  const auto all = static_cast<int64_t>(request.tokens.size());
  // Few of many texts agree with the prompt for longer than what was found, and by their chains most are known not to.
  const int64_t most = MostCommonTokens(request.tokens, request.chain, sequence.tokens, sequence.chain);
  if (most < options_.prefix_least ||
      PredictPrompt(all - std::min(most, all - 1), std::min(most, all - 1)) >= best->seconds) {
    return;
  }
  // The last token is fed in any case: the answer's first one is drawn from its row.
  candidate.at =
      std::min({all - 1, candidate.most, CommonTokens(request.tokens, request.chain, sequence.tokens, sequence.chain)});
  if (candidate.at < options_.prefix_least) return;
  candidate.exact = options_.refeed == 0 || (candidate.at == sequence.length && sequence.rings_at == sequence.length);
  candidate.seconds = PredictPrompt(all - candidate.at, candidate.at);
  if (!candidate.exact) candidate.seconds += kRebuildCounts * PredictRebuild(candidate.at);
  if (candidate.seconds < best->seconds) *best = candidate;
}

// Where a prompt begins, or, with request.joins set, what it waits for.
Scheduler::Origin Scheduler::OriginOf(Request& request) {
  Session& session = *request.session;
  const Origin none = {&session.sequence, session.sequence.length};
  request.joins = 0;
  if (none.at > 0 || request.params.rules.prompt_scores >= 0) return none;  // each token's score comes from its row
  FollowTokens(request.tokens, &request.chain);
  Origin best = none;
  best.seconds = PredictPrompt(static_cast<int64_t>(request.tokens.size()), 0);
  const std::string& realm = request.params.prefix.realm;
  for (auto& [id, prefix] : prefixes_) {
    if (prefix.realm != realm || prefix.filling) continue;
    Consider(request, {.sequence = &prefix.sequence, .prefix = &prefix}, &best);
  }
  for (auto& [id, other] : sessions_) {
    if (other.realm == realm) Consider(request, {.sequence = &other.sequence, .session = id}, &best);
  }
  for (auto& [id, other] : running_) {
    if (Shares(*other) && other->params.prefix.realm == realm) {
      const int64_t most = other->lists.Exact(other->sequence->length);
      Consider(request, {.sequence = other->sequence, .read = true, .most = most}, &best);
    }
  }
  const auto end = request.tokens.begin() + best.at;
  if (!std::equal(request.tokens.begin(), end, best.sequence->tokens.begin()))
    best = none;  // their chains met by chance
  Join(request, best);
  return best;
}

// Tokens that a prompt will have in common with a read under way. The last one of either is fed by itself.
int64_t Scheduler::WillShare(const std::vector<int32_t>& tokens, const std::vector<uint32_t>& chain, Request& read) {
  Sequence& s = *read.sequence;
  FollowTokens(s.tokens, &s.chain);
  const int64_t common = CommonTokens(tokens, chain, s.tokens, s.chain);
  if (common < s.length || s.length != static_cast<int64_t>(read.fed)) return common;
  const auto end = read.tokens.begin() + std::min(tokens.size(), read.tokens.size()) - 1;
  const auto from = read.tokens.begin() + std::min<int64_t>(s.length, end - read.tokens.begin());
  const auto until = std::mismatch(from, end, tokens.begin() + (from - read.tokens.begin())).first;
  return std::max(common, until - read.tokens.begin());
}

// Waits for a read under way that will get further than what there is, if there is one; it stops for a moment where the
// two part, so that its rings are those of that place.
bool Scheduler::Join(Request& request, const Origin& best) {
  const auto& tokens = request.tokens;
  Request* chosen = nullptr;
  int64_t furthest = best.at + std::max<int64_t>(options_.prefix_least, 1) - 1;
  for (auto& [id, other] : running_) {
    if (!Shares(*other) || other->drawing || other->params.prefix.realm != request.params.prefix.realm) continue;
    if (other->whose.priority > request.whose.priority) continue;
    const int64_t length = other->sequence->length, at = WillShare(tokens, request.chain, *other);
    if (length < best.at || at <= length || at <= furthest) continue;
    chosen = other;
    furthest = at;
  }
  if (chosen == nullptr) return false;
  request.joins = chosen->id;
  const bool sooner = chosen->stop_at > chosen->sequence->length && chosen->stop_at < furthest;
  if (!sooner) chosen->stop_at = furthest;
  return true;
}

// The request has its fork of the origin: what it shares counts as fed.
void Scheduler::GoOnAt(Request& request, const Origin& origin) {
  Sequence& fork = request.fork;
  const std::vector<int32_t>& before = origin.sequence->tokens;
  fork.tokens.assign(before.begin(), before.begin() + origin.at);
  request.fed = static_cast<size_t>(origin.at);
  const auto unread = static_cast<int64_t>(request.tokens.size()) - origin.at;
  request.leaves_copy = options_.prefixes > 0 && unread > options_.prefix_stop;
  PrefixCounts& counts = stats_.prefix;
  ++counts.queries;
  if (origin.at == 0) return;
  CachedPrefix& cached = request.result.cached;
  cached = {CachedPrefix::From::kOpen, origin.at, 0, origin.session};
  if (origin.read) cached.from = CachedPrefix::From::kRead;
  if (!origin.exact) {
    fork.rings_at = fork.ring_begin = std::max<int64_t>(0, origin.at - options_.refeed);
    cached.refed = fork.length - fork.rings_at;
  }
  if (origin.prefix != nullptr) {
    origin.prefix->age = prefix_age_;
    origin.prefix->used = Clock::now();
    ++origin.prefix->hits;
  }
  ++counts.hits;
  (origin.read ? counts.read_tokens : counts.open_tokens) += cached.tokens;
  counts.refed_tokens += cached.refed;
  counts.saved_seconds += PredictPrompt(origin.at, 0) - (origin.exact ? 0 : PredictRebuild(origin.at));
  if (origin.exact && origin.read) LeaveCopy(request);  // where two texts part others will
}

// The prefix that has just these tokens.
Scheduler::Prefix* Scheduler::Known(const std::string& realm, Sequence& sequence) {
  FollowTokens(sequence.tokens, &sequence.chain);
  for (auto& [id, prefix] : prefixes_) {
    if (prefix.filling || prefix.realm != realm || prefix.sequence.length != sequence.length) continue;
    FollowTokens(prefix.sequence.tokens, &prefix.sequence.chain);
    if (prefix.sequence.chain == sequence.chain && prefix.sequence.tokens == sequence.tokens) return &prefix;
  }
  return nullptr;
}

// Drops others where there are as many as there may be.
bool Scheduler::PlaceForPrefix() {
  while (static_cast<int>(prefixes_.size()) >= options_.prefixes) {
    if (!DropCheapest()) return false;
  }
  return true;
}

SessionId Scheduler::AddPrefix(const std::string& realm, Sequence sequence) {
  const SessionId id = next_session_++;
  Prefix& prefix = prefixes_[id];
  prefix.realm = realm;
  prefix.sequence = std::move(sequence);
  prefix.age = prefix_age_;
  prefix.used = Clock::now();
  may_start_ = true;
  return id;
}

// A prefix that is the request's fork as it is now, if there is room for one.
void Scheduler::LeaveCopy(Request& request) {
  request.leaves_copy = false;
  Sequence& sequence = *request.sequence;
  const int64_t length = sequence.length;
  const std::string& realm = request.params.prefix.realm;
  if (options_.prefixes == 0 || length < options_.prefix_least || NeedsRebuild(sequence)) return;
  if (Known(realm, sequence) != nullptr || !PlaceForPrefix()) return;
  Sequence copy;
  if (!MakeRoom(NeededBehind(length, length))) return;
  if (!pool_.Fork(sequence, length, length, &copy, &cache_updates_).ok()) return;
  copy.tokens = sequence.tokens;
  AddPrefix(realm, std::move(copy));
}

// The request's fork becomes a prefix. False: it is of no use as one.
bool Scheduler::Leave(Request& request) {
  Sequence& fork = request.fork;
  const absl::Status& status = request.result.status;
  if (!Shares(request) || options_.prefixes == 0 || fork.length < options_.prefix_least || NeedsRebuild(fork)) {
    return false;
  }
  if (!status.ok() && !absl::IsCancelled(status)) return false;
  if (!CutOff(fork, request.lists.Exact(fork.length))) return false;  // others go on with what is exact
  if (Prefix* known = Known(request.params.prefix.realm, fork); known != nullptr) {
    known->age = prefix_age_;
    known->used = Clock::now();
    return false;
  }
  if (!PlaceForPrefix()) return false;
  DUO_CHECK(pool_.SetRoom(&fork, fork.length).ok());
  AddPrefix(request.params.prefix.realm, std::exchange(fork, Sequence()));
  return true;
}

}  // namespace duo
