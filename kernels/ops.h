// The dense ops of a transformer step, and sampling. CPU and CUDA behind one door.
//
// The residual stream is f32 on both backends; activations T are f32 on the CPU and bf16 on CUDA. Sums are f32 or
// wider. All pointers are device memory unless named host. Work is asynchronous on CUDA, ordered by the device's
// stream. Shapes are checked (CHECK); weight formats were accepted when the weights were loaded.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/base/splitmix64.h"
#include "kernels/base/view.h"

namespace duo {

// The activation type of a device.
inline DType ActivationType(const Device& device) { return device.is_cuda() ? DType::kBF16 : DType::kF32; }

// What a weight type stores beside its codes: a scale for each row, or a scale and a minimum for each group of columns.
// int8 has the one or the other (Weight::group).
constexpr bool HasRowScales(DType type) { return type == DType::kF8E4M3 || type == DType::kI8; }
constexpr bool HasGroups(DType type) { return type == DType::kI4; }
constexpr bool IsCoded(DType type) { return HasRowScales(type) || HasGroups(type); }

// A weight matrix [rows = outputs, cols = inputs], row-major. value(r, c) =
//   f32, f16, bf16   data
//   fp8, int8        code * scale[r]                  int8 without groups is symmetric, codes -127..127
//   fp8 in blocks    code * scale[r / block][c / group]                      kernels/scale_blocks.h
//   int4, int8       code * scale[r][g] + min[r][g]   g = c / group
// Two int4 codes share a byte, the even column's in the low nibble. Groups may have two levels: a pair of f16 for a
// block of groups and a pair of small whole numbers for each of its groups,
//   scale[r][g] = groups[r][b].scale * subs[r][g].scale, min likewise, b = c / block,
// which are exact in f32, unlike in f16. int4 codes may stand for the numbers of a table, value = table[code] * scale;
// of kE2M1 (OCP Microscaling 1.0's MXFP4) the scale is a power of two, for which f16 has too few.
enum class CodeTable : uint8_t { kNone, kIq4, kE2M1 };
struct Weight {
  DType dtype = DType::kBF16;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;
  const float* scales = nullptr;     // [rows] for fp8, and int8 without groups; of fp8 in blocks, one for each of them
  const uint16_t* groups = nullptr;  // int4, int8 with groups: [rows][cols / pair_cols()] pairs of f16 (scale, min)
  int group = 0;                     // columns per group: 128, 64, 32, or of int8 16; 0: no groups. fp8: of a block
  const float* bias = nullptr;       // [rows] or null
  const int8_t* subs = nullptr;      // two levels: [rows][cols / group] pairs (scale, min); null: one
  int block = 0;  // two levels: columns per pair of `groups`, up to 256; 0: one level. fp8 in blocks: rows of a block
  CodeTable table = CodeTable::kNone;
  const uint8_t* exponents = nullptr;  // kE2M1, instead of groups: [rows][cols / 32], scale = 2^(exponent - 127)
  size_t bytes() const;                // codes and parameters
  int pair_cols() const { return block > 0 ? block : group; }  // columns per pair of `groups`
};

// out [rows, weight.rows] T or f32 = x [rows, weight.cols] T times weight transposed, plus bias.
size_t LinearScratchBytes(const Device& device, int64_t rows, const Weight& weight);
void Linear(Device& device, View out, View x, const Weight& weight, Arena& scratch);

// out [rows, n] T = silu(gate) * up, where gate and up [rows, n] are x times the first and the last n rows of weight
// [2 n, cols], rounded to T. gate_up [rows, 2 n] T is room for them; what it holds afterwards is not defined. Scratch
// as for Linear.
void LinearSwiGlu(Device& device, View out, View gate_up, View x, const Weight& weight, Arena& scratch);

// residual [rows, hidden] f32 = table's row ids[i] - first_id; zero where this shard of the vocabulary lacks the id.
void Embed(Device& device, View residual, const int32_t* ids, const Weight& table, int32_t first_id);

// out [rows, n] T = row [n] f32 in each of its rows: what a linear layer without columns gives.
void FillRows(Device& device, View out, const float* row);

// residual += add (T); then out [rows, dim] T = residual / rms(residual) * weight. Either is skipped where empty.
void AddRmsNorm(Device& device, View out, View residual, View add, const float* weight, float eps);

// out [rows, n] T = silu(gate) * up, gate_up [rows, 2 n] T holding gate then up.
void SwiGlu(Device& device, View out, View gate_up);

// out [count, cols] = in's rows `rows[i]`.
void GatherRows(Device& device, View out, View in, const int32_t* rows, int count);

// Sampling, exact and independent of how the vocabulary is cut. For row i with temperature t > 0 the token is
// argmax over id of logit(id) / t + Gumbel(seed, position, id), a draw from softmax(logits / t); with t = 0, argmax
// logit; equal values go to the lowest id. The Gumbel noise is counter-based: SampleNoise below.
constexpr float kGreedyBelow =
    1e-6f;  // a temperature below this is 0: no noise could turn the order, but rounding could
struct SampleParams {
  float temperature = 0;
  float top_p = 1;
  uint64_t seed = 0;
  int64_t position = 0;  // of the token being drawn
};
struct ShardSample {
  float lse = 0;  // log sum exp of logits / t over this shard (t = 0: of the logits); NaN where one is NaN or +infinity
  float value = 0;  // the best perturbed logit
  int32_t id = 0;   // its token
};
void SampleShard(Device& device, ShardSample* out /*[rows]*/, View logits /*[rows, shard] f32*/, int32_t first_id,
                 const SampleParams* params /*[rows]*/);
// The `count` largest logits of each row with their token ids, in descending order (ties: lowest id first).
struct LargestLogits {
  float* values = nullptr;  // [rows][count]
  int32_t* ids = nullptr;   // likewise
  int count = 0;
};
void TopLogits(Device& device, const LargestLogits& out, View logits, int32_t first_id, Arena& scratch);
size_t TopLogitsScratchBytes(const Device& device, int64_t rows, int64_t shard, int count);

// A change of one logit before a token is drawn, for penalties, biases and bans:
//   logit = (logit > 0 ? logit / divide : logit * divide) + add
struct LogitEdit {
  int32_t id = 0;
  float divide = 1;
  float add = 0;
};
// Changes one row in place: each edit once (their ids differ and lie in this shard), then, where there is a mask, every
// logit whose bit is 0 becomes -infinity. The bit of token id is id % 32 of word id / 32 - first_id / 32.
void EditLogits(Device& device, View logits /*[1, shard] f32*/, int32_t first_id, const LogitEdit* edits, int count,
                const uint32_t* mask /*or null*/);

// Uniform in (0, 1) from counters, by splitmix64 (Steele, Lea and Flood 2014), then Gumbel noise -log(-log u).
DUO_HD inline float SampleNoise(uint64_t seed, int64_t position, int32_t id) {
  const uint64_t bits =
      SplitMix64(SplitMix64(seed ^ SplitMix64(static_cast<uint64_t>(position))) ^ static_cast<uint64_t>(id));
  const double u = (static_cast<double>(bits >> 11) + 0.5) * 1.1102230246251565e-16;  // 2^-53
  return static_cast<float>(-log(-log(u)));
}

}  // namespace duo
