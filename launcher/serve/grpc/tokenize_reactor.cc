#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/grpc/pieces.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

constexpr size_t kTokensOfAMessage = 1 << 16;

// A text of any length: its pieces come, then its tokens go. Lives until gRPC is done with it, which is after Finish.
// One thing at a time is asked of gRPC, so what follows is one thread's at any moment.
class TokenizeReactor final : public grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse> {
 public:
  TokenizeReactor(MessageGate& gate, CallContext& context, grpc::CallbackServerContext* rpc)
      : context_(context),
        rpc_(rpc),
        caller_(CallerOf(*rpc)),
        budget_(context.sessions->uploads()),
        pieces_(gate, context, *rpc, /*idle=*/false) {}
  ~TokenizeReactor() override { budget_->Give(static_cast<int64_t>(request_.text.size())); }

  void Start() {
    const absl::Status known = context_.Authenticate(caller_, Right::kSessions).status();
    if (!known.ok()) return End(known);
    Read();
  }
  void OnReadDone(bool ok) override {
    pieces_.Done();
    if (ended_) return;  // refused while it was on its way
    if (!ok && rpc_->IsCancelled()) return End(absl::CancelledError("the call was cancelled"));
    if (!ok && !begun_) return End(absl::InvalidArgumentError("the stream ended before its first message"));
    if (!ok) return Tokenize();
    if (!begun_) request_.special = in_.special();
    if (!begun_) request_.begin_of_text = in_.begin_of_text();
    begun_ = true;
    const auto bytes = static_cast<int64_t>(in_.text().size());
    const int64_t most = context_.limits.append_bytes;
    if (static_cast<int64_t>(request_.text.size()) + bytes > most) {
      return End(absl::ResourceExhaustedError(
          absl::StrCat("this text has more than ", most, " bytes, the server's limit (--max-append-bytes)")));
    }
    if (!budget_->Take(bytes)) return End(budget_->Full());
    request_.text += in_.text();
    Read();
  }
  void OnWriteDone(bool ok) override {
    if (ok && sent_ < tokens_.size()) return Write();
    Finish(ok ? grpc::Status::OK : ToGrpc(absl::CancelledError("the client is gone")));
  }
  void OnCancel() override {
    pieces_.Done();
    if (!reading_.exchange(true)) End(absl::CancelledError("the call was cancelled"));  // it waited for its turn
  }
  void OnDone() override { delete this; }

 private:
  void Read() {
    in_.Clear();
    reading_ = false;
    pieces_.Ask(
        [this] {
          if (!reading_.exchange(true)) StartRead(&in_);
        },
        [this](const absl::Status& why) { End(why); });
  }
  // Before a worker has the text, which counts the call's end.
  void End(const absl::Status& status) {
    if (ended_.exchange(true)) return;
    context_.Count("TokenizeText", status, "", {"", caller_.request_id, caller_.trace});
    Finish(ToGrpc(status));
  }
  void Tokenize() {
    if (ended_.exchange(true)) return;
    TokenizeRequest request = {request_.text, request_.special, request_.begin_of_text};
    StartTokenize(context_, caller_, std::move(request), [this](const absl::StatusOr<std::vector<int32_t>>& tokens) {
      if (tokens.ok()) tokens_ = *tokens;
      if (tokens.ok()) return Write();
      Finish(ToGrpc(tokens.status()));
    });
  }
  void Write() {
    const size_t count = std::min(kTokensOfAMessage, tokens_.size() - sent_);
    out_.mutable_tokens()->Assign(tokens_.begin() + static_cast<std::ptrdiff_t>(sent_),
                                  tokens_.begin() + static_cast<std::ptrdiff_t>(sent_ + count));
    sent_ += count;
    StartWrite(&out_);
  }

  CallContext& context_;
  grpc::CallbackServerContext* rpc_;
  const Caller caller_;
  const std::shared_ptr<UploadBudget> budget_;
  Pieces pieces_;
  std::atomic<bool> reading_{true};  // gRPC reads, or is not to any more: it waits for no turn
  std::atomic<bool> ended_{false};   // nothing more is read
  bool begun_ = false;
  TokenizeRequest request_;  // its text is what has come
  std::vector<int32_t> tokens_;
  size_t sent_ = 0;  // of them
  pb::TokenizePiece in_;
  pb::TokenizeResponse out_;
};

}  // namespace

grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>* StartTokenizeText(MessageGate& gate,
                                                                                    CallContext& context,
                                                                                    grpc::CallbackServerContext* rpc) {
  auto* reactor = new TokenizeReactor(gate, context, rpc);
  reactor->Start();
  return reactor;
}

}  // namespace duo
