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

using Tokens = std::vector<int32_t>;

class SessionsService final : public CallsService {
 public:
  explicit SessionsService(Behind& behind) : CallsService(behind, "duo.v1.Sessions") {
    AddViews();
    AddMoves();
    AddOne<pb::AskRequest, pb::AskResponse>(
        "Ask", [&behind](CallContext& c, const Caller& caller) { return MakeAsk(behind.messages, c, caller); });
    AddStream<pb::AppendRequest, pb::AppendProgress>(
        "Append",
        [&behind](CallContext& c, grpc::CallbackServerContext* rpc) { return StartAppend(behind.messages, c, rpc); });
    AddStream<pb::TokenizePiece, pb::TokenizeResponse>("TokenizeText",
                                                       [&behind](CallContext& c, grpc::CallbackServerContext* rpc) {
                                                         return StartTokenizeText(behind.messages, c, rpc);
                                                       });
    AddUnary<Tokens, pb::TokenizeRequest, pb::TokenizeResponse>(
        "Tokenize", [](CallContext& c, const Caller& caller, const pb::TokenizeRequest& r, Answered<Tokens> finish) {
          StartTokenize(c, caller, {r.text(), r.special(), r.begin_of_text()}, std::move(finish));
          return UnaryCallPtr();
        });
  }

 private:
  using Done = Answered<SessionView>;

  // Calls that answer with a session.
  void AddViews() {
    AddUnary<SessionView, pb::CreateRequest, pb::Session>("Create", [](CallContext& c, const Caller& caller,
                                                                       const pb::CreateRequest& r, Done finish) {
      return StartCreate(c, caller, {r.id(), r.max_tokens(), r.durable(), r.reserved_tokens(), r.chat(), r.system()},
                         std::move(finish));
    });
    AddUnary<SessionView, pb::ForkRequest, pb::Session>("Fork", [](CallContext& c, const Caller& caller,
                                                                   const pb::ForkRequest& r, Done finish) {
      return StartFork(c, caller, {r.session_id(), r.new_id(), r.max_tokens(), r.reserved_tokens()}, std::move(finish));
    });
    AddUnary<SessionView, pb::RewindRequest, pb::Session>(
        "Rewind", [](CallContext& c, const Caller& caller, const pb::RewindRequest& r, Done finish) {
          return StartRewind(c, caller, {r.session_id(), r.tokens()}, std::move(finish));
        });
    AddUnary<SessionView, pb::GetRequest, pb::Session>(
        "Get", [](CallContext& c, const Caller& caller, const pb::GetRequest& r, Done finish) {
          return StartGet(c, caller, {r.session_id()}, std::move(finish));
        });
    AddUnary<SessionView, pb::PinRequest, pb::Session>(
        "Pin", [](CallContext& c, const Caller& caller, const pb::PinRequest& r, Done finish) {
          return StartPin(c, caller, {r.session_id(), r.pinned()}, std::move(finish));
        });
  }
  void AddMoves() {
    using Views = std::vector<SessionView>;
    AddUnary<SaveDone, pb::SaveRequest, pb::SaveResponse>(
        "Save", [](CallContext& c, const Caller& caller, const pb::SaveRequest& r, Answered<SaveDone> finish) {
          return StartSave(c, caller, {r.session_id()}, std::move(finish));
        });
    AddUnary<SaveDone, pb::RestoreRequest, pb::RestoreResponse>(
        "Restore", [](CallContext& c, const Caller& caller, const pb::RestoreRequest& r, Answered<SaveDone> finish) {
          return StartRestore(c, caller, {r.session_id(), r.new_id(), r.max_tokens(), r.reread()}, std::move(finish));
        });
    AddUnary<Views, pb::ListRequest, pb::ListResponse>(
        "List", [](CallContext& c, const Caller& caller, const pb::ListRequest&, Answered<Views> finish) {
          return StartList(c, caller, std::move(finish));
        });
    AddUnary<CloseAnswer, pb::CloseRequest, pb::CloseResponse>(
        "Close", [](CallContext& c, const Caller& caller, const pb::CloseRequest& r, Answered<CloseAnswer> finish) {
          return StartClose(c, caller, {r.session_id(), r.delete_saved()}, std::move(finish));
        });
  }
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

void Fill(const std::vector<int32_t>& tokens, pb::TokenizeResponse* out) {
  out->mutable_tokens()->Add(tokens.begin(), tokens.end());
}

std::unique_ptr<grpc::Service> MakeSessionsService(Behind& behind) { return std::make_unique<SessionsService>(behind); }

}  // namespace duo
