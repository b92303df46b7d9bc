// Drawing over ranks: the same logits, cut between any number of ranks, give the tokens and scores that one rank draws
// from the whole of them, and with top_p the tokens of nuclei that are found by sorting. Run by ctest as
//   mpirun -n N sampler_test
// Every rank draws alone, too, and compares.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/base/check.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"
#include "runtime/model/sampler.h"

namespace duo {
namespace {

constexpr int kVocab = 5003;  // cut at no word of a mask

// Rows of every kind of rule, greedy and drawn, with and without scores.
StepPlan MakePlan(int rows) {
  StepPlan plan;
  std::mt19937 rng(7);
  const auto below = [&](uint32_t n) { return rng() % n; };
  for (int row = 0; row < rows; ++row) {
    plan.sample_rows.push_back(row);
    plan.samples.push_back(
        {below(4) == 0 ? 0.0f : 0.5f + 0.25f * below(4), below(2) == 0 ? 1.0f : 0.8f, 11u + row, 1000 + row});
    if (below(5) == 0) continue;
    SampleRule rule;
    rule.sample = row;
    rule.top_k = below(2) == 0 ? 0 : static_cast<int32_t>(1 + below(2000));
    rule.min_p = below(3) == 0 ? 0.02f : 0;
    rule.scores = below(2) == 0 ? -1 : static_cast<int32_t>(below(kMostBest + 1));
    if (below(4) == 0) rule.target = static_cast<int32_t>(below(kVocab));
    if (below(2) == 0) {
      rule.first_edit = static_cast<int32_t>(plan.edits.size());
      std::map<int32_t, LogitEdit> edits;
      for (int i = 0; i < 50; ++i) {
        const auto id = static_cast<int32_t>(below(kVocab));
        edits[id] = {id, 1.0f + 0.1f * below(5), i % 7 == 0 ? -INFINITY : 0.5f * below(8) - 1};
      }
      for (const auto& [id, edit] : edits) plan.edits.push_back(edit);
      rule.edits = static_cast<int32_t>(edits.size());
    }
    if (below(3) == 0) {
      rule.mask = static_cast<int32_t>(plan.masks.size());
      const bool few = below(2) == 0;
      for (int word = 0; word < (kVocab + 31) / 32; ++word) {
        plan.masks.push_back(few ? (below(16) == 0 ? 1u << below(32) : 0) : static_cast<uint32_t>(rng()));
      }
    }
    plan.rules.push_back(rule);
  }
  return plan;
}

StepResult Draw(Device& device, Communicator& comm, const std::vector<float>& logits, int rows, const StepPlan& plan) {
  const int64_t first = int64_t{kVocab} * comm.rank() / comm.size(),
                end = int64_t{kVocab} * (comm.rank() + 1) / comm.size();
  std::vector<float> own(logits);  // on the CPU the device's memory is the host's
  const LogitShard shard{View(own.data() + first, DType::kF32, rows, end - first, kVocab), static_cast<int32_t>(first)};
  std::vector<ShardSample> samples(rows);
  SampleShard(device, samples.data(), shard.logits, shard.first_id, plan.samples.data());
  Arena arena(std::move(*Buffer::Allocate(device, DrawScratchBytes(device, rows, end - first), "scratch")));
  StepResult result = DrawTokens(device, comm, samples, shard, plan, arena);
  DUO_CHECK_MSG(std::memcmp(own.data(), logits.data(), 4 * logits.size()) == 0, "the logits were changed");
  return result;
}

int Compare(Communicator& comm) {
  const int rows = 64;
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  std::mt19937 rng(3);
  std::normal_distribution<float> normal(0, 2.5f);
  std::vector<float> logits(int64_t{rows} * kVocab);
  int wrong = 0;
  for (int round = 0; round < 4; ++round) {
    for (float& logit : logits) logit = std::round(normal(rng) * 64) / 64;  // with ties
    const StepPlan plan = MakePlan(rows);
    const StepResult alone = Draw(*device, *self, logits, rows, plan);
    const StepResult together = Draw(*device, comm, logits, rows, plan);
    for (int row = 0; row < rows; ++row) {
      const TokenScore &a = alone.scores[row], &b = together.scores[row];
      bool same = alone.tokens[row] == together.tokens[row] && a.best.size() == b.best.size() &&
                  a.chosen.token == b.chosen.token && std::abs(a.chosen.logprob - b.chosen.logprob) < 1e-5f;
      for (size_t i = 0; same && i < a.best.size(); ++i) {
        same = a.best[i].token == b.best[i].token && std::abs(a.best[i].logprob - b.best[i].logprob) < 1e-5f;
      }
      if (same) continue;
      ++wrong;
      std::fprintf(stderr, "rank %d, round %d, row %d: token %d, alone %d\n", comm.rank(), round, row,
                   together.tokens[row], alone.tokens[row]);
    }
  }
  return wrong;
}

// A logit that is NaN or +infinity, in whichever rank's part: no token on any rank, for that row alone.
int CompareBrokenRows(Communicator& comm) {
  const int rows = 64;
  const std::unique_ptr<Device> device = Device::Cpu(1);
  std::mt19937 rng(9);
  std::normal_distribution<float> normal(0, 2.5f);
  const StepPlan plan = MakePlan(rows);
  std::vector<float> logits(int64_t{rows} * kVocab);
  for (float& logit : logits) logit = normal(rng);
  const StepResult whole = Draw(*device, comm, logits, rows, plan);
  int wrong = 0;
  for (int round = 0; round < 4; ++round) {
    std::vector<float> broken = logits;
    for (int row = round % 2; row < rows; row += 2) {
      broken[int64_t{row} * kVocab + rng() % kVocab] = row % 3 == 0 ? INFINITY : NAN;
    }
    const StepResult drawn = Draw(*device, comm, broken, rows, plan);
    for (int row = 0; row < rows; ++row) {
      const int32_t expected = row % 2 == round % 2 ? kNoToken : whole.tokens[row];
      if (drawn.tokens[row] == expected) continue;
      ++wrong;
      std::fprintf(stderr, "rank %d, row %d, broken logits: token %d, expected %d\n", comm.rank(), row,
                   drawn.tokens[row], expected);
    }
  }
  return wrong;
}

// The token of the nucleus of `top_p`: the most likely tokens in order until their probabilities reach it, and of these
// the one whose logit and noise are the largest. In f64, from the whole row.
struct Nucleus {
  int32_t token = -1;
  int64_t tokens = 0;
};
Nucleus DrawFromNucleus(const float* logits, const SampleParams& p, double top_p) {
  std::vector<int32_t> order(kVocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  double sum = 0, mass = 0, best = -INFINITY;
  for (int32_t id : order) sum += std::exp((double{logits[id]} - logits[order[0]]) / p.temperature);
  Nucleus nucleus;
  for (int32_t id : order) {
    const double value = double{logits[id]} / p.temperature + SampleNoise(p.seed, p.position, id);
    if (value > best) {
      best = value;
      nucleus.token = id;
    }
    ++nucleus.tokens;
    mass += std::exp((double{logits[id]} - logits[order[0]]) / p.temperature) / sum;
    if (mass >= top_p) break;
  }
  return nucleus;
}

// Rows from one likely token to nearly even ones, so that nuclei have one token, many, and more than the draw looks at
// first.
int CompareNuclei(Communicator& comm) {
  constexpr float kSpreads[] = {8, 2.5, 1, 0.3};
  constexpr float kTopP[] = {0.3, 0.8, 0.99, 0.9999};
  const int rows = 64;
  const std::unique_ptr<Device> device = Device::Cpu(1);
  std::mt19937 rng(5);
  std::normal_distribution<float> normal;
  std::vector<float> logits(int64_t{rows} * kVocab);
  StepPlan plan;
  for (int row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < kVocab; ++i) logits[int64_t{row} * kVocab + i] = kSpreads[row % 4] * normal(rng);
    plan.sample_rows.push_back(row);
    plan.samples.push_back({0.7f + 0.2f * (row % 3), kTopP[row / 4 % 4], 31u + row, 500 + row});
  }
  const StepResult drawn = Draw(*device, comm, logits, rows, plan);
  int wrong = 0, of_several = 0, wide = 0;
  for (int row = 0; row < rows; ++row) {
    const SampleParams& p = plan.samples[row];
    // Where the last probability just reaches top_p, f32 may find the nucleus one token longer or shorter.
    bool found = false;
    for (double off : {0.0, -1e-5, 1e-5}) {
      const Nucleus nucleus = DrawFromNucleus(&logits[int64_t{row} * kVocab], p, p.top_p + off);
      found |= nucleus.token == drawn.tokens[row];
      of_several += off == 0 && nucleus.tokens > 1;
      wide += off == 0 && nucleus.tokens > 1024;
    }
    if (found) continue;
    ++wrong;
    std::fprintf(stderr, "rank %d, row %d: token %d is not the nucleus's\n", comm.rank(), row, drawn.tokens[row]);
  }
  DUO_CHECK_MSG(of_several >= rows / 2 && wide >= 4, "the nuclei are too small to tell anything");
  return wrong;
}

}  // namespace
}  // namespace duo

int main() {
  const std::unique_ptr<duo::MpiSession> session = duo::MpiSession::Start();
  const std::unique_ptr<duo::Device> device = duo::Device::Cpu(1);
  absl::StatusOr<std::unique_ptr<duo::Communicator>> comm =
      duo::MakeCommunicator(duo::CommKind::kAuto, session.get(), *device);
  if (!comm.ok()) return 2;
  const int wrong = duo::Compare(**comm) + duo::CompareBrokenRows(**comm) + duo::CompareNuclei(**comm);
  return wrong == 0 ? 0 : 1;
}
