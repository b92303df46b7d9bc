// duo::Client: a client of `duo serve` for C++ programs. Thin: messages are duo.proto's (namespace duo::v1), errors are
// gRPC's statuses with the codes that duo.proto lists. What it adds: credentials, waiting for a server that starts, and
// appends that are taken up again where they broke.
//
//   find_package(duo REQUIRED)
//   target_link_libraries(program PRIVATE duo::client)
//
// Any thread may call it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "duo/v1/duo.grpc.pb.h"

namespace duo {

struct ClientSettings {
  std::string server = "127.0.0.1:50051";  // HOST:PORT, [V6]:PORT, unix:PATH
  std::string token;                       // bearer token; empty: none
  std::string ca, certificate, key;        // PEM texts; a CA means TLS, the other two mTLS
};

class Client {
 public:
  explicit Client(ClientSettings settings) : settings_(std::move(settings)) {
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    if (!settings_.ca.empty()) {
      grpc::SslCredentialsOptions ssl;
      ssl.pem_root_certs = settings_.ca;
      ssl.pem_cert_chain = settings_.certificate;
      ssl.pem_private_key = settings_.key;
      credentials = grpc::SslCredentials(ssl);
    }
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(settings_.server, credentials, arguments);
    sessions_ = v1::Sessions::NewStub(channel_);
    cluster_ = v1::Cluster::NewStub(channel_);
  }

  // The calls as they are, with a context for one of them.
  v1::Sessions::Stub& sessions() { return *sessions_; }
  v1::Cluster::Stub& cluster() { return *cluster_; }
  std::unique_ptr<grpc::ClientContext> Context() const {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!settings_.token.empty()) context->AddMetadata("authorization", "Bearer " + settings_.token);
    return context;
  }

  // Waits for a server that is starting or loads its model; `waiting` is told what it says. The last status.
  grpc::Status WaitUntilReady(std::chrono::seconds patience,
                              const std::function<void(const grpc::Status&)>& waiting = nullptr) {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (true) {
      v1::StatsResponse ignored;
      const grpc::Status status = cluster_->Stats(Context().get(), {}, &ignored);
      if (!IsBroken(status) || std::chrono::steady_clock::now() > end) return status;
      if (waiting) waiting(status);
      std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }

  // Adds a text to a session and returns when it is read: `last` is the last progress. A connection that breaks is
  // taken up again where the server's text ends, so many times.
  grpc::Status Append(const std::string& session, const std::string& text, v1::AppendProgress* last,
                      const std::function<void(const v1::AppendProgress&)>& progress = nullptr, int retries = 5) {
    std::random_device random;
    const std::string name = "cpp-" + std::to_string(random()) + "-" + std::to_string(random());
    grpc::Status status = AppendOnce(session, name, text, last, progress);
    for (int attempt = 0; attempt < retries && IsBroken(status); ++attempt) {
      std::this_thread::sleep_for(std::chrono::seconds(std::min(1 << attempt, 30)));
      status = AppendOnce(session, name, text, last, progress);
    }
    return status;
  }

  // The answer as it comes; false from `part` stops it. The last part has done, finish and stats.
  grpc::Status Ask(const v1::AskRequest& request, const std::function<bool(const v1::AskResponse&)>& part) {
    const std::unique_ptr<grpc::ClientContext> context = Context();
    const auto stream = sessions_->Ask(context.get(), request);
    v1::AskResponse message;
    while (stream->Read(&message)) {
      if (!part(message)) context->TryCancel();
    }
    return stream->Finish();
  }

 private:
  static constexpr size_t kPiece = 1 << 20;  // bytes of a message

  // It could not be reached, or went away.
  static bool IsBroken(const grpc::Status& status) { return status.error_code() == grpc::StatusCode::UNAVAILABLE; }

  grpc::Status AppendOnce(const std::string& session, const std::string& name, const std::string& text,
                          v1::AppendProgress* last, const std::function<void(const v1::AppendProgress&)>& progress) {
    const std::unique_ptr<grpc::ClientContext> context = Context();
    const auto stream = sessions_->Append(context.get());
    v1::AppendRequest first;
    first.set_session_id(session);
    first.set_append_id(name);
    if (!stream->Write(first) || !stream->Read(last)) return stream->Finish();
    std::thread writer([&stream, &text, from = static_cast<size_t>(last->received_bytes())] {
      for (size_t at = from; at < text.size(); at += kPiece) {
        v1::AppendRequest piece;
        piece.set_offset(static_cast<int64_t>(at));
        piece.set_text(text.substr(at, kPiece));
        if (!stream->Write(piece)) return;
      }
      stream->WritesDone();
    });
    do {
      if (progress) progress(*last);
    } while (stream->Read(last));
    writer.join();
    return stream->Finish();
  }

  const ClientSettings settings_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Sessions::Stub> sessions_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;
};

}  // namespace duo
