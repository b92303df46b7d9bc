#include "kernels/base/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMiB = 1 << 20;

// A tree of /proc and /sys files as a kernel shows them, in a folder of its own.
class HostMemory : public testing::Test {
 protected:
  HostMemory()
      : root_(fs::temp_directory_path() /
              (std::string("duo-host-memory-") + testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::remove_all(root_);
    Write("/proc/meminfo", "MemTotal:       23000000 kB\nMemFree:  100 kB\nMemAvailable:   8388608 kB\n");
  }
  ~HostMemory() override { fs::remove_all(root_); }
  void Write(const std::string& file, const std::string& text) {
    const fs::path path = root_.string() + file;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  int64_t Available() const { return AvailableHostMemory(root_.string()); }

  const fs::path root_;
};

TEST_F(HostMemory, IsWhatTheKernelCallsAvailableWithoutGroups) { EXPECT_EQ(Available(), 8192 * kMiB); }

TEST_F(HostMemory, IsWhatAGroupOfVersion2Leaves) {
  Write("/proc/self/cgroup", "0::/user.slice/duo.service\n");
  Write("/sys/fs/cgroup/user.slice/duo.service/memory.max", std::to_string(300 * kMiB) + "\n");
  Write("/sys/fs/cgroup/user.slice/duo.service/memory.current", std::to_string(120 * kMiB) + "\n");
  Write("/sys/fs/cgroup/user.slice/duo.service/memory.stat",
        "anon 1\nfile 2\ninactive_file " + std::to_string(20 * kMiB) + "\n");
  EXPECT_EQ(Available(), 200 * kMiB);
}

TEST_F(HostMemory, CountsTheGroupsAboveItsOwn) {
  Write("/proc/self/cgroup", "0::/user.slice/duo.service\n");
  Write("/sys/fs/cgroup/user.slice/duo.service/memory.max", "max\n");
  Write("/sys/fs/cgroup/user.slice/duo.service/memory.current", "5\n");
  Write("/sys/fs/cgroup/user.slice/memory.max", std::to_string(1000 * kMiB) + "\n");
  Write("/sys/fs/cgroup/user.slice/memory.current", std::to_string(400 * kMiB) + "\n");
  EXPECT_EQ(Available(), 600 * kMiB);
}

// A container with a name space of its own: its path is "/", or one that exists only outside.
TEST_F(HostMemory, FindsTheLimitOfAContainerAtTheMount) {
  Write("/sys/fs/cgroup/memory.max", std::to_string(300 * kMiB) + "\n");
  Write("/sys/fs/cgroup/memory.current", std::to_string(100 * kMiB) + "\n");
  for (const char* path : {"0::/\n", "0::/docker/0123abcd\n"}) {
    Write("/proc/self/cgroup", path);
    EXPECT_EQ(Available(), 200 * kMiB) << path;
  }
}

TEST_F(HostMemory, IsWhatAGroupOfVersion1Leaves) {
  Write("/proc/self/cgroup", "12:pids:/a\n5:cpu,memory:/a/b\n1:name=systemd:/a\n");
  Write("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", std::to_string(500 * kMiB) + "\n");
  Write("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", std::to_string(450 * kMiB) + "\n");
  Write("/sys/fs/cgroup/memory/a/b/memory.stat", "cache 7\ntotal_inactive_file " + std::to_string(50 * kMiB) + "\n");
  Write("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", std::to_string(9000 * kMiB) + "\n");
  EXPECT_EQ(Available(), 100 * kMiB);
}

TEST_F(HostMemory, IsNeverNegative) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", std::to_string(100 * kMiB) + "\n");
  Write("/sys/fs/cgroup/memory.current", std::to_string(200 * kMiB) + "\n");
  EXPECT_EQ(Available(), 0);
}

TEST_F(HostMemory, TakesNoLimitFromTextThatIsNoNumber) {
  Write("/proc/self/cgroup", "nonsense\n0::/x\n");
  Write("/sys/fs/cgroup/x/memory.max", "12 bananas\n");
  Write("/sys/fs/cgroup/x/memory.current", "\n");
  EXPECT_EQ(Available(), 8192 * kMiB);
}

}  // namespace
}  // namespace duo
