// ModelWeights: one rank's share of a model's weights in device memory, read from safetensors slice by slice, and
// converted or quantised on the way. Which weights there are, and which slices of which tensors a rank holds, is data:
// weight_records.h, held_weights.h. All bytes lie in one Buffer that ModelWeights owns. Immutable once loaded.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "runtime/weights/code_format.h"
#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/stored_matrix.h"
#include "runtime/weights/weight_records.h"

namespace duo {

// Weights by their role: those of one layer, or those of the model around its layers.
struct WeightSet {
  std::array<Weight, static_cast<size_t>(WeightRole::kCount)> matrices;            // no rows where there is none
  std::array<const float*, static_cast<size_t>(WeightRole::kCount)> vectors = {};  // device; null where there is none
  const Weight& operator[](WeightRole role) const { return matrices[static_cast<size_t>(role)]; }
  const float* vector(WeightRole role) const { return vectors[static_cast<size_t>(role)]; }
};

// What a matrix becomes in memory. Rows and columns known, data not.
struct WeightFormats {
  DType matrices = DType::kBF16;    // attention and MLP projections
  DType vocabulary = DType::kBF16;  // embedding and vocabulary head
  int int4_group = 128;             // columns of an int4 group at most
  int int8_group = 0;               // columns of an int8 group; 0: a scale a row. fp8: sides of a block
  // Of a file whose tensors have types of their own: the weights that keep their codes, by layer (-1: the model's) and
  // role. They have these formats instead of the ones above.
  std::map<std::pair<int, WeightRole>, CodeFormat> kept;
  bool without_embedding = false;  // an embedding that is no head as well is left out: whoever loads has one
  std::string note;  // what came quantised and is not kept as it is stored, a sentence for the user; or empty
};

struct ModelWeights {
  std::vector<WeightSet> layers;
  WeightSet outer;       // kHead is kEmbedding where they are tied; both hold this rank's range of the vocabulary
  int32_t first_id = 0;  // of this range
  Range experts;         // of each layer with experts, those that are here, whole or a part of each
  Buffer storage;
};

// What a user asks for; what is unset comes as stored.
struct AskedFormats {
  std::optional<DType> matrices, vocabulary;
  int int8_group = 0;  // of int8 weights; 0: a scale a row. Of fp8 weights 128: a scale a block of 128 x 128
};

// Formats for this device: as asked; unset means as stored (CUDA has no f32 or f16 matrices: bf16 there; neither has
// what came quantised in a way that duo's formats do not hold). int4 groups are those of a checkpoint that has them;
// otherwise the largest that divide, but of at most 32 columns in models narrower than 2,048: small models lose most by
// coarse groups and have least to gain. A GGUF file's matrices have each a format of its own, and so have those of fp8
// in blocks.
absl::StatusOr<WeightFormats> ChooseFormats(const SafetensorsModel& files, const ModelConfig& config, bool on_cuda,
                                            const AskedFormats& asked);

enum class WeightParts : uint8_t { kAll, kLayers, kEmbedding /* alone */ };

// A rank's share of a model's weights, in the formats that they get in memory.
struct WeightShare {
  const ModelConfig& config;
  const RankShard& shard;
  const WeightFormats& formats;
  WeightParts parts = WeightParts::kAll;
};

// Of a copy of these weights that only guesses (runtime/drafts/self_drafts.h): matrices and vocabulary head are int4
// with groups of at most most_group columns. It has no embedding of its own: of that a row is read, whatever its
// format. Fails where a copy would bring nothing, or a matrix has no int4.
absl::StatusOr<WeightFormats> ChooseDraftFormats(const ModelConfig& config, const WeightFormats& served,
                                                 int most_group);

// Fails where 4 bits were asked for and a matrix's columns, or the pieces that heads or ranks cut them into, are no
// whole groups. Says which.
absl::Status CheckGroups(const ModelConfig& config, const WeightFormats& formats);

// Bytes that the share takes, alignment included.
int64_t WeightBytes(const WeightShare& share);

// Collective over the ranks when formats are quantised (row maxima are gathered). progress(bytes done, bytes in all) is
// called from the calling thread.
absl::StatusOr<ModelWeights> LoadWeights(const SafetensorsModel& files, const WeightShare& share, Device& device,
                                         Communicator& comm, const std::function<void(int64_t, int64_t)>& progress);

// The same layout with random weights, scaled so that activations keep their size. For benchmarks.
absl::StatusOr<ModelWeights> RandomWeights(const WeightShare& share, Device& device);

}  // namespace duo
