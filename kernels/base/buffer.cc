#include "kernels/base/buffer.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/device_memory.h"

namespace duo {

absl::StatusOr<Buffer> Buffer::Allocate(Device& device, size_t bytes, std::string_view what) {
  Buffer buffer;
  buffer.device_ = &device;
  buffer.size_ = bytes;
  if (bytes == 0) return buffer;
  buffer.data_ = AllocateDeviceMemory(device, bytes);
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat("%s needs %.2f GiB, %s has %.2f GiB free", what, bytes / 0x1p30,
                                                        device.is_cuda() ? "the GPU" : "this machine",
                                                        device.FreeMemory() / 0x1p30));
  }
  return buffer;
}

Buffer::~Buffer() {
  if (data_ != nullptr) FreeDeviceMemory(*device_, data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void* Arena::Take(size_t bytes) {
  const size_t end = used_ + Rounded(bytes);
  if (!measuring_) DUO_CHECK_LE(end, buffer_.size());
  void* piece = static_cast<char*>(measuring_ ? MeasuredMemory() : buffer_.data()) + used_;
  used_ = end;
  if (used_ > peak_) peak_ = used_;
  return piece;
}

}  // namespace duo
