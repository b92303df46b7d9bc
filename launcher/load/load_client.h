// One client of a load: the calls that it makes over a connection of its own, and what it saw of them. Used by load.cc
// alone, and by one thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "duo/v1/duo.grpc.pb.h"
#include "kernels/base/seconds.h"
#include "launcher/load/load.h"

namespace duo {

// What all clients of a run share.
struct LoadRun {
  const LoadOptions& options;
  Clock::time_point begin;
  std::atomic<bool> stop{false};  // answers are given up, and no call begins
  std::string document;           // the session that all ask on; empty: each has its own
  double Now() const { return SecondsSince(begin); }
};

class LoadClient {
 public:
  LoadClient(LoadRun& run, std::shared_ptr<grpc::Channel> channel, uint64_t number);

  // A session that holds a context. The call's error.
  absl::StatusOr<std::string> Open(const Lengths& context, int64_t beside);
  void Close(const std::string& session);

  // Asks, and whatever else the mix has, until the run stops.
  void Work();
  // Reads so many documents, or, with 0, until the run stops.
  void Read(int documents);
  // Tokens a second of one document.
  absl::StatusOr<double> ReadOne();

  LoadLog& log() { return log_; }
  void set_session(std::string session) { session_ = std::move(session); }
  const std::string& session() const { return session_; }

 private:
  struct Question {
    std::string session;
    int64_t cancel_after = -1;  // tokens; -1: it is read to its end
  };
  std::unique_ptr<grpc::ClientContext> Context() const;
  uint64_t Random();
  // Valid for any model.
  void AddTokens(int64_t count, google::protobuf::RepeatedField<int32_t>* to);
  absl::Status Append(const std::string& session, int64_t tokens);
  v1::AskRequest RequestOf(const std::string& session);
  void Ask(const Question& question, double begun);
  void AskOnFork();
  void AskAndVanish();
  void AskBadly();
  void OneOfTheMix(double begun);
  void CountError(const grpc::Status& status);

  LoadRun& run_;
  std::unique_ptr<v1::Sessions::Stub> stub_;
  uint64_t key_, drawn_ = 0;
  std::string session_;
  LoadLog log_;
};

}  // namespace duo
