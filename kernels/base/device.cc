#include "kernels/base/device.h"

#include <unistd.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/bound_pool.h"
#include "kernels/base/check.h"
#include "kernels/base/device_memory.h"
#include "kernels/base/host_memory.h"

#ifdef DUO_HAVE_CUDA
#include <cuda_runtime.h>

#include "kernels/base/cuda_check.h"
#endif

namespace duo {
namespace {

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "CPU";
}

}  // namespace

std::unique_ptr<Device> Device::Measuring(const Device& device) {
  auto measuring = std::unique_ptr<Device>(new Device());
  measuring->measuring_ = true;
  measuring->kind_ = device.kind_;
  measuring->info_ = device.info_;
  measuring->pool_ = device.pool_;
  measuring->ordinal_ = device.ordinal_;
  measuring->sharers_ = device.sharers_;
  return measuring;
}

std::unique_ptr<Device> Device::Cpu(int threads) {
  auto device = std::unique_ptr<Device>(new Device());
  device->pool_ = std::make_shared<ThreadPool>(threads);
  device->info_.name = ProcessorName();
  device->info_.memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  device->info_.multiprocessors = threads;
  return device;
}

#ifdef DUO_HAVE_CUDA

int Device::CudaDeviceCount() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // "no driver" is an answer here, not a sticky failure
    return 0;
  }
  return count;
}

absl::StatusOr<std::unique_ptr<Device>> Device::Cuda(int ordinal, int host_threads) {
  int count = 0;
  if (cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("no usable CUDA driver: ", cudaGetErrorString(error)));
  }
  if (ordinal >= count) {
    return absl::UnavailableError(absl::StrCat("GPU ", ordinal, " was asked for, this machine has ", count));
  }
  cudaDeviceProp properties;
  DUO_CUDA_CHECK(cudaGetDeviceProperties(&properties, ordinal));
  const int capability = properties.major * 10 + properties.minor;
  if (capability < 80) {
    return absl::UnavailableError(absl::StrCat("GPU ", ordinal, " (", properties.name, ") has compute capability ",
                                               properties.major, ".", properties.minor, ", 8.0 or newer is needed"));
  }
  auto device = std::unique_ptr<Device>(new Device());
  device->kind_ = DeviceKind::kCuda;
  device->ordinal_ = ordinal;
  device->pool_ = std::make_shared<ThreadPool>(host_threads);
  if (cudaError_t error = cudaSetDevice(ordinal); error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("GPU ", ordinal, " cannot be used: ", cudaGetErrorString(error)));
  }
  cudaStream_t stream = nullptr;
  if (cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("GPU ", ordinal, " cannot be used: ", cudaGetErrorString(error)));
  }
  device->stream_ = stream;
  cudaStream_t beside = nullptr;
  cudaEvent_t forked = nullptr, done = nullptr;
  DUO_CUDA_CHECK(cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking));
  DUO_CUDA_CHECK(cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
  DUO_CUDA_CHECK(cudaEventCreateWithFlags(&done, cudaEventDisableTiming));
  device->beside_ = beside;
  device->forked_ = forked;
  device->beside_done_ = done;
  BindThreads(*device->pool_, *device);
  device->info_ = {properties.name, static_cast<int64_t>(properties.totalGlobalMem), properties.multiProcessorCount,
                   capability};
  return device;
}

#else

int Device::CudaDeviceCount() { return 0; }

absl::StatusOr<std::unique_ptr<Device>> Device::Cuda(int, int) {
  return absl::UnavailableError("this duo was built without CUDA");
}

#endif

Device::~Device() {
  if (cuda_ != nullptr) destroy_cuda_(cuda_);
#ifdef DUO_HAVE_CUDA
  if (is_cuda() && !measuring_) {
    cudaEventDestroy(static_cast<cudaEvent_t>(forked_));
    cudaEventDestroy(static_cast<cudaEvent_t>(beside_done_));
    cudaStreamDestroy(static_cast<cudaStream_t>(beside_));
    cudaStreamDestroy(static_cast<cudaStream_t>(stream_));
  }
#endif
}

void Device::set_cuda(CudaState* state, void (*destroy)(CudaState*)) {
  DUO_CHECK(is_cuda() && cuda_ == nullptr);
  cuda_ = state;
  destroy_cuda_ = destroy;
}

int64_t Device::FreeMemory() const {
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) {
    size_t free = 0, total = 0;
    DUO_CUDA_CHECK(cudaMemGetInfo(&free, &total));
    return static_cast<int64_t>(free) / sharers_;
  }
#endif
  return AvailableHostMemory() / sharers_;
}

void Device::BindThread() const {
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) DUO_CUDA_CHECK(cudaSetDevice(ordinal_));
#endif
}

void Device::Synchronize() {
#ifdef DUO_HAVE_CUDA
  if (is_cuda() && !measuring_) DUO_CUDA_CHECK(cudaStreamSynchronize(static_cast<cudaStream_t>(stream_)));
#endif
}

void Device::Upload(void* device_dst, const void* host_src, size_t bytes) {
  if (bytes == 0 || measuring_) return;
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) {
    // From pageable memory the call returns once the source is staged, so the caller may reuse it.
    DUO_CUDA_CHECK(
        cudaMemcpyAsync(device_dst, host_src, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream_)));
    return;
  }
#endif
  std::memcpy(device_dst, host_src, bytes);
}

void Device::Download(void* host_dst, const void* device_src, size_t bytes) {
  if (bytes == 0 || measuring_) return;
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) {
    DUO_CUDA_CHECK(
        cudaMemcpyAsync(host_dst, device_src, bytes, cudaMemcpyDeviceToHost, static_cast<cudaStream_t>(stream_)));
    Synchronize();
    return;
  }
#endif
  std::memcpy(host_dst, device_src, bytes);
}

void Device::Copy(void* device_dst, const void* device_src, size_t bytes) {
  if (bytes == 0 || measuring_) return;
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) {
    DUO_CUDA_CHECK(
        cudaMemcpyAsync(device_dst, device_src, bytes, cudaMemcpyDeviceToDevice, static_cast<cudaStream_t>(stream_)));
    return;
  }
#endif
  std::memmove(device_dst, device_src, bytes);
}

void Device::Fill(void* device_dst, uint8_t value, size_t bytes) {
  if (bytes == 0 || measuring_) return;
#ifdef DUO_HAVE_CUDA
  if (is_cuda()) {
    DUO_CUDA_CHECK(cudaMemsetAsync(device_dst, value, bytes, static_cast<cudaStream_t>(stream_)));
    return;
  }
#endif
  std::memset(device_dst, value, bytes);
}

void Device::Fork(const std::function<void()>& work) {
#ifdef DUO_HAVE_CUDA
  if (is_cuda() && !measuring_) {
    const auto stream = static_cast<cudaStream_t>(stream_), beside = static_cast<cudaStream_t>(beside_);
    DUO_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(forked_), stream));
    DUO_CUDA_CHECK(cudaStreamWaitEvent(beside, static_cast<cudaEvent_t>(forked_), 0));
    stream_ = beside;
    work();
    stream_ = stream;
    DUO_CUDA_CHECK(cudaEventRecord(static_cast<cudaEvent_t>(beside_done_), beside));
    return;
  }
#endif
  work();
}

void Device::Join() {
#ifdef DUO_HAVE_CUDA
  if (is_cuda() && !measuring_) {
    DUO_CUDA_CHECK(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream_), static_cast<cudaEvent_t>(beside_done_), 0));
  }
#endif
}

DeviceGraph Device::Capture([[maybe_unused]] const std::function<void()>& work) {
  DUO_CHECK(is_cuda() && !measuring_);
  DeviceGraph result;
#ifdef DUO_HAVE_CUDA
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  DUO_CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  work();
  DUO_CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  DUO_CUDA_CHECK(cudaGraphInstantiate(&exec, graph, 0));
  DUO_CUDA_CHECK(cudaGraphDestroy(graph));
  result.exec_ = exec;
#endif
  return result;
}

void Device::Launch(const DeviceGraph& graph) {
  DUO_CHECK(is_cuda() && graph.valid());
#ifdef DUO_HAVE_CUDA
  DUO_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.exec_), static_cast<cudaStream_t>(stream_)));
#endif
}

DeviceGraph::~DeviceGraph() {
#ifdef DUO_HAVE_CUDA
  if (exec_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec_));
#endif
}
DeviceGraph::DeviceGraph(DeviceGraph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
DeviceGraph& DeviceGraph::operator=(DeviceGraph&& other) noexcept {
  std::swap(exec_, other.exec_);
  return *this;
}

}  // namespace duo
