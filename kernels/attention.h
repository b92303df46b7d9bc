// Attention over retrieval heads, whose K and V lie in pages, and over streaming heads, whose K and V lie in rings; and
// the storing of K and V. CPU and CUDA.
//
// Position p, key j, S sinks, R recent tokens, window W (0: no window). A row of a retrieval head sees keys j <= p; a
// row of a streaming head sees keys j <= p with j < S or p - j <= R. With a window p - j < W must hold, too. With dual
// chunk attention (dual_chunk.h) one call attends to the keys of one kind alone.
//
// A step's K and V are attended as their store returns them: StoreKv encodes the K and V of retrieval heads into pages
// and leaves the decoded values in `qkv`; RoundToRing rounds the K and V of streaming heads to the ring's type in
// place. Rings are read before they are written: AttendStreaming first, StoreRings after.
//
// Partial attention is (o, lse): o [rows, heads * d] softmax-weighted over the keys seen, lse = log sum exp of the
// scaled scores; an empty part has o = 0 and lse = -inf. Two partials merge by MergeWeights. scores = q.k / sqrt(d) in
// f32.
//
// All pointers are device memory of the given Device unless named host. T is f32 on the CPU and bf16 on CUDA. Work is
// asynchronous on CUDA, ordered by the device's stream. CheckAttention refuses at start the shapes
// that a device's kernels cannot do, so that the other functions have no error to return.
#pragma once

#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/base/view.h"
#include "kernels/dual_chunk.h"
#include "kernels/kv_layout.h"

namespace duo {

// What a sequence's rows do with its page lists (decode_lists.h): nothing; visit them; see everything and make them; or
// that and measure what the lists before kept.
enum class ListUse : int32_t { kNone = 0, kVisit = 1, kChoose = 2, kChooseAgain = 3 };

// One sequence's part of a step. Lives in device memory, with a host copy beside it.
struct SeqSpan {
  int32_t first_row = 0;  // its rows in the step: [first_row, first_row + num_rows)
  int32_t num_rows = 0;
  int32_t history = 0;      // position of its first row = tokens before this step
  int32_t table = 0;        // its row in the whole-head page tables
  int32_t split_table = 0;  // and in the split-head page tables
  int32_t ring = 0;         // its ring set
  int32_t ring_begin = 0;   // first position that its rings hold, sinks aside; > 0 while rings are rebuilt
  int32_t keep_pages = 0;   // 1: a re-feed, which reads pages and never writes them
  ListUse list_use = ListUse::kNone;
  int32_t list = 0;  // its slot among the page lists, where they are used
};

struct SeqBatch {
  const SeqSpan* spans = nullptr;       // device [num_seqs]
  const int32_t* row_seq = nullptr;     // device [num_rows]: which span a row belongs to
  const int32_t* positions = nullptr;   // device [num_rows]
  const SeqSpan* host_spans = nullptr;  // host [num_seqs]; null inside a captured graph, where only bounds are known
  int num_seqs = 0;
  int num_rows = 0;
  int max_rows = 0;        // of one sequence; at most kMaxDecodeRows for the decode kernels
  int64_t max_tokens = 0;  // upper bound on history + num_rows of any sequence: sizes the split, never the result
  // May sequences of the step begin with the same pages, as far as the host knows? Chooses among kernels.
  bool may_share = true;
  // Do some visit their page lists, and do some make them, by their list_use?
  bool visits_lists = false, makes_lists = false;
  // PlanPages' work, of whole heads and of split ones; null: every AttendPages does it for itself.
  const void* plans[2] = {nullptr, nullptr};
};

constexpr int kMaxDecodeRows = 64;  // longer appends go through the prefill kernels

// Head counts of one layer on one rank; qkv columns are [q heads | k heads | v heads] * d, heads in the order
// paged groups (split pieces first), then streaming. Query head h belongs to KV head h / group.
struct HeadShape {
  int head_dim = 0;
  int group = 0;     // query heads per KV head
  int kv_heads = 0;  // on this rank, in this layer
  // The first so many KV heads, their query heads included, are rotated by kernels/hadamard.h behind RoPE.
  int hadamard_heads = 0;
  DUO_HD int q_cols() const { return kv_heads * group * head_dim; }
  DUO_HD int kv_cols() const { return kv_heads * head_dim; }
  DUO_HD int qkv_cols() const { return q_cols() + 2 * kv_cols(); }
  // Is head h of [q heads | k heads] one of them?
  DUO_HD bool hadamard(int h) const {
    const int q_heads = kv_heads * group;
    return h < q_heads ? h < hadamard_heads * group : h - q_heads < hadamard_heads;
  }
};

// Streaming heads that AttendPages attends to as well, where it can (StreamsBesidePages), and whose rings it then
// stores.
struct StreamingBeside {
  const RingKv* kv = nullptr;  // null: none
  float* lse = nullptr;        // as Partial's
};

// A step's rows in one layer.
struct StepRows {
  View qkv;  // [rows, qkv_cols] T
  HeadShape shape;
  SeqBatch batch;
  // Blocks of streaming attention that run beside AttendPages (Device::Fork) and find no room once it has begun: it
  // leaves them a few multiprocessors.
  int blocks_beside = 0;
  StreamingBeside streaming = {};
  ChunkPart part = {};  // of AttendPages, AttendPrefill and AttendStreaming
};

// Where partial attention goes: o, and lse where it is wanted.
struct Partial {
  View out;              // [rows, q_cols] T
  float* lse = nullptr;  // [query heads][rows] f32 or null
};

// The RMS norm of each head of q and k; no norm where a weight is null.
struct QkNorms {
  const float* q = nullptr;  // [head_dim] f32
  const float* k = nullptr;
  float eps = 0;
};

// Fails with a sentence when this device's kernels cannot do a head_dim, group or format.
absl::Status CheckAttention(const Device& device, int head_dim, int group, KvFormat format);

// cos_sin [rows, head_dim] f32: cos of the row's head_dim/2 angles, then their sines, times `factor`; angles = position
// * frequency in f64 (an f32 angle is off by 0.03 rad at 1 M).
void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies /*[head_dim/2]*/,
                double factor);

// In place on qkv [rows, qkv_cols] T: the norms, then rotate-half RoPE of q and k, then k -= key_shift [kv_heads]
// [head_dim] f32 (null: nothing is subtracted), then the Hadamard rotation of `shape.hadamard_heads`. A vector that is
// taken from every key of a head moves all scores of a query by the same number, which no softmax sees; lse moves with
// it.
void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const QkNorms& norms,
              const float* key_shift = nullptr);

// The same for dual chunk attention. ChunkAngles: cos_sin [rows, 4 * head_dim] f32, as RopeAngles leaves them one
// after the other, of the rows' keys, then of their queries for each ChunkKind, which the scale of their scores has
// been put into. RotateQkByChunks: the norms, then k and q of qkv by the first two, and q as `previous` and `earlier`
// T [rows, q_cols] by the others; then the Hadamard rotation of all.
void ChunkAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor,
                 const DualChunk& chunks);
struct ChunkQueries {
  View previous, earlier;
};
void RotateQkByChunks(Device& device, View qkv, const ChunkQueries& queries, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms);

// Encodes the step's K and V of `kv`'s heads into their pages (those held here; none of sequences with keep_pages) and
// leaves the decoded values in qkv.
void StoreKv(Device& device, const StepRows& rows, const PagedKv& kv);
// Rounds the step's K and V of `kv`'s heads in qkv to the ring's type.
void RoundToRing(Device& device, View qkv, const HeadShape& shape, const RingKv& kv);
// Copies each sequence's last tokens, as many as its rings have slots for, and its sinks, from qkv into its rings.
void StoreRings(Device& device, const StepRows& rows, const RingKv& kv);

// What AttendPages works out from lengths and page tables alone, such as which sequences share pages: the same for all
// layers whose heads are whole, and for all whose heads are split like `kv`, whatever their number. Does it once for a
// step, into batch.plans; it lies in `arena` until that is rewound. A device that has no use for it takes nothing.
size_t PagesPlanBytes(const Device& device, int max_rows_total, const PagedKv& kv);
void PlanPages(Device& device, SeqBatch& batch, int group, const PagedKv& kv, Arena& arena);

// Retrieval heads, few rows: every row attends to the pages held here, its own tokens included (StoreKv first). At most
// kMaxDecodeRows rows a sequence. Of out only the heads of `kv` are written; lse has those heads alone.
// by_chunks: with a part of keys of one kind.
size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens,
                          bool by_chunks = false);
void AttendPages(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch);

// Does AttendPages take `ring`'s streaming heads along (StepRows::streaming), to the bits of AttendStreaming and
// StoreRings? Their few blocks then begin with its own instead of waiting for them. Its like with masses or lists do so
// wherever it does.
bool StreamsBesidePages(const Device& device, const StepRows& rows, const PagedKv& kv, const RingKv& ring);

// Retrieval heads, one long sequence (batch.num_seqs == 1, host_spans given): history from the pages held here,
// unmasked; the step's own tokens from qkv, causal, when `own_square` (for a split head only one holder does it).
size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens,
                           bool by_chunks = false);
void AttendPrefill(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, bool own_square,
                   Arena& scratch);

// Starts a thread that makes ready what AttendPrefill can need for up to `rows` rows and `heads` KV heads of sequences
// up to max_tokens (on CUDA: compiled plans of a library; elsewhere nothing); without it the first calls are slow. Once
// a Device. Wait ends when all is ready; it ends with the Device.
void StartPrefillPlans(Device& device, int rows, int heads, int group, int head_dim, int64_t max_tokens);
void WaitForPrefillPlans(Device& device);

// Streaming heads, any number of rows: rings as they were before this step, and the step's own tokens from qkv. Of
// to.out only the heads of `kv` are written; to.lse has those heads alone.
void AttendStreaming(Device& device, const Partial& to, const StepRows& rows, const RingKv& kv, Arena& scratch);
size_t StreamingScratchBytes(const Device& device, int rows, int group, const RingKv& kv);

// The weights of two partials in their merge: o = wa * oa + wb * ob, lse = log(exp a + exp b). Both empty: 0, 0, -inf.
struct MergedWeights {
  float a, b, lse;
};
DUO_HD inline MergedWeights MergeWeights(float lse_a, float lse_b) {
  const float top = fmaxf(lse_a, lse_b);
  if (top == -INFINITY) return {0.0f, 0.0f, -INFINITY};
  const float ea = expf(lse_a - top), eb = expf(lse_b - top), sum = ea + eb;
  return {ea / sum, eb / sum, top + logf(sum)};
}

// Merges `part` into `to`, of `heads` query heads: columns [rows, heads * head_dim] of both, lse [heads][rows].
void MergePartial(Device& device, const Partial& to, const Partial& part, int heads);

// The lse of a layer's split heads, of all ranks; or, with learned sinks, of heads that one rank holds, by themselves.
struct GatheredLse {
  const float* lse = nullptr;    // [ranks][entries][rows] f32
  const int32_t* ids = nullptr;  // [ranks][entries]: which query head of the model it is of; -1: unused
  int ranks = 1;
  int entries = 0;
  int rank = 0;  // this one; its first entries are those of its query heads, in their order
  // [this rank's query heads] f32 or null: learned sinks. Each is one more partial, with o = 0 and the sink as its lse.
  const float* sinks = nullptr;
};
// Scales columns [h * head_dim, (h + 1) * head_dim) of out [rows, heads * head_dim] T by exp(mine - total) for each of
// this rank's `heads` query heads: mine = its own lse, total = log sum exp of all that have its id, and of its sink.
void ScaleSplitHeads(Device& device, View out, int head_dim, int heads, const GatheredLse& all);

// For copy-on-write of a fork's last, partly filled page.
void CopyPage(Device& device, const PagedKv& kv, int32_t from_id, int32_t to_id);

}  // namespace duo
