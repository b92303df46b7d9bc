// One append: pieces come up, progress goes down. Pieces are taken on gRPC's threads; when the client has sent the last
// one the whole text becomes tokens and the engine's thread reads them.
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

constexpr double kProgressSeconds = 0.5;
constexpr size_t kLongestAppendId = 64;

// Lives until gRPC is done with it and no closure that it posted is left. After Finish gRPC may be done at any time: no
// operation begins, and rpc_ is not touched, once finishing_ is set.
class AppendCall final : public grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress> {
 public:
  static AppendCall* Make(ServiceContext& context, grpc::CallbackServerContext* rpc) {
    std::shared_ptr<AppendCall> call(new AppendCall(context, rpc));
    call->self_ = call;
    call->Start();
    return call.get();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      if (rpc_->IsCancelled()) return;  // OnCancel ends the call
      if (!first_read_) return Fail(absl::InvalidArgumentError("the stream ended before its first message"));
      return Feed();
    }
    if (first_read_) return TakePiece();
    first_read_ = true;
    session_id_ = request_.session_id();
    append_id_ = request_.append_id();
    special_ = request_.special();
    if (session_id_.empty()) return Fail(absl::InvalidArgumentError("the first message must give session_id"));
    if (append_id_.size() > kLongestAppendId) {
      return Fail(absl::InvalidArgumentError(
          absl::StrCat("an append_id has at most ", kLongestAppendId, " bytes, found ", append_id_.size())));
    }
    const bool posted = c_.thread->Post([this, alive = self_] {
      absl::StatusOr<Sessions::Opened> opened = c_.sessions->OpenAppend(session_id_, append_id_);
      if (!opened.ok()) return Fail(opened.status());
      text_ = opened->text;
      const int64_t received = Received(opened->session);  // the text's lock comes before the call's, as in Piece
      {
        std::lock_guard lock(mutex_);
        if (finishing_) return;
        Fill(opened->session, pending_.mutable_session());
        pending_.set_received_bytes(received);
        has_pending_ = true;
        WriteSome();
      }
      TakePiece();
    });
    if (!posted) Fail(QueueFull());
  }

  void OnWriteDone(bool) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    WriteSome();
  }

  void OnCancel() override {
    bool fed;
    {
      std::lock_guard lock(mutex_);
      fed = fed_;
    }
    if (!fed) return Fail(absl::CancelledError("the call was cancelled"));
    c_.thread->Urgent([&c = c_, call = call_] { c.sessions->Cancel(call); });
  }

  void OnDone() override {
    std::shared_ptr<AppendCall> last;  // outlives the lock, which is the object's own
    std::lock_guard lock(mutex_);      // whoever called Finish may still hold it
    last.swap(self_);
  }

 private:
  AppendCall(ServiceContext& context, grpc::CallbackServerContext* rpc) : c_(context), rpc_(rpc) {}

  void Start() {
    if (absl::Status s = c_.Authenticate(*rpc_); !s.ok()) return Fail(s);
    StartRead(&request_);
  }

  int64_t Received(const SessionView& view) const {
    if (text_ != nullptr) {
      std::lock_guard lock(text_->mutex);
      return text_->received();
    }
    return view.append.has_value() ? view.append->received_bytes : 0;
  }

  void TakePiece() {
    if (absl::Status s = Piece(); !s.ok()) return Fail(s);
    std::lock_guard lock(mutex_);
    if (finishing_) return;
    request_.Clear();
    StartRead(&request_);
  }

  // One message's text or tokens: the part that is new is added, the part that is there already is compared.
  absl::Status Piece() {
    const std::string& bytes = request_.text();
    const auto& tokens = request_.tokens();
    if (bytes.empty() && tokens.empty()) return absl::OkStatus();
    if (!bytes.empty() && !tokens.empty()) return absl::InvalidArgumentError("give text or tokens, not both");
    if (text_ == nullptr) return absl::OkStatus();  // all of it is here already
    std::lock_guard lock(text_->mutex);
    AppendText& t = *text_;
    if (bytes.empty() ? !t.text.empty() : !t.tokens.empty()) {
      return absl::InvalidArgumentError("an append is text or tokens throughout");
    }
    const int64_t have = bytes.empty() ? t.tokens.size() : t.text.size();
    const int64_t size = bytes.empty() ? tokens.size() : bytes.size(), offset = request_.offset();
    if (offset < 0 || offset > have) {
      return absl::InvalidArgumentError(absl::StrFormat("offset %d: the server has %d %s of this append", offset, have,
                                                        bytes.empty() ? "tokens" : "bytes"));
    }
    const int64_t known = std::min(size, have - offset), added = size - known;
    const bool same = bytes.empty() ? std::equal(tokens.begin(), tokens.begin() + known, t.tokens.begin() + offset)
                                    : t.text.compare(offset, known, bytes, 0, known) == 0;
    if (!same) {
      return absl::InvalidArgumentError(
          absl::StrFormat("offset %d: the text differs from what the server has of append \"%s\"", offset, append_id_));
    }
    if (t.received() + added * (bytes.empty() ? 4 : 1) > c_.limits.append_bytes) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "this append has more than %d bytes, the server's limit (--max-append-bytes)", c_.limits.append_bytes));
    }
    if (bytes.empty()) {
      const std::vector<int32_t> fresh(tokens.begin() + known, tokens.end());
      if (absl::Status s = CheckTokens(c_, fresh); !s.ok()) return s;
      t.tokens.insert(t.tokens.end(), fresh.begin(), fresh.end());
    } else {
      t.text.append(bytes, known);
    }
    Progress([&] { pending_.set_received_bytes(t.received()); });
    return absl::OkStatus();
  }

  void Feed() {
    std::vector<int32_t> tokens;
    int64_t received = 0;
    if (text_ != nullptr) {
      std::lock_guard lock(text_->mutex);
      received = text_->received();
      tokens = text_->tokens;
      if (tokens.empty()) {
        tokens =
            c_.tokenizer->Encode(text_->text, EncodeOptions{.parse_special = special_, .add_special_tokens = false});
      }
    }
    {
      std::lock_guard lock(mutex_);
      if (finishing_) return;
      fed_ = true;
      received_ = received;
    }
    AppendEvents events;
    events.on_progress = [this](const AppendProgress& p) {
      Progress([&] {
        pending_.set_received_bytes(received_);
        pending_.set_tokens(p.tokens);
        pending_.set_total_tokens(p.total);
        pending_.set_seconds_left(p.seconds_left);
        pending_.set_waiting(p.waiting);
      });
    };
    events.on_done = [this](const AppendDone& done) { OnRead(done); };
    const bool posted = c_.thread->Post([this, alive = self_, received, events, tokens = std::move(tokens)]() mutable {
      c_.sessions->FeedAppend(call_, session_id_, append_id_, std::move(tokens), received, std::move(events));
    });
    if (!posted) Fail(QueueFull());
  }

  // Engine's thread, once.
  void OnRead(const AppendDone& done) {
    if (done.status.ok()) {
      std::lock_guard lock(mutex_);
      pending_.set_received_bytes(done.received_bytes);
      pending_.set_tokens(done.tokens);
      pending_.set_total_tokens(done.tokens);
      pending_.set_seconds_left(0);
      pending_.set_waiting(false);
      pending_.set_done(true);
      Fill(done.session, pending_.mutable_session());
      pb::AppendStats* stats = pending_.mutable_stats();
      stats->set_queue_seconds(done.queue_seconds);
      stats->set_read_seconds(done.read_seconds);
      stats->set_checkpoint_seconds(done.checkpoint_seconds);
      stats->set_checkpoints(done.checkpoints);
      has_pending_ = true;
      c_.metrics->ObserveAppend(done.queue_seconds + done.read_seconds);
    }
    Fail(done.status);
  }

  template <typename Change>
  void Progress(Change change) {
    std::lock_guard lock(mutex_);
    if (finishing_) return;
    const auto now = std::chrono::steady_clock::now();
    change();
    if (std::chrono::duration<double>(now - last_progress_).count() < kProgressSeconds) return;
    last_progress_ = now;
    has_pending_ = true;
    WriteSome();
  }

  // The call ends with this status, after what is still to be written; the first caller decides.
  void Fail(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    if (finishing_) return;
    finishing_ = true;
    final_ = status;
    c_.Count("Append", status);
    if (!status.ok()) has_pending_ = false;
    WriteSome();
  }

  // Holding mutex_.
  void WriteSome() {
    if (writing_ || finished_) return;
    if (has_pending_ && !rpc_->IsCancelled()) {
      out_ = pending_;
      pending_.clear_session();
      has_pending_ = false;
      writing_ = true;
      StartWrite(&out_);
    } else if (finishing_) {
      finished_ = true;
      Finish(ToGrpc(final_));
    }
  }

  ServiceContext& c_;
  grpc::CallbackServerContext* rpc_;
  const CallPtr call_ = std::make_shared<Call>();
  std::shared_ptr<AppendCall> self_;  // until OnDone
  // Of the reading side: one callback at a time.
  pb::AppendRequest request_;
  bool first_read_ = false, special_ = false;
  std::string session_id_, append_id_;
  std::shared_ptr<AppendText> text_;

  std::mutex mutex_;  // guards what follows
  pb::AppendProgress pending_, out_;
  int64_t received_ = 0;
  bool has_pending_ = false, writing_ = false, fed_ = false, finishing_ = false, finished_ = false;
  absl::Status final_;
  std::chrono::steady_clock::time_point last_progress_;
};

}  // namespace

grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(ServiceContext& context,
                                                                            grpc::CallbackServerContext* rpc) {
  return AppendCall::Make(context, rpc);
}

}  // namespace duo
