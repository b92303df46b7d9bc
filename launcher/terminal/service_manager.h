// ServiceManager: tells whoever started this process how it is, by sd_notify's protocol: datagrams to the socket that
// NOTIFY_SOCKET names. Nobody listening, or no such variable, is no error. Any thread.
#pragma once

#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace duo {

class ServiceManager {
 public:
  // socket: a path, or @NAME in the abstract name space; empty: nobody is told.
  explicit ServiceManager(std::string socket) : socket_(std::move(socket)) {}

  void Ready() const { Tell("READY=1\nSTATUS=serving"); }
  void Stopping() const { Tell("STOPPING=1\nSTATUS=saving sessions"); }
  // A line for people, as `systemctl status` shows it.
  void Status(absl::string_view text) const;

 private:
  void Tell(absl::string_view message) const;

  std::string socket_;
};

}  // namespace duo
