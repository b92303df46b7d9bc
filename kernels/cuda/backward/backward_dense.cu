// Gradients of the element-wise and row-wise ops, the mix of heads and the distillation loss. Bound by memory: eight
// elements at a time where rows are aligned.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kThreads = 256;

// kN consecutive elements, 16-byte aligned when there are 8.
template <int kN>
__device__ __forceinline__ void LoadElements(const bf16* p, float (&x)[kN]) {
  if constexpr (kN == 8) {
    const uint4 v = *reinterpret_cast<const uint4*>(p);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) x[2 * i] = LowBf16(words[i]), x[2 * i + 1] = HighBf16(words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) x[i] = ToFloat(p[i]);
  }
}
template <int kN>
__device__ __forceinline__ void StoreElements(bf16* p, const float (&x)[kN]) {
  if constexpr (kN == 8) {
    *reinterpret_cast<uint4*>(p) = {PackBf16(x[0], x[1]), PackBf16(x[2], x[3]), PackBf16(x[4], x[5]),
                                    PackBf16(x[6], x[7])};
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) p[i] = ToBf16(x[i]);
  }
}
bool Aligned(const View& v) {
  const int64_t row_bytes = v.stride * (Bits(v.dtype) / 8);
  return v.cols % 8 == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0 && row_bytes % 16 == 0;
}

// A matrix in a kernel's arguments.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  explicit Rows(const View& v) : data(v.as<T>()), stride(v.stride) {}
  __device__ __forceinline__ T* at(int64_t row, int64_t col = 0) const { return data + row * stride + col; }
};

// body(row, first column) for every kN columns of every row: a thread's columns stay, its rows go in steps.
template <int kN, typename Body>
__global__ void __launch_bounds__(kThreads) ElementsKernel(int64_t rows, int cols, Body body) {
  StartOverlapped();
  const int col = (blockIdx.x * kThreads + threadIdx.x) * kN;
  if (col >= cols) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) body(row, col);
}
template <int kN, typename Body>
void ForElements(Device& device, int64_t rows, int64_t cols, const Body& body) {
  const unsigned grid_rows = static_cast<unsigned>(rows < 32768 ? rows : 32768);
  const dim3 grid(static_cast<unsigned>(CeilDiv(cols, kThreads * kN)), grid_rows);
  LaunchOverlapped(device, ElementsKernel<kN, Body>, grid, dim3(kThreads), 0, rows, static_cast<int>(cols), body);
}

// The sum of x over the block's threads, in every thread; may be called again after.
__device__ __forceinline__ float BlockSum(float x) {
  __shared__ float sums[kThreads / 32];
  x = WarpSum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  return WarpSum(threadIdx.x % 32 < kThreads / 32 ? sums[threadIdx.x % 32] : 0.0f);
}

template <int kN>
struct RoundBody {
  Rows<bf16> out;
  Rows<float> in;
  __device__ void operator()(int64_t row, int col) const {
    float x[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) x[i] = in.at(row, col)[i];
    StoreElements<kN>(out.at(row, col), x);
  }
};

template <int kN>
struct SwiGluBody {
  Rows<bf16> dgate_up, dout, gate_up;
  int64_t n;
  __device__ void operator()(int64_t row, int col) const {
    float g[kN], u[kN], d[kN];
    LoadElements<kN>(gate_up.at(row, col), g);
    LoadElements<kN>(gate_up.at(row, n + col), u);
    LoadElements<kN>(dout.at(row, col), d);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const float s = 1.0f / (1.0f + expf(-g[i])), du = d[i] * g[i] * s;
      g[i] = d[i] * u[i] * s * (1.0f + g[i] * (1.0f - s));
      u[i] = du;
    }
    StoreElements<kN>(dgate_up.at(row, col), g);
    StoreElements<kN>(dgate_up.at(row, n + col), u);
  }
};

struct MixBody {
  Rows<bf16> out, streaming, full;
  const float* gates;
  int width;  // columns of a KV head
  __device__ void operator()(int64_t row, int col) const {
    float s[8], f[8];
    LoadElements<8>(streaming.at(row, col), s);
    LoadElements<8>(full.at(row, col), f);
    const float a = gates[col / width];
#pragma unroll
    for (int i = 0; i < 8; ++i) s[i] = (1.0f - a) * s[i] + a * f[i];
    StoreElements<8>(out.at(row, col), s);
  }
};

// y = x w / rms(x) over threads that share a row; with f = 1 / rms(x), dx = f w dy - x f^3 / dim * sum(w dy x).
struct NormFactors {
  float f, along;  // dx = f w dy - along x
  __device__ NormFactors(float squares, float products, int dim, float eps) {
    f = 1.0f / sqrtf(squares / dim + eps);
    along = f * f * f * products / dim;
  }
};

__global__ void __launch_bounds__(kThreads)
    RmsNormBackwardKernel(Rows<float> dresidual, Rows<bf16> dout, Rows<float> residual, const float* weight, int dim,
                          float eps) {
  StartOverlapped();
  const float* x = residual.at(blockIdx.x);
  const bf16* dy = dout.at(blockIdx.x);
  float* dx = dresidual.at(blockIdx.x);
  float squares = 0, products = 0;
  for (int c = threadIdx.x; c < dim; c += kThreads) {
    squares += x[c] * x[c];
    products += weight[c] * ToFloat(dy[c]) * x[c];
  }
  squares = BlockSum(squares);
  products = BlockSum(products);
  const NormFactors norm(squares, products, dim, eps);
  for (int c = threadIdx.x; c < dim; c += kThreads) {
    dx[c] += norm.f * weight[c] * ToFloat(dy[c]) - norm.along * x[c];
  }
}

__global__ void __launch_bounds__(kThreads)
    DistillLossKernel(float* losses, Rows<float> dresidual, Rows<float> student, Rows<float> teacher,
                      const float* weight, int dim, float eps, const float* row_weights) {
  StartOverlapped();
  const float *s = student.at(blockIdx.x), *t = teacher.at(blockIdx.x);
  float* dx = dresidual.at(blockIdx.x);
  float student_squares = 0, teacher_squares = 0;
  for (int c = threadIdx.x; c < dim; c += kThreads) {
    student_squares += s[c] * s[c];
    teacher_squares += t[c] * t[c];
  }
  student_squares = BlockSum(student_squares);
  teacher_squares = BlockSum(teacher_squares);
  const float fs = 1.0f / sqrtf(student_squares / dim + eps), ft = 1.0f / sqrtf(teacher_squares / dim + eps);
  const float scale = 2.0f * row_weights[blockIdx.x] / dim;
  float loss = 0, products = 0;
  for (int c = threadIdx.x; c < dim; c += kThreads) {
    const float difference = (s[c] * fs - t[c] * ft) * weight[c];
    loss += difference * difference;
    products += weight[c] * scale * difference * s[c];
  }
  loss = BlockSum(loss);
  products = BlockSum(products);
  if (threadIdx.x == 0) losses[blockIdx.x] = row_weights[blockIdx.x] / dim * loss;
  const NormFactors norm(student_squares, products, dim, eps);
  for (int c = threadIdx.x; c < dim; c += kThreads) {
    const float difference = (s[c] * fs - t[c] * ft) * weight[c];
    dx[c] = norm.f * weight[c] * scale * difference - norm.along * s[c];
  }
}

// One warp per (row, q or k head), a lane takes pairs (k, k + half), as RotateQk's kernel does.
__global__ void __launch_bounds__(kThreads)
    RotateQkBackwardKernel(Rows<bf16> dqkv, Rows<bf16> before, int64_t rows, int head_dim, int q_heads, int heads,
                           Rows<float> cos_sin, QkNorms norms) {
  StartOverlapped();
  const int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32, half = head_dim / 2;
  if (item >= rows * heads) return;
  const int64_t row = item / heads;
  const int head = item % heads;
  bf16* dx = dqkv.at(row, int64_t{head} * head_dim);  // k heads follow the q heads
  const float* norm = head < q_heads ? norms.q : norms.k;
  const bf16* x = norm == nullptr ? nullptr : before.at(row, int64_t{head} * head_dim);
  const float* cosines = cos_sin.at(row);
  constexpr int kPairs = 4;  // of a lane: heads of up to 256
  float a[kPairs], b[kPairs], squares = 0, products = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + 32 * i;
    if (k >= half) break;
    const float da = ToFloat(dx[k]), db = ToFloat(dx[k + half]), c = cosines[k], s = cosines[half + k];
    a[i] = da * c + db * s;  // the transpose of the rotation
    b[i] = db * c - da * s;
    if (norm != nullptr) {
      const float xa = ToFloat(x[k]), xb = ToFloat(x[k + half]);
      squares += xa * xa + xb * xb;
      products += norm[k] * a[i] * xa + norm[k + half] * b[i] * xb;
    }
  }
  if (norm != nullptr) squares = WarpSum(squares), products = WarpSum(products);
  const NormFactors factors(squares, products, head_dim, norms.eps);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int k = lane + 32 * i;
    if (k >= half) break;
    if (norm != nullptr) {
      a[i] = factors.f * norm[k] * a[i] - factors.along * ToFloat(x[k]);
      b[i] = factors.f * norm[k + half] * b[i] - factors.along * ToFloat(x[k + half]);
    }
    dx[k] = ToBf16(a[i]);
    dx[k + half] = ToBf16(b[i]);
  }
}

// Blocks (x, KV head) take rows x, x + gridDim.x, ..; the last one of a head to finish adds up the blocks' sums, always
// in the same order.
constexpr int kMixBlocks = 256;
__global__ void __launch_bounds__(kThreads)
    MixBackwardKernel(Rows<bf16> dstreaming, float* dgates, Rows<bf16> dout, Rows<bf16> streaming, Rows<bf16> full,
                      const float* gates, int64_t rows, int width, float* partials, uint32_t* counters) {
  StartOverlapped();
  __shared__ bool last;
  const int head = blockIdx.y, pieces = width / 8;
  const float keep = 1.0f - gates[head];
  float sum = 0;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    for (int piece = threadIdx.x; piece < pieces; piece += kThreads) {
      const int64_t col = int64_t{head} * width + piece * 8;
      float d[8], s[8], f[8];
      LoadElements<8>(dout.at(row, col), d);
      LoadElements<8>(streaming.at(row, col), s);
      LoadElements<8>(full.at(row, col), f);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum += d[i] * (f[i] - s[i]);
        d[i] *= keep;
      }
      StoreElements<8>(dstreaming.at(row, col), d);
    }
  }
  sum = BlockSum(sum);
  float* head_partials = partials + head * kMixBlocks;
  if (threadIdx.x == 0) {
    head_partials[blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(&counters[head], 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  const volatile float* all = head_partials;
  const float total = BlockSum(threadIdx.x < gridDim.x ? all[threadIdx.x] : 0.0f);
  if (threadIdx.x == 0) {
    dgates[head] += total;
    counters[head] = 0;
  }
}
static_assert(kMixBlocks <= kThreads);

void CheckAligned(const View& v) { DUO_CHECK_MSG(Aligned(v), "16-byte aligned rows of whole vectors"); }

}  // namespace

void RoundToActivations(Device& device, View out, View in) {
  if (Aligned(out)) return ForElements<8>(device, in.rows, in.cols, RoundBody<8>{Rows<bf16>(out), Rows<float>(in)});
  ForElements<1>(device, in.rows, in.cols, RoundBody<1>{Rows<bf16>(out), Rows<float>(in)});
}

void RmsNormBackward(Device& device, View dresidual, View dout, View residual, const float* weight, float eps) {
  LaunchOverlapped(device, RmsNormBackwardKernel, dim3(static_cast<unsigned>(residual.rows)), dim3(kThreads), 0,
                   Rows<float>(dresidual), Rows<bf16>(dout), Rows<float>(residual), weight, residual.cols, eps);
}

void SwiGluBackward(Device& device, View dgate_up, View dout, View gate_up) {
  const Rows<bf16> grad(dgate_up), upstream(dout), before(gate_up);
  if (Aligned(dout) && Aligned(gate_up) && Aligned(dgate_up)) {
    return ForElements<8>(device, dout.rows, dout.cols, SwiGluBody<8>{grad, upstream, before, dout.cols});
  }
  ForElements<1>(device, dout.rows, dout.cols, SwiGluBody<1>{grad, upstream, before, dout.cols});
}

void RotateQkBackward(Device& device, View dqkv, View before, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  DUO_CHECK_LE(shape.head_dim, 256);
  const int q_heads = shape.kv_heads * shape.group, heads = q_heads + shape.kv_heads;
  const int64_t blocks = CeilDiv(dqkv.rows * heads * 32, kThreads);
  LaunchOverlapped(device, RotateQkBackwardKernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                   Rows<bf16>(dqkv), Rows<bf16>(before), dqkv.rows, shape.head_dim, q_heads, heads,
                   Rows<float>(cos_sin), norms);
}

void MixHeads(Device& device, View out, const HeadMix& mix) {
  for (const View& v : {out, mix.streaming, mix.full}) CheckAligned(v);
  ForElements<8>(device, out.rows, out.cols,
                 MixBody{Rows<bf16>(out), Rows<bf16>(mix.streaming), Rows<bf16>(mix.full), mix.gates,
                         mix.shape.group * mix.shape.head_dim});
}

void MixHeadsBackward(Device& device, View dstreaming, float* dgates, View dout, const HeadMix& mix) {
  for (const View& v : {dstreaming, dout, mix.streaming, mix.full}) CheckAligned(v);
  const HeadShape& shape = mix.shape;
  Device::CudaState& state = State(device);
  DUO_CHECK_LE(shape.kv_heads * kMixBlocks * sizeof(float), Device::CudaState::kPartialBytes);
  const dim3 grid(static_cast<unsigned>(dout.rows < kMixBlocks ? dout.rows : kMixBlocks), shape.kv_heads);
  LaunchOverlapped(device, MixBackwardKernel, grid, dim3(kThreads), 0, Rows<bf16>(dstreaming), dgates, Rows<bf16>(dout),
                   Rows<bf16>(mix.streaming), Rows<bf16>(mix.full), mix.gates, dout.rows, shape.group * shape.head_dim,
                   static_cast<float*>(state.partials), state.counters);
}

void DistillLoss(Device& device, float* losses, View dresidual, const Distillation& of) {
  LaunchOverlapped(device, DistillLossKernel, dim3(static_cast<unsigned>(of.student.rows)), dim3(kThreads), 0, losses,
                   Rows<float>(dresidual), Rows<float>(of.student), Rows<float>(of.teacher), of.weight, of.student.cols,
                   of.eps, of.row_weights);
}

}  // namespace duo::cuda
