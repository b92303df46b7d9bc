// Where drafts come from besides the text: the copy of the weights by which the model guesses (--draft-weights), and
// another model (--draft-model). What they need to be, and loading them.
#include <algorithm>
#include <utility>

#include "kernels/alike_rows.h"
#include "runtime/engine/engine_state.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

// Of another model's guesses: each has a cache, and steps that check drafts have few rows.
constexpr int kMostGuessedTexts = 8;

}  // namespace

absl::Status Engine::State::DecideDrafts() {
  const bool model = !options.draft_model.empty();
  if (options.speculate == Speculation::kAuto) {
    options.speculate = model ? Speculation::kModel : device->is_cuda() ? Speculation::kAuto : Speculation::kText;
  }
  if (model != (options.speculate == Speculation::kModel)) {
    return absl::InvalidArgumentError(
        model ? "--draft-model is what guesses under --speculate model or auto: with another one it would be idle"
              : "--speculate model needs --draft-model");
  }
  if (options.int4_drafts && options.speculate != Speculation::kSelf) {
    return absl::InvalidArgumentError("--draft-weights int4 is for what the model guesses: it needs --speculate self");
  }
  return absl::OkStatus();
}

// Does a step in which one answer alone checks drafts give each of its rows the bits that it has in a step of its own?
// On the CPU always, and in any company. On GPUs in up to kAlikeRows rows of one page, where every matrix and every
// head is known to (kernels/README.md has what is left): one rank, whose sums are its own; no experts, which sort rows
// by expert; no windows, which would cut rows apart; none read by dual chunks or page lists.
bool Engine::State::ChecksAreExact() const {
  if (!device->is_cuda()) return true;
  if (comm->size() > 1 || config.experts.count > 0 || config.sliding_window > 0 || config.dual_chunk.chunk_size > 0 ||
      options.decode_sparsity.on()) {
    return false;
  }
  if (!AttentionAlike(*device, config.head_dim, config.heads / config.kv_heads, kv)) return false;
  const ModelWeights weights = DescribeWeights({config, shard, formats});
  const auto alike = [&](const WeightSet& of, std::initializer_list<WeightRole> roles) {
    return std::all_of(roles.begin(), roles.end(), [&](WeightRole role) { return LinearAlike(*device, of[role]); });
  };
  const auto layer_is = [&](const WeightSet& layer) {
    return alike(layer, {WeightRole::kQkv, WeightRole::kO, WeightRole::kGateUp, WeightRole::kDown});
  };
  return alike(weights.outer, {WeightRole::kHead}) &&
         std::all_of(weights.layers.begin(), weights.layers.end(), layer_is);
}

absl::Status Engine::State::PrepareDrafts() {
  if (options.speculate == Speculation::kAuto) {  // on a GPU
    options.speculate = ChecksAreExact() ? Speculation::kText : Speculation::kOff;
  }
  if (options.int4_drafts) {
    absl::StatusOr<WeightFormats> chosen = ChooseDraftFormats(config, formats, cut_unit);
    if (absl::Status s = Agree(*comm, chosen.status()); !s.ok()) return s;
    draft_formats = *std::move(chosen);
    memory.draft_weights = WeightBytes({config, shard, *draft_formats});
  }
  if (options.draft_model.empty()) return absl::OkStatus();
  absl::Status status;
  if (comm->rank() == 0) {
    const int texts = std::min({options.questions, Worker::kMaxBatch, kMostGuessedTexts});
    absl::StatusOr<std::unique_ptr<DraftModel>> opened = DraftModel::Open(options.draft_model, texts, *device);
    status = opened.status();
    if (opened.ok()) draft_model = *std::move(opened);
    if (status.ok() && !options.shape.has_value()) {
      status = CheckSameTokens(options.model_dir, config.vocab, options.draft_model, draft_model->config().vocab);
    }
    if (status.ok()) memory.draft_model = draft_model->bytes();
  }
  return Agree(*comm, status);
}

std::function<void(int64_t, int64_t)> Engine::State::Progress(int64_t before) const {
  if (!options.on_load) return nullptr;
  const int64_t all = memory.weights + memory.peer_shards + memory.draft_weights +
                      (draft_model != nullptr ? draft_model->weight_bytes() : 0);
  return [this, before, all](int64_t done, int64_t) { options.on_load(before + done, all); };
}

absl::Status Engine::State::LoadDraftWeights(Model& model) {
  if (!draft_formats.has_value()) return absl::OkStatus();
  const WeightShare share = {config, shard, *draft_formats};
  absl::StatusOr<ModelWeights> copy =
      files.has_value() ? LoadWeights(*files, share, *device, *comm, Progress(memory.weights + memory.peer_shards))
                        : RandomWeights(share, *device);
  if (absl::Status s = Agree(*comm, copy.status()); !s.ok()) return s;
  model.AddDraftWeights(*std::move(copy));
  return absl::OkStatus();
}

absl::Status Engine::State::LoadDraftModel() {
  if (options.draft_model.empty()) return absl::OkStatus();
  absl::Status loaded;
  if (draft_model != nullptr)
    loaded = draft_model->Load(Progress(memory.weights + memory.peer_shards + memory.draft_weights));
  return Agree(*comm, loaded);
}

}  // namespace duo
