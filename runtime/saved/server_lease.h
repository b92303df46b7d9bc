// ServerLease: which server works on which session of a save directory, so that several may share one and none writes
// what another holds.
//
//   DIR/.duo-server-NAME   one of each server: who it is and a beat. It is locked while its process lives.
//   DIR/ID/N-lock          session ID is held by the server whose file this is a hard link to. N only grows: who holds
//                          the session writes files of generation N, so nobody ever writes into another's.
//
// Whether a server lives is asked of the lock, which the kernel drops with the process. On a network file system locks
// of other machines are not believed: there a server lives as long as its beat changes at least once in
// LeaseOptions::seconds by the looker's own clock, and stops writing when its own beat has not reached the disk for two
// thirds of that. After such a lapse it holds nothing until it has taken it anew, which only one server can do.
//
// Thread-safe: one thread beats, another takes and gives back. Errors: FAILED_PRECONDITION (held by another, with its
// host and process; or no longer held), otherwise as in file.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/files/file.h"

namespace duo {

struct LeaseOptions {
  double seconds = 30;
  bool take_over = false;  // servers of other machines are gone, whatever their beat says
  // Who this is; empty or 0: this process on this machine. `machine` tells machines of one name apart.
  std::string host, machine;
  int64_t process = 0;
  std::function<double()> now;  // seconds of a clock that only goes forward; empty: the machine's
};

class ServerLease {
 public:
  // `dir` exists. Deletes what servers that are gone left there. `files` must outlive it.
  static absl::StatusOr<std::unique_ptr<ServerLease>> Open(const FileSystem& files, const std::string& dir,
                                                           LeaseOptions options);
  ~ServerLease();  // gives everything back

  // To be called at least every beat_seconds().
  absl::Status Beat();
  double beat_seconds() const { return options_.seconds / 6; }

  // The holder of a session's directory: "host H, process P" of another server that lives; empty: none, or this one.
  std::string HeldBy(const std::string& session_dir);
  // Holds it under a new number, at least `least`, whoever held it is gone or was this server.
  absl::StatusOr<int64_t> Take(const std::string& session_dir, int64_t least);
  // Still held under this number, and this server may write.
  absl::Status Check(const std::string& session_dir, int64_t number);
  void GiveBack(const std::string& session_dir);

 private:
  struct Server {  // what a server's file says
    std::string name, host, machine;
    int64_t process = 0, beat = 0;
    std::string Text() const;
  };
  struct Seen {
    int64_t beat = 0;
    double since = 0;
  };
  ServerLease(const FileSystem& files, const std::string& dir, LeaseOptions options);
  double Now() const { return options_.now(); }
  bool Lapsed();  // has not said for too long that it lives
  absl::Status WriteFile();
  absl::StatusOr<Server> Read(const File& file) const;
  bool Lives(const File& file, const Server& server);
  // The highest lock of a directory: its number, 0 without one, and the server that lives and holds it, else empty.
  struct Lock {
    int64_t number = 0;
    bool own = false;
    std::string holder;
    std::vector<std::string> names;  // of all locks
  };
  absl::StatusOr<Lock> Look(const std::string& session_dir);

  const FileSystem& files_;
  const std::string dir_;
  LeaseOptions options_;
  Server self_;
  bool network_ = false;

  std::mutex mutex_;  // guards what follows
  File file_;
  double beaten_ = 0;  // when the last beat that reached the disk began
  int64_t lapses_ = 0;
  struct Held {
    int64_t number = 0, lapses = 0;
  };
  std::map<std::string, Held> held_;
  std::map<std::string, Seen> seen_;  // by server name
};

}  // namespace duo
