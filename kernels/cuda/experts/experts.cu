// Mixtures of experts. Few rows, as in decode: kernels of our own that find the chosen experts on the device
// (few_rows.cuh). Many rows, as in prefill: of int4 codes on Hopper one launch for all experts (grouped_rows.h);
// otherwise the host reads which experts were chosen, and Linear does one product after the other on rows sorted by
// expert; but a step that is recorded is done as few rows are.
#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/experts/few_rows_pieces.h"
#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/experts/grouped_rows.h"
#include "kernels/cuda/experts/sort_slots.h"
#include "kernels/cuda/experts/sum_before.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kFewRows = 256;  // as many as a recorded step has at most

// One block: a thread an expert counts its slots, then writes them behind those of the experts before it. Those of
// experts that are elsewhere are left out.
__global__ void __launch_bounds__(kMostExperts) SortSlotsKernel(SlotLists lists, const int32_t* chosen, int slots) {
  StartOverlapped();
  constexpr int kAtOnce = 1024;
  __shared__ int some[kAtOnce], of_warps[2][32];
  const int expert = threadIdx.x, wanted = expert < lists.experts ? lists.first + expert : -1;
  // what(slot) for each slot of the thread's expert: slots come to shared memory in pieces, for all to look at.
  const auto each = [&](const auto& what) {
    for (int first = 0; first < slots; first += kAtOnce) {
      const int here = min(kAtOnce, slots - first);
      __syncthreads();
      for (int i = threadIdx.x; i < here; i += blockDim.x) some[i] = chosen[first + i];
      __syncthreads();
#pragma unroll 8
      for (int i = 0; i < here; ++i) {
        if (some[i] == wanted) what(first + i);
      }
    }
  };
  int count = 0, first_slot = 0;
  each([&](int s) {
    if (count++ == 0) first_slot = s;
  });
  int all_slots, all_chosen;
  const int begin = SumBefore(count, of_warps[0], &all_slots);
  const int place = SumBefore(count > 0 ? 1 : 0, of_warps[1], &all_chosen);
  for (int none = all_chosen + expert; none < lists.most; none += blockDim.x) lists.chosen[none].expert = -1;
  if (threadIdx.x == 0) *lists.count = all_chosen;
  if (count > 0) lists.chosen[place] = {expert, begin, begin + count, first_slot};
  int at = begin;
  each([&](int s) { lists.slots[at++] = s; });
}

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

// Columns of a piece: whether a product's weights can be read in pieces. What else is not few_rows_pieces.h's is read
// value by value.
bool InPieces(const ExpertProduct& p, int columns) {
  const bool plain_groups = (p.bank.block == 0 || HasScaleBlocks(p.bank)) && p.bank.table == CodeTable::kNone &&
                            (p.bank.dtype != DType::kI8 || p.bank.group == 0);
  return plain_groups && p.bank.cols % columns == 0 && p.x_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(p.bank.data) % 16 == 0;
}

// launch(type, in pieces, slots that a warp takes at once, fp8 in blocks) for the product's kind, as constants.
template <typename Launch>
void ForKind(const ExpertProduct& p, int64_t slots, int64_t rows, const Launch& launch) {
  auto of_pieces = [&](auto type, auto pieces, auto blocks) {
    if (rows == 1) {
      launch(type, pieces, std::integral_constant<int, 1>(), blocks);
    } else if (slots <= 2 * p.experts) {
      launch(type, pieces, std::integral_constant<int, 2>(), blocks);
    } else {
      launch(type, pieces, std::integral_constant<int, 4>(), blocks);
    }
  };
  auto of_type = [&](auto type) {
    if (InPieces(p, PieceColumns<type()>())) {
      if constexpr (type() == DType::kF8E4M3) {
        if (HasScaleBlocks(p.bank)) return of_pieces(type, std::true_type(), std::true_type());
      }
      of_pieces(type, std::true_type(), std::false_type());
    } else {
      of_pieces(type, std::false_type(), std::false_type());
    }
  };
  switch (p.bank.dtype) {
    case DType::kF16:
      return of_type(std::integral_constant<DType, DType::kF16>());
    case DType::kF8E4M3:
      return of_type(std::integral_constant<DType, DType::kF8E4M3>());
    case DType::kI8:
      return of_type(std::integral_constant<DType, DType::kI8>());
    case DType::kI4:
      return of_type(std::integral_constant<DType, DType::kI4>());
    default:
      DUO_CHECK_MSG(p.bank.dtype == DType::kBF16, Name(p.bank.dtype));
      return of_type(std::integral_constant<DType, DType::kBF16>());
  }
}

// Of a warp so many columns, of so many experts.
dim3 GridOf(int64_t columns, int of_warp, int experts) {
  return dim3(static_cast<unsigned>(CeilDiv<int64_t>(columns, kExpertWarps * of_warp)), static_cast<unsigned>(experts));
}

// Whether few_rows_tiles.cuh does a product: those whose x fits shared memory.
bool InTiles(const ExpertProduct& p) {
  const Weight& w = p.bank;
  return w.dtype == DType::kI4 && w.block == 0 && w.table == CodeTable::kNone && w.cols > 0 &&
         (w.group == 32 || w.group == 64 || w.group == 128) && p.x_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0 &&
         w.rows * w.cols < int64_t{1} << 34 &&  // TilePlace
         SharedSlots::Bytes(w.cols, w.group, 1) <= kTileShared;
}

template <typename Launch>
void ForGroup(int group, const Launch& launch) {
  if (group == 128) return launch(std::integral_constant<int, 128>());
  if (group == 64) return launch(std::integral_constant<int, 64>());
  launch(std::integral_constant<int, 32>());
}

// shared: what depends on the product; above 48 KB it has to be asked for.
template <typename... Parameters, typename... Arguments>
void LaunchTiles(const Device& device, void (*kernel)(Parameters...), dim3 grid, size_t shared,
                 Arguments... arguments) {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, grid, dim3(32 * kExpertWarps), shared, arguments...);
}

// How a product of the lists is done, `of_tile` outputs of `outputs` a tile, and the shared memory for it.
TileWork WorkOf(const ExpertProduct& p, int64_t outputs, int of_tile, size_t* shared) {
  const size_t one = SharedSlots::Bytes(p.bank.cols, p.bank.group, 1);
  const bool single = p.lists.of_one_row != nullptr;
  const int at_once = single ? 1 : static_cast<int>(std::min<size_t>(kTileSlots, kTileShared / one));
  const int parts = TileParts(p.bank.cols);
  *shared = one * at_once;
  return {parts, at_once, static_cast<int>(CeilDiv(CeilDiv<int64_t>(outputs, of_tile), int64_t{kExpertWarps / parts}))};
}
// As many blocks as run at once, two on a multiprocessor, but no more than there can be units.
dim3 GridOfTiles(const Device& device, const TileWork& work, int experts) {
  const int64_t units = int64_t{work.units} * experts;
  return dim3(static_cast<unsigned>(std::min<int64_t>(units, int64_t{device.info().multiprocessors} * 2)));
}

void GateUpFew(Device& device, bf16* product, const ExpertProduct& up, int64_t slots, int64_t rows,
               const Gating& gating) {
  const int64_t n = up.bank.rows / up.experts / 2;
  if (n == 0) return;
  if (InExpertPieces(up)) return PieceGateUp(device, product, up, gating);
  if (!InTiles(up)) {
    return ForKind(up, slots, rows, [&](auto type, auto pieces, auto at_once, auto blocks) {
      LaunchOverlapped(device, GateUpKernel<type(), pieces(), at_once(), blocks()>,
                       GridOf(n, kUpColumns, up.lists.most), dim3(32 * kExpertWarps), 0, product, up, gating);
    });
  }
  size_t shared = 0;
  const TileWork work = WorkOf(up, n, kTileOutputs / 2, &shared);
  ForGroup(up.bank.group, [&](auto group) {
    if (up.lists.of_one_row != nullptr) {
      LaunchTiles(device, TileGateUpKernel<group(), true>, dim3(static_cast<unsigned>(work.units * up.lists.most)),
                  shared, product, up, gating, work);
    } else {
      LaunchTiles(device, TileGateUpKernel<group(), false>, GridOfTiles(device, work, up.lists.most), shared, product,
                  up, gating, work);
    }
  });
}

// y [slots][dim]. early: the kernel ahead is TileGateUpKernel or PieceGateUpKernel.
void DownFew(Device& device, float* y, const ExpertProduct& down, int64_t slots, int64_t rows, bool early) {
  const int64_t dim = down.bank.rows / down.experts;
  if (InExpertPieces(down)) return PieceDown(device, y, down, early);
  if (!InTiles(down)) {
    return ForKind(down, slots, rows, [&](auto type, auto pieces, auto at_once, auto blocks) {
      LaunchOverlapped(device, DownKernel<type(), pieces(), at_once(), blocks()>,
                       GridOf(dim, kDownColumns, down.lists.most), dim3(32 * kExpertWarps), 0, y, down);
    });
  }
  size_t shared = 0;
  const TileWork work = WorkOf(down, dim, kTileOutputs, &shared);
  ForGroup(down.bank.group, [&](auto group) {
    LaunchTiles(device, TileDownKernel<group()>, GridOfTiles(device, work, down.lists.most), shared, y, down, work,
                early);
  });
}

// Shared memory with which one row's experts' outputs are added up in the launch that makes them.
size_t OneRowShared(const ExpertProduct& down, int chosen) {
  return SharedSlots::Bytes(down.bank.cols, down.bank.group, chosen) +
         sizeof(float) * kTileOutputs * chosen * TileParts(down.bank.cols);
}
bool FitsOneRow(const ExpertProduct& down, int chosen) {
  if (InExpertPieces(down)) return PieceDownFitsOneRow(down, chosen);
  return InTiles(down) && OneRowShared(down, chosen) <= kTileShared;
}
void DownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing, bool partial, bool early) {
  if (InExpertPieces(down)) return PieceDownOneRow(device, out, down, routing, early);
  ForGroup(down.bank.group, [&](auto group) {
    LaunchTiles(device, partial ? TileDownOneRowKernel<group(), true> : TileDownOneRowKernel<group(), false>,
                dim3(static_cast<unsigned>(CeilDiv(out.cols, kTileOutputs))), OneRowShared(down, routing.chosen),
                out.as<bf16>(), down, routing, TileParts(down.bank.cols), early);
  });
}

// out = the sums of y, of experts that are here.
void Combine(Device& device, View out, const float* y, const ExpertBank& bank, const Routing& routing,
             const int32_t* places) {
  LaunchOverlapped(device, bank.partial() ? CombineKernel<true> : CombineKernel<false>,
                   dim3(out.rows, CeilDiv(out.cols, kCombined)), dim3(kCombined), 0, out.as<bf16>(), out.stride, y,
                   routing, places, out.cols, ExpertRun{bank.first, bank.experts});
}

void FewRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  const int slots = static_cast<int>(x.rows) * routing.chosen;
  const int64_t n = bank.down.cols;
  const int chosen = std::min(bank.experts, slots);  // at most
  ExpertProduct up = {x.as<bf16>(), x.stride, routing.chosen, bank.gate_up, bank.experts, {}};
  ExpertProduct down = {nullptr, n, 1, bank.down, bank.experts, {}};
  // few_rows_pieces.h knows of one row's slots only those whose expert is here: where others are elsewhere it gets
  // lists.
  const bool sorted = bank.partial() && (InExpertPieces(up) || InExpertPieces(down));
  const bool one_launch = x.rows == 1 && !sorted && FitsOneRow(down, routing.chosen);
  SlotLists lists = {};
  lists.first = bank.first;
  lists.experts = bank.experts;
  // Tiles from lists know no slots whose expert is elsewhere.
  const bool of_one_row = x.rows == 1 && !sorted && (one_launch || !bank.partial() || !InTiles(down));
  if (of_one_row) {
    lists.of_one_row = routing.experts;
    lists.most = slots;
  } else {
    lists.chosen = static_cast<ChosenExpert*>(scratch.Take(sizeof(ChosenExpert) * chosen));
    lists.slots = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (slots + 1)));
    lists.count = lists.slots + slots;
    lists.most = chosen;
    LaunchOverlapped(device, SortSlotsKernel, dim3(1), dim3(RoundUp(bank.experts, 32)), 0, lists, routing.experts,
                     slots);
  }
  auto* product = static_cast<bf16*>(scratch.Take(sizeof(bf16) * slots * n));
  auto* y = static_cast<float*>(scratch.Take(sizeof(float) * slots * x.cols));
  up.lists = down.lists = lists;
  down.x = product;
  const bool early = n > 0 && (InExpertPieces(up) || InTiles(up));
  GateUpFew(device, product, up, slots, x.rows, {bank.limit, bank.alpha});
  if (one_launch) return DownOneRow(device, out, down, routing, bank.partial(), early);
  DownFew(device, y, down, slots, x.rows, early);
  Combine(device, out, y, bank, routing, nullptr);
}

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
  Combine(device, out, y.as<float>(), bank, routing, lists + places);
}

}  // namespace

size_t ExpertMlpScratchBytes(const Device& device, int64_t rows, const ExpertBank& bank, int chosen) {
  const int64_t dim = bank.gate_up.cols, n = bank.down.cols;
  const int64_t few = rows * chosen;  // a recorded step of any length has no host to ask
  const size_t lists = Arena::Rounded(sizeof(ChosenExpert) * std::min<int64_t>(bank.experts, few)) +
                       Arena::Rounded(sizeof(int32_t) * (few + 1));
  size_t bytes = lists + Arena::Rounded(sizeof(bf16) * few * n) + Arena::Rounded(sizeof(float) * few * dim);
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
