#include "runtime/engine/engine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/attention.h"
#include "kernels/base/seconds.h"
#include "runtime/engine/engine_state.h"
#include "runtime/model/worker_probe.h"

namespace duo {

const char* Name(AttentionMode mode) {
  switch (mode) {
    case AttentionMode::kAuto:
      return "auto";
    case AttentionMode::kDuo:
      return "duo";
    case AttentionMode::kFull:
      return "full";
    case AttentionMode::kStreaming:
      return "streaming";
  }
  return "?";
}

const char* Name(Speculation speculation) {
  switch (speculation) {
    case Speculation::kAuto:
      return "auto";
    case Speculation::kOff:
      return "off";
    case Speculation::kText:
      return "text";
    case Speculation::kSelf:
      return "self";
    case Speculation::kModel:
      return "model";
  }
  return "?";
}

Engine::Engine() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, Device& device,
                                                       Communicator& comm) {
  std::unique_ptr<Engine> engine(new Engine());
  if (absl::Status s = engine->state_->Start({options, std::nullopt, ""}, device, comm); !s.ok()) return s;
  return engine;
}

Engine::~Engine() {
  if (state_->scheduler != nullptr) state_->Send(Command::kEnd, "");
}

void Engine::Follow() {
  while (true) {
    const std::vector<uint8_t> message = ReceiveMessage(*state_->comm);
    DUO_CHECK(!message.empty());
    const std::string_view payload(reinterpret_cast<const char*>(message.data()) + 1, message.size() - 1);
    switch (static_cast<Command>(message[0])) {
      case Command::kEnd:
        return;
      case Command::kFill:
        WorkerProbe::FillCache(*state_->worker);
        break;
      case Command::kRoutes:
        DUO_CHECK_EQ(payload.size(), 1u);
        WorkerProbe::Watch(*state_->worker, static_cast<RouteWatch>(payload[0]));
        break;
      case Command::kStep: {
        absl::StatusOr<StepPlan> plan = ParseStepPlan(payload);
        DUO_CHECK_MSG(plan.ok(), std::string(plan.status().message()));
        state_->worker->Execute(*plan);
        break;
      }
      case Command::kIo:
      case Command::kBeginIo: {
        absl::StatusOr<KvIoPlan> plan = ParseKvIoPlan(payload);
        DUO_CHECK_MSG(plan.ok(), std::string(plan.status().message()));
        state_->BeginIo(*std::move(plan));
        if (static_cast<Command>(message[0]) == Command::kBeginIo) {
          state_->WorkInBackground();
          break;
        }
        state_->io->Work(state_->device->pool());
        state_->EndIo(true);  // its errors reach rank 0, which tells the user
        break;
      }
      case Command::kEndIo:
        state_->EndIo(payload == kKeepIo);
        break;
      case Command::kRecord:
        state_->worker->RecordGraphs();
        break;
    }
  }
}

bool Engine::Step() {
  StepPlan plan;
  if (!state_->scheduler->Next(&plan)) return false;
  const Clock::time_point start = Clock::now();
  if (state_->comm->size() > 1) state_->Send(Command::kStep, Serialize(plan));
  const StepResult result = state_->worker->Execute(plan);
  state_->scheduler->Complete(result, SecondsSince(start));
  return true;
}

absl::StatusOr<SessionId> Engine::CreateSession(int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  return state_->scheduler->CreateSession(max_tokens, reserved_tokens);
}
absl::Status Engine::CloseSession(SessionId id) { return state_->scheduler->CloseSession(id); }
absl::StatusOr<SessionId> Engine::Fork(SessionId id, int64_t max_tokens, std::optional<int64_t> reserved_tokens) {
  return state_->scheduler->Fork(id, max_tokens, reserved_tokens);
}
absl::Status Engine::Reserve(SessionId id, int64_t reserved_tokens) {
  return state_->scheduler->Reserve(id, reserved_tokens);
}
absl::Status Engine::CheckRoom(SessionId id, int64_t tokens) const { return state_->scheduler->CheckRoom(id, tokens); }
absl::Status Engine::Rewind(SessionId id, int64_t tokens) { return state_->scheduler->Rewind(id, tokens); }
absl::StatusOr<std::vector<int32_t>> Engine::Tokens(SessionId id) const { return state_->scheduler->Tokens(id); }

absl::Status Engine::WarmUp() {
  WaitForPrefillPlans(*state_->device);
  state_->Send(Command::kRecord, "");
  state_->worker->RecordGraphs();
  constexpr int64_t kAnswer = 4;
  const int64_t room = std::min(state_->limits.max_tokens, state_->memory.kv_tokens) - kAnswer - 1;
  const int64_t tokens = std::min<int64_t>(2 * state_->limits.prefill_rows, room);
  if (tokens < 1) return absl::OkStatus();  // nothing long will be read either
  absl::StatusOr<SessionId> session = CreateSession(tokens + kAnswer + 1);
  if (!session.ok()) return session.status();
  GenerateParams params;
  params.max_new_tokens = kAnswer;
  params.keep = true;
  absl::StatusOr<RequestId> append = Append(*session, std::vector<int32_t>(tokens, 0), {});
  absl::StatusOr<RequestId> ask = Ask(*session, {0}, params, {});
  while (Step()) {
  }
  if (absl::Status s = CloseSession(*session); !s.ok()) return s;
  state_->scheduler->ForgetSteps();
  return append.ok() ? ask.status() : append.status();
}

absl::StatusOr<SessionInfo> Engine::Get(SessionId id) const {
  absl::StatusOr<SessionInfo> info = state_->scheduler->Get(id);
  if (info.ok()) info->kv_bytes = KvBytes(info->tokens);
  return info;
}

std::vector<SessionInfo> Engine::List() const {
  std::vector<SessionInfo> all;
  for (SessionId id : state_->scheduler->List()) all.push_back(*Get(id));
  return all;
}

absl::StatusOr<RequestId> Engine::Append(SessionId id, std::vector<int32_t> tokens, RequestEvents events,
                                         int64_t more_tokens, const Whose& whose) {
  if (events.on_logits && !state_->options.append_logits) {
    return absl::FailedPreconditionError("logits of appended tokens need an engine made with append_logits");
  }
  return state_->scheduler->Append(id, std::move(tokens), std::move(events), more_tokens, whose);
}
absl::Status Engine::CheckAsked(const GenerateParams& params) const {
  if (params.mass && state_->provenance.empty()) {
    return absl::FailedPreconditionError("where answers looked needs an engine that was made to read it");
  }
  return CheckRules(params.rules, state_->config.vocab);
}
absl::StatusOr<RequestId> Engine::Ask(SessionId id, std::vector<int32_t> tokens, const GenerateParams& params,
                                      RequestEvents events) {
  if (absl::Status s = CheckAsked(params); !s.ok()) return s;
  return state_->scheduler->Ask(id, std::move(tokens), params, std::move(events));
}
absl::StatusOr<std::vector<RequestId>> Engine::AskMany(SessionId id, std::vector<int32_t> tokens,
                                                       const GenerateParams& params,
                                                       std::vector<RequestEvents> answers) {
  if (absl::Status s = CheckAsked(params); !s.ok()) return s;
  return state_->scheduler->AskMany(id, std::move(tokens), params, std::move(answers));
}
double Engine::PredictRead(int64_t tokens, int64_t history) const {
  return state_->scheduler->PredictRead(tokens, history);
}
absl::Status Engine::LetMatch(SessionId id, const std::string& realm) { return state_->scheduler->LetMatch(id, realm); }
int64_t Engine::FindPrefix(const std::vector<int32_t>& tokens, const std::string& realm) {
  return state_->scheduler->FindPrefix(tokens, realm);
}
std::vector<PrefixInfo> Engine::Prefixes() {
  std::vector<PrefixInfo> all = state_->scheduler->Prefixes();
  for (PrefixInfo& prefix : all) prefix.kv_bytes = KvBytes(prefix.tokens);
  return all;
}
int Engine::DropPrefixes() { return state_->scheduler->DropPrefixes(); }
absl::Status Engine::Cancel(RequestId id) { return state_->scheduler->Cancel(id); }

void Engine::KeepAlive() {
  if (state_->comm->size() > 1) SendHeartbeat(*state_->comm);
}

absl::StatusOr<SessionKv> Engine::Kv(SessionId id) {
  const Sequence* sequence = state_->scheduler->FindSequence(id);
  if (sequence == nullptr) return absl::NotFoundError(absl::StrCat("there is no session ", id));
  state_->Settle();
  return SessionKv{sequence->tokens,
                   sequence->pages,
                   sequence->split_pages,
                   sequence->ring,
                   sequence->rings_at == sequence->length,
                   sequence->sparse.Keep(static_cast<int>(state_->config.kv_heads), sequence->length)};
}

static absl::Status CheckVocabulary(const std::vector<int32_t>& tokens, int64_t vocab) {
  for (int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return absl::DataLossError(absl::StrFormat("token %d is not in the vocabulary of %d", token, vocab));
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionId> Engine::AdoptPrefix(std::vector<int32_t> tokens, bool rings_valid, const std::string& realm) {
  if (absl::Status s = CheckVocabulary(tokens, state_->config.vocab); !s.ok()) return s;
  absl::StatusOr<SessionId> id = state_->scheduler->AdoptPrefix(std::move(tokens), rings_valid, realm);
  state_->Settle();
  return id;
}
absl::Status Engine::Filled(SessionId id) { return state_->scheduler->Filled(id); }

absl::StatusOr<SessionId> Engine::Adopt(int64_t max_tokens, std::vector<int32_t> tokens, bool rings_valid,
                                        std::optional<int64_t> reserved_tokens) {
  if (absl::Status s = CheckVocabulary(tokens, state_->config.vocab); !s.ok()) return s;
  absl::StatusOr<SessionId> id =
      state_->scheduler->AdoptSession(max_tokens, std::move(tokens), rings_valid, reserved_tokens);
  state_->Settle();
  return id;
}

void Engine::SetSparse(SessionId id, const SparseRead::Kept& kept) {
  if (kept.setting.on()) state_->scheduler->SetSparse(id, SparseRead::Restore(kept));
}

const ModelConfig& Engine::config() const { return state_->config; }
AttentionMode Engine::attention() const { return state_->options.attention; }
const HeadPlan& Engine::heads() const { return state_->heads; }
const Partition& Engine::partition() const { return state_->partition; }
const MemoryPlan& Engine::memory_plan() const { return state_->memory; }
const std::vector<std::string>& Engine::notes() const { return state_->notes; }
const std::vector<ProvenanceHead>& Engine::provenance_heads() const { return state_->provenance; }
KvFormat Engine::kv_format() const { return state_->kv; }
Speculation Engine::speculation() const { return state_->options.speculate; }
const PrefillSparsity& Engine::prefill_sparsity() const { return state_->options.prefill_sparsity; }
const DecodeSparsity& Engine::decode_sparsity() const { return state_->options.decode_sparsity; }
const std::vector<FormatShare>& Engine::weight_formats() const { return state_->format_shares; }
const std::string& Engine::key_means() const { return state_->key_shift.fingerprint; }
int64_t Engine::RingBytesPerHead() const {
  const HeadPlan& heads = state_->heads;
  return RingBytes(state_->kv, state_->config.head_dim, heads.sink, heads.recent, state_->sizes.ring_slack);
}
EngineStats Engine::stats() const { return state_->scheduler->stats(); }
const EngineStats& Engine::counted() const { return state_->scheduler->counted(); }

int64_t Engine::KvBytes(int64_t tokens) const {
  const HeadPlan& heads = state_->heads;
  const int d = state_->config.head_dim;
  return tokens * heads.retrieval_heads() * KvTokenBytes(state_->kv, d) +
         int64_t{heads.streaming_heads()} * RingBytes(state_->kv, d, heads.sink, heads.recent);
}
int64_t Engine::KvBytesFull(int64_t tokens) const {
  const ModelConfig& config = state_->config;
  return tokens * config.layers * config.kv_heads * KvTokenBytes(state_->kv, config.head_dim);
}

}  // namespace duo
