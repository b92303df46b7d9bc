#include "launcher/client/client.h"

#include <google/protobuf/util/json_util.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "duo/v1/duo.grpc.pb.h"
#include "launcher/client/channel.h"
#include "launcher/client/interrupt.h"
#include "launcher/client/once_loaded.h"
#include "launcher/client/print.h"
#include "launcher/client/sampling_request.h"
#include "launcher/terminal/outputs.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/prompt_file.h"
#include "launcher/terminal/sparse_text.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

namespace pb = ::duo::v1;
constexpr size_t kPieceBytes = 1 << 20;

std::string Size(int64_t bytes) { return ByteCount(static_cast<double>(bytes)); }

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  if (google::protobuf::util::MessageToJsonString(message, &json, options).ok()) std::printf("%s\n", json.c_str());
}

class Caller {
 public:
  Caller(const ClientOptions& options, const VerbOptions& verb) : o_(options), v_(verb) {}

  absl::Status Connect() {
    if (v_.verb == Verb::kAppend) interrupt_ = std::make_unique<Interrupt>();
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = OpenChannel(o_);
    if (!channel.ok()) return channel.status();
    channel_ = *std::move(channel);
    sessions_ = pb::Sessions::NewStub(channel_);
    cluster_ = pb::Cluster::NewStub(channel_);
    return absl::OkStatus();
  }

  absl::Status Run() {
    switch (v_.verb) {
      case Verb::kCreate: {
        pb::CreateRequest request;
        request.set_id(v_.session);
        request.set_max_tokens(v_.max_tokens);
        request.set_reserved_tokens(v_.reserved_tokens);
        request.set_durable(v_.durable);
        request.set_chat(v_.chat || !v_.system.empty());
        request.set_system(v_.system);
        pb::Session response;
        return Shown(sessions_->Create(Context().get(), request, &response), response);
      }
      case Verb::kAppend:
        return Append();
      case Verb::kAsk:
        return Ask();
      case Verb::kFork: {
        pb::ForkRequest request;
        request.set_session_id(v_.session);
        request.set_new_id(v_.new_id);
        request.set_max_tokens(v_.max_tokens);
        request.set_reserved_tokens(v_.reserved_tokens);
        pb::Session response;
        return Shown(sessions_->Fork(Context().get(), request, &response), response);
      }
      case Verb::kRewind: {
        pb::RewindRequest request;
        request.set_session_id(v_.session);
        request.set_tokens(v_.tokens);
        pb::Session response;
        return Shown(sessions_->Rewind(Context().get(), request, &response), response);
      }
      case Verb::kSave:
        return Save();
      case Verb::kRestore:
        return Restore();
      case Verb::kList: {
        pb::ListResponse response;
        const grpc::Status status = sessions_->List(Context().get(), {}, &response);
        return Shown(status, response, [&] { PrintSessions(response); });
      }
      case Verb::kGet: {
        pb::GetRequest request;
        request.set_session_id(v_.session);
        pb::Session response;
        return Shown(sessions_->Get(Context().get(), request, &response), response);
      }
      case Verb::kPin: {
        pb::PinRequest request;
        request.set_session_id(v_.session);
        request.set_pinned(!v_.off);
        pb::Session response;
        return Shown(sessions_->Pin(Context().get(), request, &response), response);
      }
      case Verb::kClose: {
        pb::CloseRequest request;
        request.set_session_id(v_.session);
        request.set_delete_saved(v_.delete_saved);
        pb::CloseResponse response;
        return Shown(sessions_->Close(Context().get(), request, &response), response, [] {});
      }
      case Verb::kTokenize:
        return Tokenize();
      case Verb::kPlan: {
        pb::PlanResponse response;
        const grpc::Status status = cluster_->Plan(Context().get(), {}, &response);
        return Shown(status, response, [&] { PrintPlan(response); });
      }
      case Verb::kStats: {
        pb::StatsResponse response;
        const grpc::Status status = cluster_->Stats(Context().get(), {}, &response);
        return Shown(status, response, [&] { PrintStats(response); });
      }
      case Verb::kDrain:
        return Drain();
    }
    return absl::InternalError("no such verb");
  }

 private:
  std::unique_ptr<grpc::ClientContext> Context() const { return MakeContext(o_); }
  // utf8: of a question or a text to be tokenised, which the wire has as a string; a document may be any bytes.
  absl::StatusOr<std::string> Text(bool utf8) const {
    absl::StatusOr<std::string> text = v_.text;
    if (!v_.file.empty()) text = ReadTextFile(v_.file);
    if (text.ok() && utf8 && !IsValidUtf8(*text)) {
      return absl::InvalidArgumentError(
          absl::StrCat(v_.file.empty() ? "the text" : v_.file, ": expected UTF-8, found other bytes"));
    }
    return text;
  }

  template <typename Response, typename Print>
  absl::Status Shown(const grpc::Status& status, const Response& response, Print print) const {
    if (!status.ok()) return FromGrpc(status);
    if (o_.json) {
      PrintJson(response);
    } else {
      print();
    }
    return absl::OkStatus();
  }
  absl::Status Shown(const grpc::Status& status, const pb::Session& response) const {
    return Shown(status, response, [&] { PrintSession(response); });
  }

  absl::Status Save() {
    pb::SaveRequest request;
    request.set_session_id(v_.session);
    pb::SaveResponse response;
    const grpc::Status status = sessions_->Save(Context().get(), request, &response);
    return Shown(status, response, [&] {
      std::printf("saved %s: %s written, %s on disk, %s\n", v_.session.c_str(), Size(response.bytes_written()).c_str(),
                  Size(response.bytes_total()).c_str(), Duration(response.seconds()).c_str());
    });
  }
  absl::Status Restore() {
    pb::RestoreRequest request;
    request.set_session_id(v_.session);
    request.set_new_id(v_.new_id);
    request.set_max_tokens(v_.max_tokens);
    request.set_reread(v_.reread);
    pb::RestoreResponse response;
    const grpc::Status status = sessions_->Restore(Context().get(), request, &response);
    return Shown(status, response, [&] {
      std::printf("restored %s: %s tokens, %s read, %s\n", response.session().id().c_str(),
                  Grouped(response.session().tokens()).c_str(), Size(response.bytes_read()).c_str(),
                  Duration(response.seconds()).c_str());
    });
  }
  grpc::Status TokenizeWhole(const std::string& text, pb::TokenizeResponse* response) {
    pb::TokenizeRequest request;
    request.set_text(text);
    request.set_special(v_.special);
    request.set_begin_of_text(true);
    return sessions_->Tokenize(Context().get(), request, response);
  }
  grpc::Status TokenizePieces(const std::string& text, pb::TokenizeResponse* response) {
    const std::unique_ptr<grpc::ClientContext> context = Context();
    const auto stream = sessions_->TokenizeText(context.get());
    for (size_t at = 0; at < text.size(); at += kPieceBytes) {
      pb::TokenizePiece piece;
      piece.set_text(text.substr(at, kPieceBytes));
      piece.set_special(v_.special);
      piece.set_begin_of_text(true);
      if (!stream->Write(piece)) break;  // the server has ended the call, and Finish says why
    }
    stream->WritesDone();
    pb::TokenizeResponse part;
    while (stream->Read(&part)) response->MergeFrom(part);
    return stream->Finish();
  }
  absl::Status Tokenize() {
    absl::StatusOr<std::string> text = Text(true);
    if (!text.ok()) return text.status();
    pb::TokenizeResponse response;
    const grpc::Status status =
        text->size() < kPieceBytes ? TokenizeWhole(*text, &response) : TokenizePieces(*text, &response);
    return Shown(status, response, [&] {
      for (int32_t token : response.tokens()) std::printf("%d\n", token);
    });
  }
  absl::Status Drain() {
    pb::DrainRequest request;
    request.set_grace_seconds(v_.grace);
    pb::DrainResponse response;
    const grpc::Status status = cluster_->Drain(Context().get(), request, &response);
    return Shown(status, response, [&] {
      if (!response.dropped().empty()) {
        std::printf("stopped: %s cancelled, %s; without a save directory these are gone:\n",
                    Counted(response.cancelled(), "call").c_str(), Duration(response.seconds()).c_str());
        for (const pb::Session& s : response.dropped()) {
          std::printf("  %s: %s tokens\n", s.id().c_str(), Grouped(s.tokens()).c_str());
        }
        return;
      }
      std::printf("drained: %s saved, %s cancelled, %s\n", Counted(response.saved(), "session").c_str(),
                  Counted(response.cancelled(), "call").c_str(), Duration(response.seconds()).c_str());
    });
  }

  // Sends the text from where the server has it, and shows how reading goes on. A broken stream is taken up again.
  absl::Status Append() {
    absl::StatusOr<std::string> text = Text(false);
    if (!text.ok()) return text.status();
    std::string append_id = v_.append_id;
    if (append_id.empty()) {
      std::random_device random;
      append_id = absl::StrFormat("client-%08x%08x", random(), random());
    }
    absl::Status status;
    for (int attempt = 0; attempt <= v_.retries; ++attempt) {
      if (attempt > 0) {
        std::fprintf(stderr, "append %s: %s; trying again\n", append_id.c_str(), std::string(status.message()).c_str());
        if (interrupt_->Sleep(std::min(1 << std::min(attempt, 5), 30))) {
          status = absl::CancelledError("interrupted");
          break;
        }
      }
      status = AppendOnce(*text, append_id);
      if (!absl::IsUnavailable(status) || IsLoading(status)) break;
      if (attempt == 0 && !v_.wait && !Connected()) {
        return absl::UnavailableError(
            absl::StrCat("no server answers at ", o_.server, " (", status.message(), "); --wait tries for a while"));
      }
    }
    const bool broken_off =
        absl::IsUnavailable(status) || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
    return broken_off && opened_at_ >= 0 ? HowToGoOn(status, append_id) : status;
  }

  // Whether the connection stands: what is UNAVAILABLE then has been said by a server.
  bool Connected() const { return channel_->GetState(false) == GRPC_CHANNEL_READY; }

  // The server keeps what it has of an append that broke off: what its user can do about it.
  absl::Status HowToGoOn(const absl::Status& status, const std::string& append_id) const {
    const std::string text = v_.file.empty() ? "--text .." : "--file " + v_.file;
    return absl::Status(status.code(), absl::StrCat(status.message(), "; to go on: duo client append ", v_.session, " ",
                                                    text, " --append-id ", append_id,
                                                    "; to undo it: duo client rewind ", v_.session, " ", opened_at_));
  }

  absl::Status AppendOnce(const std::string& text, const std::string& append_id) {
    const std::unique_ptr<grpc::ClientContext> context = Context();
    const auto stream = sessions_->Append(context.get());
    pb::AppendRequest request;
    request.set_session_id(v_.session);
    request.set_append_id(append_id);
    request.set_special(v_.special);
    request.set_seam(v_.seam);
    request.set_chat(v_.chat);
    pb::AppendProgress progress;
    interrupt_->Tell([&] { context->TryCancel(); });
    const absl::Cleanup quiet = [&] { interrupt_->Tell(nullptr); };
    if (!stream->Write(request) || !stream->Read(&progress)) return FromGrpc(stream->Finish());
    if (opened_at_ < 0) opened_at_ = progress.session().tokens();
    const size_t first = std::min<size_t>(progress.received_bytes(), text.size());
    std::thread writer([&] {
      for (size_t at = first; at < text.size(); at += kPieceBytes) {
        pb::AppendRequest piece;
        piece.set_offset(static_cast<int64_t>(at));
        piece.set_text(text.substr(at, kPieceBytes));
        if (!stream->Write(piece)) return;
      }
      stream->WritesDone();
    });
    {
      Progress sending("sending", "B", o_.json), reading("reading", "tokens", o_.json);
      do {
        if (progress.total_tokens() > 0) {
          sending.Done();
          reading.Update(progress.tokens(), progress.total_tokens());
        } else {
          sending.Update(progress.received_bytes(), static_cast<int64_t>(text.size()));
        }
      } while (stream->Read(&progress));
    }
    writer.join();
    return Shown(stream->Finish(), progress, [&] {
      const pb::AppendStats& stats = progress.stats();
      std::string times =
          absl::StrCat("waited ", Duration(stats.queue_seconds()), ", read for ", Duration(stats.read_seconds()));
      if (stats.checkpoints() > 0) {
        absl::StrAppend(&times, ", ", Duration(stats.checkpoint_seconds()), " for ",
                        Counted(stats.checkpoints(), "checkpoint"));
      }
      std::fprintf(stderr, "%s tokens: %s\n", Grouped(progress.tokens()).c_str(), times.c_str());
      PrintSession(progress.session());
    });
  }

  absl::Status Ask() {
    absl::StatusOr<std::string> text = Text(true);
    if (!text.ok()) return text.status();
    pb::AskRequest request;
    request.set_session_id(v_.session);
    request.set_text(*text);
    request.set_max_new_tokens(v_.max_new_tokens);
    request.set_temperature(static_cast<float>(v_.temperature));
    request.set_top_p(static_cast<float>(v_.top_p));
    request.set_seed(v_.seed);
    for (const std::string& stop : v_.stops) request.add_stop(stop);
    request.set_keep(v_.keep);
    request.set_special(v_.special);
    request.set_seam(v_.seam);
    request.set_sources(v_.sources);
    if (absl::Status s = SetSampling(v_.sampling, &request); !s.ok()) return s;
    const std::unique_ptr<grpc::ClientContext> context = Context();
    const auto stream = sessions_->Ask(context.get(), request);
    pb::AskResponse part, whole;
    while (stream->Read(&part)) {
      if (!o_.json) {
        std::fwrite(part.text().data(), 1, part.text().size(), stdout);
        std::fflush(stdout);
      }
      const std::string so_far = whole.text() + part.text();
      whole.MergeFrom(part);
      whole.set_text(so_far);
    }
    return Shown(stream->Finish(), whole, [&] {
      const pb::AskStats& s = whole.stats();
      std::printf("\n");
      std::fflush(stdout);  // before what is said about it
      if (v_.sources > 0) PrintSources(whole);
      if (OutputsMeet()) std::fputc('\n', stderr);
      std::fprintf(stderr, "%s tokens of history, %lld read, %lld new (%s), first after %.3f s, %.1f tokens/s%s\n",
                   Grouped(s.history_tokens()).c_str(), static_cast<long long>(s.prompt_tokens()),
                   static_cast<long long>(s.new_tokens()), whole.finish().c_str(), s.first_token_seconds(),
                   s.decode_seconds() > 0 ? s.new_tokens() / s.decode_seconds() : 0.0,
                   absl::StrCat(DraftsText(s.draw_steps(), s.drafted_tokens(), s.accepted_tokens()),
                                WrittenSparselyText(ReportOf(s.sparse())))
                       .c_str());
    });
  }

  const ClientOptions& o_;
  const VerbOptions& v_;
  std::unique_ptr<Interrupt> interrupt_;  // of an append
  int64_t opened_at_ = -1;                // tokens of the session when its append was opened first
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Sessions::Stub> sessions_;
  std::unique_ptr<pb::Cluster::Stub> cluster_;
};

}  // namespace

absl::Status RunClient(const ClientOptions& options, const VerbOptions& verb) {
  Caller caller(options, verb);
  if (absl::Status s = caller.Connect(); !s.ok()) return s;
  return OnceLoaded([&caller] { return caller.Run(); });
}

}  // namespace duo
