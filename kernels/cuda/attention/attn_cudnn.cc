// The cache of cuDNN's plans, the thread that fills it ahead of need, and the calls.
#include "kernels/cuda/attention/attn_cudnn.h"

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/attention/prefill_shapes.h"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/state.h"

#ifdef DUO_HAVE_CUDNN

#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/attention/cudnn_graph.h"

namespace duo::cuda {

struct CudnnAttention {
  static constexpr int64_t kWorkspace = Device::CudaState::kWorkspaceBytes / kPrefillStreams;  // of a stream

  std::mutex mutex;  // of all that follows up to `builder`: cuDNN's handle is for one thread at a time
  bool tried = false, usable = false;
  CudnnApi api = {};
  cudnnHandle_t handle = nullptr;
  std::map<CudnnShape, std::unique_ptr<GraphBuilder>> plans;

  std::thread builder;
  std::atomic<bool> stop{false};
  std::atomic<int> waiting{0};
  // For the thread that drives the device: its turn comes before the builder's next plan.
  std::unique_lock<std::mutex> LockFirst() {
    ++waiting;
    std::unique_lock lock(mutex);
    --waiting;
    return lock;
  }

  int32_t* lengths = nullptr;  // device: rows, and 16 bytes further keys
  cudaStream_t beside[kPrefillStreams - 1] = {};
  cudaEvent_t forked = nullptr, done[kPrefillStreams - 1] = {};

  bool Usable() {
    if (!tried) {
      tried = true;
      usable = LoadCudnn(api) && api.create(&handle) == CUDNN_STATUS_SUCCESS;
    }
    return usable;
  }
  Descriptor Plan(const CudnnShape& shape) {
    auto found = plans.find(shape);
    if (found == plans.end()) found = plans.emplace(shape, BuildAttention(api, handle, shape, kWorkspace)).first;
    return found->second->plan();
  }
};

namespace {

CudnnAttention& Cudnn(Device& device) {
  Device::CudaState& state = State(device);
  if (state.cudnn == nullptr) {
    auto* a = new CudnnAttention();
    DUO_CUDA_CHECK(cudaMalloc(&a->lengths, 2 * 16));
    for (cudaStream_t& stream : a->beside) DUO_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    DUO_CUDA_CHECK(cudaEventCreateWithFlags(&a->forked, cudaEventDisableTiming));
    for (cudaEvent_t& event : a->done) DUO_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    state.cudnn = a;
  }
  return *state.cudnn;
}

// Every shape that chunks of up to `rows` rows can ask for, those of the longest first.
std::vector<CudnnShape> ShapesOf(int64_t rows, int heads, int group, int head_dim, int64_t max_tokens) {
  std::vector<CudnnShape> shapes;
  const int64_t keys = KeyCapacity(max_tokens), tokens = KeyTokens(rows, max_tokens, true);
  int64_t capacity = kMostRows;
  while (capacity > kLeastRows && capacity / 2 >= rows) capacity /= 2;
  for (; capacity >= kLeastRows; capacity /= 2) {
    const int most = HeadsAtOnce(heads, group, capacity);
    for (int count = most; count >= 1; count /= 2) {
      CudnnShape shape;
      shape.heads = count;
      shape.group = group;
      shape.head_dim = head_dim;
      shape.row_capacity = capacity;
      shape.key_head_stride = count == 1 ? 0 : tokens;
      shape.key_capacity = capacity;
      shape.causal = shape.whole = true;
      shapes.push_back(shape);
      if (max_tokens <= kMaxDecodeRows) continue;
      shape.key_capacity = std::max(keys, PowerOfTwo(rows, kLeastKeys));
      shape.causal = shape.whole = false;
      shapes.push_back(shape);
      shape.key_capacity = keys;
      shape.whole = true;
      if (max_tokens > keys) shapes.push_back(shape);
    }
  }
  return shapes;
}

}  // namespace

void DestroyCudnnAttention(CudnnAttention* a) {
  a->stop = true;
  if (a->builder.joinable()) a->builder.join();
  a->plans.clear();
  if (a->handle != nullptr) a->api.destroy(a->handle);
  for (cudaStream_t stream : a->beside) cudaStreamDestroy(stream);
  for (cudaEvent_t event : a->done) cudaEventDestroy(event);
  cudaEventDestroy(a->forked);
  cudaFree(a->lengths);
  delete a;
}

bool CudnnUsable(Device& device) {
  CudnnAttention& a = Cudnn(device);
  const auto lock = a.LockFirst();
  return a.Usable();
}

void StartPrefillPlans(Device& device, int rows, int heads, int group, int head_dim, int64_t max_tokens) {
  if (rows < kLeastRows || heads == 0) return;
  if (HopperPrefillUsable(device, {KvFormat::kBF16, head_dim})) return;  // whose attention asks cuDNN for nothing
  CudnnAttention& a = Cudnn(device);
  if (a.builder.joinable()) return;
  a.builder = std::thread([&a, &device, shapes = ShapesOf(rows, heads, group, head_dim, max_tokens)] {
    device.BindThread();
    for (const CudnnShape& shape : shapes) {
      while (a.waiting > 0) std::this_thread::yield();
      if (a.stop) return;
      const std::lock_guard lock(a.mutex);
      if (!a.Usable()) return;
      a.Plan(shape);
    }
  });
}

void WaitForPrefillPlans(Device& device) {
  CudnnAttention* a = State(device).cudnn;
  if (a != nullptr && a->builder.joinable()) a->builder.join();
}

CudnnCalls::CudnnCalls(Device& device, int rows, int keys, bool whole) : device_(device) {
  CudnnAttention& a = Cudnn(device);
  if (!whole) {
    const int32_t lengths[] = {rows, 0, 0, 0, keys};
    device.Upload(a.lengths, lengths, sizeof(lengths));
  }
  DUO_CUDA_CHECK(cudaEventRecord(a.forked, Stream(device)));
}

CudnnCalls::~CudnnCalls() {
  CudnnAttention& a = Cudnn(device_);
  for (int i = 0; i < std::min(calls_, kPrefillStreams) - 1; ++i) {
    DUO_CUDA_CHECK(cudaEventRecord(a.done[i], a.beside[i]));
    DUO_CUDA_CHECK(cudaStreamWaitEvent(Stream(device_), a.done[i], 0));
  }
}

bool CudnnCalls::Attend(const CudnnShape& shape, const DenseAttention& args) {
  CudnnAttention& a = Cudnn(device_);
  const auto lock = a.LockFirst();
  if (!a.Usable()) return false;
  const Descriptor plan = a.Plan(shape);
  if (plan == nullptr) return false;
  const int turn = calls_++ % kPrefillStreams;
  const cudaStream_t stream = turn == 0 ? Stream(device_) : a.beside[turn - 1];
  if (turn > 0 && calls_ <= kPrefillStreams) DUO_CUDA_CHECK(cudaStreamWaitEvent(stream, a.forked, 0));

  float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)), minus_infinity = -INFINITY;
  std::vector<int64_t> ids = {kQ, kK, kV, kO, kLse, kScale};
  std::vector<void*> pointers = {
      const_cast<bf16*>(args.q), const_cast<bf16*>(args.k), const_cast<bf16*>(args.v), args.out, args.lse, &scale};
  if (!shape.whole || shape.causal) ids.push_back(kMinusInfinity), pointers.push_back(&minus_infinity);
  if (!shape.whole) {
    ids.insert(ids.end(), {kRowCount, kKeyCount});
    pointers.insert(pointers.end(), {a.lengths, a.lengths + 4});  // as aligned as the plan was told
  }
  void* workspace = static_cast<char*>(State(device_).workspace) + turn * CudnnAttention::kWorkspace;
  Descriptor pack = nullptr;
  auto check = [](cudnnStatus_t status) { DUO_CHECK_EQ(status, CUDNN_STATUS_SUCCESS); };
  check(a.api.set_stream(a.handle, stream));
  check(a.api.create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.size(), ids.data()));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.size(), pointers.data()));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace));
  check(a.api.finalize(pack));
  check(a.api.execute(a.handle, plan, pack));
  a.api.destroy_descriptor(pack);
  return true;
}

}  // namespace duo::cuda

#else  // built without cuDNN's headers

namespace duo::cuda {

void DestroyCudnnAttention(CudnnAttention*) {}
bool CudnnUsable(Device&) { return false; }
void StartPrefillPlans(Device&, int, int, int, int, int64_t) {}
void WaitForPrefillPlans(Device&) {}
CudnnCalls::CudnnCalls(Device& device, int, int, bool) : device_(device) {}
CudnnCalls::~CudnnCalls() = default;
bool CudnnCalls::Attend(const CudnnShape&, const DenseAttention&) { return false; }

}  // namespace duo::cuda

#endif
