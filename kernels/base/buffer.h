// Buffer: the one owner of memory, on either device, move-only; its bytes are not initialised. Arena: pieces of one
// Buffer, handed out one after the other and taken back all at once, so that a step allocates nothing.
// Neither is thread-safe. A Buffer must not outlive its Device.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/base/device.h"
#include "kernels/base/math.h"
#include "kernels/base/view.h"

namespace duo {

class Buffer {
 public:
  Buffer() = default;
  // Fails with RESOURCE_EXHAUSTED naming `what`, the bytes asked for and the bytes free.
  static absl::StatusOr<Buffer> Allocate(Device& device, size_t bytes, std::string_view what);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
};

class Arena {
 public:
  static constexpr size_t kAlignment = 256;
  Arena() = default;
  explicit Arena(Buffer buffer) : buffer_(std::move(buffer)) {}
  // An arena without memory that only counts: run the allocating code on it, then ask for peak(). Its pieces are places
  // that must not be looked at.
  static Arena Measuring() {
    Arena arena;
    arena.measuring_ = true;
    return arena;
  }

  // A piece of at least `bytes`, aligned to kAlignment. Running out is a bug of the memory plan: CHECK.
  void* Take(size_t bytes);
  View Matrix(DType dtype, int64_t rows, int64_t cols) {
    return View(Take(Bytes(dtype, rows * cols)), dtype, rows, cols);
  }
  size_t used() const { return used_; }
  size_t capacity() const { return buffer_.size(); }
  void Rewind(size_t used) { used_ = used; }  // to a value that used() gave
  size_t peak() const { return peak_; }

  static constexpr size_t Rounded(size_t bytes) { return RoundUp(bytes, kAlignment); }

 private:
  Buffer buffer_;
  size_t used_ = 0;
  size_t peak_ = 0;
  bool measuring_ = false;
};

}  // namespace duo
