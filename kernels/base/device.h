// Device: where memory lives and kernels run, passed explicitly to every op. A CPU device owns a thread pool, a CUDA
// device one stream and the library handles; work on a CUDA device is ordered by that stream and asynchronous.
// Not thread-safe: one thread drives a device at a time. Outlives every Buffer made on it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/thread_pool.h"

namespace duo {

enum class DeviceKind { kCpu, kCuda };

struct DeviceInfo {
  std::string name;         // "NVIDIA H100 80GB HBM3", or the processor's model name
  int64_t memory = 0;       // bytes in all
  int multiprocessors = 0;  // CUDA: streaming multiprocessors; CPU: threads
  int capability = 0;       // CUDA: 10 * major + minor; CPU: 0
};

// A recorded sequence of device work. Only CUDA devices make them. Replays on the device's stream.
class DeviceGraph {
 public:
  DeviceGraph() = default;
  ~DeviceGraph();
  DeviceGraph(DeviceGraph&&) noexcept;
  DeviceGraph& operator=(DeviceGraph&&) noexcept;
  bool valid() const { return exec_ != nullptr; }

 private:
  friend class Device;
  void* exec_ = nullptr;  // cudaGraphExec_t
};

class Device {
 public:
  static std::unique_ptr<Device> Cpu(int threads);
  // Fails with a sentence that says why: built without CUDA, no driver, no such GPU, older than sm_80.
  static absl::StatusOr<std::unique_ptr<Device>> Cuda(int ordinal, int host_threads);
  static int CudaDeviceCount();  // 0 without a driver or without CUDA support
  // A device that stands for `device` where only sizes are wanted: Buffers on it have no bytes, copies copy nothing,
  // and ops take their scratch and run nothing. `device` may end before it.
  static std::unique_ptr<Device> Measuring(const Device& device);

  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceKind kind() const { return kind_; }
  bool is_cuda() const { return kind_ == DeviceKind::kCuda; }
  bool measuring() const { return measuring_; }
  const DeviceInfo& info() const { return info_; }
  ThreadPool& pool() const { return *pool_; }
  int ordinal() const { return ordinal_; }
  void* stream() const { return stream_; }  // cudaStream_t; null on the CPU

  // Bytes that this process may allocate now: free device memory, or on the CPU what host_memory.h finds; where several
  // processes share the device, an equal part of it.
  int64_t FreeMemory() const;
  // How many processes share the device's memory, this one included: ranks of one host on its CPU, or on one GPU.
  void ShareMemory(int processes) { sharers_ = processes; }

  // A CUDA device is current per thread: call it on a thread that drives the device and did not open it.
  void BindThread() const;

  void Synchronize();
  // dst and src as named; all are ordered with the device's work. Upload returns when src may be reused, Download when
  // dst is filled.
  void Upload(void* device_dst, const void* host_src, size_t bytes);
  void Download(void* host_dst, const void* device_src, size_t bytes);
  void Copy(void* device_dst, const void* device_src, size_t bytes);
  void Fill(void* device_dst, uint8_t value, size_t bytes);

  // What `work` launches may run beside what is launched after it, until Join: on CUDA it goes to a second stream,
  // which starts when all work so far has ended; the CPU does it at once. `work` shares no scratch with what runs
  // beside it. Fork and Join come in turn and may be recorded.
  void Fork(const std::function<void()>& work);
  void Join();  // later work waits for the forked work, too

  // Products of up to kAlikeRows rows launched from now on, on CUDA: each row to the bits that it has alone
  // (alike_rows.h), as checking drafts wants it, or, as at first, what takes least time for the rows together.
  void KeepRowsAlike(bool alike) { rows_alike_ = alike; }
  bool rows_alike() const { return rows_alike_; }

  // Records what `work` launches on this device. CUDA only.
  DeviceGraph Capture(const std::function<void()>& work);
  void Launch(const DeviceGraph& graph);

  // Library handles and workspaces of the CUDA backend; defined in kernels/cuda, null on the CPU.
  struct CudaState;
  CudaState* cuda() const { return cuda_; }
  void set_cuda(CudaState* state, void (*destroy)(CudaState*));

 private:
  Device() = default;
  DeviceKind kind_ = DeviceKind::kCpu;
  DeviceInfo info_;
  bool measuring_ = false;
  bool rows_alike_ = false;
  std::shared_ptr<ThreadPool> pool_;
  int ordinal_ = 0;
  int sharers_ = 1;
  void* stream_ = nullptr;
  void* beside_ = nullptr;                           // cudaStream_t of forked work
  void *forked_ = nullptr, *beside_done_ = nullptr;  // cudaEvent_t
  CudaState* cuda_ = nullptr;
  void (*destroy_cuda_)(CudaState*) = nullptr;
};

}  // namespace duo
