#include "launcher/serve/calls/append_job.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/calls/call_span.h"

namespace duo {
namespace {

constexpr double kProgressSeconds = 0.5;
constexpr size_t kLongestAppendId = 64;

int64_t Received(AppendText* text, const SessionView& view) {
  if (text == nullptr) return view.append.has_value() ? view.append->received_bytes : 0;
  std::lock_guard lock(text->mutex);
  return text->received();
}

// Is what both have from `offset` on the same? known: how much that is.
bool Same(const AppendPiece& piece, const AppendText& text, int64_t known) {
  if (!piece.text.empty()) return text.text.compare(piece.offset, known, piece.text, 0, known) == 0;
  return std::equal(piece.tokens.begin(), piece.tokens.begin() + known, text.tokens.begin() + piece.offset);
}

}  // namespace

void AppendJob::Start(const Caller& caller) {
  caller_ = {"", caller.request_id, caller.trace};
  begun_ = std::chrono::steady_clock::now();
  call_->request = caller.request_id;
  call_->trace = caller.trace;
  absl::StatusOr<Identity> who = c_.Authenticate(caller, Right::kSessions);
  if (!who.ok()) return Finish(who.status());
  {
    std::lock_guard lock(mutex_);  // Finish, which counts a call as its owner's, may come from a cancellation
    who_ = *std::move(who);
  }
  stream_.Read();
}

void AppendJob::Take(AppendPiece piece) {
  if (opened_) return Add(piece);
  Open(std::move(piece));
}

void AppendJob::Open(AppendPiece first) {
  opened_ = true;
  session_id_ = first.session_id;
  {
    std::lock_guard lock(mutex_);
    if (!ended_) activity_ = c_.activity.Begin("Append", session_id_, who_.owner);
  }
  append_id_ = first.append_id;
  special_ = first.special;
  priority_ = first.priority;
  seam_ = first.seam;
  chat_ = first.chat;
  if (session_id_.empty()) return Finish(absl::InvalidArgumentError("the first message must give session_id"));
  if (append_id_.size() > kLongestAppendId) {
    return Finish(absl::InvalidArgumentError(
        absl::StrCat("an append_id has at most ", kLongestAppendId, " bytes, found ", append_id_.size())));
  }
  if (absl::Status s = CallContext::CheckPriority(priority_); !s.ok()) return Finish(s);
  const bool posted = c_.thread->Post([self = shared_from_this(), first = std::move(first)] {
    if (absl::Status s = self->c_.CheckOwner(self->who_, self->session_id_); !s.ok()) return self->Finish(s);
    absl::StatusOr<Sessions::Opened> opened = self->c_.sessions->OpenAppend(self->session_id_, self->append_id_);
    if (!opened.ok()) return self->Finish(opened.status());
    self->text_ = opened->text;
    self->max_tokens_ = opened->session.max_tokens;
    if (self->text_ != nullptr) {
      std::lock_guard lock(self->text_->mutex);
      self->text_->touched = std::chrono::steady_clock::now();
      self->text_->expire = [weak = self->weak_from_this()](const absl::Status& status) {
        if (const auto job = weak.lock(); job != nullptr) job->Finish(status);
      };
    }
    const int64_t received = Received(self->text_.get(), opened->session);
    self->stream_.Update([&](AppendUpdate& update) {
      update.session = opened->session;
      update.received_bytes = received;
      return true;
    });
    self->Add(first);
  });
  if (!posted) Finish(QueueFull());
}

// The part of a piece that is new is added, the part that is there already is compared.
void AppendJob::Add(const AppendPiece& piece) {
  const absl::StatusOr<int64_t> received = Keep(piece);
  if (absl::IsResourceExhausted(received.status())) {  // no retry can make it fit: its text is given up
    c_.thread->Urgent(
        [self = shared_from_this()] { self->c_.sessions->DropUpload(self->session_id_, self->append_id_); });
  }
  if (!received.ok()) return Finish(received.status());
  if (*received > 0) {
    Progress([&](AppendUpdate& update) { update.received_bytes = *received; });
  }
  stream_.Read();
}

absl::StatusOr<int64_t> AppendJob::Keep(const AppendPiece& piece) {
  const bool bytes = !piece.text.empty();
  if (!bytes && piece.tokens.empty()) return 0;
  if (bytes && !piece.tokens.empty()) return absl::InvalidArgumentError("give text or tokens, not both");
  if (text_ == nullptr) return 0;
  std::lock_guard lock(text_->mutex);
  AppendText& t = *text_;
  if (bytes ? !t.tokens.empty() : !t.text.empty()) {
    return absl::InvalidArgumentError("an append is text or tokens throughout");
  }
  const int64_t have = bytes ? t.text.size() : t.tokens.size();
  const int64_t size = bytes ? piece.text.size() : piece.tokens.size();
  if (piece.offset < 0 || piece.offset > have) {
    return absl::InvalidArgumentError(absl::StrFormat("offset %d: the server has %d %s of this append", piece.offset,
                                                      have, bytes ? "bytes" : "tokens"));
  }
  const int64_t known = std::min(size, have - piece.offset);
  if (!Same(piece, t, known)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "offset %d: the text differs from what the server has of append \"%s\"", piece.offset, append_id_));
  }
  if (absl::Status s = CheckRoom(t, size - known, bytes); !s.ok()) return s;
  const std::vector<int32_t> fresh(bytes ? piece.tokens.end() : piece.tokens.begin() + known, piece.tokens.end());
  if (absl::Status s = c_.CheckTokens(fresh); !s.ok()) return s;
  const int64_t added = (size - known) * (bytes ? 1 : 4);
  if (!t.budget->Take(added)) return t.budget->Full();
  if (bytes) {
    t.text.append(piece.text, known);
  } else {
    t.tokens.insert(t.tokens.end(), fresh.begin(), fresh.end());
  }
  t.touched = std::chrono::steady_clock::now();
  return t.received();
}

// What can never fit is refused by its size, before the rest of it is sent. more: bytes or tokens.
absl::Status AppendJob::CheckRoom(const AppendText& text, int64_t more, bool bytes) const {
  const int64_t received = text.received() + more * (bytes ? 1 : 4);
  if (received > c_.limits.append_bytes) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "this append has more than %d bytes, the server's limit (--max-append-bytes)", c_.limits.append_bytes));
  }
  const int64_t fewest = bytes ? (c_.token_bytes > 0 ? received / c_.token_bytes : 0) : received / 4;
  if (fewest <= max_tokens_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrFormat("the first %d bytes of this append are at least %d tokens, and session %s holds at most %d",
                      received, fewest, session_id_, max_tokens_));
}

void AppendJob::TakeEnd() {
  if (!opened_) return Finish(absl::InvalidArgumentError("the stream ended before its first message"));
  std::string text;
  std::vector<int32_t> tokens;
  if (text_ != nullptr) {
    std::lock_guard lock(text_->mutex);
    received_ = text_->received();
    text_->whole = true;
    text_->expire = nullptr;
    text = text_->text;  // a copy: who asks what has been received meanwhile waits for nothing
    tokens = text_->tokens;
  }
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    fed_ = true;
  }
  AppendInput input{.session_id = session_id_,
                    .append_id = append_id_,
                    .tokens = std::move(tokens),
                    .received_bytes = received_,
                    .text = std::move(text),
                    .special = special_,
                    .seam = seam_,
                    .chat = chat_};
  const bool posted = c_.thread->Post([self = shared_from_this(), input = std::move(input)]() mutable {
    AppendEvents events;
    events.on_progress = [self](const AppendProgress& progress) { self->OnProgress(progress); };
    events.on_done = [self](const AppendDone& done) { self->OnRead(done); };
    // Again: the session may have been closed meanwhile, and its name be another's.
    if (absl::Status s = self->c_.CheckOwner(self->who_, self->session_id_); !s.ok()) return self->Finish(s);
    input.whose = self->c_.WhoseOf(self->who_, self->priority_);
    self->c_.sessions->ReadAppend(self->call_, std::move(input), std::move(events));
  });
  if (!posted) Finish(QueueFull());
}

void AppendJob::Refuse(const absl::Status& why) {
  if (text_ != nullptr && absl::IsResourceExhausted(why)) {
    c_.thread->Urgent(
        [self = shared_from_this()] { self->c_.sessions->DropUpload(self->session_id_, self->append_id_); });
  }
  Finish(why);
}

void AppendJob::Cancel() {
  stream_.Gone();
  bool fed;
  {
    std::lock_guard lock(mutex_);
    fed = fed_;
  }
  if (!fed) return Finish(absl::CancelledError("the call was cancelled"));
  c_.thread->Urgent([self = shared_from_this()] { self->c_.sessions->Cancel(self->call_); });
}

void AppendJob::OnProgress(const AppendProgress& progress) {
  Progress([&](AppendUpdate& update) {
    update.received_bytes = received_;
    update.tokens = progress.tokens;
    update.total_tokens = progress.total;
    update.seconds_left = progress.seconds_left;
    update.waiting = progress.waiting;
  });
}

// Engine's thread, once.
void AppendJob::OnRead(const AppendDone& done) {
  if (done.status.ok()) {
    stream_.Update([&](AppendUpdate& update) {
      update.received_bytes = done.received_bytes;
      update.tokens = update.total_tokens = done.tokens;
      update.seconds_left = 0;
      update.waiting = false;
      update.done = true;
      update.session = done.session;
      update.stats = {done.queue_seconds, done.read_seconds, done.checkpoint_seconds, done.checkpoints};
      return true;
    });
    c_.metrics->ObserveAppend(done.queue_seconds + done.read_seconds);
  }
  std::vector<SpanPart> parts = {{"receive", 0, 0}, {"queue", 0, done.queue_seconds}, {"read", 0, done.read_seconds}};
  if (done.checkpoints > 0) parts.push_back({"save", 0, done.checkpoint_seconds});
  Finish(done.status, std::move(parts),
         {{"duo.read_tokens", done.tokens}, {"duo.received_bytes", done.received_bytes}});
}

// Changes the next message, and lets it go when the last one was a while ago.
template <typename Change>
void AppendJob::Progress(Change change) {
  const auto now = std::chrono::steady_clock::now();
  stream_.Update([&](AppendUpdate& update) {
    change(update);
    if (SecondsBetween(last_progress_, now) < kProgressSeconds) return false;
    last_progress_ = now;
    return true;
  });
}

// The call ends with this status; the first caller decides.
void AppendJob::Finish(const absl::Status& status, std::vector<SpanPart> parts, std::vector<SpanField> fields) {
  std::string owner;
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    owner = who_.owner;
    c_.activity.End(activity_);
  }
  c_.Count("Append", status, owner, caller_);
  SendSpan(c_, {"Append", caller_, owner, session_id_, begun_}, status, std::move(parts), std::move(fields));
  stream_.Close(status);
}

}  // namespace duo
