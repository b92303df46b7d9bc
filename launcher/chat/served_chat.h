// ServedChat: a conversation with the model of a `duo serve`. Its history is a session there, a conversation that each
// turn is kept in; before a turn the session is forked, so that the turn can be taken back as if it had never been.
//
// What it adds to a session of its own name is gone with it; one that its user named stays, and is taken up again by
// the same name. One thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/chat/chat_types.h"
#include "launcher/client/client.h"
#include "runtime/text/chat_template.h"

namespace duo {

class ServedChat {
 public:
  // session: its name; empty: a new one, which ends with the object.
  ServedChat(ClientOptions server, std::string session, ChatOptions options);
  ~ServedChat();

  // Makes the session, as long as the server lets it be, or takes up one that is there.
  absl::Status Open();

  // The user's turn and the model's. An answer that is stopped or fails is taken back with its turn: CANCELLED where
  // the listener stopped it.
  absl::StatusOr<ChatAnswer> Say(const std::string& text, const ChatListener& listener);

  // From the next beginning on: a session's system turn stands before all else.
  void SetSystem(const std::string& text);
  bool system_waits() const;  // for a new beginning
  absl::Status Clear();
  absl::StatusOr<bool> Undo();                                  // the last turn and its answer; false: there is none
  const std::vector<Message>& turns() const { return turns_; }  // of this object

 private:
  struct Calls;
  absl::Status Create();

  const std::unique_ptr<Calls> calls_;
  const bool own_;  // the session ends with the object
  const ChatOptions options_;
  std::string session_, system_, made_with_;  // made_with_: the session's system turn
  std::string before_;                        // the fork from before the last turn; empty: there is none
  std::vector<Message> turns_;
};

}  // namespace duo
