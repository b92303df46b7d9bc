// Reads a file into a session and asks a question on it: example SERVER FILE QUESTION
#include <cstdio>
#include <fstream>
#include <iterator>

#include "duo/client.h"

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "example SERVER FILE QUESTION\n"), 2;
  std::ifstream file(argv[2], std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  duo::Client client({.server = argv[1]});
  const auto failed = [](const grpc::Status& status) {
    if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.error_message().c_str());
    return !status.ok();
  };
  if (failed(client.WaitUntilReady(std::chrono::minutes(10)))) return 1;
  duo::v1::Session session;
  if (failed(client.sessions().Create(client.Context().get(), {}, &session))) return 1;
  duo::v1::AppendProgress read;
  const auto show = [](const duo::v1::AppendProgress& at) {
    std::fprintf(stderr, "%lld of %lld tokens\n", static_cast<long long>(at.tokens()),
                 static_cast<long long>(at.total_tokens()));
  };
  if (failed(client.Append(session.id(), text, &read, show))) return 1;
  duo::v1::AskRequest question;
  question.set_session_id(session.id());
  question.set_text(argv[3]);
  question.add_stop("\n");
  const auto print = [](const duo::v1::AskResponse& part) { return std::fputs(part.text().c_str(), stdout) >= 0; };
  if (failed(client.Ask(question, print))) return 1;
  std::puts("");
  duo::v1::CloseRequest close;
  close.set_session_id(session.id());
  duo::v1::CloseResponse closed;
  return failed(client.sessions().Close(client.Context().get(), close, &closed)) ? 1 : 0;
}
