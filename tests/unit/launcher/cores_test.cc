#include "launcher/terminal/cores.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace duo {
namespace {

namespace fs = std::filesystem;

class CoresTest : public testing::Test {
 protected:
  ~CoresTest() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  const std::string root_ =
      testing::TempDir() + "/cores_test_" + testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(CoresTest, WithoutGroupsAllOfThem) {
  EXPECT_GE(BoundCores(), 1);
  EXPECT_EQ(CoresWithinQuota(8, root_), 8);
}

TEST_F(CoresTest, TheTightestGroupCounts) {
  Write("/proc/self/cgroup", "0::/batch.slice/job.scope\n");
  Write("/sys/fs/cgroup/batch.slice/job.scope/cpu.max", "max 100000\n");
  EXPECT_EQ(CoresWithinQuota(8, root_), 8);
  Write("/sys/fs/cgroup/batch.slice/cpu.max", "250000 100000\n");  // two cores and a half
  EXPECT_EQ(CoresWithinQuota(8, root_), 3);
  Write("/sys/fs/cgroup/batch.slice/job.scope/cpu.max", "50000 100000\n");
  EXPECT_EQ(CoresWithinQuota(8, root_), 1);
  EXPECT_EQ(CoresWithinQuota(1, root_), 1);
}

TEST_F(CoresTest, Version1) {
  Write("/proc/self/cgroup", "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us", "200000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CoresWithinQuota(8, root_), 2);
  Write("/sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(CoresWithinQuota(8, root_), 8);
}

}  // namespace
}  // namespace duo
