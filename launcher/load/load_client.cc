#include "launcher/load/load_client.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/splitmix64.h"
#include "launcher/client/channel.h"
#include "launcher/load/cut_connection.h"

namespace duo {
namespace {

constexpr int64_t kPieceTokens = 1 << 18;  // of one message
constexpr size_t kLongestError = 120;

// Shares of the mixed load, in per cent; the rest are answers that are read to their ends.
constexpr uint64_t kForks = 10, kBad = 5, kCancels = 10, kCuts = 5;
constexpr int64_t kGivenUpAfter = 2;  // tokens of an answer that is cancelled, or whose connection ends

// A plain connection of ours can be; where there is TLS, gRPC makes it.
bool CanBeCut(const ClientOptions& client) { return client.tls_ca.empty() && !absl::StartsWith(client.server, "unix:"); }

}  // namespace

LoadClient::LoadClient(LoadRun& run, std::shared_ptr<grpc::Channel> channel, uint64_t number)
    : run_(run),
      stub_(v1::Sessions::NewStub(std::move(channel))),
      key_(SplitMix64(run.options.seed) ^ SplitMix64(~number)) {}

std::unique_ptr<grpc::ClientContext> LoadClient::Context() const { return MakeContext(run_.options.client); }

uint64_t LoadClient::Random() { return SplitMix64(key_ ^ SplitMix64(drawn_++)); }

void LoadClient::AddTokens(int64_t count, google::protobuf::RepeatedField<int32_t>* to) {
  to->Reserve(to->size() + static_cast<int>(count));
  for (int64_t i = 0; i < count; ++i) to->Add(static_cast<int32_t>(4 + Random() % 250));
}

absl::StatusOr<std::string> LoadClient::Open(const Lengths& context, int64_t beside) {
  const int64_t tokens = context.Draw(Random());
  v1::CreateRequest request;
  request.set_max_tokens(tokens + beside);
  v1::Session session;
  if (const grpc::Status s = stub_->Create(Context().get(), request, &session); !s.ok()) return FromGrpc(s);
  if (absl::Status s = Append(session.id(), tokens); !s.ok()) {
    Close(session.id());
    return s;
  }
  return session.id();
}

void LoadClient::Close(const std::string& session) {
  v1::CloseRequest request;
  request.set_session_id(session);
  v1::CloseResponse response;
  if (const grpc::Status s = stub_->Close(Context().get(), request, &response); !s.ok()) CountError(s);
}

absl::Status LoadClient::Append(const std::string& session, int64_t tokens) {
  const auto context = Context();
  const auto stream = stub_->Append(context.get());
  for (int64_t at = 0; at < tokens; at += kPieceTokens) {
    v1::AppendRequest piece;
    if (at == 0) piece.set_session_id(session);
    piece.set_offset(at);
    AddTokens(std::min(kPieceTokens, tokens - at), piece.mutable_tokens());
    if (!stream->Write(piece)) break;
  }
  stream->WritesDone();
  v1::AppendProgress progress;
  while (stream->Read(&progress)) {
    if (run_.stop) context->TryCancel();
  }
  return FromGrpc(stream->Finish());
}

void LoadClient::CountError(const grpc::Status& status) {
  const std::string code = absl::StatusCodeToString(FromGrpc(status).code());
  ++log_.errors[absl::StrCat(code, ": ", status.error_message().substr(0, kLongestError))];
}

v1::AskRequest LoadClient::RequestOf(const std::string& session) {
  v1::AskRequest request;
  request.set_session_id(session);
  AddTokens(run_.options.question.Draw(Random()), request.mutable_tokens());
  request.set_max_new_tokens(run_.options.answer.Draw(Random()));
  request.set_ignore_end_tokens(true);
  return request;
}

void LoadClient::Ask(const Question& question, double begun) {
  const LoadOptions& o = run_.options;
  const v1::AskRequest request = RequestOf(question.session);
  const auto context = Context();
  const auto stream = stub_->Ask(context.get(), request);
  v1::AskResponse response;
  int64_t tokens = 0;
  double last = begun, first = 0, worst = 0;
  bool given_up = false;
  while (stream->Read(&response)) {
    if (response.tokens().empty()) continue;
    const double now = run_.Now();
    if (tokens == 0) {
      first = now - begun;
      log_.first_tokens.push_back(first);
    } else {
      log_.gaps.push_back({now, now - last});
      worst = std::max(worst, now - last);
    }
    last = now;
    tokens += response.tokens_size();
    const bool enough = question.cancel_after >= 0 && tokens >= question.cancel_after;
    if (!given_up && (run_.stop || enough)) {
      given_up = true;
      context->TryCancel();
    }
  }
  const grpc::Status status = stream->Finish();
  log_.tokens += tokens;
  if (given_up) {
    if (question.cancel_after >= 0) ++log_.intended["cancelled"];
    return;
  }
  if (!status.ok()) return CountError(status);
  ++log_.requests;
  log_.worst_gaps.push_back(worst);
  log_.within_goal += first <= o.goal_first_token && worst <= o.goal_gap;
}

void LoadClient::AskOnFork() {
  v1::ForkRequest request;
  request.set_session_id(session_);
  v1::Session fork;
  if (const grpc::Status s = stub_->Fork(Context().get(), request, &fork); !s.ok()) return CountError(s);
  Ask({fork.id()}, run_.Now());
  Close(fork.id());
}

// The connection ends while an answer comes over it. Nobody says goodbye: the server has to notice.
void LoadClient::AskAndVanish() {
  const absl::StatusOr<std::unique_ptr<CutConnection>> connection = CutConnection::Open(run_.options.client.server);
  if (!connection.ok()) {
    ++log_.errors[std::string(connection.status().message())];
    return;
  }
  const auto context = Context();
  const auto stream = v1::Sessions::NewStub((*connection)->channel())->Ask(context.get(), RequestOf(session_));
  v1::AskResponse response;
  int64_t tokens = 0;
  while (tokens < kGivenUpAfter && stream->Read(&response)) tokens += response.tokens_size();
  (*connection)->Cut();
  while (stream->Read(&response)) tokens += response.tokens_size();
  log_.tokens += tokens;
  const grpc::Status status = stream->Finish();
  if (status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE) {  // a short answer was whole by then
    ++log_.intended["disconnected"];
  } else {
    CountError(status);
  }
}

// A call that must be refused, and nothing more.
void LoadClient::AskBadly() {
  v1::AskRequest request;
  request.set_session_id(session_);
  if (Random() % 2 == 0) request.set_session_id("no-such-session");
  request.set_temperature(-1);
  request.add_tokens(4);
  const auto context = Context();
  const auto stream = stub_->Ask(context.get(), request);
  v1::AskResponse response;
  while (stream->Read(&response)) {
  }
  const absl::Status status = FromGrpc(stream->Finish());
  if (absl::IsInvalidArgument(status) || absl::IsNotFound(status)) {
    ++log_.intended[absl::StatusCodeToString(status.code())];
  } else {
    ++log_.errors[absl::StrCat("a bad call was not refused: ", status.message())];
  }
}

void LoadClient::OneOfTheMix(double begun) {
  Question question{run_.document.empty() ? session_ : run_.document};
  if (run_.options.mix == Mix::kMixed) {
    const uint64_t which = Random() % 100;
    if (which < kForks) return AskOnFork();
    if (which < kForks + kBad) return AskBadly();
    if (which < kForks + kBad + kCancels) question.cancel_after = kGivenUpAfter;
    if (which >= 100 - kCuts && CanBeCut(run_.options.client)) return AskAndVanish();
  }
  Ask(question, begun);
}

void LoadClient::Work() {
  const double rate = run_.options.rate / run_.options.clients;
  double due = 0;  // of the next call, where calls come at a rate
  const int64_t most = run_.options.requests;
  for (int64_t asked = 0; !run_.stop && (most == 0 || asked < most); ++asked) {
    if (rate > 0) {  // a call that had to wait for the one before it counts from when it should have begun
      due += -std::log((static_cast<double>(Random() >> 11) + 0.5) * 0x1p-53) / rate;
      while (!run_.stop && run_.Now() < due) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (run_.stop) return;
    }
    const size_t errors = log_.errors.size();
    OneOfTheMix(rate > 0 ? due : run_.Now());
    // A server that refuses is not to be asked as fast as it can refuse.
    if (log_.errors.size() > errors) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

absl::StatusOr<double> LoadClient::ReadOne() {
  const int64_t tokens = run_.options.document.Draw(Random());
  const double begun = run_.Now();
  absl::StatusOr<std::string> session = Open(Lengths(tokens), 1);
  if (!session.ok()) return session.status();
  const double seconds = run_.Now() - begun;
  Close(*session);
  ++log_.reads;
  log_.read_tokens += tokens;
  log_.read_seconds += seconds;
  return static_cast<double>(tokens) / seconds;
}

void LoadClient::Read(int documents) {
  for (int i = 0; !run_.stop && (documents == 0 || i < documents); ++i) {
    const absl::StatusOr<double> read = ReadOne();
    if (read.ok() || run_.stop) continue;
    ++log_.errors[absl::StrCat(absl::StatusCodeToString(read.status().code()), ": ",
                               read.status().message().substr(0, kLongestError))];
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace duo
