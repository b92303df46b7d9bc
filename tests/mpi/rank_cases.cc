#include "tests/mpi/rank_cases.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "parallel/communicator.h"
#include "tests/mpi/coded_tolerance.h"

namespace duo {
namespace {

constexpr Strategy kStrategies[] = {Strategy::kSplit, Strategy::kHeads, Strategy::kAuto, Strategy::kContiguous};

EngineOptions OptionsFor(const Case& c, int world) {
  EngineOptions options;
  options.model_dir = c.golden->model_dir;
  options.attention = c.attention;
  if (c.attention == AttentionMode::kDuo) {
    options.pattern_dir = c.pattern.empty() ? c.golden->pattern_dir : c.pattern;
    if (c.sparsity < 0) {
      options.threshold = 0.5;
    } else {
      options.sparsity = c.sparsity;
    }
  }
  options.kv = c.kv;
  options.weights = c.weights;
  options.strategy = c.strategy;
  options.experts = c.experts;
  options.prefill_split = c.prefill;
  if (c.weighted) {
    for (int r = 0; r < world; ++r) options.rank_weights.push_back(std::vector<double>{2, 1, 3, 1}[r % 4]);
  }
  options.chunk = c.chunk;
  options.key_means = !c.key_means.empty();
  options.key_means_dir = c.key_means;
  options.questions = 1;
  options.max_session_tokens = static_cast<int64_t>(c.prompt.size()) + c.new_tokens;
  options.kv_tokens = 2 * options.max_session_tokens;
  return options;
}

// The prompt is appended but for its last token, which is asked. Rank 0 answers, the others follow.
absl::StatusOr<Answer> Run(const Case& c, Device& device, Communicator& comm) {
  absl::StatusOr<std::unique_ptr<Engine>> made = Engine::Create(OptionsFor(c, comm.size()), device, comm);
  if (!made.ok()) return made.status();
  Engine& engine = **made;
  if (comm.rank() != 0) {
    engine.Follow();
    return Answer();
  }
  const absl::StatusOr<SessionId> session = engine.CreateSession(static_cast<int64_t>(c.prompt.size()) + c.new_tokens);
  if (!session.ok()) return session.status();
  if (absl::Status s = AppendAll(engine, *session, {c.prompt.begin(), c.prompt.end() - 1}); !s.ok()) return s;
  GenerateParams params;
  params.max_new_tokens = c.new_tokens;
  return AskNow(engine, *session, {c.prompt.back()}, params);
}

float Lead(std::vector<float> logits) {
  std::nth_element(logits.begin(), logits.begin() + 1, logits.end(), std::greater<float>());
  return logits[0] - logits[1];
}

// Empty where the answer is as expected, else what differs.
std::string Difference(const Answer& answer, const Expected& expected) {
  if (answer.tokens.size() != expected.tokens.size()) return absl::StrCat(answer.tokens.size(), " tokens");
  for (size_t step = 0; step < expected.tokens.size(); ++step) {
    for (size_t i = 0; step < expected.logits.size() && i < expected.logits[step].size(); ++i) {
      const float apart = std::abs(answer.logits[step][i] - expected.logits[step][i]);
      if (apart <= expected.tolerance) continue;  // a NaN does not pass
      return absl::StrFormat("step %d: logit %d is %g away, %g are allowed", step, i, apart, expected.tolerance);
    }
    if (answer.tokens[step] == expected.tokens[step]) continue;
    if (!expected.leads.empty() && expected.leads[step] <= 2 * expected.tolerance) break;  // a tie: the texts part here
    return absl::StrFormat("token %d is %d, expected %d", step, answer.tokens[step], expected.tokens[step]);
  }
  return "";
}

}  // namespace

std::string Case::Text() const {
  return absl::StrFormat("%s %s%s kv %s%s %s, experts %s%s chunk %d", golden->name,
                         attention == AttentionMode::kDuo ? "duo" : "full",
                         sparsity < 0 ? "" : absl::StrFormat(" %.2f", sparsity), Name(kv),
                         weights.has_value() ? absl::StrCat(" weights ", Name(*weights)) : "", Name(strategy),
                         Name(experts), weighted ? ", unequal ranks," : "", chunk) +
         (all_chosen ? ", all of them chosen" : "") + (key_means.empty() ? "" : ", keys without their mean") +
         (prefill == PrefillSplit::kHeads ? "" : absl::StrCat(", prefill by ", Name(prefill)));
}

std::vector<Case> Variants(const Case& base, bool all, int world, int* turn) {
  constexpr int kChunks[] = {0, 37, 300, 128, 65};
  std::vector<Case> cases;
  if (!all) {
    for (int i = 0; i < (world > 4 ? 1 : 2); ++i, ++*turn) {
      Case c = base;
      c.weighted = *turn % 2 == 1;
      c.chunk = kChunks[*turn % 5];
      if (*turn % 3 == 2) c.strategy = kStrategies[*turn / 3 % 4];  // else split
      cases.push_back(c);
    }
    return cases;
  }
  for (const Strategy strategy : kStrategies) {
    for (const bool weighted : {false, true}) {
      for (const int chunk : kChunks) {
        Case c = base;
        c.strategy = strategy;
        c.weighted = weighted;
        c.chunk = chunk;
        cases.push_back(c);
      }
    }
  }
  return cases;
}

float Judge::Tolerance(const GoldenRun& run, KvFormat kv) const {
  return !cuda() && kv == KvFormat::kF32 ? run.tolerance() / 256 : run.tolerance();
}

float Judge::ToleranceOfChoices(const Case& c, const GoldenRun& run) {
  if (!cuda()) return Tolerance(run, c.kv);
  const auto [known, added] = of_choices_.try_emplace(absl::StrCat(c.golden->name, Name(c.kv), Name(*c.weights)), 0);
  if (added && leader() && Wanted(seen_)) known->second = CodedTolerance(OptionsFor(c, 1), run, device_);
  return known->second;
}

void Judge::Check(const Case& c, const Expected& expected) {
  if (!Wanted(seen_++)) return;
  ++cases_;
  if (leader() && last_ < kAll) std::fprintf(stderr, "%d: %s\n", seen_ - 1, c.Text().c_str());
  const absl::StatusOr<Answer> answer = Run(c, device_, comm_);
  std::string wrong = answer.ok() ? "" : std::string(answer.status().message());
  if (answer.ok() && leader()) wrong = Difference(*answer, expected);
  failures_ += Failed(ranks_, c.Text(), wrong);
}

Expected Judge::Alone(Case c, float tolerance) {
  c.strategy = Strategy::kAuto;
  c.experts = ExpertPlacement::kAuto;
  c.weighted = false;
  c.chunk = 0;
  c.prefill = PrefillSplit::kHeads;
  Expected& expected = alone_[c.Text()];
  if (!Wanted(seen_)) return expected;
  if (!leader() || !expected.tokens.empty()) return expected;  // the others wait in the case that follows
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  absl::StatusOr<Answer> answer = Run(c, device_, *self);
  DUO_CHECK_MSG(answer.ok(), std::string(answer.status().message()));
  for (const std::vector<float>& logits : answer->logits) expected.leads.push_back(Lead(logits));
  expected.tokens = answer->tokens;
  expected.logits = std::move(answer->logits);
  expected.tolerance = tolerance;
  return expected;
}

}  // namespace duo
