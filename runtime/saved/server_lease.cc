#include "runtime/saved/server_lease.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/json_fields.h"
#include "runtime/saved/session_names.h"

namespace duo {
namespace {

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] != 0 ? name : "localhost";
}
// Other containers on this machine have the same, other machines never.
std::string BootId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

}  // namespace

std::string ServerLease::Server::Text() const {
  const nlohmann::json json = {
      {"server", name}, {"host", host}, {"machine", machine}, {"process", process}, {"beat", beat}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

ServerLease::ServerLease(const FileSystem& files, const std::string& dir, LeaseOptions options)
    : files_(files), dir_(dir), options_(std::move(options)), network_(files.shared(dir)) {
  if (options_.host.empty()) options_.host = HostName();
  if (options_.machine.empty()) options_.machine = BootId();
  if (options_.process == 0) options_.process = getpid();
  if (!options_.now) {
    options_.now = [] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    };
  }
  std::random_device random;
  self_ = {absl::StrFormat("%08x%08x", random(), random()), options_.host, options_.machine, options_.process, 1000000};
}

absl::StatusOr<std::unique_ptr<ServerLease>> ServerLease::Open(const FileSystem& files, const std::string& dir,
                                                               LeaseOptions options) {
  std::unique_ptr<ServerLease> lease(new ServerLease(files, dir, std::move(options)));
  if (absl::Status s = lease->WriteFile(); !s.ok()) return s;
  std::vector<std::string> names;
  files.list(dir, &names);
  for (const std::string& name : names) {
    if (name.rfind(kServerPrefix, 0) != 0 || name == kServerPrefix + lease->self_.name) continue;
    absl::StatusOr<File> file = File::Open(files, absl::StrCat(dir, "/", name), O_RDONLY);
    if (!file.ok()) continue;
    const absl::StatusOr<Server> server = lease->Read(*file);
    if (server.ok() && !lease->Lives(*file, *server)) files.unlink(absl::StrCat(dir, "/", name));
  }
  return lease;
}

ServerLease::~ServerLease() {
  std::map<std::string, Held> held;
  {
    std::lock_guard lock(mutex_);
    held = held_;
  }
  for (const auto& [session_dir, h] : held) GiveBack(session_dir);
  files_.unlink(dir_ + "/" + kServerPrefix + self_.name);
}

// A new file of this server's, with a beat; mutex_ is held or not needed yet.
absl::Status ServerLease::WriteFile() {
  const double now = Now();
  absl::StatusOr<File> file = File::Open(files_, dir_ + "/" + kServerPrefix + self_.name, O_RDWR | O_CREAT);
  if (!file.ok()) return file.status();
  // Where locks are not supported the beat alone speaks.
  file->Lock(true).IgnoreError();
  const std::string text = self_.Text();
  if (absl::Status s = file->Write(text.data(), text.size(), 0); !s.ok()) return s;
  if (network_) {  // other hosts see what is synced, and the file stays open
    if (absl::Status s = file->Sync(); !s.ok()) return s;
  }
  file_ = std::move(*file);
  beaten_ = now;
  return absl::OkStatus();
}

bool ServerLease::Lapsed() {
  std::lock_guard lock(mutex_);
  return network_ && Now() - beaten_ >= options_.seconds * 2 / 3;
}

absl::Status ServerLease::Beat() {
  if (!network_) return absl::OkStatus();
  std::lock_guard lock(mutex_);
  const double now = Now();
  if (now - beaten_ >= options_.seconds * 2 / 3) ++lapses_;
  ++self_.beat;
  const std::string text = self_.Text();
  if (absl::Status s = file_.Write(text.data(), text.size(), 0); !s.ok()) return s;
  if (absl::Status s = file_.Sync(); !s.ok()) return s;
  beaten_ = now;
  return absl::OkStatus();
}

absl::StatusOr<ServerLease::Server> ServerLease::Read(const File& file) const {
  absl::StatusOr<int64_t> bytes = file.Bytes();
  if (!bytes.ok()) return bytes.status();
  std::string text(std::min<int64_t>(*bytes, 4096), 0);
  if (absl::Status s = file.Read(text.data(), static_cast<int64_t>(text.size()), 0); !s.ok()) return s;
  absl::StatusOr<nlohmann::json> json = ParseJsonObject(text, file.name());
  if (!json.ok()) return json.status();
  JsonFields fields(*json, file.name());
  Server server;
  server.name = fields.String("server");
  server.host = fields.String("host");
  server.machine = fields.String("machine");
  server.process = fields.Int("process", 0, int64_t{1} << 40);
  server.beat = fields.Int("beat", 0, int64_t{1} << 60);
  if (!fields.ok()) return fields.status();
  return server;
}

bool ServerLease::Lives(const File& file, const Server& server) {
  if (!network_ || server.machine == self_.machine) {
    const absl::Status locked = file.Lock(false);
    if (locked.ok()) return false;  // nobody has it: the kernel dropped it with its process
    if (absl::IsUnavailable(locked)) return true;
  }
  if (options_.take_over) return false;
  std::lock_guard lock(mutex_);
  const double now = Now();
  const auto [seen, first] = seen_.try_emplace(server.name, Seen{server.beat, now});
  if (!first && seen->second.beat != server.beat) seen->second = {server.beat, now};
  return now - seen->second.since < options_.seconds;
}

absl::StatusOr<ServerLease::Lock> ServerLease::Look(const std::string& session_dir) {
  Lock lock;
  std::vector<std::string> names;
  if (const int failed = files_.list(session_dir, &names); failed != 0) {
    return FileError(-failed, session_dir, "list it");
  }
  for (const std::string& name : names) {
    const SavedName parsed = ParseSavedName(name);
    if (parsed.kind != SavedKind::kLock) continue;
    lock.names.push_back(name);
    lock.number = std::max(lock.number, parsed.generation);
  }
  if (lock.number == 0) return lock;
  absl::StatusOr<File> file = File::Open(files_, session_dir + "/" + LockName(lock.number), O_RDONLY);
  if (absl::IsDataLoss(file.status())) return Look(session_dir);  // given back in this moment
  if (!file.ok()) return file.status();
  const absl::StatusOr<Server> read = Read(*file);
  // A file that a power cut emptied: only its lock can tell.
  const Server server = read.ok() ? *read : Server{LockName(lock.number) + session_dir, "unknown", "", 0, 0};
  lock.own = server.name == self_.name;
  if (!lock.own && Lives(*file, server)) {
    lock.holder = absl::StrCat("host ", server.host, ", process ", server.process);
  }
  return lock;
}

std::string ServerLease::HeldBy(const std::string& session_dir) {
  const absl::StatusOr<Lock> lock = Look(session_dir);
  return lock.ok() ? lock->holder : "";
}

absl::StatusOr<int64_t> ServerLease::Take(const std::string& session_dir, int64_t least) {
  absl::StatusOr<Lock> lock = Look(session_dir);
  if (!lock.ok()) return lock.status();
  if (!lock->holder.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(session_dir, " is held by another server: ", lock->holder,
                     network_ ? "; if that host is gone, start with --take-over" : ""));
  }
  if (Lapsed()) {
    if (absl::Status s = Beat(); !s.ok()) return s;
  }
  const int64_t number = std::max(lock->number + 1, least);
  std::lock_guard guard(mutex_);
  const std::string own = dir_ + "/" + kServerPrefix + self_.name, name = session_dir + "/" + LockName(number);
  int failed = files_.link(own, name);
  if (failed == -ENOENT) {  // the directory was cleaned under the server
    if (absl::Status s = WriteFile(); !s.ok()) return s;
    failed = files_.link(own, name);
  }
  if (failed == -EEXIST) {
    return absl::FailedPreconditionError(absl::StrCat(session_dir, " is just being taken by another server"));
  }
  if (failed != 0) return FileError(-failed, name, "link it to this server's file, which says who holds the session");
  for (const std::string& old : lock->names) files_.unlink(absl::StrCat(session_dir, "/", old));
  held_[session_dir] = {number, lapses_};
  return number;
}

absl::Status ServerLease::Check(const std::string& session_dir, int64_t number) {
  std::vector<std::string> names;
  if (const int failed = files_.list(session_dir, &names); failed != 0) {
    return FileError(-failed, session_dir, "list it");
  }
  bool there = false;
  int64_t highest = 0;
  for (const std::string& name : names) {
    const SavedName parsed = ParseSavedName(name);
    if (parsed.kind != SavedKind::kLock) continue;
    there |= parsed.generation == number;
    highest = std::max(highest, parsed.generation);
  }
  std::lock_guard lock(mutex_);
  const auto held = held_.find(session_dir);
  if (highest > number) {
    return absl::FailedPreconditionError(absl::StrCat(session_dir, " was taken over by another server"));
  }
  if (network_ && Now() - beaten_ >= options_.seconds * 2 / 3) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: this server could not say for %.0f s that it lives, so another may hold the session now",
                        session_dir, Now() - beaten_));
  }
  if (!there || held == held_.end() || held->second.number != number || held->second.lapses != lapses_) {
    return absl::FailedPreconditionError(absl::StrCat(session_dir, " is not held by this server any more"));
  }
  return absl::OkStatus();
}

void ServerLease::GiveBack(const std::string& session_dir) {
  std::lock_guard lock(mutex_);
  const auto held = held_.find(session_dir);
  if (held == held_.end()) return;
  files_.unlink(session_dir + "/" + LockName(held->second.number));
  held_.erase(held);
}

}  // namespace duo
