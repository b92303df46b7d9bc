// ModelWeights: one rank's share of a model's weights in device memory, read from safetensors slice by slice, converted
// or quantised on the way. Which slices: parallel/shard.h. q, k and v of a rank's heads are one matrix, so are gate and
// up. All bytes lie in one Buffer owned here. Immutable once loaded.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/stored_matrix.h"

namespace duo {

struct LayerWeights {
  Weight qkv;                         // [(q + k + v rows of this rank's heads), hidden]
  Weight o;                           // [hidden, q columns of this rank's heads]
  Weight gate_up;                     // [2 * ffn rows of this rank, hidden]: all gate rows, then all up rows
  Weight down;                        // [hidden, ffn columns of this rank]
  const float* input_norm = nullptr;  // device f32 [hidden]
  const float* post_norm = nullptr;
  const float* q_norm = nullptr;  // [head_dim], families with q/k norm
  const float* k_norm = nullptr;
};

// What a matrix becomes in memory. Rows and columns known, data not.
struct WeightFormats {
  DType matrices = DType::kBF16;    // attention and MLP projections
  DType vocabulary = DType::kBF16;  // embedding and vocabulary head
  int int4_group = 128;             // columns of an int4 group at most
  std::string note;  // what came quantised and is not kept as it is stored, a sentence for the user; or empty
};

struct ModelWeights {
  std::vector<LayerWeights> layers;
  Weight embedding;  // this rank's rows of the vocabulary [vocab range, hidden]
  Weight head;       // the same range; the embedding itself when tied
  const float* final_norm = nullptr;
  int32_t first_id = 0;  // of this rank's vocabulary range
  Buffer storage;
};

// Formats for this device: as asked; unset means as stored (CUDA has no f32 or f16 matrices: bf16 there; neither has
// what came quantised in a way that duo's formats do not hold). int4 groups are those of a checkpoint that has them;
// otherwise the largest that divide, but of at most 32 columns in models narrower than 2,048: small models lose most by
// coarse groups and have least to gain.
absl::StatusOr<WeightFormats> ChooseFormats(const SafetensorsModel& files, const ModelConfig& config,
                                            const Device& device, std::optional<DType> matrices,
                                            std::optional<DType> vocabulary);

// Bytes that the weights of this shard take, alignment included.
int64_t WeightBytes(const ModelConfig& config, const RankShard& shard, const WeightFormats& formats);

// Collective over the ranks when formats are quantised (row maxima are gathered). progress(bytes done, bytes in all) is
// called from the calling thread.
absl::StatusOr<ModelWeights> LoadWeights(const SafetensorsModel& files, const ModelConfig& config,
                                         const RankShard& shard, const WeightFormats& formats, Device& device,
                                         Communicator& comm, const std::function<void(int64_t, int64_t)>& progress);

// The same layout with random weights, scaled so that activations keep their size. For benchmarks.
absl::StatusOr<ModelWeights> RandomWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device);

}  // namespace duo
