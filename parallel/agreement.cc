#include "parallel/agreement.h"

#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace duo {
namespace {

// A fact is sent in so many bytes: a value that is longer is told apart by its beginning and its length.
struct SentFact {
  char value[248];
  int64_t bytes;
  bool operator==(const SentFact& other) const {
    return bytes == other.bytes && std::memcmp(value, other.value, sizeof value) == 0;
  }
};

// The host that a rank runs on, as it travels.
struct SentHost {
  char name[256];
};

std::string ValueOf(const SentFact& fact) {
  const std::string text(fact.value, std::min<size_t>(fact.bytes, sizeof fact.value));
  return text.empty() ? "unset" : text;
}

// dl_iterate_phdr's first object is the program itself; its build id is a note in one of its segments.
int FindBuildId(dl_phdr_info* info, size_t, void* out) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const char* at = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    const char* end = at + segment.p_memsz;
    while (end - at >= static_cast<int64_t>(sizeof(ElfW(Nhdr)))) {
      ElfW(Nhdr) note;
      std::memcpy(&note, at, sizeof note);
      const size_t name_bytes = (note.n_namesz + 3) / 4 * 4, content_bytes = (note.n_descsz + 3) / 4 * 4;
      const char* name = at + sizeof note;
      if (name + name_bytes + content_bytes > end) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
        *static_cast<std::string*>(out) = absl::BytesToHexString(absl::string_view(name + name_bytes, note.n_descsz));
        return 1;
      }
      at = name + name_bytes + content_bytes;
    }
  }
  return 1;  // no further object: the others are libraries
}

}  // namespace

absl::Status AgreeOnFacts(Communicator& comm, const std::vector<Fact>& facts) {
  if (comm.size() == 1) return absl::OkStatus();
  const size_t count = facts.size();
  std::vector<SentFact> mine(count), all(count * comm.size());
  for (size_t i = 0; i < count; ++i) {
    const std::string& value = facts[i].second;
    std::memset(&mine[i], 0, sizeof mine[i]);
    std::memcpy(mine[i].value, value.data(), std::min(value.size(), sizeof mine[i].value));
    mine[i].bytes = static_cast<int64_t>(value.size());
  }
  comm.AllGatherHost(all.data(), mine.data(), count * sizeof(SentFact));
  SentHost host{};
  gethostname(host.name, sizeof host.name - 1);
  std::vector<SentHost> hosts(comm.size());
  comm.AllGatherHost(hosts.data(), &host, sizeof host);
  for (int r = 1; r < comm.size(); ++r) {
    for (size_t i = 0; i < count; ++i) {
      if (all[r * count + i] == all[i]) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "ranks differ in ", facts[i].first, ": rank ", r, " on ", hosts[r].name, " has ", ValueOf(all[r * count + i]),
          ", rank 0 on ", hosts[0].name, " has ", ValueOf(all[i]), "; start all ranks alike"));
    }
  }
  return absl::OkStatus();
}

std::string BuildId() {
  std::string id;
  dl_iterate_phdr(FindBuildId, &id);
  return id.empty() ? "unknown" : id;
}

}  // namespace duo
