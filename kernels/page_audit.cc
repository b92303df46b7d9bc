#include "kernels/page_audit.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"

namespace duo {
namespace {

// The pages of each head's list.
using HeadLists = std::vector<std::vector<int32_t>>;

int64_t PagesOf(int64_t max_tokens) { return CeilDiv(max_tokens, int64_t{kPageTokens}); }

HeadLists ListsOf(Device& device, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                  const ListRule& rule, int32_t density, Arena& arena) {
  const size_t mark = arena.used();
  const std::vector<int32_t> densities(kv.num_heads, density);
  PageLists lists;
  SelectPages(device, &lists, rows, kv, pooled, rule, densities.data(), arena);
  std::vector<int32_t> lengths(lists.heads), pages(lists.heads * lists.stride);
  device.Download(lengths.data(), lists.lengths, sizeof(int32_t) * lengths.size());
  device.Download(pages.data(), lists.pages, sizeof(int32_t) * pages.size());
  device.Synchronize();
  HeadLists all;
  for (int h = 0; h < lists.heads; ++h) {
    const auto first = pages.begin() + h * lists.stride;
    all.emplace_back(first, first + lengths[h]);
  }
  arena.Rewind(mark);
  return all;
}

// What each list adds to the one before it: lists of higher density hold those of lower, for both are the best of the
// same scores.
HeadLists Added(const HeadLists& list, const HeadLists& before) {
  HeadLists added(list.size());
  for (size_t h = 0; h < list.size(); ++h) {
    std::set_difference(list[h].begin(), list[h].end(), before[h].begin(), before[h].end(),
                        std::back_inserter(added[h]));
  }
  return added;
}

// The block's results over one part of the pages, on the host.
struct PartResult {
  std::vector<float> o, lse;  // [rows][query heads of kv * head_dim], [query heads of kv][rows]
};

PartResult AttendTo(Device& device, const StepRows& rows, const PagedKv& kv, const HeadLists& part, bool own,
                    Arena& arena) {
  const size_t mark = arena.used();
  const int64_t cols = rows.shape.q_cols(), first = int64_t{kv.first_head} * rows.shape.group * rows.shape.head_dim,
                wanted = int64_t{kv.num_heads} * rows.shape.group * rows.shape.head_dim;
  PageLists lists;
  lists.first_block = rows.batch.host_spans[0].history / kBlockTokens;
  lists.blocks = 1;
  lists.heads = kv.num_heads;
  lists.own = own;
  std::vector<int32_t> lengths;
  for (const auto& list : part) lengths.push_back(static_cast<int32_t>(list.size()));
  lists.stride = std::max(1, *std::max_element(lengths.begin(), lengths.end()));
  std::vector<int32_t> pages(lists.heads * lists.stride);
  for (int h = 0; h < lists.heads; ++h) std::copy(part[h].begin(), part[h].end(), pages.begin() + h * lists.stride);
  lists.lengths = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * lengths.size()));
  lists.pages = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * pages.size()));
  device.Upload(lists.lengths, lengths.data(), sizeof(int32_t) * lengths.size());
  device.Upload(lists.pages, pages.data(), sizeof(int32_t) * pages.size());
  const DType type = ActivationType(device);
  const View out = arena.Matrix(type, kBlockTokens, cols);
  float* lse = static_cast<float*>(arena.Take(sizeof(float) * kBlockTokens * kv.num_heads * rows.shape.group));
  AttendPageLists(device, {out, lse}, rows, kv, lists, arena);
  PartResult result;
  result.lse.resize(size_t{kBlockTokens} * kv.num_heads * rows.shape.group);
  device.Download(result.lse.data(), lse, sizeof(float) * result.lse.size());
  std::vector<uint8_t> bytes(Bytes(type, kBlockTokens * cols));
  device.Download(bytes.data(), out.data, bytes.size());
  device.Synchronize();
  result.o.resize(kBlockTokens * wanted);
  for (int64_t r = 0; r < kBlockTokens; ++r) {
    for (int64_t i = 0; i < wanted; ++i) {
      const int64_t at = r * cols + first + i;
      result.o[r * wanted + i] = type == DType::kF32 ? reinterpret_cast<const float*>(bytes.data())[at]
                                                     : ToFloat(reinterpret_cast<const bf16*>(bytes.data())[at]);
    }
  }
  arena.Rewind(mark);
  return result;
}

// What the rows of one query head add to its KV head's audit.
struct RowSums {
  std::array<double, kMostRungs> mass = {};
  double difference = 0, size = 0;  // squares of o - o_dense, and of o_dense
};

// own_parts: so many parts are what lists of the head's own density hold.
RowSums SumRows(const std::vector<PartResult>& parts, int64_t q_head, int64_t q_heads, int d, int rungs,
                int own_parts) {
  RowSums sums;
  std::vector<double> dense(d), listed(d);
  const int count = static_cast<int>(parts.size());
  for (int64_t r = 0; r < kBlockTokens; ++r) {
    const auto lse = [&](int part) { return double{parts[part].lse[q_head * kBlockTokens + r]}; };
    double top = -INFINITY, all = 0, own = 0, held = 0;
    for (int i = 0; i < count; ++i) top = std::max(top, lse(i));
    for (int i = 0; i < count; ++i) {
      all += std::exp(lse(i) - top);
      if (i < own_parts) own = all;
    }
    std::fill(dense.begin(), dense.end(), 0.0);
    std::fill(listed.begin(), listed.end(), 0.0);
    for (int i = 0; i < count; ++i) {
      const double weight = std::exp(lse(i) - top);
      held += weight;
      if (i < rungs) sums.mass[i] += held / all;
      if (weight == 0) continue;
      const float* o = parts[i].o.data() + (r * q_heads + q_head) * d;
      for (int k = 0; k < d; ++k) {
        dense[k] += weight / all * o[k];
        if (i < own_parts) listed[k] += weight / own * o[k];
      }
    }
    for (int k = 0; k < d; ++k) {
      sums.difference += (listed[k] - dense[k]) * (listed[k] - dense[k]);
      sums.size += dense[k] * dense[k];
    }
  }
  return sums;
}

void Audit(Device& device, PageAudit* audits, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
           const ListRule& rule, const AuditRungs& rungs, const int32_t* densities, Arena& scratch) {
  const auto before = static_cast<int32_t>(rows.batch.host_spans[0].history / kBlockTokens);
  std::vector<PartResult> parts;
  HeadLists last(kv.num_heads);
  for (int i = 0; i <= rungs.count; ++i) {
    HeadLists list(kv.num_heads);
    if (i < rungs.count) {
      list = ListsOf(device, rows, kv, pooled, rule, rungs.density[i], scratch);
    } else {
      for (auto& pages : list) {
        for (int32_t j = 0; j < before; ++j) pages.push_back(j);
      }
    }
    parts.push_back(AttendTo(device, rows, kv, Added(list, last), i == 0, scratch));
    last = std::move(list);
  }
  const int group = rows.shape.group, q_heads = kv.num_heads * group;
  const auto own_parts = [&](int head) {
    const auto end = rungs.density.begin() + rungs.count;
    const auto own = std::find(rungs.density.begin(), end, densities[head]);
    return static_cast<int>(own - rungs.density.begin()) + 1;  // a dense head's: all
  };
  std::vector<RowSums> sums(q_heads);
  device.pool().ParallelFor(q_heads, [&](int64_t q_head, int) {
    sums[q_head] =
        SumRows(parts, q_head, q_heads, rows.shape.head_dim, rungs.count, own_parts(static_cast<int>(q_head / group)));
  });
  for (int h = 0; h < kv.num_heads; ++h) {
    PageAudit& audit = audits[h] = {};
    double difference = 0, size = 0;
    for (int g = 0; g < group; ++g) {
      const RowSums& of = sums[h * group + g];
      for (int i = 0; i < rungs.count; ++i) audit.mass[i] += of.mass[i] / (double(group) * kBlockTokens);
      difference += of.difference;
      size += of.size;
    }
    audit.error = size > 0 ? std::sqrt(difference / size) : 0;
  }
}

}  // namespace

size_t AuditPagesScratchBytes(const Device& device, int group, const PagedKv& kv, int q_cols, int64_t max_tokens) {
  const size_t choose = SelectPagesBytes(device, kBlockTokens, group, kv, max_tokens);
  const size_t attend = Arena::Rounded(sizeof(int32_t) * kv.num_heads) +
                        Arena::Rounded(sizeof(int32_t) * kv.num_heads * std::max<int64_t>(1, PagesOf(max_tokens))) +
                        Arena::Rounded(Bytes(ActivationType(device), int64_t{kBlockTokens} * q_cols)) +
                        Arena::Rounded(sizeof(float) * kBlockTokens * kv.num_heads * group) +
                        AttendPageListsScratchBytes(device, kBlockTokens, group, kv, max_tokens);
  return std::max(choose, attend);
}

void AuditPages(Device& device, PageAudit* audits, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                const ListRule& rule, const AuditRungs& rungs, const int32_t* densities, Arena& scratch) {
  DUO_CHECK_EQ(rows.batch.num_rows, kBlockTokens);
  DUO_CHECK_LE(rungs.count, kMostRungs);
  if (kv.num_heads == 0) return;
  if (!device.measuring()) return Audit(device, audits, rows, kv, pooled, rule, rungs, densities, scratch);
  const size_t mark = scratch.used();
  scratch.Take(AuditPagesScratchBytes(device, rows.shape.group, kv, rows.shape.q_cols(), rows.batch.max_tokens));
  scratch.Rewind(mark);
}

}  // namespace duo
