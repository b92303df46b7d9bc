// CallStream: the server's side of a streaming call: messages to the client, requests for the client's next message,
// and one end. At most one message is on its way at a time; what comes meanwhile changes the message that goes next, so
// that a slow client makes messages larger and never more (backpressure without a queue).
//
// The transport is given as functions. They are called one at a time, from any thread and without a lock held, and may
// call back. After `finish` none is called again. Thread-safe; the owner keeps it alive while it is in use.
#pragma once

#include <functional>
#include <mutex>
#include <utility>

#include "absl/status/status.h"

namespace duo {

template <typename Message>
struct CallTransport {
  std::function<void(Message message)> write;       // then Written, when the next one may come
  std::function<void(const absl::Status&)> finish;  // once, the last
  std::function<void()> read = nullptr;             // wants the client's next message; where the client sends several
};

// Message: a value whose Take() gives what is to be sent and leaves what the next message begins with.
template <typename Message>
class CallStream {
 public:
  explicit CallStream(CallTransport<Message> transport) : transport_(std::move(transport)) {}

  // Changes the next message: `change(message)`, under a lock, says whether it is to go as soon as it can; false leaves
  // it to a later one. Nothing happens after Close.
  template <typename Change>
  void Update(Change change) {
    std::unique_lock lock(mutex_);
    if (closed_) return;
    if (change(next_)) due_ = true;
    Pump(lock);
  }
  // The same in two: the change, and, on another thread perhaps, what it asks for.
  template <typename Change>
  void Prepare(Change change) {
    std::lock_guard lock(mutex_);
    if (!closed_ && change(next_)) due_ = true;
  }
  void Send() {
    std::unique_lock lock(mutex_);
    Pump(lock);
  }
  // Asks the client for its next message, unless the stream is closed.
  void Read() {
    std::unique_lock lock(mutex_);
    read_due_ = true;
    Pump(lock);
  }
  // The message on its way has been sent; not ok: nobody reads any more.
  void Written(bool ok) {
    std::unique_lock lock(mutex_);
    writing_ = false;
    if (!ok) gone_ = true;
    Pump(lock);
  }
  // A message is on its way, and `test` is true of what is to follow it.
  template <typename Test>
  bool Waits(Test test) {
    std::unique_lock lock(mutex_);
    return writing_ && !gone_ && !closed_ && test(next_);
  }
  // Nobody reads any more: what would be written is dropped.
  void Gone() {
    std::unique_lock lock(mutex_);
    gone_ = true;
  }
  // Ends the stream with this status, after what is still to be written where it is OK. The first caller decides; false
  // for the others.
  bool Close(const absl::Status& status) {
    std::unique_lock lock(mutex_);
    if (closed_) return false;
    closed_ = true;
    status_ = status;
    if (!status.ok()) due_ = false;
    Pump(lock);
    return true;
  }

 private:
  void Pump(std::unique_lock<std::mutex>& lock) {
    while (!calling_ && !finished_) {
      if (due_ && !gone_ && !writing_) {
        due_ = false;
        writing_ = true;
        Outside(lock, [this, message = next_.Take()]() mutable { transport_.write(std::move(message)); });
      } else if (read_due_ && !closed_) {
        read_due_ = false;
        Outside(lock, transport_.read);
      } else if (closed_ && !writing_) {
        finished_ = true;
        Outside(lock, [this] { transport_.finish(status_); });
      } else {
        return;
      }
    }
  }
  template <typename Function>
  void Outside(std::unique_lock<std::mutex>& lock, Function function) {
    calling_ = true;
    lock.unlock();
    function();
    lock.lock();
    calling_ = false;
  }

  const CallTransport<Message> transport_;
  std::mutex mutex_;  // guards what follows
  Message next_;
  bool due_ = false, read_due_ = false;     // there is something to write, to read
  bool writing_ = false, calling_ = false;  // a message is on its way; the transport is being called
  bool gone_ = false, closed_ = false, finished_ = false;
  absl::Status status_;
};

}  // namespace duo
