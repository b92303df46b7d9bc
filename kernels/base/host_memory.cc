#include "kernels/base/host_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace duo {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// A file that holds one number; nothing where the file is missing or says "max".
std::optional<int64_t> ReadNumber(const std::string& file) {
  std::ifstream in(file);
  std::string word;
  int64_t value = 0;
  if (!(in >> word)) return std::nullopt;
  if (absl::SimpleAtoi(word, &value)) return value;
  uint64_t wide = 0;  // version 1 writes "no limit" as a number near 2^63 or 2^64
  if (absl::SimpleAtoi(word, &wide)) return kNoLimit;
  return std::nullopt;
}

// The value behind `key` in a file of "key value" lines, 0 where there is none.
int64_t ReadKey(const std::string& file, absl::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return 0;
}

// What the names of one version's files are.
struct GroupFiles {
  const char *limit, *usage, *cache_key;
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file"};

int64_t RoomIn(const std::string& group, const GroupFiles& files) {
  const std::optional<int64_t> limit = ReadNumber(absl::StrCat(group, "/", files.limit));
  const std::optional<int64_t> usage = ReadNumber(absl::StrCat(group, "/", files.usage));
  if (!limit.has_value() || !usage.has_value() || *limit == kNoLimit) return kNoLimit;
  const int64_t cache = ReadKey(absl::StrCat(group, "/memory.stat"), files.cache_key);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - cache));
}

// The least room in the group `path` below `mount` and in every group above it. Inside a container the path may be that
// of the machine, where the mount shows only the container's own group: what does not exist is passed over.
int64_t RoomInGroups(const std::string& mount, std::string path, const GroupFiles& files) {
  int64_t room = RoomIn(mount, files);
  while (!path.empty() && path != "/") {
    room = std::min(room, RoomIn(absl::StrCat(mount, path), files));
    path.resize(path.find_last_of('/'));
  }
  return room;
}

int64_t RoomInControlGroups(const std::string& root) {
  int64_t room = kNoLimit;
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // ID:controllers:path; version 2 has no controllers
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (parts[1].empty()) {
      for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
        room = std::min(room, RoomInGroups(root + mount, parts[2], kVersion2));
      }
    } else if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      room = std::min(room, RoomInGroups(root + "/sys/fs/cgroup/memory", parts[2], kVersion1));
    }
  }
  return room;
}

}  // namespace

int64_t AvailableHostMemory(const std::string& root) {
  const int64_t kib = ReadKey(root + "/proc/meminfo", "MemAvailable:");
  const int64_t available =
      kib > 0 ? kib * 1024 : int64_t{sysconf(_SC_AVPHYS_PAGES)} * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
  return std::min(available, RoomInControlGroups(root));
}

}  // namespace duo
