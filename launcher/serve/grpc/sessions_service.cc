#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/grpc/reactors.h"
#include "launcher/serve/grpc/services.h"

namespace duo {
// Found by the template of the reactors when it is instantiated, so not in the unnamed namespace.
static void Fill(const std::vector<SessionView>& views, pb::ListResponse* out) {
  for (const SessionView& view : views) {
    if (!view.prefix) {
      Fill(view, out->add_sessions());
      continue;
    }
    pb::Prefix* prefix = out->add_prefixes();
    prefix->set_id(view.id);
    prefix->set_tokens(view.tokens);
    prefix->set_kv_bytes(view.kv_bytes);
    prefix->set_saved(view.residence == Residence::kSaved);
    prefix->set_hits(view.hits);
    prefix->set_idle_seconds(view.idle_seconds);
  }
}
static void Fill(const CloseAnswer&, pb::CloseResponse*) {}
static void Fill(const SaveDone& done, pb::SaveResponse* out) {
  Fill(done.session, out->mutable_session());
  out->set_bytes_written(done.bytes_moved);
  out->set_bytes_total(done.bytes_total);
  out->set_seconds(done.seconds);
}
static void Fill(const SaveDone& done, pb::RestoreResponse* out) {
  Fill(done.session, out->mutable_session());
  out->set_bytes_read(done.bytes_moved);
  out->set_seconds(done.seconds);
}

namespace {

class SessionsService final : public pb::Sessions::CallbackService {
 public:
  explicit SessionsService(const Behind& behind) : behind_(behind) {}
  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;

  Reactor* Create(Context* rpc, const pb::CreateRequest* r, pb::Session* out) override {
    return Unary<SessionView>(behind_, rpc, out, [&](CallContext& c, Answered<SessionView> finish) {
      return StartCreate(c, CallerOf(*rpc),
                         {r->id(), r->max_tokens(), r->durable(), r->reserved_tokens(), r->chat(), r->system()},
                         std::move(finish));
    });
  }
  Reactor* Fork(Context* rpc, const pb::ForkRequest* r, pb::Session* out) override {
    return Unary<SessionView>(behind_, rpc, out, [&](CallContext& c, Answered<SessionView> finish) {
      return StartFork(c, CallerOf(*rpc), {r->session_id(), r->new_id(), r->max_tokens(), r->reserved_tokens()},
                       std::move(finish));
    });
  }
  Reactor* Rewind(Context* rpc, const pb::RewindRequest* r, pb::Session* out) override {
    return Unary<SessionView>(behind_, rpc, out, [&](CallContext& c, Answered<SessionView> finish) {
      return StartRewind(c, CallerOf(*rpc), {r->session_id(), r->tokens()}, std::move(finish));
    });
  }
  Reactor* Save(Context* rpc, const pb::SaveRequest* r, pb::SaveResponse* out) override {
    return Unary<SaveDone>(behind_, rpc, out, [&](CallContext& c, Answered<SaveDone> finish) {
      return StartSave(c, CallerOf(*rpc), {r->session_id()}, std::move(finish));
    });
  }
  Reactor* Restore(Context* rpc, const pb::RestoreRequest* r, pb::RestoreResponse* out) override {
    return Unary<SaveDone>(behind_, rpc, out, [&](CallContext& c, Answered<SaveDone> finish) {
      return StartRestore(c, CallerOf(*rpc), {r->session_id(), r->new_id(), r->max_tokens(), r->reread()},
                          std::move(finish));
    });
  }
  Reactor* List(Context* rpc, const pb::ListRequest*, pb::ListResponse* out) override {
    using Views = std::vector<SessionView>;
    return Unary<Views>(behind_, rpc, out, [&](CallContext& c, Answered<Views> finish) {
      return StartList(c, CallerOf(*rpc), std::move(finish));
    });
  }
  Reactor* Get(Context* rpc, const pb::GetRequest* r, pb::Session* out) override {
    return Unary<SessionView>(behind_, rpc, out, [&](CallContext& c, Answered<SessionView> finish) {
      return StartGet(c, CallerOf(*rpc), {r->session_id()}, std::move(finish));
    });
  }
  Reactor* Pin(Context* rpc, const pb::PinRequest* r, pb::Session* out) override {
    return Unary<SessionView>(behind_, rpc, out, [&](CallContext& c, Answered<SessionView> finish) {
      return StartPin(c, CallerOf(*rpc), {r->session_id(), r->pinned()}, std::move(finish));
    });
  }
  Reactor* Close(Context* rpc, const pb::CloseRequest* r, pb::CloseResponse* out) override {
    return Unary<CloseAnswer>(behind_, rpc, out, [&](CallContext& c, Answered<CloseAnswer> finish) {
      return StartClose(c, CallerOf(*rpc), {r->session_id(), r->delete_saved()}, std::move(finish));
    });
  }
  Reactor* Tokenize(Context* rpc, const pb::TokenizeRequest* r, pb::TokenizeResponse* out) override {
    Reactor* reactor = rpc->DefaultReactor();
    CallContext* context = behind_.context;
    if (context == nullptr) {
      reactor->Finish(ToGrpc(behind_.Loading()));
      return reactor;
    }
    duo::StartTokenize(*context, CallerOf(*rpc), {r->text(), r->special(), r->begin_of_text()},
                       [out, reactor](const absl::StatusOr<std::vector<int32_t>>& tokens) {
                         if (tokens.ok()) out->mutable_tokens()->Add(tokens->begin(), tokens->end());
                         reactor->Finish(ToGrpc(tokens.status()));
                       });
    return reactor;
  }

  grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* Append(Context* rpc) override {
    if (CallContext* context = behind_.context) return StartAppend(*context, rpc);
    return new RefusedStream<grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>>(behind_.Loading());
  }
  grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>* TokenizeText(Context* rpc) override {
    if (CallContext* context = behind_.context) return StartTokenizeText(*context, rpc);
    return new RefusedStream<grpc::ServerBidiReactor<pb::TokenizePiece, pb::TokenizeResponse>>(behind_.Loading());
  }
  grpc::ServerWriteReactor<pb::AskResponse>* Ask(Context* rpc, const pb::AskRequest* request) override {
    if (CallContext* context = behind_.context) return StartAsk(*context, rpc, request);
    return new RefusedStream<grpc::ServerWriteReactor<pb::AskResponse>>(behind_.Loading());
  }

 private:
  const Behind& behind_;
};

}  // namespace

Caller CallerOf(grpc::CallbackServerContext& rpc) {
  constexpr size_t kLongestName = 128;
  const auto value = [&](const char* name) {
    const auto found = rpc.client_metadata().find(name);
    return found == rpc.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
  };
  Caller caller = {value("authorization"), value("x-request-id"), value("traceparent")};
  for (auto [name, text] : {std::pair("x-request-id", &caller.request_id), std::pair("traceparent", &caller.trace)}) {
    if (text->size() > kLongestName) text->clear();
    if (!text->empty()) rpc.AddInitialMetadata(name, *text);
  }
  return caller;
}

void Fill(const SessionView& view, pb::Session* out) {
  out->set_id(view.id);
  out->set_owner(view.owner);
  out->set_tokens(view.tokens);
  out->set_max_tokens(view.max_tokens);
  out->set_reserved_tokens(view.reserved_tokens);
  out->set_kv_bytes(view.kv_bytes);
  out->set_residence(view.residence == Residence::kOpen       ? pb::RESIDENCE_OPEN
                     : view.residence == Residence::kMovedOut ? pb::RESIDENCE_MOVED_OUT
                                                              : pb::RESIDENCE_SAVED);
  out->set_durable(view.durable);
  out->set_pinned(view.pinned);
  out->set_durable_tokens(view.durable_tokens);
  out->set_pending_calls(view.pending);
  out->set_idle_seconds(view.idle_seconds);
  out->set_unusable(view.unusable);
  out->set_held_by(view.held_by);
  out->set_tail_bytes(view.tail_bytes);
  out->set_chat(view.chat);
  out->set_reads_whole(view.reads_whole);
  if (view.sparse.sparse()) {
    pb::SparseReading* sparse = out->mutable_sparse();
    sparse->set_setting(view.sparse.setting);
    sparse->set_audits(view.sparse.audits);
    sparse->set_mass(view.sparse.mass);
    sparse->set_least_mass(view.sparse.least_mass);
    sparse->set_least_layer(view.sparse.least_layer);
    sparse->set_least_head(view.sparse.least_head);
    sparse->set_error(view.sparse.error);
    sparse->set_density(view.sparse.density);
  }
  if (!view.append.has_value()) return;
  pb::AppendState* append = out->mutable_append();
  append->set_append_id(view.append->id);
  append->set_received_bytes(view.append->received_bytes);
  append->set_received_all(view.append->received_all);
  append->set_tokens(view.append->tokens);
  append->set_total_tokens(view.append->total_tokens);
  append->set_done(view.append->done);
}

std::unique_ptr<grpc::Service> MakeSessionsService(const Behind& behind) {
  return std::make_unique<SessionsService>(behind);
}

}  // namespace duo
