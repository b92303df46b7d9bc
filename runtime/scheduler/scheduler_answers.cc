// Several answers to one question. The first one's request reads it; the others follow it, and fork when all of the
// question but its last token is fed, so that each draws its own first token.
//
// The reader stands still there until the last of its followers has its fork, as long as some question goes on whose
// end makes room. Where none does, the reader answers, and the first of those that are left reads again.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/scheduler/busy.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {

absl::StatusOr<std::vector<RequestId>> Scheduler::AskMany(SessionId id, std::vector<int32_t> tokens,
                                                          const GenerateParams& params,
                                                          std::vector<RequestEvents> answers) {
  const auto many = static_cast<int64_t>(answers.size());
  if (many < 1) return absl::InvalidArgumentError("at least one answer must be asked for");
  if (params.keep && many > 1) return absl::InvalidArgumentError("of several answers none can be kept");
  if (many > 1 && static_cast<int64_t>(requests_.size()) + many > options_.max_pending) {
    return Busy(absl::StrFormat("%d requests are pending already, and %d answers are as many more; try again later",
                                requests_.size(), many));
  }
  const absl::StatusOr<RequestId> first = Ask(id, std::move(tokens), params, std::move(answers[0]));
  if (!first.ok()) return first.status();
  std::vector<RequestId> ids = {*first};
  for (size_t i = 1; i < answers.size(); ++i) {
    Request request;
    request.ask = true;
    request.params = params;
    request.params.seed += i;
    request.params.prefix.on = false;  // one of them is enough to leave
    request.whose = params.whose;
    request.events = std::move(answers[i]);
    request.reader = *first;
    ids.push_back(Queue(&sessions_.at(id), std::move(request)));
    requests_.at(*first).followers.push_back(ids.back());
  }
  return ids;
}

// A fork of its reader's, if that has read far enough and there is room.
void Scheduler::TryFollow(Request& follower) {
  Request& reader = requests_.at(follower.reader);
  if (!HasRead(reader) || running_questions_ >= options_.questions || !pool_.HasSlot()) return;
  if (LastPlaceIsForOthers(follower)) return;
  const int64_t room = reader.fork.length + 1 + follower.params.max_new_tokens;
  const int64_t length = reader.fork.length;
  if (!MakeRoom(NeededBehind(length, room))) return;
  if (!pool_.Fork(reader.fork, length, room, &follower.fork, &cache_updates_).ok()) return;
  follower.tokens = {reader.tokens.back()};
  follower.sequence = &follower.fork;
  follower.reader = 0;
  std::erase(reader.followers, follower.id);
  running_.emplace(follower.id, &follower);
  follower.result.cached = reader.result.cached;
  CountStarted(follower);
}

// Where every question that runs is a reader that waits, nothing makes room: the oldest one waits no longer.
void Scheduler::LetReadersGo() {
  Request* oldest = nullptr;
  for (const auto& [id, request] : running_) {
    if (!request->ask) continue;
    if (!WaitsForFollowers(*request)) return;
    if (oldest == nullptr) oldest = request;
  }
  if (oldest != nullptr) HandOver(*oldest, oldest->tokens);
}

// The first of the reader's followers is theirs instead, from the beginning of the question, which is `tokens`.
void Scheduler::HandOver(Request& reader, std::vector<int32_t> tokens) {
  if (reader.followers.empty()) return;
  const std::vector<RequestId> followers = std::exchange(reader.followers, {});
  Request& next = requests_.at(followers[0]);
  next.reader = 0;
  next.tokens = std::move(tokens);
  next.params.prefix = reader.params.prefix;  // it may go on with what the reader leaves
  next.followers.assign(followers.begin() + 1, followers.end());
  for (RequestId follower : next.followers) requests_.at(follower).reader = next.id;
  may_start_ = true;
}

}  // namespace duo
