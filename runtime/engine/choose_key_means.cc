#include "runtime/engine/choose_key_means.h"

#include "absl/strings/str_cat.h"
#include "attn_patterns/key_means.h"
#include "parallel/agreement.h"
#include "runtime/engine/choose_heads.h"
#include "runtime/engine/engine_state.h"
#include "runtime/model/key_shift.h"

namespace duo {
namespace {

absl::StatusOr<std::string> FolderOf(const EngineOptions& options, const ModelConfig& config) {
  if (!options.key_means_dir.empty()) return options.key_means_dir;
  const absl::StatusOr<FoundPattern> found = PatternOf(options, config);
  if (found.ok()) return found->dir;
  return absl::Status(found.status().code(),
                      absl::StrCat("--key-means on takes them from the pattern's folder (another: --key-means DIR): ",
                                   found.status().message()));
}

}  // namespace

absl::StatusOr<ChosenKeyShift> ChooseKeyShift(const EngineOptions& options, const ModelConfig& config,
                                              int64_t max_tokens) {
  // Before any file: a model that cannot have them needs none.
  KeyMeans means;
  means.layers = config.layers;
  means.kv_heads = config.kv_heads;
  means.head_dim = config.head_dim;
  if (absl::Status s = CheckKeyShift(config, means, ""); !s.ok()) return s;
  const absl::StatusOr<std::string> dir = FolderOf(options, config);
  if (!dir.ok()) return dir.status();
  absl::StatusOr<KeyMeans> read = ReadKeyMeans(*dir);
  if (!read.ok()) return read.status();
  if (absl::Status s = CheckKeyShift(config, *read, *dir); !s.ok()) return s;
  const RopeFrequencies rope = ComputeRopeFrequencies(config, max_tokens);
  // The model's positions, whatever this engine's sessions are limited to: what one keeps another must be able to use.
  const int64_t positions = MaxPositions(config);
  return ChosenKeyShift{KeyShift(*read, rope, positions), KeyShiftFingerprint(*read, rope, positions),
                        absl::StrCat(*dir, "/", kKeyMeansFile)};
}

void ShareKeyShift(Communicator& comm, ChosenKeyShift* chosen) {
  if (comm.size() == 1) return;
  auto count = static_cast<int64_t>(chosen->shift.size());
  comm.Broadcast(&count, sizeof count, 0);
  chosen->shift.resize(count);
  comm.Broadcast(chosen->shift.data(), sizeof(float) * count, 0);
}

absl::Status Engine::State::DecideKeyShift() {
  if (!options.key_means) return absl::OkStatus();
  absl::StatusOr<ChosenKeyShift> chosen = ChosenKeyShift();
  if (comm->rank() == 0) chosen = ChooseKeyShift(options, config, limits.max_tokens);
  if (absl::Status s = Agree(*comm, chosen.status()); !s.ok()) return s;
  key_shift = *std::move(chosen);
  if (comm->rank() == 0) notes.push_back(absl::StrCat("keys are kept without their mean (", key_shift.file, ")"));
  ShareKeyShift(*comm, &key_shift);
  return absl::OkStatus();
}

}  // namespace duo
