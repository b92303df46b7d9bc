// Mixtures of experts. Few rows, as in decode: kernels of our own that find the chosen experts on the device
// (few_rows.cu). Many rows, as in prefill: of int4 codes on Hopper one launch for all experts (grouped_rows.h);
// otherwise the host reads which experts were chosen, and Linear does one product after the other on rows sorted by
// expert; but a step that is recorded is done as few rows are.
#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/experts/few_rows.cuh"
#include "kernels/cuda/experts/few_rows.h"
#include "kernels/cuda/experts/grouped_rows.h"
#include "kernels/cuda/experts/sort_slots.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kFewRows = 256;  // as many as a recorded step has at most

constexpr int kCombined = 128;  // columns of a block

// out [rows, dim] = sum over a row's slots of weight * y. places: where a slot's y is; null: at the slot. kPartial: of
// slots whose expert is in `run`. Grid: rows, blocks of columns.
template <bool kPartial>
__global__ void CombineKernel(bf16* out, int64_t stride, const float* y, Routing routing, const int32_t* places,
                              int dim, ExpertRun run) {
  StartOverlapped();
  const int64_t first = int64_t{blockIdx.x} * routing.chosen;
  const int c = blockIdx.y * kCombined + threadIdx.x;
  if (c >= dim) return;
  float sum = 0;
#pragma unroll 4
  for (int j = 0; j < routing.chosen; ++j) {
    if constexpr (kPartial) {
      if (!run.Has(routing.experts[first + j])) continue;
    }
    const int64_t place = places == nullptr ? first + j : places[first + j];
    sum = fmaf(routing.weights[first + j], y[place * dim + c], sum);
  }
  out[blockIdx.x * stride + c] = ToBf16(sum);
}

__global__ void GateKernel(bf16* out, const bf16* gate_up, Gating gating, int n) {
  const bf16* row = gate_up + int64_t{blockIdx.x} * 2 * n;
  for (int c = threadIdx.x; c < n; c += blockDim.x) {
    out[int64_t{blockIdx.x} * n + c] = ToBf16(gating.Of(ToFloat(row[c]), ToFloat(row[n + c])));
  }
}

// out [places, dim] = x's row of each place's slot, zero where it has none (-1).
__global__ void GatherSlotsKernel(bf16* out, const bf16* x, int64_t stride, const int32_t* slots, int chosen, int dim) {
  const int slot = slots[blockIdx.x];
  const bf16* from = x + int64_t{slot / chosen} * stride;
  bf16* to = out + int64_t{blockIdx.x} * dim;
  for (int c = threadIdx.x; c < dim; c += blockDim.x) to[c] = slot < 0 ? ToBf16(0.0f) : from[c];
}

int ThreadsFor(int64_t cols) { return static_cast<int>(std::clamp<int64_t>(RoundUp(cols, 32), 32, 512)); }

// Slots sorted by expert, each expert's beginning at a multiple of kSortedPadded: fewer shapes to choose products for.
// Those whose expert is elsewhere are left out.
struct Sorted {
  std::vector<int32_t>& host;  // [slots] experts, then [places] slots or -1, then [slots] places, 0 of those left out
  std::vector<int64_t> begin;  // [experts + 1] places
};

void SortOnHost(Device& device, const Routing& routing, int64_t slots, const ExpertBank& bank, Sorted* sorted) {
  const int experts = bank.experts;
  std::vector<int32_t>& host = sorted->host;
  host.resize(slots);
  device.Download(host.data(), routing.experts, sizeof(int32_t) * slots);
  std::vector<int64_t>& begin = sorted->begin;
  begin.assign(experts + 1, 0);
  for (int64_t s = 0; s < slots; ++s) {
    if (bank.Has(host[s])) ++begin[bank.Place(host[s]) + 1];
  }
  for (int e = 0; e < experts; ++e) begin[e + 1] = begin[e] + RoundUp(begin[e + 1], kSortedPadded);
  const int64_t places = begin[experts];
  host.resize(slots + places + slots);
  std::fill_n(host.begin() + slots, places, -1);
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (int64_t s = 0; s < slots; ++s) {
    host[slots + places + s] = 0;
    if (!bank.Has(host[s])) continue;
    const int64_t place = next[bank.Place(host[s])]++;
    host[slots + place] = static_cast<int32_t>(s);
    host[slots + places + s] = static_cast<int32_t>(place);
  }
}

void ZeroAll(Device& device, View out) {
  DUO_CHECK_EQ(out.stride, out.cols);
  device.Fill(out.data, 0, Bytes(out.dtype, out.rows * out.cols));
}

void ManyRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  const int64_t slots = x.rows * routing.chosen, n = bank.down.cols;
  Sorted sorted = {State(device).host_slots, {}};
  SortOnHost(device, routing, slots, bank, &sorted);
  const int64_t places = sorted.begin.back();
  if (places == 0) return ZeroAll(device, out);  // no row chose an expert that is here
  DUO_CHECK_LE(places, MostPlaces(slots, bank.experts));
  auto* lists = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (MostPlaces(slots, bank.experts) + slots)));
  device.Upload(lists, sorted.host.data() + slots, sizeof(int32_t) * (places + slots));
  const View gathered = scratch.Matrix(DType::kBF16, places, x.cols);
  const View gate_up = scratch.Matrix(DType::kBF16, places, 2 * n);
  const View product = scratch.Matrix(DType::kBF16, places, n);
  const View y = scratch.Matrix(DType::kF32, places, x.cols);
  GatherSlotsKernel<<<places, ThreadsFor(x.cols), 0, Stream(device)>>>(gathered.as<bf16>(), x.as<bf16>(), x.stride,
                                                                       lists, routing.chosen, x.cols);
  DUO_CUDA_CHECK(cudaGetLastError());
  auto each_expert = [&](const Weight& weights, View to, View from) {
    for (int e = 0; e < bank.experts; ++e) {
      const int64_t first = sorted.begin[e], count = sorted.begin[e + 1] - first;
      if (count == 0) continue;
      cuda::Linear(device, to.Rows(first, count), from.Rows(first, count), ExpertRows(weights, bank.experts, e),
                   scratch);
    }
  };
  each_expert(bank.gate_up, gate_up, gathered);
  if (bank.limit == 0) {
    cuda::SwiGlu(device, product, gate_up);
  } else {
    GateKernel<<<places, ThreadsFor(n), 0, Stream(device)>>>(product.as<bf16>(), gate_up.as<bf16>(),
                                                             {bank.limit, bank.alpha}, n);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
  each_expert(bank.down, y, product);
  CombineSlots(device, out, y.as<float>(), bank, routing, lists + places);
}

}  // namespace

void CombineSlots(Device& device, View out, const float* y, const ExpertBank& bank, const Routing& routing,
                  const int32_t* places) {
  LaunchOverlapped(device, bank.partial() ? CombineKernel<true> : CombineKernel<false>,
                   dim3(out.rows, CeilDiv(out.cols, kCombined)), dim3(kCombined), 0, out.as<bf16>(), out.stride, y,
                   routing, places, out.cols, ExpertRun{bank.first, bank.experts});
}

size_t ExpertMlpScratchBytes(const Device& device, int64_t rows, const ExpertBank& bank, int chosen) {
  const int64_t dim = bank.gate_up.cols, n = bank.down.cols;
  const size_t bytes = FewRowsScratchBytes(rows, bank, chosen);  // a recorded step of any length has no host to ask
  if (rows <= kFewRows || n == 0) return bytes;
  if (GroupedRowsFit(device, bank)) return std::max(bytes, GroupedRowsScratchBytes(rows, bank, chosen));
  const int64_t slots = rows * chosen, places = MostPlaces(slots, bank.experts);
  size_t many = Arena::Rounded(sizeof(int32_t) * (places + slots));
  for (const int64_t cols : {dim, 2 * n, n, 2 * dim}) many += Arena::Rounded(sizeof(bf16) * places * cols);
  const Weight gate_up = ExpertRows(bank.gate_up, bank.experts, 0), down = ExpertRows(bank.down, bank.experts, 0);
  many += std::max(cuda::LinearScratchBytes(device, rows, gate_up), cuda::LinearScratchBytes(device, rows, down));
  return std::max(bytes, many);
}

void ExpertMlp(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  if (bank.down.cols == 0 && bank.down.bias == nullptr) return ZeroAll(device, out);
  const size_t mark = scratch.used();
  cudaStreamCaptureStatus recording = cudaStreamCaptureStatusNone;
  DUO_CUDA_CHECK(cudaStreamIsCapturing(Stream(device), &recording));
  const bool grouped = GroupedRowsFit(device, bank);
  // Without columns there are the biases of the chosen experts alone. Rows that the grouped kernels cannot read are few
  // or of a test; the scratch for them is that of few rows.
  if (x.rows <= kFewRows || bank.down.cols == 0 || recording != cudaStreamCaptureStatusNone ||
      (grouped && !GroupedRowsFit(out, x))) {
    FewRows(device, out, x, bank, routing, scratch);
  } else if (grouped) {
    GroupedRows(device, out, x, bank, routing, scratch);
  } else {
    ManyRows(device, out, x, bank, routing, scratch);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
