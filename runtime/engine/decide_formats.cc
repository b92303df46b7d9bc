// The formats of an engine's weights: before the partition, which is planned by their bits.
#include "absl/strings/str_cat.h"
#include "parallel/agreement.h"
#include "runtime/engine/agree_on_options.h"
#include "runtime/engine/engine_state.h"
#include "runtime/weights/format_shares.h"
#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/tied_head.h"

namespace duo {

// Opens the model's files and chooses what its matrices become in memory.
absl::Status Engine::State::DecideFormats() {
  if (device->is_cuda() && options.weights == DType::kI8 && options.int8_group > 0 && options.int8_group != 32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--weights int8:", options.int8_group, " runs on the CPU only; on CUDA use --weights int8:32, int8 or int4"));
  }
  formats = WeightFormats();
  formats.matrices = options.weights.value_or(DType::kBF16);
  formats.vocabulary = options.weights_head.value_or(DType::kBF16);
  formats.int8_group = options.int8_group;
  if (!options.shape.has_value()) {
    absl::StatusOr<SafetensorsModel> opened = SafetensorsModel::Open(options.model_dir);
    if (absl::Status s = Agree(*comm, opened.status()); !s.ok()) return s;
    files.emplace(std::move(*opened));
    if (absl::Status s = AgreeOnWeights(*comm, options.model_dir, *files); !s.ok()) return s;
    if (HasHeadOfItsOwn(*files, config)) {
      config.tie_embeddings = false;
      notes.push_back("config.json ties the output head to the embedding, but the weights bring another: it is taken");
    }
    absl::StatusOr<WeightFormats> chosen =
        ChooseFormats(*files, config, device->is_cuda(), {options.weights, options.weights_head, options.int8_group});
    if (absl::Status s = Agree(*comm, chosen.status()); !s.ok()) return s;
    formats = *chosen;
    const QuantizationScheme& cache = config.quantization.kv_cache;
    if (cache.bits > 0 && comm->rank() == 0) {
      notes.push_back(absl::StrCat("the checkpoint asks for a KV cache in ", cache.bits, "-bit ",
                                   cache.type == QuantizationType::kInt ? "int" : "float",
                                   " with scales of its own; duo does not use them: the cache is ", Name(kv),
                                   " (--kv)"));
    }
    if (!formats.note.empty()) notes.push_back(formats.note);
  } else if (!options.mixed_weights.empty()) {
    formats = MixedFormats(config, device->is_cuda(), options.mixed_weights);
  } else {
    formats.int4_group = config.hidden < 2048 ? 32 : 128;
  }
  format_shares = FormatShares(config, formats);  // once: servers tell them between steps, and experts are many
  return absl::OkStatus();
}

}  // namespace duo
