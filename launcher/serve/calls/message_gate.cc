#include "launcher/serve/calls/message_gate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"

namespace duo {

class MessageGate::Ticket {
 public:
  Ticket(std::string peer, std::function<void()> go, std::function<void(const absl::Status&)> refuse)
      : peer(std::move(peer)), go_(std::move(go)), refuse_(std::move(refuse)) {}

  void Go() {
    std::lock_guard lock(mutex_);
    if (std::function<void()> go = std::exchange(go_, nullptr)) go();
  }
  void Refuse(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    go_ = nullptr;
    if (std::function<void(const absl::Status&)> refuse = std::exchange(refuse_, nullptr)) refuse(status);
  }
  void Forget() {
    std::lock_guard lock(mutex_);
    go_ = nullptr;
    refuse_ = nullptr;
  }

  const std::string peer;
  // Guarded by the gate's mutex.
  Place place = Place::kNone;
  Clock::time_point since;

 private:
  // Held while one of them runs, so that Forget returns when neither runs any more; they may themselves call it.
  std::recursive_mutex mutex_;
  std::function<void()> go_;
  std::function<void(const absl::Status&)> refuse_;
};

MessageGate::TicketPtr MessageGate::Make(std::string peer, std::function<void()> go,
                                         std::function<void(const absl::Status&)> refuse) {
  return std::make_shared<Ticket>(std::move(peer), std::move(go), std::move(refuse));
}

bool MessageGate::Fits(const Ticket& ticket) const {
  if (reading_ >= limits_.at_once) return false;
  const auto held = of_connection_.find(ticket.peer);
  return held == of_connection_.end() || held->second < limits_.of_connection;
}

void MessageGate::Take(Ticket& ticket) {
  ++reading_;
  ++of_connection_[ticket.peer];
  ticket.place = Place::kReading;
  ticket.since = Clock::now();
}

void MessageGate::Enter(const TicketPtr& ticket) {
  absl::Status full;
  {
    std::lock_guard lock(mutex_);
    if (Fits(*ticket)) {
      Take(*ticket);
      read_.push_back(ticket);
    } else if (static_cast<int>(waiting_.size()) < limits_.waiting) {
      ticket->place = Place::kWaiting;
      ticket->since = Clock::now();
      waiting_.push_back(ticket);
      return;
    } else {
      full = Late(Place::kWaiting);
    }
  }
  full.ok() ? ticket->Go() : ticket->Refuse(full);
}

void MessageGate::Leave(const TicketPtr& ticket) {
  if (ticket == nullptr) return;
  std::vector<TicketPtr> next;
  {
    std::lock_guard lock(mutex_);
    const Place place = std::exchange(ticket->place, Place::kNone);
    if (place == Place::kWaiting) waiting_.remove(ticket);
    if (place == Place::kReading) read_.remove(ticket);
    if (place == Place::kReading || place == Place::kLate) {
      --reading_;
      const auto held = of_connection_.find(ticket->peer);
      if (--held->second == 0) of_connection_.erase(held);
      for (auto it = waiting_.begin(); it != waiting_.end() && reading_ < limits_.at_once;) {
        if (!Fits(**it)) {
          ++it;
          continue;
        }
        Take(**it);
        next.push_back(*it);
        read_.push_back(*it);
        it = waiting_.erase(it);
      }
    }
  }
  ticket->Forget();
  for (const TicketPtr& one : next) one->Go();
}

void MessageGate::Sweep() {
  std::vector<std::pair<TicketPtr, absl::Status>> late;
  {
    std::lock_guard lock(mutex_);
    const auto collect = [&](std::list<TicketPtr>& from, double seconds) {
      for (auto it = from.begin(); it != from.end();) {
        Ticket& ticket = **it;
        if (SecondsSince(ticket.since) <= seconds) {
          ++it;
          continue;
        }
        late.emplace_back(*it, Late(ticket.place));
        ticket.place = ticket.place == Place::kReading ? Place::kLate : Place::kNone;
        it = from.erase(it);
      }
    };
    collect(waiting_, limits_.wait_seconds);
    collect(read_, limits_.read_seconds);
  }
  for (const auto& [ticket, status] : late) ticket->Refuse(status);
}

absl::Status MessageGate::Late(Place place) const {
  if (place == Place::kReading) {
    return absl::AbortedError(
        absl::StrFormat("this call's message did not come whole in %.0f seconds", limits_.read_seconds));
  }
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%d messages of up to %d bytes are on their way to this server, of at most %d, and of one connection at most %d; "
      "try again later",
      reading_, limits_.message_bytes, limits_.at_once, limits_.of_connection));
}

}  // namespace duo
