// Drafts over ranks, heads split between them: answers with --speculate text are those without, to the bit, at the same
// number of ranks; so are those with --speculate self, where each head is one rank's, also by an int4 copy of the
// weights, and those with a draft model. Run by ctest as
//   mpirun -n N drafts_test [--device cuda]
// with f32 and int4 KV, and with every format where DUO_TEST_SCALE is more than 1. On a GPU a row's bits depend on the
// rows beside it: there logits are held to a tolerance, up to a draw that parts at a near tie (DifferenceWithin).
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/equivalence/draft_script.h"
#include "tests/golden/golden_model.h"
#include "tests/mpi/coded_tolerance.h"
#include "tests/mpi/rank_setup.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFewest = 20;  // tokens
constexpr int kLong = 4200;      // tokens: enough for page lists

struct Case {
  const Golden* golden = nullptr;
  KvFormat kv = KvFormat::kF32;
  bool weighted = false;
  Speculation speculate = Speculation::kOff;
  int before = 0;  // tokens that sessions begin with
  bool int4_drafts = false;
};

EngineOptions OptionsFor(const Case& c, int world) {
  EngineOptions options;
  options.model_dir = c.golden->model_dir;
  options.pattern_dir = c.golden->pattern_dir;
  options.threshold = 0.5;
  options.sink = 3;
  options.recent = 21;
  options.kv = c.kv;
  if (world > 1) options.strategy = c.before > 0 ? Strategy::kHeads : Strategy::kSplit;
  for (int r = 0; c.weighted && r < world; ++r) options.rank_weights.push_back(r % 2 == 0 ? 2 : 1);
  options.sessions = 3;
  options.questions = 4;
  options.max_session_tokens = c.before + 512;
  options.kv_tokens = 4 * (c.before + 1024);
  options.speculate = c.speculate;
  options.int4_drafts = c.int4_drafts && c.speculate == Speculation::kSelf;
  if (c.speculate == Speculation::kModel) options.draft_model = c.golden->model_dir;
  options.guess_target = 300;  // attention is spread evenly
  options.measured = false;    // so that guesses are tried, whatever they take
  return options;
}

// Rank 0 gets the answers, or why there are none; the others follow.
absl::StatusOr<std::vector<ScriptAnswer>> Run(const Case& c, uint64_t seed, Ranks& ranks, EngineStats* all) {
  const auto engine = Engine::Create(OptionsFor(c, ranks.comm->size()), *ranks.device, *ranks.comm);
  if (!engine.ok()) return engine.status();
  if (!ranks.leader()) {
    (*engine)->Follow();
    return std::vector<ScriptAnswer>();
  }
  std::vector<ScriptAnswer> answers = RunDraftScript(**engine, seed, 8, c.before);
  all->accepted_tokens += (*engine)->stats().accepted_tokens;
  all->guess_steps += (*engine)->stats().guess_steps;
  return answers;
}

// What differs; rank 0 alone.
std::string Compare(const Case& c, const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected,
                    Device& device) {
  if (!device.is_cuda()) return DifferenceOf(found, expected);
  Case alone = c;
  alone.weighted = false;
  alone.speculate = Speculation::kOff;
  const float tolerance = CodedTolerance(OptionsFor(alone, 1), c.golden->duo, device);
  int64_t compared = 0;
  int parted = 0;
  const std::string wrong = DifferenceWithin(found, expected, tolerance, &compared, &parted);
  std::printf("%s kv %s: %d tokens of %d answers compared, %d part\n", c.golden->name.c_str(), Name(c.kv),
              static_cast<int>(compared), static_cast<int>(expected.size()), parted);
  return wrong.empty() && compared < kFewest ? "the answers part before anything was compared" : wrong;
}

int RunCases(bool cuda) {
  Ranks ranks = StartRanks(cuda, CommKind::kAuto);
  const fs::path scratch = fs::temp_directory_path() / absl::StrCat("duo_rank_drafts_", getpid());
  int cases = 0, failures = 0;
  int64_t asked = 0;
  EngineStats all;
  const auto compare = [&](Case c, Speculation speculate, uint64_t seed) {
    const auto expected = Run(c, seed, ranks, &all);
    c.speculate = speculate;
    const auto found = Run(c, seed, ranks, &all);
    const absl::Status status = expected.ok() ? found.status() : expected.status();
    std::string wrong = status.ok() ? "" : std::string(status.message());
    if (status.ok() && ranks.leader()) wrong = Compare(c, *found, *expected, *ranks.device);
    if (expected.ok()) asked += std::ssize(*expected);
    ++cases;
    failures +=
        Failed(ranks, absl::StrFormat("%s %s kv %s seed %d", c.golden->name, Name(speculate), Name(c.kv), seed), wrong);
  };
  for (const char* name : {"llama_mha_untied", "llama_mqa_f16"}) {
    const Golden golden = LoadGolden(name, scratch.string());
    GivePositions(golden, 2 * kLong);
    const bool lists = golden.name == "llama_mqa_f16";  // a layer may have some
    for (const KvFormat kv : kKvFormats) {
      const bool always = kv == (cuda ? KvFormat::kBF16 : KvFormat::kF32) || kv == KvFormat::kInt4;
      if ((cuda && kv == KvFormat::kF32) || (!always && TestScale() == 1)) continue;
      for (uint64_t seed = FirstSeed(0); seed < FirstSeed(0) + Scaled(1); ++seed) {
        compare({&golden, kv, ranks.comm->size() > 1 && cases % 2 == 1}, Speculation::kText, seed);
        if (!lists || (TestScale() == 1 && kv != KvFormat::kInt4)) continue;
        compare({.golden = &golden, .kv = kv, .before = kLong}, Speculation::kSelf, seed);
      }
    }
  }
  // With a tokenizer, and of MLPs whose columns over one and two ranks are in multiples of 32, as an int4 copy's groups
  // are. Over three and four they are cut at others, and the copy is refused: cut otherwise, answers would not be those
  // without it.
  const Golden demo = LoadGolden("needle-6m", scratch.string());
  const KvFormat kv = cuda ? KvFormat::kBF16 : KvFormat::kF32;
  const bool copies = ranks.comm->size() <= 2;
  for (const bool weighted : {false, true}) {
    Case c = {.golden = &demo, .kv = kv, .weighted = weighted && ranks.comm->size() > 1};
    compare(c, Speculation::kModel, FirstSeed(0));
    c.int4_drafts = true;
    if (copies) {
      compare(c, Speculation::kSelf, FirstSeed(0));
      continue;
    }
    c.speculate = Speculation::kSelf;
    const absl::Status refused = Run(c, FirstSeed(0), ranks, &all).status();
    ++cases;
    failures += Failed(ranks, "an int4 copy that does not fit the cuts",
                       absl::StrContains(refused.message(), "cut at multiples of") ? "" : refused.ToString());
  }
  fs::remove_all(scratch);
  failures += Failed(ranks, "all cases", all.accepted_tokens > 0 ? "" : "no draft was right: nothing was tried");
  failures += Failed(ranks, "all cases", all.guess_steps > 0 ? "" : "the model guessed nothing");
  return Agreed(ranks, absl::StrFormat("%d answers with drafts over %d ranks", asked, ranks.comm->size()), cases,
                failures);
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  duo::InitTestScale();
  return duo::RunOnDevice(argc, argv, duo::RunCases);
}
