// Backend: the table of a device's ops, one function for each op of kernels/ops.h, experts.h, attention.h,
// attention_mass.h, attention_plain.h, page_lists.h, decode_lists.h, list_choice.h, backward.h, clock.h and
// random_fill.h. kernels/cpu and kernels/cuda fill one table each. For the doors in kernels/*.cc, which check shapes
// and then call the device's table, and for the files that define the ops.
//
// An op of a backend has its door's name, signature and contract, in the namespace of the backend; this header declares
// it from the door, so that a signature is written in one header only. kernels/cpu works synchronously on host memory
// and cuts work by shapes alone, never by the number of threads, so that results do not depend on them. kernels/cuda
// works asynchronously on device memory, ordered by the device's stream. Both give scratch back before an op returns:
// later work on the stream may reuse it. A build without CUDA declares kernels/cuda's ops and never names them.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_mass.h"
#include "kernels/attention_plain.h"
#include "kernels/backward.h"
#include "kernels/clock.h"
#include "kernels/decode_lists.h"
#include "kernels/experts.h"
#include "kernels/list_choice.h"
#include "kernels/ops.h"
#include "kernels/page_lists.h"
#include "kernels/random_fill.h"

// The list of ops. DUO_OP(Name) is written for each of them.
#define DUO_BACKEND_OPS                    \
  DUO_OP(LinearScratchBytes)               \
  DUO_OP(Linear)                           \
  DUO_OP(LinearSwiGlu)                     \
  DUO_OP(Embed)                            \
  DUO_OP(FillRows)                         \
  DUO_OP(AddRmsNorm)                       \
  DUO_OP(SwiGlu)                           \
  DUO_OP(GatherRows)                       \
  DUO_OP(RouteRows)                        \
  DUO_OP(ExpertMlpScratchBytes)            \
  DUO_OP(ExpertMlp)                        \
  DUO_OP(AddGated)                         \
  DUO_OP(SampleShard)                      \
  DUO_OP(EditLogits)                       \
  DUO_OP(TopLogitsScratchBytes)            \
  DUO_OP(TopLogits)                        \
  DUO_OP(CheckAttention)                   \
  DUO_OP(RopeAngles)                       \
  DUO_OP(RotateQk)                         \
  DUO_OP(ChunkAngles)                      \
  DUO_OP(RotateQkByChunks)                 \
  DUO_OP(MergePartial)                     \
  DUO_OP(StoreKv)                          \
  DUO_OP(RoundToRing)                      \
  DUO_OP(StoreRings)                       \
  DUO_OP(PagesPlanBytes)                   \
  DUO_OP(PlanPages)                        \
  DUO_OP(DecodeScratchBytes)               \
  DUO_OP(AttendPages)                      \
  DUO_OP(StreamsBesidePages)               \
  DUO_OP(AttendPlain)                      \
  DUO_OP(PageMass)                         \
  DUO_OP(KeyScores)                        \
  DUO_OP(MassParts)                        \
  DUO_OP(AttendPagesWithMass)              \
  DUO_OP(LogSums)                          \
  DUO_OP(SumShares)                        \
  DUO_OP(PrefillScratchBytes)              \
  DUO_OP(AttendPrefill)                    \
  DUO_OP(CheckPageLists)                   \
  DUO_OP(PooledKeysBytes)                  \
  DUO_OP(PoolKeys)                         \
  DUO_OP(SelectPagesBytes)                 \
  DUO_OP(SelectPages)                      \
  DUO_OP(AttendPageListsScratchBytes)      \
  DUO_OP(AttendPageLists)                  \
  DUO_OP(ChooseListsScratchBytes)          \
  DUO_OP(ChooseLists)                      \
  DUO_OP(ListedScratchBytes)               \
  DUO_OP(AttendListed)                     \
  DUO_OP(StartPrefillPlans)                \
  DUO_OP(WaitForPrefillPlans)              \
  DUO_OP(StreamingScratchBytes)            \
  DUO_OP(AttendStreaming)                  \
  DUO_OP(ScaleSplitHeads)                  \
  DUO_OP(CopyPage)                         \
  DUO_OP(CheckBackward)                    \
  DUO_OP(RoundToActivations)               \
  DUO_OP(LinearBackwardScratchBytes)       \
  DUO_OP(LinearBackward)                   \
  DUO_OP(RmsNormBackward)                  \
  DUO_OP(SwiGluBackward)                   \
  DUO_OP(DotRows)                          \
  DUO_OP(AddWeightedRows)                  \
  DUO_OP(RotateQkBackward)                 \
  DUO_OP(AttendWindowScratchBytes)         \
  DUO_OP(AttendWindow)                     \
  DUO_OP(AttendWindowBackwardScratchBytes) \
  DUO_OP(AttendWindowBackward)             \
  DUO_OP(MixHeads)                         \
  DUO_OP(MixHeadsBackward)                 \
  DUO_OP(DistillLoss)                      \
  DUO_OP(FillElements)                     \
  DUO_OP(StampClock)

namespace duo {

struct Backend {
#define DUO_OP(name) decltype(&duo::name) name;
  DUO_BACKEND_OPS
#undef DUO_OP
};

#define DUO_OP(name) decltype(duo::name) name;
namespace cpu {
DUO_BACKEND_OPS
extern const Backend kBackend, kMeasuring;
}  // namespace cpu
namespace cuda {
DUO_BACKEND_OPS
extern const Backend kBackend, kMeasuring;
}  // namespace cuda
#undef DUO_OP

const Backend& BackendOf(const Device& device);

}  // namespace duo
