#include "runtime/model/mass_reader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <span>
#include <utility>

#include "kernels/attention_mass.h"
#include "kernels/ops.h"

namespace duo {
namespace {

constexpr double kNothing = -30;  // a share of e^-30 is left out of sums: nobody would see it

double LogSum(const float* values, int64_t count) {
  const float top = *std::max_element(values, values + count);
  if (top == -INFINITY) return -INFINITY;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double x = values[i] - top;
    if (x > kNothing) sum += std::exp(x);
  }
  return top + std::log(sum);
}

// The pages of this rank that hold local KV head `local`, and its number among their heads.
std::pair<const PagedKv*, int> PagesOf(const LayerKv& layer, int local) {
  for (const PagedKv& kv : layer.paged) {
    if (local >= kv.first_head && local < kv.first_head + kv.num_heads) return {&kv, local - kv.first_head};
  }
  return {nullptr, 0};
}

}  // namespace

// One row, and what reading it needs.
class MassReader::Row {
 public:
  struct Where {
    Device& device;
    Communicator& comm;
    const KvCache& cache;
    Arena& arena;
    const SeqSpan& span;
    int64_t position;
    View queries;  // [1, columns]
  };

  Row(const MassReader& reader, const Where& where)
      : reader_(reader), at_(where), pages_(where.position / kPageTokens + 1) {
    logs_ = EachGroup(
        pages_, [&](const MassRow& row, const PagedKv& kv, float* out) { PageMass(at_.device, out, row, kv, pages_); });
    FindLse();
  }

  RowMass Read(std::span<const MassRange> ranges) const {
    RowMass row;
    row.position = at_.position;
    const std::vector<double> mass = Weigh(logs_, pages_);
    row.pages.assign(mass.begin(), mass.end());
    row.best.resize(pages_);
    std::iota(row.best.begin(), row.best.end(), 0);
    const auto best = row.best.begin() + std::min<int64_t>(pages_, kBestPages);
    std::partial_sort(row.best.begin(), best, row.best.end(),
                      [&](int32_t a, int32_t b) { return mass[a] != mass[b] ? mass[a] > mass[b] : a < b; });
    row.best.erase(best, row.best.end());
    const std::vector<double> keys = Weigh(Scores(row.best), static_cast<int64_t>(row.best.size()) * kPageTokens);
    row.keys.assign(keys.begin(), keys.end());
    for (const MassRange& range : ranges) {
      const std::vector<double> heads = InRange(range.tokens);
      row.ranges.insert(row.ranges.end(), heads.begin(), heads.end());
    }
    return row;
  }

 private:
  // What run(MassRow, pages, out) gives for each group that is here, `count` floats for each query head.
  template <typename Run>
  std::vector<float> EachGroup(int64_t count, const Run& run) const {
    const size_t mark = at_.arena.used();
    const int64_t each = count * reader_.group_;
    std::vector<float> host(each * reader_.LocalGroups());
    auto* out = static_cast<float*>(at_.arena.Take(sizeof(float) * host.size()));
    float* next = out;
    for (const Group& g : reader_.groups_) {
      if (g.local < 0) continue;
      const auto [kv, head] = PagesOf(at_.cache.layers()[g.layer], g.local);
      DUO_CHECK(kv != nullptr);
      const View q = at_.queries.Cols(g.column, int64_t{reader_.group_} * reader_.head_dim_);
      const int table = kv->split ? at_.span.split_table : at_.span.table;
      run(MassRow{q.data, reader_.group_, head, table, at_.position}, *kv, next);
      next += each;
    }
    if (!host.empty()) at_.device.Download(host.data(), out, sizeof(float) * host.size());
    at_.arena.Rewind(mark);
    return host;
  }

  // Of each of the groups that are here: visit(query head of all groups, its weight, its first value).
  template <typename Visit>
  void ForHeads(const std::vector<float>& values, int64_t count, const Visit& visit) const {
    const float* next = values.data();
    for (size_t g = 0; g < reader_.groups_.size(); ++g) {
      if (reader_.groups_[g].local < 0) continue;
      for (int i = 0; i < reader_.group_; ++i, next += count) {
        visit(static_cast<int>(g) * reader_.group_ + i, reader_.groups_[g].weights[i], next);
      }
    }
  }

  int heads() const { return static_cast<int>(reader_.groups_.size()) * reader_.group_; }

  // lse_ of each query head: over this rank's pages, then over all ranks'.
  void FindLse() {
    std::vector<float> own(heads(), -INFINITY), all(static_cast<size_t>(heads()) * at_.comm.size());
    ForHeads(logs_, pages_,
             [&](int head, float, const float* logs) { own[head] = static_cast<float>(LogSum(logs, pages_)); });
    at_.comm.AllGatherHost(all.data(), own.data(), sizeof(float) * own.size());
    for (int h = 0; h < heads(); ++h) {
      std::vector<float> of(at_.comm.size());
      for (int r = 0; r < at_.comm.size(); ++r) of[r] = all[static_cast<size_t>(r) * heads() + h];
      lse_.push_back(LogSum(of.data(), at_.comm.size()));
    }
  }

  // Added in rank order, so that all ranks have the same.
  std::vector<double> SumOverRanks(const std::vector<double>& mine) const {
    if (at_.comm.size() == 1 || mine.empty()) return mine;
    std::vector<double> all(mine.size() * at_.comm.size()), sum(mine.size());
    at_.comm.AllGatherHost(all.data(), mine.data(), sizeof(double) * mine.size());
    for (int r = 0; r < at_.comm.size(); ++r) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += all[r * sum.size() + i];
    }
    return sum;
  }

  double Share(int head, float log) const { return log - lse_[head] > kNothing ? std::exp(log - lse_[head]) : 0; }

  // The weighted mean of shares over the heads.
  std::vector<double> Weigh(const std::vector<float>& values, int64_t count) const {
    std::vector<double> mass(count);
    ForHeads(values, count, [&](int head, float weight, const float* logs) {
      if (weight == 0) return;
      for (int64_t k = 0; k < count; ++k) mass[k] += weight * Share(head, logs[k]);
    });
    return SumOverRanks(mass);
  }

  // [query heads here][pages][kPageTokens]
  std::vector<float> Scores(const std::vector<int32_t>& pages) const {
    const size_t mark = at_.arena.used();
    const auto count = static_cast<int>(pages.size());
    DUO_CHECK_LE(count, kBestPages);
    auto* wanted = static_cast<int32_t*>(at_.arena.Take(sizeof(int32_t) * kBestPages));
    at_.device.Upload(wanted, pages.data(), sizeof(int32_t) * pages.size());
    std::vector<float> scores = EachGroup(
        int64_t{count} * kPageTokens,
        [&](const MassRow& row, const PagedKv& kv, float* out) { KeyScores(at_.device, out, row, kv, wanted, count); });
    at_.arena.Rewind(mark);
    return scores;
  }

  // Each provenance head's own mass in the range: of whole pages as they are, of its first and last by their keys.
  std::vector<double> InRange(TokenRange range) const {
    range.last = static_cast<int32_t>(std::min<int64_t>(range.last, at_.position + 1));
    std::vector<double> mass(heads());
    if (range.first < range.last) {
      std::vector<int32_t> ends = {range.first / kPageTokens};
      if (const int32_t last = (range.last - 1) / kPageTokens; last != ends[0]) ends.push_back(last);
      const auto keys = static_cast<int64_t>(ends.size()) * kPageTokens;
      ForHeads(Scores(ends), keys, [&](int head, float, const float* scores) {
        for (int64_t k = 0; k < keys; ++k) {
          const int64_t token = int64_t{ends[k / kPageTokens]} * kPageTokens + k % kPageTokens;
          if (token >= range.first && token < range.last) mass[head] += Share(head, scores[k]);
        }
      });
      ForHeads(logs_, pages_, [&](int head, float, const float* logs) {
        for (int32_t p = ends.front() + 1; p < ends.back(); ++p) mass[head] += Share(head, logs[p]);
      });
    }
    mass = SumOverRanks(mass);
    std::vector<double> listed;
    for (const auto& [group, i] : reader_.heads_) listed.push_back(mass[group * reader_.group_ + i]);
    return listed;
  }

  const MassReader& reader_;
  const Where at_;
  int64_t pages_;
  std::vector<float> logs_;  // [query heads here][pages]
  std::vector<double> lse_;  // [query heads of all groups]
};

MassReader::MassReader(const std::vector<ProvenanceHead>& heads, const RankShard& shard, int group, int head_dim)
    : group_(group), head_dim_(head_dim) {
  std::map<std::pair<int, int>, std::vector<float>> chosen;
  for (const ProvenanceHead& h : heads) {
    std::vector<float>& weights = chosen[{h.layer, h.head / group}];
    weights.resize(group);
    weights[h.head % group] += static_cast<float>(h.weight);
  }
  for (auto& [where, weights] : chosen) {
    Group g{where.first, where.second, std::move(weights)};
    const std::vector<LocalHead>& local = shard.layers[g.layer];
    for (size_t i = 0; i < local.size(); ++i) {
      if (local[i].kv_head != g.kv_head || local[i].kind == HeadKind::kStreaming || !local[i].adds_output) continue;
      g.local = static_cast<int>(i);
      g.column = columns_;
      columns_ += int64_t{group} * head_dim;
    }
    groups_.push_back(std::move(g));
  }
  for (const ProvenanceHead& h : heads) {
    const auto of = [&](const Group& g) { return g.layer == h.layer && g.kv_head == h.head / group; };
    const auto found = std::find_if(groups_.begin(), groups_.end(), of);
    heads_.emplace_back(static_cast<int>(found - groups_.begin()), h.head % group);
  }
}

int MassReader::LocalGroups() const {
  return static_cast<int>(std::count_if(groups_.begin(), groups_.end(), [](const Group& g) { return g.local >= 0; }));
}

void MassReader::Keep(Device& device, int layer, View qkv, const HeadShape& shape, const int32_t* rows, int count,
                      View kept) const {
  const int64_t width = int64_t{group_} * head_dim_;
  for (const Group& g : groups_) {
    if (g.layer != layer || g.local < 0) continue;
    DUO_CHECK_LT(g.local, shape.kv_heads);
    GatherRows(device, kept.Cols(g.column, width), qkv.Cols(g.local * width, width), rows, count);
  }
}

size_t MassReader::ScratchBytes(int64_t max_tokens) const {
  const int64_t pages = max_tokens / kPageTokens + 1, keys = int64_t{kBestPages} * kPageTokens;
  const int64_t heads = int64_t{group_} * LocalGroups();
  return Arena::Rounded(sizeof(float) * heads * std::max(pages, keys)) + Arena::Rounded(sizeof(int32_t) * kBestPages);
}

std::vector<RowMass> MassReader::Read(Device& device, Communicator& comm, const KvCache& cache, View queries,
                                      const StepPlan& plan, Arena& arena) const {
  std::vector<RowMass> rows;
  for (size_t i = 0; i < plan.mass_samples.size(); ++i) {
    const int32_t row = plan.sample_rows[plan.mass_samples[i]];
    const SeqSpan& span = plan.spans[plan.row_seq[row]];
    const std::span<const MassRange> ranges(plan.mass_ranges);
    const auto of = [&](const MassRange& range) { return range.row == static_cast<int32_t>(i); };
    const auto first = std::find_if(ranges.begin(), ranges.end(), of), last = std::find_if_not(first, ranges.end(), of);
    const View own = queries.Rows(static_cast<int64_t>(i), 1);
    rows.push_back(Row(*this, {device, comm, cache, arena, span, plan.positions[row], own}).Read({first, last}));
  }
  return rows;
}

}  // namespace duo
