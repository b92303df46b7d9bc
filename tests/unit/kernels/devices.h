// The devices that kernel tests run on, and host <-> device helpers. Tests that take a device are parametrised by
// DeviceKind: `INSTANTIATE_ON_DEVICES(Suite)` makes the instances cpu/Suite.* and gpu/Suite.*; the latter skip where
// there is no GPU (or no CUDA in the build), so that a skip is seen and counted.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/ops.h"

namespace duo {

inline void PrintTo(DeviceKind kind, std::ostream* out) { *out << (kind == DeviceKind::kCuda ? "CUDA" : "CPU"); }

constexpr int kTestThreads = 3;  // more than this suite's machine may have: results must not depend on it

class DeviceTest : public testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override {
    if (GetParam() == DeviceKind::kCpu) {
      device_ = Device::Cpu(kTestThreads);
      return;
    }
    if (Device::CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU here";
    auto device = Device::Cuda(0, kTestThreads);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = std::move(*device);
  }
  Device& device() { return *device_; }
  bool cuda() const { return GetParam() == DeviceKind::kCuda; }
  DType activation() const { return cuda() ? DType::kBF16 : DType::kF32; }

 private:
  std::unique_ptr<Device> device_;
};

#define INSTANTIATE_ON_DEVICES(Suite)                                             \
  INSTANTIATE_TEST_SUITE_P(cpu, Suite, testing::Values(::duo::DeviceKind::kCpu),  \
                           [](const auto&) { return std::string("device"); });    \
  INSTANTIATE_TEST_SUITE_P(gpu, Suite, testing::Values(::duo::DeviceKind::kCuda), \
                           [](const auto&) { return std::string("device"); })

// Device memory for the length of a test; poisoned with 0xff, which is NaN in every float type.
inline Buffer Allocate(Device& device, size_t bytes) {
  auto buffer = Buffer::Allocate(device, bytes, "test");
  DUO_CHECK(buffer.ok());
  device.Fill(buffer->data(), 0xff, bytes);
  return std::move(*buffer);
}
template <typename T>
Buffer Upload(Device& device, const std::vector<T>& host) {
  Buffer buffer = Allocate(device, std::max<size_t>(1, host.size() * sizeof(T)));
  device.Upload(buffer.data(), host.data(), host.size() * sizeof(T));
  return buffer;
}
template <typename T>
std::vector<T> Download(Device& device, const void* data, size_t count) {
  std::vector<T> host(count);
  device.Download(host.data(), data, count * sizeof(T));
  device.Synchronize();
  return host;
}

// f32 values in a 16-bit or f32 device matrix of the given type, and back.
inline Buffer UploadAs(Device& device, DType type, const std::vector<float>& host) {
  if (type == DType::kF32) return Upload(device, host);
  std::vector<uint16_t> bits(host.size());
  for (size_t i = 0; i < host.size(); ++i) {
    bits[i] = type == DType::kBF16 ? ToBf16(host[i]).bits : ToF16(host[i]).bits;
  }
  return Upload(device, bits);
}
inline std::vector<float> DownloadAs(Device& device, DType type, const void* data, size_t count) {
  if (type == DType::kF32) return Download<float>(device, data, count);
  const std::vector<uint16_t> bits = Download<uint16_t>(device, data, count);
  std::vector<float> host(count);
  for (size_t i = 0; i < count; ++i) {
    host[i] = type == DType::kBF16 ? ToFloat(bf16{bits[i]}) : ToFloat(f16{bits[i]});
  }
  return host;
}
// A value as the activation type holds it.
inline float RoundTo(DType type, float x) { return type == DType::kBF16 ? ToFloat(ToBf16(x)) : x; }

inline std::vector<float> Normal(std::mt19937& rng, size_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> x(count);
  for (float& v : x) v = normal(rng);
  return x;
}

// A scratch arena of exactly the bytes an op asked for, so that asking for too little fails.
inline Arena Scratch(Device& device, size_t bytes) { return Arena(Allocate(device, std::max<size_t>(bytes, 1))); }

}  // namespace duo
