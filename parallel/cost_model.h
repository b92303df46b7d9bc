// The planner's cost model: how long one decode step of one token takes, as modelled from bytes and FLOP of weights,
// retrieval and streaming heads, and from message latency. It exists to choose between placements, so what all of them
// share (norms, sampling, launches) is left out.
//
// A layer costs what its busiest rank costs, because every layer ends in an all-reduce:
//     layer = max over ranks (projections + split attention + max(whole + streaming attention, lse exchange) + output)
//           + all-reduce + max over ranks (feed-forward) + all-reduce
// and each term is max(bytes / copy rate, FLOP / its FLOP rate).
// Rates default to one H100 80GB, measured (README, "Performance"): copy 3.03 TB/s, bf16 GEMM 768 TFLOP/s, causal
// attention 640 TFLOP/s, 6.5 us for a small all-reduce of two GPUs inside a CUDA graph, 227 GB/s at 16 MB.
// Pure functions of plain values; thread-safe.
#pragma once

#include <cstdint>

namespace duo {

// The sizes of a decoder that decide where its work goes.
struct ModelShape {
  int layers = 0;
  int hidden = 0;        // width of the residual stream
  int intermediate = 0;  // width of the feed-forward layer
  int heads = 0;         // query heads
  int kv_heads = 0;
  int head_dim = 0;
  int vocab = 0;
  int group() const { return heads / kv_heads; }  // query heads per KV head
};

struct MachineRates {
  double copy = 3.03e12;            // bytes/s of device memory
  double gemm = 768e12;             // FLOP/s
  double attention = 640e12;        // FLOP/s
  double message_seconds = 6.5e-6;  // one small collective; does not grow with the ranks in this model
  double link = 227e9;              // bytes/s of an all-reduce
};

struct CostModel {
  ModelShape shape;
  int64_t context = 1'000'000;  // tokens that a retrieval head attends to
  int64_t kv_token_bytes = 0;   // K and V of one token and one KV head, as stored
  int weight_bits = 16;
  int ring_tokens = 0;  // S + R + 1
  MachineRates rates;
};

// What one rank holds of one layer. Loads are in retrieval heads: a piece of a split head counts its share.
struct HeadLoad {
  int kv_heads = 0;  // all it computes q, k and v for: whole, streaming, and one for each piece
  double split = 0;
  double whole = 0;
  int streaming = 0;
};

// Seconds of one rank's own work in one layer's attention block, messages left out.
double AttentionSeconds(const CostModel& model, const HeadLoad& load);
// As above, with the lse exchange of the layer's split heads, as far as other attention does not hide it.
double AttentionSecondsWithExchange(const CostModel& model, const HeadLoad& load);
// Seconds of a rank that holds `columns` of the feed-forward layer.
double FeedForwardSeconds(const CostModel& model, int64_t columns);
// Seconds of a rank that holds `rows` of the vocabulary.
double VocabularySeconds(const CostModel& model, int64_t rows);
// Seconds to add up one token's hidden state over `world` ranks; 0 for one rank.
double AllReduceSeconds(const CostModel& model, int world);

}  // namespace duo
