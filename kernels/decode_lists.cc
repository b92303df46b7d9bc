#include "kernels/decode_lists.h"

#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"

namespace duo {
namespace {

void CheckListed(const Device& device, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists) {
  DUO_CHECK(rows.qkv.dtype == ActivationType(device));
  DUO_CHECK_EQ(rows.qkv.cols, rows.shape.qkv_cols());
  DUO_CHECK_EQ(kv.page.head_dim, rows.shape.head_dim);
  DUO_CHECK_LE(kv.first_head + kv.num_heads, rows.shape.kv_heads);
  DUO_CHECK(lists.slots == 0 || kv.num_heads == lists.num_heads);
  DUO_CHECK(!kv.split);
  DUO_CHECK_EQ(kv.window, 0);
}

size_t LogBytes(int group, const DecodeLists& lists, int64_t pages) {
  return sizeof(float) * lists.num_heads * group * pages;
}

bool Chooses(const SeqSpan& span) {
  return span.list_use == ListUse::kChoose || span.list_use == ListUse::kChooseAgain;
}

}  // namespace

size_t ChoosePagesScratchBytes(const Device& device, int group, const DecodeLists& lists, int64_t max_tokens) {
  return Arena::Rounded(LogBytes(group, lists, CeilDiv(max_tokens, int64_t{kPageTokens}) + 1)) +
         ChooseListsScratchBytes(device, lists, max_tokens);
}

void ChoosePages(Device& device, const DecodeLists& lists, const StepRows& rows, const PagedKv& kv, int target,
                 Arena& scratch) {
  CheckListed(device, rows, kv, lists);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  const size_t mark = scratch.used();
  if (device.measuring()) {
    scratch.Take(ChoosePagesScratchBytes(device, rows.shape.group, lists, rows.batch.max_tokens));
    return scratch.Rewind(mark);
  }
  DUO_CHECK(rows.batch.host_spans != nullptr);
  const int group = rows.shape.group, d = rows.shape.head_dim;
  const size_t element = Bytes(rows.qkv.dtype, 1);
  for (int s = 0; s < rows.batch.num_seqs; ++s) {
    const SeqSpan& span = rows.batch.host_spans[s];
    if (!Chooses(span)) continue;
    ListChoice choice = {span.list, group, span.history / kPageTokens + 1, target,
                         span.list_use == ListUse::kChooseAgain};
    DUO_CHECK_LT(choice.slot, lists.slots);
    DUO_CHECK_GE(choice.pages, DecodeListRule::kFewestPages);
    DUO_CHECK_LE(ListStride(choice.pages), lists.stride);
    auto* logs = static_cast<float*>(scratch.Take(LogBytes(group, lists, choice.pages)));
    const int64_t first = span.first_row * rows.qkv.stride + int64_t{kv.first_head} * group * d;
    const MassRow row = {rows.qkv.as<uint8_t>() + first * element, group, 0, span.table, span.history};
    PageMassOfHeads(device, logs, row, kv, choice.pages);
    BackendOf(device).ChooseLists(device, lists, choice, logs, scratch);
    scratch.Rewind(mark);
  }
}

size_t ListedScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv,
                          const DecodeLists& lists, int64_t max_tokens) {
  return BackendOf(device).ListedScratchBytes(device, max_rows_total, group, kv, lists, max_tokens);
}

void AttendListed(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists,
                  Arena& scratch) {
  CheckListed(device, rows, kv, lists);
  DUO_CHECK(to.out.dtype == ActivationType(device));
  DUO_CHECK_EQ(to.out.cols, rows.shape.q_cols());
  DUO_CHECK_GE(to.out.rows, rows.batch.num_rows);
  DUO_CHECK_LE(rows.batch.max_rows, kMaxDecodeRows);
  if (rows.batch.num_rows == 0 || kv.num_heads == 0) return;
  BackendOf(device).AttendListed(device, to, rows, kv, lists, scratch);
}

void PageMassOfHeads(Device& device, float* logs, const MassRow& row, const PagedKv& kv, int64_t pages) {
  std::vector<MassHead> heads(kv.num_heads, {row, kv});
  const size_t q_bytes = Bytes(ActivationType(device), int64_t{row.group} * kv.page.head_dim);
  for (int h = 0; h < kv.num_heads; ++h) {
    heads[h].row.head = h;
    heads[h].row.q = static_cast<const uint8_t*>(row.q) + h * q_bytes;
  }
  PageMass(device, logs, heads, pages);
}

size_t ChooseListsScratchBytes(const Device& device, const DecodeLists& lists, int64_t max_tokens) {
  return BackendOf(device).ChooseListsScratchBytes(device, lists, max_tokens);
}

void ChooseLists(Device& device, const DecodeLists& lists, const ListChoice& choice, const float* logs,
                 Arena& scratch) {
  BackendOf(device).ChooseLists(device, lists, choice, logs, scratch);
}

}  // namespace duo
