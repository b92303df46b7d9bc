#include "launcher/terminal/runtime_checks.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {

void CheckRankWeights(const RuntimeFlags& flags, int world) {
  const size_t given = flags.rank_weights.size();
  if (given == 0 || world == 0 || given == static_cast<size_t>(world)) return;
  throw CLI::ValidationError(
      "--rank-weights",
      absl::StrFormat("expected one for each of %d %s, found %d%s", world, world == 1 ? "rank" : "ranks", given,
                      world == 1 ? "; several ranks are started by mpirun -n N duo ..." : ""));
}

void CheckDraftFlags(const RuntimeFlags& flags) {
  const bool model = !flags.draft_model.empty();
  if (!model && flags.speculate == "model") {
    throw CLI::ValidationError("--speculate model",
                               "expected another model that guesses, as --draft-model PATH: a smaller one with the "
                               "same tokenizer; --speculate self guesses without one");
  }
  if (model && flags.speculate != "model" && flags.speculate != "auto") {
    throw CLI::ValidationError("--draft-model",
                               absl::StrCat("guesses under --speculate model or auto, under ", flags.speculate,
                                            " it would be idle: leave one of the two flags away"));
  }
  if (flags.draft_weights == "int4" && flags.speculate != "self") {
    throw CLI::ValidationError("--draft-weights int4", "is what --speculate self guesses with: give that, too");
  }
}

void CheckRuntimeFlags(const RuntimeFlags& flags, const Launch& launch) {
  CheckRankWeights(flags, launch.world);
  CheckDraftFlags(flags);
  if (flags.speculate == "self" && flags.decode_sparsity != "off") {
    throw CLI::ValidationError("--decode-sparsity",
                               "writes answers from page lists, and --speculate self guesses from them to keep answers "
                               "exact: only one of the two can be on");
  }
}

}  // namespace duo
