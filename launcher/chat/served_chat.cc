#include "launcher/chat/served_chat.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "duo/v1/duo.grpc.pb.h"
#include "launcher/client/channel.h"
#include "launcher/client/once_loaded.h"

namespace duo {
namespace {

namespace pb = ::duo::v1;

std::string NewName() {
  std::random_device random;
  return absl::StrFormat("chat-%08x%08x", random(), random());
}

}  // namespace

// The calls of one server.
struct ServedChat::Calls {
  const ClientOptions options;
  std::unique_ptr<pb::Sessions::Stub> stub;

  absl::Status Connect() {
    if (stub != nullptr) return absl::OkStatus();
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = OpenChannel(options);
    if (channel.ok()) stub = pb::Sessions::NewStub(*channel);
    return channel.status();
  }
  absl::StatusOr<pb::Session> Get(const std::string& id) const {
    pb::GetRequest request;
    request.set_session_id(id);
    pb::Session session;
    const absl::Status status = FromGrpc(stub->Get(MakeContext(options).get(), request, &session));
    return status.ok() ? absl::StatusOr<pb::Session>(session) : status;
  }
  absl::Status Create(const std::string& id, const std::string& system) const {
    pb::CreateRequest request;
    request.set_id(id);
    request.set_chat(true);
    request.set_system(system);
    pb::Session made;
    return FromGrpc(stub->Create(MakeContext(options).get(), request, &made));
  }
  absl::Status Fork(const std::string& id, const std::string& new_id) const {
    pb::ForkRequest request;
    request.set_session_id(id);
    request.set_new_id(new_id);
    pb::Session made;
    return FromGrpc(stub->Fork(MakeContext(options).get(), request, &made));
  }
  absl::Status Restore(const std::string& id) const {
    pb::RestoreRequest request;
    request.set_session_id(id);
    pb::RestoreResponse ignored;
    return FromGrpc(stub->Restore(MakeContext(options).get(), request, &ignored));
  }
  absl::Status Close(const std::string& id) const {
    pb::CloseRequest request;
    request.set_session_id(id);
    request.set_delete_saved(true);
    pb::CloseResponse ignored;
    const absl::Status status = FromGrpc(stub->Close(MakeContext(options).get(), request, &ignored));
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }
};

ServedChat::ServedChat(ClientOptions server, std::string session, ChatOptions options)
    : calls_(new Calls{std::move(server), nullptr}),
      own_(session.empty()),
      options_(std::move(options)),
      session_(own_ ? NewName() : std::move(session)) {}

ServedChat::~ServedChat() {
  if (calls_->stub == nullptr) return;
  if (!before_.empty()) calls_->Close(before_).IgnoreError();
  if (own_) calls_->Close(session_).IgnoreError();
}

absl::Status ServedChat::Open() {
  if (absl::Status s = calls_->Connect(); !s.ok()) return s;
  return OnceLoaded([this] {
    const absl::StatusOr<pb::Session> there = own_ ? absl::NotFoundError("") : calls_->Get(session_);
    if (absl::IsNotFound(there.status())) return Create();
    if (!there.ok()) return there.status();
    if (there->chat()) return there->residence() == pb::RESIDENCE_SAVED ? calls_->Restore(session_) : absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("session ", session_, " is no conversation"));
  });
}

absl::Status ServedChat::Create() {
  made_with_ = system_;
  return calls_->Create(session_, system_);
}

void ServedChat::SetSystem(const std::string& text) { system_ = text; }
bool ServedChat::system_waits() const { return system_ != made_with_; }

absl::Status ServedChat::Clear() {
  if (!before_.empty()) calls_->Close(before_).IgnoreError();
  before_.clear();
  turns_.clear();
  if (absl::Status s = calls_->Close(session_); !s.ok()) return s;
  return Create();
}

absl::StatusOr<bool> ServedChat::Undo() {
  if (before_.empty()) return false;
  if (absl::Status s = calls_->Close(session_); !s.ok()) return s;
  if (absl::Status s = calls_->Fork(before_, session_); !s.ok()) return s;
  turns_.resize(turns_.size() - std::min<size_t>(turns_.size(), 2));
  calls_->Close(std::exchange(before_, "")).IgnoreError();
  return true;
}

absl::StatusOr<ChatAnswer> ServedChat::Say(const std::string& text, const ChatListener& listener) {
  // Where the server has no room for it the turn cannot be taken back.
  std::string before = session_ + (before_.empty() || before_.back() == 'b' ? ".a" : ".b");
  if (!calls_->Fork(session_, before).ok()) before.clear();
  pb::AskRequest request;
  request.set_session_id(session_);
  request.set_text(text);
  request.set_max_new_tokens(options_.max_new_tokens);
  request.set_temperature(options_.temperature);
  request.set_top_p(options_.top_p);
  request.set_seed(options_.seed + turns_.size());
  request.set_keep(true);
  const std::unique_ptr<grpc::ClientContext> context = MakeContext(calls_->options);
  listener.when_stopped([&context] { context->TryCancel(); });
  const absl::Cleanup quiet = [&listener] { listener.when_stopped(nullptr); };
  const auto stream = calls_->stub->Ask(context.get(), request);
  std::string answer;
  pb::AskResponse part;
  while (stream->Read(&part)) {
    answer += part.text();
    if (!part.text().empty()) listener.on_text(part.text());
  }
  const absl::Status status = FromGrpc(stream->Finish());
  if (status.ok()) std::swap(before, before_);
  if (!before.empty()) calls_->Close(before).IgnoreError();
  if (!status.ok()) return status;
  turns_.push_back({"user", text});
  turns_.push_back({"assistant", answer});
  return ChatAnswer{};
}

}  // namespace duo
