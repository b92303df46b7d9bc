// MessageGate: how many messages are on their way to the server at once. A transport that takes a message whole holds
// what has come of it, so the number of those that are being read bounds the memory that unfinished ones take, whoever
// sends them and over however many connections. What finds no place waits for one; what does not come in its time, or
// waits too long, is refused with the numbers.
//
// Thread-safe. `go` and `refuse` are called one at a time and never after Leave has returned, by whichever thread
// makes room; they may call Leave.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"

namespace duo {

class MessageGate {
 public:
  struct Limits {
    int64_t message_bytes = 0;  // that one may have, for the sentence
    int at_once = 64, of_connection = 16;
    int waiting = 1024;
    double wait_seconds = 10;  // for a place
    double read_seconds = 30;  // from then until the message is whole
  };
  class Ticket;
  using TicketPtr = std::shared_ptr<Ticket>;

  explicit MessageGate(const Limits& limits) : limits_(limits) {}

  // peer: by which a connection is known. go: the message may be read. refuse: it may not, or has not come in time.
  static TicketPtr Make(std::string peer, std::function<void()> go, std::function<void(const absl::Status&)> refuse);
  // Once.
  void Enter(const TicketPtr& ticket);
  // The message is there, or is waited for no longer. Any number of times; null: nothing.
  void Leave(const TicketPtr& ticket);
  // Refuses what is late; to be called about once a second.
  void Sweep();

 private:
  using Clock = std::chrono::steady_clock;
  enum class Place { kNone, kWaiting, kReading, kLate };  // late: refused, but what has come of it is still held

  bool Fits(const Ticket& ticket) const;
  void Take(Ticket& ticket);
  absl::Status Late(Place place) const;

  const Limits limits_;
  std::mutex mutex_;  // guards what follows, and the tickets' places
  int reading_ = 0;
  std::unordered_map<std::string, int> of_connection_;  // those that are being read
  std::list<TicketPtr> waiting_, read_;                 // in the order in which they came
};

}  // namespace duo
