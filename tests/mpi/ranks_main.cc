// The test rule over ranks: however many ranks share a model, equal or unequal, in whatever way its heads are placed,
// cut and stored, it answers as one rank does. Run by ctest as
//   mpirun -n N ranks_test [--all] [--device cuda] [--comm mpi|nccl] [--cases FIRST:LAST] [CASES...]
// One launch runs many cases; the program exits with 0 when all agreed. CASES:
//   needle    needle-6m at sparsity 0.75, at 0.96 (a single retrieval head is left) and with full attention: the greedy
//             tokens that transformers found, and the logits
//   random    random models with 3 and with 1 KV heads, retrieval heads in every layer: the logits of one rank
//   chunks    dual chunk attention over 20 chunks, split heads among the heads: the logits of one rank
//   means     keys without their mean, of rank 0's file alone, split heads among them: the logits of one rank that
//             keeps keys as they are
//   rows      long chunks shared out by rows, of random models, of one read by dual chunks and of every family: the
//             logits of one rank
//   families  every family's golden: the logits and greedy tokens of transformers; experts with coded weights: one
//             rank's
// --cases runs the cases [FIRST, LAST) alone and names each, where time is short. --all crosses every codec with all
// placements, weights and chunks, where the default takes them in turn; so does a DUO_TEST_SCALE above 1.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "attn_patterns/key_means.h"
#include "kernels/base/check.h"
#include "kernels/base/splitmix64.h"
#include "parallel/communicator.h"
#include "tests/golden/golden_model.h"
#include "tests/mpi/rank_cases.h"
#include "tests/mpi/rank_setup.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr KvFormat kCodecs[] = {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};

void Needle(Judge& judge, bool all, const std::string& scratch) {
  const Golden golden = LoadGolden("needle-6m", scratch);
  int turn = 0;
  for (const double sparsity : {0.75, 0.96, -1.0}) {
    for (const KvFormat kv : kCodecs) {
      if (judge.cuda() && kv == KvFormat::kF32) continue;
      Case c;
      c.golden = &golden;
      c.prompt = golden.prompt;
      c.new_tokens = static_cast<int64_t>(golden.full.greedy.size());
      c.attention = sparsity < 0 ? AttentionMode::kFull : AttentionMode::kDuo;
      c.pattern = SourceDir() + "/attn_patterns/needle-6m";
      c.sparsity = sparsity;
      c.kv = kv;
      Expected expected;
      expected.tokens = golden.full.greedy;  // the fact, the same for any attention that finds it
      // Logits besides where transformers computed them, for heads that see too much find that fact, too.
      if (kv == (judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32) && sparsity != 0.96) {
        const GoldenRun& run = sparsity < 0 ? golden.full : golden.duo;
        expected = {run.greedy, {run.logits}, run.leads, judge.Tolerance(run, kv)};
        c.pattern = golden.pattern_dir;  // the heads that it used
        c.sparsity = -1;
      }
      for (const Case& variant : Variants(c, all, judge.world(), &turn)) judge.Check(variant, expected);
    }
  }
}

// Token ids of nine pages and a piece: every one of eight ranks holds pages of a split head.
std::vector<int32_t> RandomPrompt(int64_t vocab) {
  std::vector<int32_t> tokens(1171);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(SplitMix64(i + 17) % vocab);
  return tokens;
}

// What one rank alone gives for a text of 1,171 tokens, with both kinds of attention and these formats.
void RandomPrompts(Judge& judge, const Golden& golden, const std::vector<KvFormat>& formats, bool all, int* turn) {
  for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
    for (const KvFormat kv : formats) {
      if (judge.cuda() && kv == KvFormat::kF32) continue;
      Case c;
      c.golden = &golden;
      c.prompt = RandomPrompt(static_cast<int64_t>(golden.full.logits.size()));
      c.attention = attention;
      c.kv = kv;
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden.duo : golden.full;
      for (const Case& variant : Variants(c, all, judge.world(), turn)) {
        judge.Check(variant, judge.Alone(variant, judge.Tolerance(run, kv)));
      }
    }
  }
}

void Random(Judge& judge, bool all, const std::string& scratch) {
  int turn = 0;
  for (const char* name : {"llama_mha_untied", "llama_mqa_f16"}) {  // 3 and 1 KV heads
    const Golden golden = LoadGolden(name, absl::StrCat(scratch, "/random"));
    GivePositions(golden, 2048);
    RandomPrompts(judge, golden, {std::begin(kCodecs), std::end(kCodecs)}, all, &turn);
  }
}

// Queries of every rank meet keys of many chunks, in pages of split heads, too.
void Chunks(Judge& judge, bool all, const std::string& scratch) {
  int turn = 0;
  const Golden golden = LoadGolden("qwen2_dual_chunk", absl::StrCat(scratch, "/chunks"));
  GivePositions(golden, 2048);
  RandomPrompts(judge, golden, {judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32, KvFormat::kInt4}, all, &turn);
}

bool HasExperts(const Golden& golden) {
  const absl::StatusOr<ModelConfig> config = LoadConfig(golden.model_dir);
  DUO_CHECK(config.ok());
  return config->experts.count > 0;
}

// Chunks that no number of ranks divides, some of them too short to be shared out; unequal ranks; split heads, copies
// of heads, keys and values in every format. Of the families learned sinks, windows, biases and experts, whose parts
// lie where heads have them.
void Rows(Judge& judge, bool all, const std::string& scratch) {
  int turn = 0;
  Case c;
  c.prefill = PrefillSplit::kRows;
  for (const char* name : {"llama_mha_untied", "llama_mqa_f16", "qwen2_dual_chunk"}) {
    const Golden golden = LoadGolden(name, absl::StrCat(scratch, "/rows"));
    GivePositions(golden, 2048);
    c.golden = &golden;
    c.prompt = RandomPrompt(static_cast<int64_t>(golden.full.logits.size()));
    for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden.duo : golden.full;
      for (const KvFormat kv : {judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32, KvFormat::kInt4}) {
        c.attention = attention;
        c.kv = kv;
        for (const Case& variant : Variants(c, all, judge.world(), &turn)) {
          judge.Check(variant, judge.Alone(variant, judge.Tolerance(run, kv)));
        }
      }
    }
  }
  c.kv = judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32;
  for (const std::string& name : GoldenNames()) {
    const Golden golden = LoadGolden(name, absl::StrCat(scratch, "/rows"));
    c.golden = &golden;
    c.prompt = golden.prompt;
    for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden.duo : golden.full;
      c.attention = attention;
      c.new_tokens = static_cast<int64_t>(run.greedy.size());
      c.chunk = 65;
      c.weighted = ++turn % 2 == 1;
      const Expected expected = {run.greedy, {run.logits}, run.leads, judge.Tolerance(run, c.kv)};
      for (const ExpertPlacement experts : {ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
        if (experts == ExpertPlacement::kWhole && !HasExperts(golden)) continue;
        c.experts = experts;
        judge.Check(c, expected);
      }
      if (name != "llama_mha_untied") continue;
      c.prefill = PrefillSplit::kAuto;  // whichever way the links here lead to
      judge.Check(c, expected);
      c.prefill = PrefillSplit::kRows;
    }
  }
}

void Means(Judge& judge, bool all, const std::string& scratch, int rank) {
  int turn = 0;
  for (const char* name : {"llama_mha_untied", "llama_mqa_f16"}) {
    const Golden golden = LoadGolden(name, absl::StrCat(scratch, "/means"));
    GivePositions(golden, 2048);
    const absl::StatusOr<ModelConfig> config = LoadConfig(golden.model_dir);
    DUO_CHECK(config.ok());
    KeyMeans means;
    means.layers = static_cast<int>(config->layers);
    means.kv_heads = static_cast<int>(config->kv_heads);
    means.head_dim = static_cast<int>(config->head_dim);
    means.tokens = 1;
    for (int64_t i = 0; i < int64_t{means.layers} * means.kv_heads * means.head_dim; ++i) {
      means.values.push_back(static_cast<double>(SplitMix64(i + 1000 * rank) % 2001) / 1000 - 1);
    }
    for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
      Case c;
      c.golden = &golden;
      c.prompt = RandomPrompt(static_cast<int64_t>(golden.full.logits.size()));
      c.attention = attention;
      c.kv = judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32;
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden.duo : golden.full;
      const Expected expected = judge.Alone(c, judge.Tolerance(run, c.kv));
      // Every rank's file says something else.
      c.key_means = absl::StrCat(scratch, "/means/", name, rank);
      DUO_CHECK(WriteKeyMeans(means, c.key_means).ok());
      for (const Case& variant : Variants(c, all, judge.world(), &turn)) judge.Check(variant, expected);
    }
  }
}

void Families(Judge& judge, const std::string& scratch) {
  for (const std::string& name : GoldenNames()) {
    const Golden golden = LoadGolden(name, scratch);
    for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden.duo : golden.full;
      Case c;
      c.golden = &golden;
      c.prompt = golden.prompt;
      c.new_tokens = static_cast<int64_t>(run.greedy.size());
      c.attention = attention;
      c.kv = judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32;
      c.chunk = 37;
      const Expected expected = {run.greedy, {run.logits}, run.leads, judge.Tolerance(run, c.kv)};
      judge.Check(c, expected);
      if (!HasExperts(golden)) continue;
      c.experts = ExpertPlacement::kWhole;
      judge.Check(c, expected);
      c.weighted = true;  // a rank may have few of them, or none
      judge.Check(c, expected);
    }
  }
  // Experts are cut or dealt out, and the scales of their rows are those of whole rows, however many ranks there are.
  // Where every token goes through all experts, nothing depends on what a router barely prefers. With fp8 some choices
  // lead by less than 16 bits move the router's logits; with int8 none does here.
  for (const char* name : {"mixtral_sharded", "qwen2_moe_shared"}) {
    for (const bool all_chosen : {false, true}) {
      const Golden golden = LoadGolden(name, all_chosen ? absl::StrCat(scratch, "/all_chosen") : scratch);
      if (all_chosen) ChooseAllExperts(golden);
      for (const DType weights : {DType::kI8, DType::kF8E4M3}) {
        Case c;
        c.golden = &golden;
        c.prompt = golden.prompt;
        c.kv = judge.cuda() ? KvFormat::kBF16 : KvFormat::kF32;
        c.weights = weights;
        c.all_chosen = all_chosen;
        for (const ExpertPlacement experts : {ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
          c.experts = experts;
          for (const bool weighted : {false, true}) {
            c.weighted = weighted;
            const bool near_ties = weights == DType::kF8E4M3 && !all_chosen;
            const float tolerance =
                near_ties ? judge.ToleranceOfChoices(c, golden.full) : judge.Tolerance(golden.full, c.kv);
            judge.Check(c, judge.Alone(c, tolerance));
          }
        }
      }
    }
  }
}

struct Flags {
  bool all = false, cuda = false;
  CommKind comm = CommKind::kAuto;
  std::vector<std::string> cases;
  std::pair<int, int> range = {-1, -1};
};

int RunCases(const Flags& flags) {
  Ranks ranks = StartRanks(flags.cuda, flags.comm);
  // Every rank writes the goldens' models for itself: ranks need not share a file system.
  const fs::path scratch = fs::temp_directory_path() / absl::StrCat("duo_ranks_", getpid());
  Judge judge(ranks);
  if (flags.range.first >= 0) judge.Take(flags.range.first, flags.range.second);
  for (const std::string& cases : flags.cases) {
    if (cases == "needle") Needle(judge, flags.all, scratch);
    if (cases == "random") Random(judge, flags.all, scratch);
    if (cases == "chunks") Chunks(judge, flags.all, scratch);
    if (cases == "means") Means(judge, flags.all, scratch, ranks.comm->rank());
    if (cases == "rows") Rows(judge, flags.all, scratch);
    if (cases == "families") Families(judge, scratch);
  }
  fs::remove_all(scratch);
  if (judge.leader()) {
    std::printf("%d ranks on %s: %d of %d cases agree\n", judge.world(), ranks.device->info().name.c_str(),
                judge.cases() - judge.failures(), judge.cases());
  }
  return judge.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  duo::InitTestScale();
  duo::Flags flags;
  flags.all = duo::TestScale() > 1;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool value = i + 1 < argc;
    if (word == "--all") {
      flags.all = true;
    } else if (word == "--cases" && value) {
      if (std::sscanf(argv[++i], "%d:%d", &flags.range.first, &flags.range.second) != 2) return 2;
    } else if (word == "--device" && value) {
      flags.cuda = std::string(argv[++i]) == "cuda";
    } else if (word == "--comm" && value) {
      const absl::StatusOr<duo::CommKind> kind = duo::ParseCommKind(argv[++i]);
      if (!kind.ok()) return 2;
      flags.comm = *kind;
    } else if (word == "needle" || word == "random" || word == "means" || word == "chunks" || word == "rows" ||
               word == "families") {
      flags.cases.push_back(word);
    } else {
      std::fprintf(stderr, "unknown argument %s\n", word.c_str());
      return 2;
    }
  }
  return duo::RunCases(flags);
}
