// The planner's cost model: how long one decode step of one token takes, and how long it takes to read a document, as
// modelled from bytes and FLOP of weights, retrieval and streaming heads, from what a launch costs, and from message
// latency. The model exists to choose between placements; of what all placements share it has the layers' fixed part,
// but not embedding, sampling and the host.
//
// A layer costs what its busiest rank costs, because each half of it ends in an all-reduce:
//     layer = max over ranks (projections + pieces of split heads + whole heads + streaming heads) + lse exchange
//           + all-reduce + max over ranks (feed-forward) + all-reduce + what is fixed
// and each term is max(bytes / rate, FLOP / its FLOP rate). While a document is read, every term is FLOP / rate.
//
// The default rates are those of one H100 80GB. copy, gemm and attention are the floors' (tests/bench/README.md); the
// others are fitted to what every rank of 2, 4 and 8 took for its share of Llama-3-8B at a million tokens, layer by
// layer, with int4 and bf16 KV (`duo bench balance`, tests/bench/results/h100_balance.json); the model then meets those
// times within 3 %. Messages are those of two GPUs of a host over NVLink: 2.2 us for a small one inside a CUDA graph
// (peer_memory.h; 6.5 us over NCCL), 227 GB/s at 16 MB. Steps on two GPUs then took within 2 % of what the model says
// (tests/bench/results/h100_x2.json). The rates of reading are fitted to the chunks of one GPU in that file; all four
// of its prefills are then met within 5 % (cost_model_test.cc). Pure functions of plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

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
  // Of a mixture of experts, where the feed-forward layer is one: how many work on a token, how wide each is, and how
  // wide the one is that works on all tokens.
  int experts_chosen = 0;
  int expert_intermediate = 0;
  int shared_intermediate = 0;
  int experts = 0;  // of a layer; 0: of no account
  // The columns of the feed-forward layer that one token meets. Where some layers have experts and some do not, the
  // model takes them all for the former.
  int active_intermediate() const {
    return experts_chosen > 0 ? experts_chosen * expert_intermediate + shared_intermediate : intermediate;
  }
  int group() const { return heads / kv_heads; }  // query heads per KV head
};

struct MachineRates {
  double weights = 2.9e12;             // bytes/s of a matrix times one token
  double kv = 3.2e12;                  // bytes/s of attention over f32 or bf16 keys and values
  double kv_codes = 2.7e12;            // bytes/s of attention over fp8 and int8 ones
  double kv_int4 = 2.7e12;             // and over int4 ones
  double gemm = 768e12;                // FLOP/s
  double attention = 640e12;           // FLOP/s
  double attention_seconds = 24e-6;    // of a layer's first half, whatever it holds: norm, RoPE, stores, launches
  double feed_forward_seconds = 6e-6;  // of its second half
  double mixture_seconds = 25e-6;      // and where that is a mixture of experts: router, choice, launches too short to
                                       // keep up with memory (of an H200: tests/bench/results/h200_experts.json)
  double split_seconds = 12e-6;  // of each attention launch where heads are split: one a piece, one for all whole heads
  double message_seconds = 2.2e-6;  // one small collective of two ranks
  double message_rank_seconds = 0;  // and for every further rank
  double link = 227e9;              // bytes/s of an all-reduce
  // Of reading a document, in chunks of thousands of tokens.
  double read_gemm = 640e12;       // FLOP/s of all matrices
  double read_attention = 610e12;  // FLOP/s
  double read_link = 290e9;        // bytes/s of an all-reduce of 128 MB
  double read_seconds = 60e-9;     // of a token in a layer, on every rank alike: norms, RoPE, stores
};

// The rates of a GPU by what its driver calls it: an H200's for that, else those above. An H200's are fitted to the
// kernels and steps of tests/bench/results/h200_two_gpus.json, which the model then meets within 5 %, and what messages
// take of more ranks to steps of four with older kernels (4.05 ms with int4 KV).
MachineRates RatesOfGpu(std::string_view name);

// How ranks lie on hosts, and what joins the hosts. The defaults are one adapter of 400 Gbit/s a host and what NCCL
// commonly takes over such a network: assumed, not measured. `duo bench comm` measures a cluster's own.
struct HostLayout {
  int hosts = 1;
  double link = 50e9;              // bytes/s that a host sends to the others
  double message_seconds = 20e-6;  // one small collective of two hosts; a further one for every doubling
};

// Of a mixture: the columns that its busiest rank multiplies a token with, over its speed (expert_placement.h).
struct ExpertColumns {
  double step = 0, read = 0;  // of one token alone, and in the mean over many; 0: the columns of any feed-forward layer
};

struct CostModel {
  ModelShape shape;
  int64_t context = 1'000'000;  // tokens that a retrieval head attends to
  int64_t kv_token_bytes = 0;   // K and V of one token and one KV head, as stored
  int weight_bits = 16;
  int ring_tokens = 0;  // S + R + 1
  MachineRates rates;
  HostLayout hosts;
  ExpertColumns experts;
};

// What one rank holds of one layer. Loads are in retrieval heads: a piece of a split head counts its share.
struct HeadLoad {
  int kv_heads = 0;  // all it computes q, k and v for: whole, streaming, and one for each piece
  int pieces = 0;    // of split heads
  double split = 0;  // their load
  double whole = 0;
  int streaming = 0;
};

// Seconds of one rank's own work in the first half of a layer, but for what is fixed and for messages.
double AttentionSeconds(const CostModel& model, const HeadLoad& load);
// Seconds of a rank that holds `columns` of the feed-forward layer, but for what is fixed.
double FeedForwardSeconds(const CostModel& model, double columns);
// Seconds of a rank that holds `rows` of the vocabulary.
double VocabularySeconds(const CostModel& model, int64_t rows);
// Seconds of a layer that no placement changes.
double FixedSeconds(const CostModel& model);
// Seconds of one rank's own work in a layer while `context` tokens are read: of its heads, and of `columns` of the
// feed-forward layer, without what LayerReadSeconds (partition.h) adds for all ranks.
double ReadAttentionSeconds(const CostModel& model, const HeadLoad& load);
double ReadFeedForwardSeconds(const CostModel& model, double columns);
// Seconds of a layer, while `context` tokens are read, that no placement changes: what all ranks do alike, and the
// sums.
double ReadFixedSeconds(const CostModel& model, int world);
// Seconds of one small collective; 0 for one rank. Over hosts: within each, between them, and within each again.
double MessageSeconds(const CostModel& model, int world);
// Seconds to add up one token's hidden state over `world` ranks; 0 for one rank.
double AllReduceSeconds(const CostModel& model, int world);

}  // namespace duo
