#include <gtest/gtest.h>

#include <vector>

#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {
namespace {

TEST(MeasuringDevice, OpsTakeTheirScratchAndRunNothing) {
  const std::unique_ptr<Device> real = Device::Cpu(2);
  const std::unique_ptr<Device> device = Device::Measuring(*real);
  constexpr int64_t kRows = 40, kIn = 96, kOut = 64;
  absl::StatusOr<Buffer> weights = Buffer::Allocate(*device, size_t{1} << 50, "more than there is");
  ASSERT_TRUE(weights.ok());
  Weight w;
  w.dtype = DType::kBF16;
  w.rows = kOut;
  w.cols = kIn;
  w.data = weights->data();
  Arena arena = Arena::Measuring();
  const View x = arena.Matrix(DType::kF32, kRows, kIn), out = arena.Matrix(DType::kF32, kRows, kOut);
  const size_t before = arena.used();
  Linear(*device, out, x, w, arena);
  EXPECT_EQ(arena.used(), before);
  const size_t scratch = LinearScratchBytes(*real, kRows, w);
  EXPECT_GT(scratch, 0u);
  EXPECT_EQ(LinearScratchBytes(*device, kRows, w), scratch);
  EXPECT_EQ(arena.peak(), before + Arena::Rounded(scratch));
}

TEST(MeasuringDevice, CopiesNothing) {
  const std::unique_ptr<Device> real = Device::Cpu(1);
  const std::unique_ptr<Device> device = Device::Measuring(*real);
  std::vector<float> values = {1, 2, 3};
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(*device, 12, "three numbers");
  ASSERT_TRUE(buffer.ok());
  device->Upload(buffer->data(), values.data(), 12);
  device->Fill(buffer->data(), 0, 12);
  device->Download(values.data(), buffer->data(), 12);
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));
  bool ran = false;
  device->Fork([&] { ran = true; });
  device->Join();
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace duo
