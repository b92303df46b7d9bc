#include "kernels/base/bound_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <thread>

#ifdef DUO_HAVE_CUDA
#include <cuda_runtime.h>
#endif

namespace duo {
namespace {

TEST(BoundPool, WorkOnEveryThreadRunsOnceOnEach) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int time = 0; time < 20; ++time) {
      std::mutex mutex;
      std::map<std::thread::id, int> ran;
      OnEveryThread(pool, [&](int thread) {
        const std::lock_guard lock(mutex);
        EXPECT_TRUE(ran.emplace(std::this_thread::get_id(), thread).second) << "thread " << thread << " twice";
      });
      EXPECT_EQ(ran.size(), threads);
      EXPECT_EQ(ran.at(std::this_thread::get_id()), 0);
    }
  }
}

class DeviceThreads : public testing::TestWithParam<DeviceKind> {};

// Every thread has a GPU selected from the start, the first one of the machine: only another one shows who forgot.
TEST_P(DeviceThreads, ThoseOfAGpusPoolsHaveSelectedIt) {
  const int ordinal = Device::CudaDeviceCount() - 1;
  if (ordinal < 1) GTEST_SKIP() << "no second GPU here";
#ifdef DUO_HAVE_CUDA
  const std::unique_ptr<Device> device = Device::Cuda(ordinal, 4).value();
  ThreadPool more(3);
  BindThreads(more, *device);
  for (ThreadPool* pool : {&device->pool(), &more}) {
    OnEveryThread(*pool, [&](int thread) {
      int selected = -1;
      EXPECT_EQ(cudaGetDevice(&selected), cudaSuccess);
      EXPECT_EQ(selected, ordinal) << "thread " << thread;
    });
  }
#endif
}
INSTANTIATE_TEST_SUITE_P(gpu, DeviceThreads, testing::Values(DeviceKind::kCuda),
                         [](const auto&) { return std::string("device"); });

}  // namespace
}  // namespace duo
