#include "parallel/cost_model.h"

#include <algorithm>
#include <cmath>

namespace duo {
namespace {

// A matrix of `elements` weights times one token: reading it, or 2 FLOP an element.
double GemmSeconds(const CostModel& model, double elements) {
  return std::max(elements * model.weight_bits / 8 / model.rates.weights, 2 * elements / model.rates.gemm);
}

// One token's queries of a KV head's group against `tokens` keys and values.
double ScanSeconds(const CostModel& model, double tokens, double token_bytes) {
  // K and V take 4 bytes a dimension in 16 bits, 2 and a few more in 8 bits, 1 in 4.
  const double each = token_bytes / model.shape.head_dim;
  const double rate = each >= 4 ? model.rates.kv : each >= 2 ? model.rates.kv_codes : model.rates.kv_int4;
  const double flop = 4.0 * model.shape.group() * model.shape.head_dim * tokens;
  return std::max(tokens * token_bytes / rate, flop / model.rates.attention);
}

double ProjectionSeconds(const CostModel& model, int kv_heads) {  // q, o: group rows of d each; k, v: one each
  const ModelShape& shape = model.shape;
  return GemmSeconds(model, (2.0 * shape.group() + 2.0) * shape.head_dim * shape.hidden * kv_heads);
}

// Seconds that the hosts take to add up `bytes` bytes that each has, latency left out: each sends all but its own part
// twice.
double BetweenHostsSeconds(const HostLayout& layout, double bytes) {
  return 2.0 * (layout.hosts - 1) / layout.hosts * bytes / layout.link;
}

int RanksOfHost(const HostLayout& layout, int world) { return (world + layout.hosts - 1) / layout.hosts; }

}  // namespace

MachineRates RatesOfGpu(std::string_view name) {
  MachineRates rates;
  if (name.find("H200") == std::string_view::npos) return rates;
  rates.weights = 4.0e12;
  rates.kv = 4.4e12;
  rates.kv_codes = 4.1e12;
  rates.kv_int4 = 3.45e12;
  rates.attention_seconds = 16e-6;
  rates.feed_forward_seconds = 5e-6;
  rates.message_seconds = 2.3e-6;
  rates.message_rank_seconds = 1.8e-6;
  return rates;
}

double AttentionSeconds(const CostModel& model, const HeadLoad& load) {
  // Rings hold f32 where the KV cache does, else bf16.
  const double full = 8.0 * model.shape.head_dim;
  const double ring_bytes = model.kv_token_bytes >= full ? full : full / 2;
  const int launches = load.pieces == 0 ? 0 : load.pieces + (load.whole > 0);
  return ProjectionSeconds(model, load.kv_heads) +
         ScanSeconds(model, (load.split + load.whole) * model.context, model.kv_token_bytes) +
         ScanSeconds(model, static_cast<double>(load.streaming) * model.ring_tokens, ring_bytes) +
         launches * model.rates.split_seconds;
}

double FeedForwardSeconds(const CostModel& model, double columns) {
  return GemmSeconds(model, 3.0 * model.shape.hidden * columns);
}

double VocabularySeconds(const CostModel& model, int64_t rows) {
  return GemmSeconds(model, static_cast<double>(model.shape.hidden) * rows);
}

double ReadAttentionSeconds(const CostModel& model, const HeadLoad& load) {
  const ModelShape& shape = model.shape;
  const auto tokens = static_cast<double>(model.context);
  const double projections = (2.0 * shape.group() + 2.0) * shape.head_dim * shape.hidden * load.kv_heads;
  // A retrieval head's row meets half of the context in the mean.
  const double keys = (load.whole + load.split) * tokens / 2 + static_cast<double>(load.streaming) * model.ring_tokens;
  return tokens * (2 * projections / model.rates.read_gemm +
                   4.0 * shape.group() * shape.head_dim * keys / model.rates.read_attention);
}

double ReadFeedForwardSeconds(const CostModel& model, double columns) {
  return static_cast<double>(model.context) * 6.0 * model.shape.hidden * columns / model.rates.read_gemm;
}

double ReadFixedSeconds(const CostModel& model, int world) {
  const double bytes = 2.0 * model.shape.hidden;
  const double within = RanksOfHost(model.hosts, world) == 1 ? 0 : bytes / model.rates.read_link;
  const double sums = 2 * (within + BetweenHostsSeconds(model.hosts, bytes));
  return static_cast<double>(model.context) * (model.rates.read_seconds + sums);
}

double FixedSeconds(const CostModel& model) {
  const double fixed = model.rates.attention_seconds + model.rates.feed_forward_seconds;
  return model.shape.experts_chosen > 0 ? fixed + model.rates.mixture_seconds : fixed;
}

double MessageSeconds(const CostModel& model, int world) {
  const int local = RanksOfHost(model.hosts, world);
  const double within = local == 1 ? 0 : model.rates.message_seconds + (local - 2) * model.rates.message_rank_seconds;
  if (model.hosts.hosts == 1) return within;
  return 2 * within + model.hosts.message_seconds * std::ceil(std::log2(model.hosts.hosts));
}

double AllReduceSeconds(const CostModel& model, int world) {
  if (world == 1) return 0;
  const double bytes = 2.0 * model.shape.hidden;
  const double within = RanksOfHost(model.hosts, world) == 1 ? 0 : bytes / model.rates.link;
  return MessageSeconds(model, world) + within + BetweenHostsSeconds(model.hosts, bytes);
}

}  // namespace duo
