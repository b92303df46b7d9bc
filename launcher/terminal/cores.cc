#include "launcher/terminal/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace duo {
namespace {

// The first words of a file.
std::vector<std::string> Words(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// Of one group; `cores` where it sets none.
int QuotaOf(const std::string& folder, int cores) {
  std::vector<std::string> words = Words(folder + "/cpu.max");  // version 2: quota and period
  if (words.size() < 2) {
    words = Words(folder + "/cpu.cfs_quota_us");
    const std::vector<std::string> period = Words(folder + "/cpu.cfs_period_us");
    if (!period.empty()) words.push_back(period[0]);
  }
  double quota = 0, period = 0;
  if (words.size() < 2 || !absl::SimpleAtod(words[0], &quota) || !absl::SimpleAtod(words[1], &period)) return cores;
  if (quota <= 0 || period <= 0) return cores;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, static_cast<double>(cores)));
}

}  // namespace

int BoundCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));  // a machine of more than 1,024 cores
}

int CoresWithinQuota(int cores, const std::string& root) {
  std::ifstream in(root + "/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/group" or "4:cpu,cpuacct:/group"
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
      std::string group = parts[2];
      while (true) {  // and every group above it
        cores = QuotaOf(absl::StrCat(root, mount, group), cores);
        if (group.empty()) break;
        group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
      }
    }
  }
  return cores;
}

}  // namespace duo
