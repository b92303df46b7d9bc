// Appends: from the first piece of text to the last token read, with checkpoints, stops and retries.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

}  // namespace

AppendView Sessions::ViewOf(const Held& held, const Append& append) const {
  AppendView view;
  view.id = append.id;
  view.received_bytes = append.received_bytes;
  view.total_tokens = append.total;
  view.tokens = append.done ? append.total : std::clamp<int64_t>(Tokens(held) - append.start, 0, append.total);
  view.received_all = true;
  view.done = append.done;
  return view;
}

absl::StatusOr<Sessions::Opened> Sessions::OpenAppend(const std::string& id, const std::string& append_id) {
  absl::StatusOr<Held*> found = Find(id);
  if (!found.ok()) return found.status();
  if (absl::Status s = Admit(id); !s.ok()) return s;
  Held& held = **found;
  held.used = Clock::now();
  Opened opened;
  const bool again = held.append.has_value() && !append_id.empty() && held.append->id == append_id;
  if (!again) {
    if (held.append.has_value() && !held.append->done && !held.append->running) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "append \"%s\" of session %s stopped after %d of %d tokens: repeat it, or rewind the session to %d tokens",
          held.append->id, id, ViewOf(held, *held.append).tokens, held.append->total, held.append->start));
    }
    if (append_id.empty()) {
      opened.text = std::make_shared<AppendText>();
    } else {
      if (held.upload == nullptr || held.upload_id != append_id) held.upload = std::make_shared<AppendText>();
      held.upload_id = append_id;
      opened.text = held.upload;
    }
  }
  opened.session = View(held);
  return opened;
}

void Sessions::FeedAppend(const CallPtr& call, const std::string& id, const std::string& append_id,
                          std::vector<int32_t> tokens, int64_t received_bytes, AppendEvents events) {
  absl::StatusOr<Held*> found = Find(id);
  auto refuse = [this, id, events](const absl::Status& status) {
    AppendDone done;
    done.status = status;
    if (auto held = held_.find(id); held != held_.end()) done.session = View(held->second);
    events.on_done(done);
  };
  if (!found.ok()) return refuse(found.status());
  Held& held = **found;
  if (held.append.has_value() && !append_id.empty() && held.append->id == append_id) {
    Append& append = *held.append;
    if (append.done) {
      AppendDone done;
      done.tokens = append.total;
      done.received_bytes = append.received_bytes;
      done.session = View(held);
      return events.on_done(done);
    }
    if (append.call != nullptr && append.events.on_done) {  // a newer stream of the same append takes over
      AppendDone taken;
      taken.status = absl::AbortedError("another call goes on with this append");
      taken.session = View(held);
      append.call->cancel = nullptr;
      append.events.on_done(taken);
    }
    append.call = call;
    append.events = std::move(events);
    if (append.running) {
      call->cancel = [this, request = append.request] { engine_.Cancel(request).IgnoreError(); };
      return;
    }
    append.running = true;
    append.begun = Clock::now();
    append.begun_at = ViewOf(held, append).tokens;
    if (held.session == 0) {  // it was moved out meanwhile; Restored goes on with it
      if (held.restoring == 0) StartRestoreJob(held);
      return;
    }
    return FeedNext(id);
  }
  if (tokens.empty()) return refuse(absl::InvalidArgumentError("the append has no text"));
  WhenFree(held, call, false,
           [this, call, id, append_id, refuse, events, received_bytes,
            tokens = std::move(tokens)](const absl::Status& free) mutable {
             if (!free.ok()) return refuse(free);
             Held& h = held_.at(id);
             Append append;
             append.start = Tokens(h);
             if (append.start == 0) {
               tokens.insert(tokens.begin(), options_.begin_tokens.begin(), options_.begin_tokens.end());
             }
             append.total = static_cast<int64_t>(tokens.size());
             if (append.start + append.total > h.max_tokens) {
               return refuse(absl::ResourceExhaustedError(
                   absl::StrFormat("session %s holds %d tokens of at most %d; this append's %d do not fit", id,
                                   append.start, h.max_tokens, append.total)));
             }
             append.id = append_id;
             append.tokens = std::move(tokens);
             append.received_bytes = received_bytes;
             append.call = call;
             append.events = events;
             append.running = true;
             append.begun = Clock::now();
             h.append = std::move(append);
             if (h.upload_id == append_id) h.upload = nullptr;
             if (!h.durable) return FeedNext(id);
             // What is to be read is on the disk before reading begins: after a crash nobody need send it again.
             StartSaveJob(h, [this, id](const absl::Status& status, Job&) {
               if (status.ok()) return FeedNext(id);
               EndAppend(id, status);
             });
           });
}

// Gives the engine the next piece: up to the next checkpoint, or all.
void Sessions::FeedNext(const std::string& id) {
  auto found = held_.find(id);
  if (found == held_.end() || !found->second.append.has_value()) return;
  Held& held = found->second;
  Append& append = *held.append;
  const int64_t at = Tokens(held) - append.start;
  if (append.call != nullptr && append.call->cancelled)
    return EndAppend(id, absl::CancelledError("the call was cancelled"));
  if (draining_) return EndAppend(id, absl::CancelledError("draining"));
  if (at >= append.total) {
    append.done = true;
    return EndAppend(id, absl::OkStatus());
  }
  int64_t count = append.total - at;
  if (held.durable) {
    const int64_t step = options_.checkpoint_tokens;
    count = std::min(count, step - (append.start + at) % step);
  }
  RequestEvents events;
  events.on_progress = [this, id](int64_t done, int64_t) {
    if (auto h = held_.find(id); h != held_.end()) ReportProgress(h->second, done);
  };
  auto own = std::make_shared<RequestId>(0);
  events.on_done = [this, id, own](const RequestResult& result) {
    // Not from inside the engine: what follows calls it again.
    Later([this, id, own, result] { PieceDone(id, *own, result); });
  };
  const auto first = append.tokens.begin() + at;
  absl::StatusOr<RequestId> request =
      engine_.Append(held.session, std::vector<int32_t>(first, first + count), std::move(events));
  if (!request.ok()) return EndAppend(id, request.status());
  append.request = *own = *request;
  if (append.call != nullptr) {
    append.call->cancel = [this, request = *request] { engine_.Cancel(request).IgnoreError(); };
  }
}

void Sessions::ReportProgress(const Held& held, int64_t in_piece) {
  if (!held.append.has_value() || !held.append->events.on_progress) return;
  const Append& append = *held.append;
  AppendProgress progress;
  progress.total = append.total;
  progress.tokens = ViewOf(held, append).tokens;
  progress.waiting = in_piece == 0;
  const int64_t read = progress.tokens - append.begun_at;
  if (read > 0) {
    progress.seconds_left = SecondsSince(append.begun) / read * (append.total - progress.tokens);
  }
  append.events.on_progress(progress);
}

void Sessions::PieceDone(const std::string& id, RequestId request, const RequestResult& result) {
  auto found = held_.find(id);
  if (found == held_.end() || !found->second.append.has_value()) return;
  Held& held = found->second;
  Append& append = *held.append;
  if (append.request != request) return;  // of a session of the same name that was closed
  append.request = 0;
  if (append.call != nullptr) append.call->cancel = nullptr;
  append.result.queue_seconds += result.queue_seconds;
  append.result.read_seconds += result.prefill_seconds;
  if (!result.status.ok()) return EndAppend(id, result.status);
  if (!held.durable) return FeedNext(id);
  append.done = Tokens(held) - append.start >= append.total;  // the checkpoint is to say so
  StartSaveJob(held, [this, id](const absl::Status& status, Job& job) {
    auto still = held_.find(id);
    if (still == held_.end() || !still->second.append.has_value()) return;
    Append& a = *still->second.append;
    if (!status.ok()) {
      a.done = false;
      return EndAppend(id, status);
    }
    ++stats_.checkpoints;
    ++a.result.checkpoints;
    a.result.checkpoint_seconds += SecondsSince(job.begun);
    FeedNext(id);
  });
}

void Sessions::EndAppend(const std::string& id, absl::Status status) {
  auto found = held_.find(id);
  if (found == held_.end() || !found->second.append.has_value()) return;
  Held& held = found->second;
  Append& append = *held.append;
  append.running = false;
  held.used = Clock::now();
  const bool stopped_by_us =
      draining_ && absl::IsCancelled(status) && !(append.call != nullptr && append.call->cancelled);
  if (stopped_by_us) {
    status = absl::UnavailableError(absl::StrFormat(
        "the server is draining: the append stopped after %d of %d tokens; %s", ViewOf(held, append).tokens,
        append.total, append.id.empty() ? "it was undone" : "repeat it after the restart"));
  }
  AppendDone done = std::move(append.result);
  append.result = {};
  done.status = status;
  done.tokens = ViewOf(held, append).tokens;
  done.received_bytes = append.received_bytes;
  AppendEvents events = std::move(append.events);
  append.events = {};
  if (append.call != nullptr) append.call->cancel = nullptr;
  append.call = nullptr;
  log_.Event(status.ok() ? "append done" : "append stopped",
             {{"session", id},
              {"tokens", done.tokens},
              {"of", append.total},
              {"seconds", done.read_seconds},
              {"status", status.ok() ? "OK" : std::string(status.message())}});
  if (append.done) {
    append.tokens = {};
    if (append.id.empty()) held.append.reset();
  } else if (append.id.empty() && held.session != 0) {  // nobody can take it up again: as if it had never been
    const int64_t start = append.start;
    if (absl::Status undone = engine_.Rewind(held.session, start); undone.ok()) {
      held.append.reset();
      held.durable_tokens = std::min(held.durable_tokens, start);
      if (store_ != nullptr) store_->Rewound(id, start);
      if (held.durable && !draining_) StartSaveJob(held, [](const absl::Status&, Job&) {});
    } else {
      log_.Event("append not undone", {{"session", id}, {"status", std::string(undone.message())}});
    }
  }
  done.session = View(held);
  if (events.on_done) events.on_done(done);
  RunWaiting(id);
}

}  // namespace duo
