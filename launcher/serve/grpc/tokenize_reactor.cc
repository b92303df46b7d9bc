#include <algorithm>

#include "absl/strings/str_cat.h"
#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

constexpr size_t kTokensOfAMessage = 1 << 16;

// A text of any length: its pieces come, then its tokens go. Lives until gRPC is done with it, which is after Finish.
// One thing at a time is asked of gRPC, so what follows is one thread's at any moment.
class TokenizeReactor final : public grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse> {
 public:
  TokenizeReactor(CallContext& context, grpc::CallbackServerContext* rpc)
      : context_(context), rpc_(rpc), caller_(CallerOf(*rpc)), budget_(context.sessions->uploads()) {}
  ~TokenizeReactor() override { budget_->Give(static_cast<int64_t>(request_.text.size())); }

  void Start() {
    const absl::Status known = context_.Authenticate(caller_, Right::kSessions).status();
    if (!known.ok()) return End(known);
    StartRead(&in_);
  }
  void OnReadDone(bool ok) override {
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
    if (!budget_->Take(bytes)) {
      return End(
          absl::ResourceExhaustedError(absl::StrCat("all uploads together hold ", budget_->used(), " bytes of at most ",
                                                    budget_->limit(), " (--max-upload-bytes); try again later")));
    }
    request_.text += in_.text();
    in_.Clear();
    StartRead(&in_);
  }
  void OnWriteDone(bool ok) override {
    if (ok && sent_ < tokens_.size()) return Write();
    Finish(ok ? grpc::Status::OK : ToGrpc(absl::CancelledError("the client is gone")));
  }
  void OnDone() override { delete this; }

 private:
  // Before a worker has the text, which counts the call's end.
  void End(const absl::Status& status) {
    context_.Count("TokenizeText", status, "", {"", caller_.request_id, caller_.trace});
    Finish(ToGrpc(status));
  }
  void Tokenize() {
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
  bool begun_ = false;
  TokenizeRequest request_;  // its text is what has come
  std::vector<int32_t> tokens_;
  size_t sent_ = 0;  // of them
  pb::TokenizePiece in_;
  pb::TokenizeResponse out_;
};

}  // namespace

grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>* StartTokenizeText(CallContext& context,
                                                                                    grpc::CallbackServerContext* rpc) {
  auto* reactor = new TokenizeReactor(context, rpc);
  reactor->Start();
  return reactor;
}

}  // namespace duo
