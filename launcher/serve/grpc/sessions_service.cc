#include "absl/strings/str_cat.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

class SessionsService final : public pb::Sessions::CallbackService {
 public:
  explicit SessionsService(ServiceContext& context) : c_(context) {}

  grpc::ServerUnaryReactor* Create(grpc::CallbackServerContext* rpc, const pb::CreateRequest* request,
                                   pb::Session* response) override {
    auto* unary = new Unary(c_, rpc, "Create");
    return unary->Run([this, unary, request, response] {
      Opened(unary, response, c_.sessions->Create(request->id(), request->max_tokens(), request->durable()));
    });
  }

  grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* Append(grpc::CallbackServerContext* rpc) override {
    return StartAppend(c_, rpc);
  }

  grpc::ServerWriteReactor<pb::AskResponse>* Ask(grpc::CallbackServerContext* rpc,
                                                 const pb::AskRequest* request) override {
    return StartAsk(c_, rpc, request);
  }

  grpc::ServerUnaryReactor* Fork(grpc::CallbackServerContext* rpc, const pb::ForkRequest* request,
                                 pb::Session* response) override {
    auto* unary = new Unary(c_, rpc, "Fork");
    return unary->Run([this, unary, request, response] {
      c_.sessions->Fork(
          unary->call, request->session_id(), request->new_id(), request->max_tokens(),
          [this, unary, response](const absl::StatusOr<SessionView>& view) { Opened(unary, response, view); });
    });
  }

  grpc::ServerUnaryReactor* Rewind(grpc::CallbackServerContext* rpc, const pb::RewindRequest* request,
                                   pb::Session* response) override {
    auto* unary = new Unary(c_, rpc, "Rewind");
    return unary->Run([this, unary, request, response] {
      c_.sessions->Rewind(
          unary->call, request->session_id(), request->tokens(),
          [unary, response](const absl::StatusOr<SessionView>& view) { Answer(unary, response, view); });
    });
  }

  grpc::ServerUnaryReactor* Save(grpc::CallbackServerContext* rpc, const pb::SaveRequest* request,
                                 pb::SaveResponse* response) override {
    auto* unary = new Unary(c_, rpc, "Save");
    return unary->Run([this, unary, request, response] {
      c_.sessions->Save(unary->call, request->session_id(), [unary, response](const SaveDone& done) {
        Fill(done.session, response->mutable_session());
        response->set_bytes_written(done.bytes_moved);
        response->set_bytes_total(done.bytes_total);
        response->set_seconds(done.seconds);
        unary->End(done.status);
      });
    });
  }

  grpc::ServerUnaryReactor* Restore(grpc::CallbackServerContext* rpc, const pb::RestoreRequest* request,
                                    pb::RestoreResponse* response) override {
    auto* unary = new Unary(c_, rpc, "Restore");
    return unary->Run([this, unary, request, response] {
      c_.sessions->Restore(unary->call, request->session_id(), request->new_id(), request->max_tokens(),
                           [unary, response](const SaveDone& done) {
                             Fill(done.session, response->mutable_session());
                             response->set_bytes_read(done.bytes_moved);
                             response->set_seconds(done.seconds);
                             unary->End(done.status);
                           });
    });
  }

  grpc::ServerUnaryReactor* List(grpc::CallbackServerContext* rpc, const pb::ListRequest*,
                                 pb::ListResponse* response) override {
    auto* unary = new Unary(c_, rpc, "List");
    return unary->Run([this, unary, response] {
      for (const SessionView& view : c_.sessions->List()) Fill(view, response->add_sessions());
      unary->End(absl::OkStatus());
    });
  }

  grpc::ServerUnaryReactor* Get(grpc::CallbackServerContext* rpc, const pb::GetRequest* request,
                                pb::Session* response) override {
    auto* unary = new Unary(c_, rpc, "Get");
    return unary->Run(
        [this, unary, request, response] { Answer(unary, response, c_.sessions->Get(request->session_id())); });
  }

  grpc::ServerUnaryReactor* Close(grpc::CallbackServerContext* rpc, const pb::CloseRequest* request,
                                  pb::CloseResponse*) override {
    auto* unary = new Unary(c_, rpc, "Close");
    return unary->Run(
        [this, unary, request] { unary->End(c_.sessions->Close(request->session_id(), request->delete_saved())); });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* rpc, const pb::TokenizeRequest* request,
                                     pb::TokenizeResponse* response) override {
    auto* unary = new Unary(c_, rpc, "Tokenize");
    if (absl::Status s = c_.Authenticate(*rpc); !s.ok()) {
      unary->End(s);
      return unary;
    }
    const EncodeOptions options{.parse_special = request->special(), .add_special_tokens = false};
    const std::vector<int32_t> tokens = c_.tokenizer->Encode(request->text(), options);
    if (request->begin_of_text()) response->mutable_tokens()->Add(c_.begin_tokens.begin(), c_.begin_tokens.end());
    response->mutable_tokens()->Add(tokens.begin(), tokens.end());
    unary->End(absl::OkStatus());
    return unary;
  }

 private:
  static void Answer(Unary* unary, pb::Session* response, const absl::StatusOr<SessionView>& view) {
    if (view.ok()) Fill(*view, response);
    unary->End(view.status());
  }
  // A session that a caller who is gone has just opened would never be closed.
  void Opened(Unary* unary, pb::Session* response, const absl::StatusOr<SessionView>& view) {
    if (view.ok() && unary->gone()) {
      c_.sessions->Close(view->id, false).IgnoreError();
      return unary->End(absl::CancelledError("the caller is gone"));
    }
    Answer(unary, response, view);
  }

  ServiceContext& c_;
};

}  // namespace

void Fill(const SessionView& view, pb::Session* out) {
  out->set_id(view.id);
  out->set_tokens(view.tokens);
  out->set_max_tokens(view.max_tokens);
  out->set_kv_bytes(view.kv_bytes);
  out->set_residence(view.residence == Residence::kOpen       ? pb::RESIDENCE_OPEN
                     : view.residence == Residence::kMovedOut ? pb::RESIDENCE_MOVED_OUT
                                                              : pb::RESIDENCE_SAVED);
  out->set_durable(view.durable);
  out->set_durable_tokens(view.durable_tokens);
  out->set_pending_calls(view.pending);
  out->set_idle_seconds(view.idle_seconds);
  if (!view.append.has_value()) return;
  pb::AppendState* append = out->mutable_append();
  append->set_append_id(view.append->id);
  append->set_received_bytes(view.append->received_bytes);
  append->set_received_all(view.append->received_all);
  append->set_tokens(view.append->tokens);
  append->set_total_tokens(view.append->total_tokens);
  append->set_done(view.append->done);
}

absl::Status CheckTokens(const ServiceContext& context, const std::vector<int32_t>& tokens) {
  for (int32_t token : tokens) {
    if (token >= 0 && token < context.vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("token ", token, " is not in the vocabulary of ", context.vocab, " tokens"));
  }
  return absl::OkStatus();
}

void ServiceContext::Count(const char* method, const absl::Status& status) {
  ++(status.ok() ? calls : refused);
  metrics->CountCall(method, status.ok() ? "OK" : absl::StatusCodeToString(status.code()));
  if (!status.ok()) {
    log->Event("call refused", {{"method", method},
                                {"code", absl::StatusCodeToString(status.code())},
                                {"message", std::string(status.message())}});
  }
}

absl::Status ServiceContext::Authenticate(const grpc::CallbackServerContext& context) const {
  if (bearer_tokens->empty()) return absl::OkStatus();
  const auto found = context.client_metadata().find("authorization");
  if (found != context.client_metadata().end() &&
      bearer_tokens->Allows(std::string_view(found->second.data(), found->second.size()))) {
    return absl::OkStatus();
  }
  return absl::UnauthenticatedError(
      "this server wants \"authorization: Bearer TOKEN\" metadata with a token that it knows");
}

std::unique_ptr<grpc::Service> MakeSessionsService(ServiceContext& context) {
  return std::make_unique<SessionsService>(context);
}

}  // namespace duo
