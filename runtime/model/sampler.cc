#include "runtime/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/base/math.h"

namespace duo {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

float LogSumExp(const std::vector<float>& parts) {
  const float top = *std::max_element(parts.begin(), parts.end());
  if (std::isinf(top)) return top;
  double sum = 0;
  for (float part : parts) sum += std::exp(static_cast<double>(part) - top);
  return top + static_cast<float>(std::log(sum));
}

// Of whole rows.
struct RowSample {
  float lse = 0;
  int32_t id = -1;
};

std::vector<RowSample> MergeShards(Communicator& comm, const std::vector<ShardSample>& shards) {
  const size_t rows = shards.size();
  std::vector<ShardSample> all(rows * comm.size());
  comm.AllGatherHost(all.data(), shards.data(), rows * sizeof(ShardSample));
  std::vector<RowSample> merged(rows);
  for (size_t i = 0; i < rows; ++i) {
    ShardSample best{0, kNegativeInfinity, -1};
    std::vector<float> parts;
    for (int r = 0; r < comm.size(); ++r) {
      const ShardSample& s = all[r * rows + i];
      parts.push_back(s.lse);
      if (s.id >= 0 && (best.id < 0 || s.value > best.value || (s.value == best.value && s.id < best.id))) best = s;
    }
    merged[i] = {LogSumExp(parts), best.id};
  }
  return merged;
}

// Which of the candidates, whose first `count` are certain, a draw is from: their number. -1: it needs more of them.
int64_t Kept(const std::vector<Candidate>& candidates, int64_t count, bool all, const SampleParams& p, int32_t top_k,
             float min_p) {
  int64_t kept = std::min<int64_t>(count, static_cast<int64_t>(candidates.size()));
  bool cut = all;
  if (top_k > 0 && top_k <= kept) {
    kept = top_k;
    cut = true;
  }
  if (min_p > 0) {
    const float least = candidates.front().logit / p.temperature + std::log(min_p);
    const auto below = std::find_if(candidates.begin(), candidates.begin() + kept,
                                    [&](const Candidate& c) { return c.logit / p.temperature < least; });
    cut |= below != candidates.begin() + kept;
    kept = below - candidates.begin();
  }
  return cut ? kept : -1;
}

// What draws are made on and with.
struct Place {
  Device& device;
  Communicator& comm;
  const StepPlan& plan;
  Arena& arena;
};

// own: one row's. lse: of the whole row.
int32_t DrawFromBest(const Place& on, const LogitShard& own, const SampleParams& p, int32_t top_k, float min_p,
                     float lse) {
  int64_t widest = own.logits.cols;
  std::vector<int64_t> widths(on.comm.size());
  on.comm.AllGatherHost(widths.data(), &widest, sizeof widest);
  widest = *std::max_element(widths.begin(), widths.end());
  const bool cuts = top_k > 0 || min_p > 0;
  for (int64_t count = std::min<int64_t>(1024, widest);; count = std::min(2 * count, widest)) {
    const bool all = count == widest;
    const std::vector<Candidate> candidates = BestLogits(on.device, on.comm, own, static_cast<int>(count), on.arena)[0];
    // Below the largest of the ranks' smallest candidates some shard may hide a better one, but what is before it is
    // the true order; it is enough that what is drawn from ends within the first `count`, which are right on every
    // rank.
    int64_t kept = std::min<int64_t>(all ? candidates.size() : count, candidates.size());
    double total = lse;
    if (cuts) {
      kept = Kept(candidates, kept, all, p, top_k, min_p);
      if (kept < 0) continue;
      double sum = 0;
      const float top = candidates.front().logit / p.temperature;
      for (int64_t i = 0; i < kept; ++i)
        sum += std::exp(static_cast<double>(candidates[i].logit / p.temperature) - top);
      total = top + std::log(sum);
    }
    double mass = 0;
    float best = kNegativeInfinity;
    int32_t best_id = candidates.front().id;
    for (int64_t i = 0; i < kept; ++i) {
      const float scaled = candidates[i].logit / p.temperature;
      const float value = scaled + SampleNoise(p.seed, p.position, candidates[i].id);
      if (value > best || (value == best && candidates[i].id < best_id)) {
        best = value;
        best_id = candidates[i].id;
      }
      mass += std::exp(static_cast<double>(scaled) - total);
      if (p.top_p < 1.0f && mass >= p.top_p) return best_id;
    }
    if (cuts || all) return best_id;  // rounding kept the whole vocabulary just below top_p
  }
}

template <typename T>
const T* Uploaded(Device& device, Arena& arena, const T* values, size_t count) {
  if (count == 0) return nullptr;
  void* place = arena.Take(count * sizeof(T));
  device.Upload(place, values, count * sizeof(T));
  return static_cast<const T*>(place);
}

// The ShardSamples of rows that are looked at again.
std::vector<ShardSample> SampleAgain(const Place& on, const LogitShard& own, const std::vector<SampleParams>& params) {
  std::vector<ShardSample> shards(params.size(), {kNegativeInfinity, kNegativeInfinity, -1});
  if (own.logits.cols == 0) return shards;
  const size_t mark = on.arena.used();
  const SampleParams* device_params = Uploaded(on.device, on.arena, params.data(), params.size());
  auto* samples = static_cast<ShardSample*>(on.arena.Take(shards.size() * sizeof(ShardSample)));
  SampleShard(on.device, samples, own.logits, own.first_id, device_params);
  on.device.Download(shards.data(), samples, shards.size() * sizeof(ShardSample));
  on.arena.Rewind(mark);
  return shards;
}

// A copy of one row in the arena, with the rule's edits and mask.
LogitShard Edited(const Place& on, const LogitShard& row, const SampleRule& rule) {
  const int64_t shard = row.logits.cols;
  if (shard == 0) return row;
  const LogitShard copy{on.arena.Matrix(DType::kF32, 1, shard), row.first_id};
  on.device.Copy(copy.logits.data, row.logits.data, Bytes(DType::kF32, shard));
  std::vector<LogitEdit> edits;  // of this shard
  for (int32_t i = rule.first_edit; i < rule.first_edit + rule.edits; ++i) {
    const int64_t at = int64_t{on.plan.edits[i].id} - row.first_id;
    if (at >= 0 && at < shard) edits.push_back(on.plan.edits[i]);
  }
  const uint32_t* mask = nullptr;
  if (rule.mask >= 0) {
    const int64_t first = row.first_id / 32, end = CeilDiv(row.first_id + shard, int64_t{32});
    mask = Uploaded(on.device, on.arena, on.plan.masks.data() + rule.mask + first, end - first);
  }
  const LogitEdit* device_edits = Uploaded(on.device, on.arena, edits.data(), edits.size());
  EditLogits(on.device, copy.logits, row.first_id, device_edits, static_cast<int>(edits.size()), mask);
  return copy;
}

// sample: what the row gives without the rule.
int32_t DrawByRule(const Place& on, LogitShard row, RowSample sample, const SampleRule& rule) {
  const size_t mark = on.arena.used();
  const SampleParams& p = on.plan.samples[rule.sample];
  if (rule.edits > 0 || rule.mask >= 0) {
    row = Edited(on, row, rule);
    sample = MergeShards(on.comm, SampleAgain(on, row, {p}))[0];
  }
  if (sample.lse == kNegativeInfinity) {
    sample.id = kNoneAllowed;
  } else if (!std::isfinite(sample.lse)) {
    sample.id = kNoToken;
  } else if (p.temperature >= kGreedyBelow && (p.top_p < 1.0f || rule.top_k > 0 || rule.min_p > 0)) {
    sample.id = DrawFromBest(on, row, p, rule.top_k, rule.min_p, sample.lse);
  }
  on.arena.Rewind(mark);
  return sample.id;
}

// Each row's logit of its token, which one rank has.
std::vector<float> ChosenLogits(const Place& on, const LogitShard& own, const std::vector<int32_t>& tokens) {
  std::vector<float> mine(tokens.size(), kNegativeInfinity), all(tokens.size() * on.comm.size());
  for (size_t row = 0; row < tokens.size(); ++row) {
    const int64_t at = int64_t{tokens[row]} - own.first_id;
    if (tokens[row] < 0 || at < 0 || at >= own.logits.cols) continue;
    on.device.Download(&mine[row], own.logits.as<float>() + static_cast<int64_t>(row) * own.logits.stride + at, 4);
  }
  on.comm.AllGatherHost(all.data(), mine.data(), 4 * mine.size());
  for (size_t i = 0; i < all.size(); ++i) mine[i % mine.size()] = std::max(mine[i % mine.size()], all[i]);
  return mine;
}

// The scores of rows [first, first + count) of the step, for those whose rules ask. lse: of those rows' logits.
void ScoreRows(const Place& on, const LogitShard& rows, const std::vector<float>& lse,
               const std::vector<const SampleRule*>& rules, StepResult* result) {
  int32_t best = 0;
  std::vector<int32_t> tokens(lse.size(), -1);
  const int32_t first = rules.front()->sample;
  for (const SampleRule* rule : rules) {
    best = std::max(best, rule->scores);
    tokens[rule->sample - first] = rule->target >= 0 ? rule->target : result->tokens[rule->sample];
  }
  const std::vector<float> chosen = ChosenLogits(on, rows, tokens);
  std::vector<std::vector<Candidate>> candidates(lse.size());
  if (best > 0) candidates = BestLogits(on.device, on.comm, rows, best, on.arena);
  for (const SampleRule* rule : rules) {
    const int32_t row = rule->sample - first;
    TokenScore& score = result->scores[rule->sample];
    score.chosen = {tokens[row], chosen[row] - lse[row]};
    const auto count = std::min<size_t>(rule->scores, candidates[row].size());
    for (size_t i = 0; i < count; ++i) {
      score.best.push_back({candidates[row][i].id, candidates[row][i].logit - lse[row]});
    }
  }
}

void Score(const Place& on, const LogitShard& own, const std::vector<RowSample>& samples, StepResult* result) {
  std::vector<const SampleRule*> rules;
  bool scaled = false;
  for (const SampleRule& rule : on.plan.rules) {
    if (rule.scores < 0) continue;
    rules.push_back(&rule);
    scaled |= on.plan.samples[rule.sample].temperature >= kGreedyBelow;
  }
  if (rules.empty()) return;
  result->scores.resize(samples.size());
  const int32_t first = rules.front()->sample, count = rules.back()->sample - first + 1;
  const LogitShard rows{own.logits.Rows(first, count), own.first_id};
  std::vector<float> lse(count);
  if (scaled) {  // what there is was taken at a temperature
    const std::vector<SampleParams> plain(count);
    const std::vector<RowSample> again = MergeShards(on.comm, SampleAgain(on, rows, plain));
    for (int32_t i = 0; i < count; ++i) lse[i] = again[i].lse;
  } else {
    for (int32_t i = 0; i < count; ++i) lse[i] = samples[first + i].lse;
  }
  ScoreRows(on, rows, lse, rules, result);
}

}  // namespace

StepResult DrawTokens(Device& device, Communicator& comm, const std::vector<ShardSample>& shards, const LogitShard& own,
                      const StepPlan& plan, Arena& arena) {
  const Place on{device, comm, plan, arena};
  const std::vector<RowSample> samples = MergeShards(comm, shards);
  StepResult result;
  result.tokens.resize(samples.size());
  size_t next_rule = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    const SampleRule* rule = nullptr;
    if (next_rule < plan.rules.size() && plan.rules[next_rule].sample == static_cast<int32_t>(i)) {
      rule = &plan.rules[next_rule++];
    }
    const LogitShard row{own.logits.Rows(static_cast<int64_t>(i), 1), own.first_id};
    const SampleParams& p = plan.samples[i];
    int32_t& token = result.tokens[i];
    token = std::isfinite(samples[i].lse) ? samples[i].id : kNoToken;
    if (token == kNoToken) continue;
    if (rule != nullptr && rule->changes_draw()) {
      token = DrawByRule(on, row, samples[i], *rule);
    } else if (p.top_p < 1.0f && p.temperature >= kGreedyBelow) {
      token = DrawFromBest(on, row, p, 0, 0, samples[i].lse);
    }
  }
  if (!plan.rules.empty()) Score(on, own, samples, &result);
  return result;
}

size_t DrawScratchBytes(const Device& device, int64_t samples, int64_t shard) {
  const size_t rule = Arena::Rounded(4 * shard) + Arena::Rounded(sizeof(LogitEdit) * shard) +
                      Arena::Rounded(4 * (shard / 32 + 2)) + BestLogitsBytes(device, 1, shard, static_cast<int>(shard));
  const size_t again = Arena::Rounded(samples * sizeof(SampleParams)) + Arena::Rounded(samples * sizeof(ShardSample));
  return std::max(rule, BestLogitsBytes(device, samples, shard, kMostBest)) + again + 8 * Arena::kAlignment;
}

}  // namespace duo
