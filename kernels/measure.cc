// The tables of devices that only measure (Device::Measuring): every op takes its scratch, gives it back and runs
// nothing. Questions (what an op needs, whether it can be done) have the answers of the device that is measured for.
#include "kernels/backend.h"

namespace duo {
namespace {

// An op becomes one that does nothing; a question, which cannot change its device, stays as it is.
template <typename... Args>
void Silence(void (*&op)(Device&, Args...)) {
  op = [](Device&, Args...) {};
}
template <typename Result, typename... Args>
void Silence(Result (*&)(const Device&, Args...)) {}

void TakeAndReturn(Arena& scratch, size_t bytes) {
  const size_t mark = scratch.used();
  scratch.Take(bytes);
  scratch.Rewind(mark);
}

Backend Measuring(Backend b) {
#define DUO_OP(name) Silence(b.name);
  DUO_BACKEND_OPS
#undef DUO_OP
  b.Linear = [](Device& d, View, View x, const Weight& w, Arena& scratch) {
    TakeAndReturn(scratch, LinearScratchBytes(d, x.rows, w));
  };
  b.LinearSwiGlu = [](Device& d, View, View, View x, const Weight& w, Arena& scratch) {
    TakeAndReturn(scratch, LinearScratchBytes(d, x.rows, w));
  };
  b.ExpertMlp = [](Device& d, View, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
    TakeAndReturn(scratch, ExpertMlpScratchBytes(d, x.rows, bank, routing.chosen));
  };
  b.TopLogits = [](Device& d, const LargestLogits& out, View logits, int32_t, Arena& scratch) {
    TakeAndReturn(scratch, TopLogitsScratchBytes(d, logits.rows, logits.cols, out.count));
  };
  b.PlanPages = [](Device& d, SeqBatch& batch, int, const PagedKv& kv, Arena& arena) {
    arena.Take(PagesPlanBytes(d, batch.num_rows, kv));  // stays
  };
  b.AttendPages = [](Device& d, const Partial&, const StepRows& rows, const PagedKv& kv, Arena& scratch) {
    TakeAndReturn(scratch, DecodeScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv, rows.batch.max_tokens,
                                              !rows.part.all()));
  };
  b.AttendPagesWithMass = [](Device& d, const Partial&, const StepRows& rows, const PagedKv& kv, const MassOut&,
                             Arena& scratch) {
    TakeAndReturn(scratch, DecodeScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv, rows.batch.max_tokens));
  };
  b.AttendPrefill = [](Device& d, const Partial&, const StepRows& rows, const PagedKv& kv, bool, Arena& scratch) {
    TakeAndReturn(scratch, PrefillScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv, rows.batch.max_tokens,
                                               !rows.part.all()));
  };
  b.PoolKeys = [](Device& d, PooledKeys*, const StepRows& rows, const PagedKv& kv, Arena& arena) {
    arena.Take(PooledKeysBytes(d, kv, rows.batch.max_tokens));  // stays
  };
  b.SelectPages = [](Device& d, PageLists*, const StepRows& rows, const PagedKv& kv, const PooledKeys&, const ListRule&,
                     const int32_t*, Arena& arena) {
    // stays
    arena.Take(SelectPagesBytes(d, rows.batch.num_rows, rows.shape.group, kv, rows.batch.max_tokens));
  };
  b.AttendPageLists = [](Device& d, const Partial&, const StepRows& rows, const PagedKv& kv, const PageLists&,
                         Arena& scratch) {
    TakeAndReturn(scratch,
                  AttendPageListsScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv, rows.batch.max_tokens));
  };
  b.AttendListed = [](Device& d, const Partial&, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists,
                      Arena& scratch) {
    TakeAndReturn(scratch,
                  ListedScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv, lists, rows.batch.max_tokens));
  };
  b.AttendStreaming = [](Device& d, const Partial&, const StepRows& rows, const RingKv& kv, Arena& scratch) {
    TakeAndReturn(scratch, StreamingScratchBytes(d, rows.batch.num_rows, rows.shape.group, kv));
  };
  b.LinearBackward = [](Device& d, View, View dout, const Weight& w, Arena& scratch) {
    TakeAndReturn(scratch, LinearBackwardScratchBytes(d, dout.rows, w));
  };
  b.AttendWindow = [](Device& d, const Partial&, const WindowRows& rows, Arena& scratch) {
    TakeAndReturn(scratch, AttendWindowScratchBytes(d, rows.qkv.rows, rows.shape));
  };
  b.AttendWindowBackward = [](Device& d, View, View, const Partial&, const WindowRows& rows, Arena& scratch) {
    TakeAndReturn(scratch, AttendWindowBackwardScratchBytes(d, rows.qkv.rows, rows.shape, rows.mask));
  };
  return b;
}

}  // namespace

const Backend cpu::kMeasuring = Measuring(cpu::kBackend);
#ifdef DUO_HAVE_CUDA
const Backend cuda::kMeasuring = Measuring(cuda::kBackend);
#endif

}  // namespace duo
