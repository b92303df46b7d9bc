#include "runtime/model/mass_reader.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <span>
#include <utility>

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

// One row, and what reading it needs. What is as long as the sequence stays on the device.
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
    const KeptMass& kept;
  };

  Row(const MassReader& reader, const Where& where)
      : reader_(reader), at_(where), pages_(where.position / kPageTokens + 1), here_(reader.RowsHere()) {
    lse_ = TakeFloats(here_);
    weights_ = TakeFloats(here_);
    if (here_ > 0) at_.device.Upload(weights_, reader_.weights_.data(), sizeof(float) * here_);
    logs_ = LogMasses{at_.kept.logs, here_, pages_, at_.kept.parts};
    if (at_.kept.logs == nullptr) {
      float* logs = TakeFloats(here_ * pages_);
      PageMass(at_.device, logs, Heads(), pages_);
      logs_ = LogMasses{logs, here_, pages_, 1};
    }
    LogSums(at_.device, lse_, logs_);
    if (at_.comm.size() > 1) ShareLse();
  }

  RowMass Read(std::span<const MassRange> ranges) const {
    RowMass row;
    row.position = at_.position;
    const std::vector<double> mass = Weigh(logs_);
    row.pages.assign(mass.begin(), mass.end());
    row.best.resize(pages_);
    std::iota(row.best.begin(), row.best.end(), 0);
    const auto best = row.best.begin() + std::min<int64_t>(pages_, kBestPages);
    std::partial_sort(row.best.begin(), best, row.best.end(),
                      [&](int32_t a, int32_t b) { return mass[a] != mass[b] ? mass[a] > mass[b] : a < b; });
    row.best.erase(best, row.best.end());
    const size_t mark = at_.arena.used();
    const std::vector<double> keys = Weigh(Scores(row.best));
    at_.arena.Rewind(mark);
    row.keys.assign(keys.begin(), keys.end());
    if (ranges.empty()) return row;
    const std::vector<float> lse = Host(lse_, here_);
    for (const MassRange& range : ranges) {
      const std::vector<double> heads = InRange(range.tokens, lse);
      row.ranges.insert(row.ranges.end(), heads.begin(), heads.end());
    }
    return row;
  }

 private:
  float* TakeFloats(int64_t count) const { return static_cast<float*>(at_.arena.Take(sizeof(float) * count)); }
  std::vector<float> Host(const float* from, int64_t count) const {
    std::vector<float> host(count);
    if (count > 0) at_.device.Download(host.data(), from, sizeof(float) * count);
    return host;
  }

  // The groups that are here, in their places.
  std::vector<MassHead> Heads() const {
    std::vector<MassHead> heads;
    for (const int number : reader_.here_) {
      const Group& g = reader_.groups_[number];
      const auto [kv, head] = PagesOf(at_.cache.layers()[g.layer], g.local);
      DUO_CHECK(kv != nullptr);
      const View q = at_.queries.Cols(g.column, int64_t{reader_.group_} * reader_.head_dim_);
      const int table = kv->split ? at_.span.split_table : at_.span.table;
      heads.push_back({{q.data, reader_.group_, head, table, at_.position}, *kv});
    }
    return heads;
  }

  // lse_ of each query head here becomes that over all ranks' pages.
  void ShareLse() {
    const int heads = static_cast<int>(reader_.groups_.size()) * reader_.group_;
    std::vector<float> own(heads, -INFINITY), all(static_cast<size_t>(heads) * at_.comm.size());
    std::vector<float> here = Host(lse_, here_);
    for (int row = 0; row < here_; ++row) own[reader_.OfAll(row)] = here[row];
    at_.comm.AllGatherHost(all.data(), own.data(), sizeof(float) * own.size());
    for (int row = 0; row < here_; ++row) {
      std::vector<float> ranks(at_.comm.size());
      for (int r = 0; r < at_.comm.size(); ++r) ranks[r] = all[static_cast<size_t>(r) * heads + reader_.OfAll(row)];
      here[row] = static_cast<float>(LogSum(ranks.data(), at_.comm.size()));
    }
    if (here_ > 0) at_.device.Upload(lse_, here.data(), sizeof(float) * here_);
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

  // The weighted mean of shares over the heads.
  std::vector<double> Weigh(const LogMasses& of) const {
    std::vector<double> mass(of.count);
    if (here_ > 0) {
      const size_t mark = at_.arena.used();
      float* out = TakeFloats(of.count);
      SumShares(at_.device, out, of, lse_, weights_);
      const std::vector<float> host = Host(out, of.count);
      at_.arena.Rewind(mark);
      mass.assign(host.begin(), host.end());
    }
    return SumOverRanks(mass);
  }

  // Of each key of the pages. Stays in the arena.
  LogMasses Scores(const std::vector<int32_t>& pages) const {
    const auto count = static_cast<int>(pages.size());
    DUO_CHECK_LE(count, kBestPages);
    auto* wanted = static_cast<int32_t*>(at_.arena.Take(sizeof(int32_t) * kBestPages));
    at_.device.Upload(wanted, pages.data(), sizeof(int32_t) * pages.size());
    const int64_t keys = int64_t{count} * kPageTokens;
    float* scores = TakeFloats(here_ * keys);
    KeyScores(at_.device, scores, Heads(), wanted, count);
    return {scores, here_, keys, 1};
  }

  // Of each query head here, of the pages [first, last) together.
  std::vector<float> LogsBetween(int32_t first, int32_t last) const {
    if (first >= last || here_ == 0) return std::vector<float>(here_, -INFINITY);
    LogMasses part = logs_;
    part.logs += int64_t{first} * part.parts;
    part.count = last - first;
    part.stride = pages_;
    float* sums = TakeFloats(here_);
    LogSums(at_.device, sums, part);
    return Host(sums, here_);
  }

  // Each provenance head's own mass in the range: of whole pages as they are, of its first and last by their keys.
  std::vector<double> InRange(TokenRange range, const std::vector<float>& lse) const {
    range.last = static_cast<int32_t>(std::min<int64_t>(range.last, at_.position + 1));
    std::vector<double> mass(reader_.groups_.size() * reader_.group_);
    if (range.first < range.last) {
      std::vector<int32_t> ends = {range.first / kPageTokens};
      if (const int32_t last = (range.last - 1) / kPageTokens; last != ends[0]) ends.push_back(last);
      const size_t mark = at_.arena.used();
      const LogMasses of = Scores(ends);
      const std::vector<float> scores = Host(of.logs, of.rows * of.count);
      const std::vector<float> between = LogsBetween(ends.front() + 1, ends.back());
      at_.arena.Rewind(mark);
      for (int row = 0; row < here_; ++row) {
        const auto share = [&](float log) { return log - lse[row] > kNothing ? std::exp(double{log} - lse[row]) : 0; };
        double& sum = mass[reader_.OfAll(row)];
        for (int64_t k = 0; k < of.count; ++k) {
          const int64_t token = int64_t{ends[k / kPageTokens]} * kPageTokens + k % kPageTokens;
          if (token >= range.first && token < range.last) sum += share(scores[row * of.count + k]);
        }
        sum += share(between[row]);
      }
    }
    mass = SumOverRanks(mass);
    std::vector<double> listed;
    for (const auto& [group, i] : reader_.heads_) listed.push_back(mass[group * reader_.group_ + i]);
    return listed;
  }

  const MassReader& reader_;
  const Where at_;
  int64_t pages_;
  int here_;  // query heads here
  LogMasses logs_;
  float *lse_, *weights_;  // device [query heads here]
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
  for (size_t i = 0; i < groups_.size(); ++i) {
    if (groups_[i].local >= 0) here_.push_back(static_cast<int>(i));
  }
  const auto order = [&](int i) { return std::pair(groups_[i].layer, groups_[i].local); };
  std::sort(here_.begin(), here_.end(), [&](int a, int b) { return order(a) < order(b); });
  for (size_t place = 0; place < here_.size(); ++place) {
    Group& g = groups_[here_[place]];
    g.place = static_cast<int>(place);
    weights_.insert(weights_.end(), g.weights.begin(), g.weights.end());
  }
  for (const ProvenanceHead& h : heads) {
    const auto of = [&](const Group& g) { return g.layer == h.layer && g.kv_head == h.head / group; };
    const auto found = std::find_if(groups_.begin(), groups_.end(), of);
    heads_.emplace_back(static_cast<int>(found - groups_.begin()), h.head % group);
  }
}

int MassReader::KeptParts(const Device& device, const KvCache& cache) const {
  int parts = 0;
  for (const int number : here_) {
    const PagedKv* kv = PagesOf(cache.layers()[groups_[number].layer], groups_[number].local).first;
    DUO_CHECK(kv != nullptr);
    const int own = MassParts(device, group_, *kv);
    if (own == 0 || (parts != 0 && own != parts)) return 0;
    parts = own;
  }
  return parts;
}

MassOut MassReader::Leaves(int layer, const PagedKv& kv, const KeptMass& kept) const {
  MassOut out;
  if (kept.logs == nullptr) return out;
  out.pages = kept.pages;
  for (const int number : here_) {
    const Group& g = groups_[number];
    if (g.layer != layer || g.local < kv.first_head || g.local >= kv.first_head + kv.num_heads) continue;
    if (out.heads == 0) out.logs = kept.logs + g.place * kept.pages * kept.parts * group_;
    out.heads |= uint64_t{1} << (g.local - kv.first_head);
  }
  return out;
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
  const auto floats = [](int64_t count) { return Arena::Rounded(sizeof(float) * count); };
  return floats(RowsHere() * pages) + floats(RowsHere() * keys) + floats(std::max(pages, keys)) +
         3 * floats(RowsHere()) + Arena::Rounded(sizeof(int32_t) * kBestPages);
}

std::vector<RowMass> MassReader::Read(Device& device, Communicator& comm, const KvCache& cache, View queries,
                                      const KeptMass& kept, const StepPlan& plan, Arena& arena) const {
  std::vector<RowMass> rows;
  const size_t mark = arena.used();
  for (size_t i = 0; i < plan.mass_samples.size(); ++i) {
    const int32_t row = plan.sample_rows[plan.mass_samples[i]];
    const SeqSpan& span = plan.spans[plan.row_seq[row]];
    const std::span<const MassRange> ranges(plan.mass_ranges);
    const auto of = [&](const MassRange& range) { return range.row == static_cast<int32_t>(i); };
    const auto first = std::find_if(ranges.begin(), ranges.end(), of), last = std::find_if_not(first, ranges.end(), of);
    const View own = queries.Rows(static_cast<int64_t>(i), 1);
    rows.push_back(Row(*this, {device, comm, cache, arena, span, plan.positions[row], own, kept}).Read({first, last}));
    arena.Rewind(mark);
  }
  return rows;
}

}  // namespace duo
