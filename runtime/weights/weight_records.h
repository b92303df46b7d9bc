// Weights as data. A family's row (families.h) lists what each of its layers, and the model around them, is made of:
// one record a weight, with its role, the stored tensors that make it, their shape, and so how ranks cut it. Parameter
// count, layout, memory plan, loading and random weights all walk these records (held_weights.h), so that a weight more
// is a record more. Constant data, any thread.
#pragma once

#include <array>
#include <cstdint>

namespace duo {

struct ModelConfig;

// What a weight is for: where the forward finds it (WeightSet in weights.h).
enum class WeightRole : uint8_t {
  // Of a layer.
  kQkv,  // q, k and v of a rank's heads, one matrix
  kO,
  kGateUp,  // all gate rows, then all up rows
  kDown,
  kRouter,        // a row for each expert, then the gate of the shared one where there is one
  kExpertGateUp,  // expert by expert: all gate rows, then all up rows
  kExpertDown,    // expert by expert
  kSharedGateUp,  // of the expert for all tokens
  kSharedDown,
  kInputNorm,
  kPostNorm,  // before the MLP
  kQNorm,
  kKNorm,
  kSinks,  // a logit for each query head of the rank, in the order of its heads
  // Of the model.
  kFinalNorm,
  kEmbedding,
  kHead,
  kCount,
};

// A dimension of a stored tensor: how long it is, and what of it a rank holds.
enum class Dim : uint8_t {
  kOne,                 // of a vector; whole
  kHidden,              // whole
  kHeadDim,             // whole
  kQueryHeads,          // heads * head_dim: those of the rank's KV heads, in the rank's order
  kKvHeads,             // kv_heads * head_dim: the same
  kHeads,               // heads: one for each query head, the same
  kIntermediate,        // the rank's range
  kVocab,               // the rank's range
  kExperts,             // one for each; whole
  kExpertIntermediate,  // of one expert; the rank's range, the same of each; all where experts are whole
  kSharedIntermediate,  // of the expert for all tokens; the rank's range
};

// Which layers have a weight.
enum class LayersWith : uint8_t {
  kAll,
  kDense,    // those whose MLP is one
  kExperts,  // those whose MLP is a mixture of experts
};

// Of experts that are stored as one tensor: of the rows of each, every `every`-th from `first` on. every 0: each expert
// has a tensor of its own.
struct Stacked {
  uint8_t every = 0, first = 0;
};

struct StoredTensor {
  const char* name = nullptr;  // in a layer's, {} stands for the layer's index, and the second {} for the expert's
  Dim rows = Dim::kOne;
  Stacked stacked = {};
};

// A matrix [sum of the tensors' rows, cols], or a vector of f32 where cols is kOne. Ranks that cut the columns add up
// their outputs, so the bias is rank 0's; where they cut rows, a rank has its rows' biases.
struct WeightRecord {
  WeightRole role = WeightRole::kCount;
  std::array<StoredTensor, 3> tensors = {};  // one below the other; nameless ones are none
  Dim cols = Dim::kOne;
  bool ModelConfig::*bias = nullptr;     // the property that says whether the tensors have biases; null: never
  bool ModelConfig::*only_if = nullptr;  // the property without which the weight does not exist; null: none
  bool ModelConfig::*unless = nullptr;   // the property with which the weight does not exist; null: none
  uint8_t random_seed = 0;               // matrices: of random weights; a tensor each, so leave room for all
  LayersWith layers = LayersWith::kAll;
  bool each_expert = false;  // the tensors of the rank's first expert, then those of its second, ..
  bool never_coded = false;  // stays in 16 or 32 bits whatever format other matrices have
};

}  // namespace duo
