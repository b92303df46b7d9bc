#include "runtime/model/model.h"

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {
namespace {

// The layer's split pieces, per rank, as query head ids; -1 pads to the largest rank.
std::vector<int32_t> ExchangeIds(const std::vector<RankHeads>& layer, int group, int* entries) {
  size_t pieces = 0;
  for (const RankHeads& rank : layer) pieces = std::max(pieces, rank.split.size());
  *entries = static_cast<int>(pieces) * group;
  std::vector<int32_t> ids(layer.size() * *entries, -1);
  for (size_t r = 0; r < layer.size(); ++r) {
    for (size_t p = 0; p < layer[r].split.size(); ++p) {
      for (int g = 0; g < group; ++g) ids[r * *entries + p * group + g] = layer[r].split[p].head * group + g;
    }
  }
  return ids;
}

int MaxEntries(const Partition& partition, int group) {
  int most = 0;
  for (const std::vector<RankHeads>& layer : partition.layers) {
    int entries = 0;
    ExchangeIds(layer, group, &entries);
    most = std::max(most, entries);
  }
  return most;
}

int MaxHeads(const RankShard& shard) {
  size_t most = 0;
  for (const auto& layer : shard.layers) most = std::max(most, layer.size());
  return static_cast<int>(most);
}

}  // namespace

absl::StatusOr<Model> Model::Create(const ModelConfig& config, const Partition& partition, const RankShard& shard,
                                    ModelWeights weights, const RopeFrequencies& rope, Device& device,
                                    Communicator& comm) {
  Model model;
  model.config_ = config;
  model.shard_ = shard;
  model.weights_ = std::move(weights);
  model.rope_factor_ = rope.attention_factor;
  model.device_ = &device;
  model.comm_ = &comm;
  const int group = config.heads / config.kv_heads;
  model.max_entries_ = MaxEntries(partition, group);

  const size_t ids_stride = Arena::Rounded(4 * partition.world * model.max_entries_);
  const size_t frequency_bytes = Arena::Rounded(8 * rope.inv_freq.size());
  absl::StatusOr<Buffer> constants =
      Buffer::Allocate(device, frequency_bytes + ids_stride * config.layers, "the model's constants");
  if (!constants.ok()) return constants.status();
  model.constants_ = std::move(*constants);
  uint8_t* data = model.constants_.as<uint8_t>();
  device.Upload(data, rope.inv_freq.data(), 8 * rope.inv_freq.size());
  model.frequencies_ = reinterpret_cast<const double*>(data);

  for (int l = 0; l < config.layers; ++l) {
    Exchange exchange;
    const std::vector<int32_t> ids = ExchangeIds(partition.layers[l], group, &exchange.entries);
    uint8_t* place = data + frequency_bytes + ids_stride * l;
    device.Upload(place, ids.data(), 4 * ids.size());
    exchange.ids = reinterpret_cast<const int32_t*>(place);
    for (const SplitPiece& piece : partition.layers[l][shard.rank].split) {
      exchange.heads += group;
      exchange.own_square.push_back(ChunkOwner(partition, l, piece.head) == shard.rank);
    }
    model.exchanges_.push_back(std::move(exchange));
  }
  return model;
}

Model::Activations Model::Allocate(Arena& arena, const ModelConfig& config, const RankShard& shard,
                                   const Device& device, int rows, int world, int entries) {
  const DType t = ActivationType(device);
  const int64_t d = config.head_dim, group = config.heads / config.kv_heads, heads = MaxHeads(shard);
  Activations a;
  a.residual = arena.Matrix(DType::kF32, rows, config.hidden);
  a.normed = arena.Matrix(t, rows, config.hidden);
  a.projected = arena.Matrix(t, rows, config.hidden);
  a.mlp = arena.Matrix(t, rows, config.hidden);
  a.cos_sin = arena.Matrix(DType::kF32, rows, d);
  a.qkv = arena.Matrix(t, rows, heads * (group + 2) * d);
  a.attention = arena.Matrix(t, rows, heads * group * d);
  a.gate_up = arena.Matrix(t, std::min(rows, kMlpRows), 3 * shard.ffn.size());  // gate and up, then their product
  a.lse = static_cast<float*>(arena.Take(sizeof(float) * world * entries * rows));
  return a;
}

View Model::Forward(const StepInput& input, const KvCache& cache, Arena& arena) {
  const int rows = input.batch.num_rows;
  const float eps = static_cast<float>(config_.rms_norm_eps);
  arena.Rewind(0);
  View logits = arena.Matrix(DType::kF32, input.num_samples, weights_.head.rows);
  const Activations a = Allocate(arena, config_, shard_, *device_, rows, comm_->size(), max_entries_);

  Embed(*device_, a.residual, input.tokens, weights_.embedding, weights_.first_id);
  if (comm_->size() > 1) comm_->AllReduceSum(a.residual, *device_);
  RopeAngles(*device_, a.cos_sin, input.batch.positions, frequencies_, rope_factor_);
  View add;  // what the previous block gives to the residual stream
  for (int l = 0; l < config_.layers; ++l) {
    add = Attention(l, input, cache, a, add, arena);
    add = Mlp(l, a, add, arena);
  }
  if (input.num_samples == 0) return logits;
  AddRmsNorm(*device_, a.normed, a.residual, add, weights_.final_norm, eps);
  View sampled = arena.Matrix(a.normed.dtype, input.num_samples, config_.hidden);
  GatherRows(*device_, sampled, a.normed, input.sample_rows, input.num_samples);
  Linear(*device_, logits, sampled, weights_.head, arena);
  return logits;
}

View Model::Attention(int l, const StepInput& input, const KvCache& cache, const Activations& a, View add,
                      Arena& arena) {
  Device& device = *device_;
  const LayerWeights& w = weights_.layers[l];
  const LayerKv& kv = cache.layers()[l];
  const HeadShape& shape = kv.shape;
  const Exchange& exchange = exchanges_[l];
  const SeqBatch& batch = input.batch;
  const int rows = batch.num_rows;
  const size_t mark = arena.used();
  const float eps = static_cast<float>(config_.rms_norm_eps);

  AddRmsNorm(device, a.normed, a.residual, add, w.input_norm, eps);
  // This layer's heads, dense, in the space of the layer with the most.
  const View qkv(a.qkv.data, a.qkv.dtype, rows, shape.qkv_cols());
  const View out(a.attention.data, a.attention.dtype, rows, shape.q_cols());
  float* lse =
      a.lse + static_cast<int64_t>(comm_->rank()) * exchange.entries * rows;  // this rank's place in the gather

  if (shape.kv_heads > 0) {
    Linear(device, qkv, a.normed, w.qkv, arena);
    arena.Rewind(mark);
    RotateQk(device, qkv, shape, a.cos_sin, w.q_norm, w.k_norm, eps);
    if (kv.ring.num_heads > 0) RoundToRing(device, qkv, shape, kv.ring);
  }
  // Streaming heads are a few microseconds of latency: beside the retrieval heads they cost less than after them.
  auto stream = [&] {
    AttendStreaming(device, out, qkv, shape, batch, kv.ring, arena);
    arena.Rewind(mark);
    StoreRings(device, qkv, shape, batch, kv.ring);
  };
  const bool streaming = kv.ring.num_heads > 0, beside = streaming && !input.prefill;
  if (beside) device.Fork(stream);
  for (const PagedKv& heads : kv.paged) StoreKv(device, qkv, shape, batch, heads);
  // Pieces of split heads first: their lse travel while the other heads are attended.
  size_t next = 0;
  auto attend = [&](const PagedKv& heads, float* head_lse, bool own_square) {
    if (input.prefill) {
      AttendPrefill(device, out, head_lse, qkv, shape, batch, heads, own_square, arena);
    } else {
      AttendPages(device, out, head_lse, qkv, shape, batch, heads, arena);
    }
    arena.Rewind(mark);
  };
  for (; next < kv.paged.size() && kv.paged[next].split; ++next) {
    attend(kv.paged[next], lse + static_cast<int64_t>(next) * shape.group * rows, exchange.own_square[next]);
  }
  if (exchange.entries > 0) comm_->AllGather(a.lse, lse, sizeof(float) * exchange.entries * rows, device);
  for (; next < kv.paged.size(); ++next) attend(kv.paged[next], nullptr, true);
  if (streaming && !beside) stream();
  if (beside) device.Join();
  if (exchange.heads > 0) {
    ScaleSplitHeads(device, out.Cols(0, exchange.heads * shape.head_dim), shape.head_dim, exchange.heads, a.lse,
                    exchange.ids, comm_->size(), exchange.entries, comm_->rank());
  }
  if (shape.kv_heads > 0) {
    Linear(device, a.projected, out, w.o, arena);
    arena.Rewind(mark);
  } else {  // no head of this layer: nothing to add but to the sum
    device.Fill(a.projected.data, 0, Bytes(a.projected.dtype, a.projected.rows * a.projected.cols));
  }
  if (comm_->size() > 1) comm_->AllReduceSum(a.projected, device);  // also finishes the merge of split heads
  return a.projected;
}

View Model::Mlp(int l, const Activations& a, View add, Arena& arena) {
  Device& device = *device_;
  const LayerWeights& w = weights_.layers[l];
  const size_t mark = arena.used();
  AddRmsNorm(device, a.normed, a.residual, add, w.post_norm, static_cast<float>(config_.rms_norm_eps));
  const int64_t ffn = w.down.cols;
  for (int64_t first = 0; first < a.normed.rows; first += kMlpRows) {
    const int64_t rows = std::min<int64_t>(kMlpRows, a.normed.rows - first);
    const View gate_up(a.gate_up.data, a.gate_up.dtype, rows, 2 * ffn);
    const View product(a.gate_up.as<char>() + Bytes(a.gate_up.dtype, rows * 2 * ffn), a.gate_up.dtype, rows, ffn);
    if (ffn == 0) {
      device.Fill(a.mlp.Rows(first, rows).data, 0, Bytes(a.mlp.dtype, rows * a.mlp.cols));
      continue;
    }
    LinearSwiGlu(device, product, gate_up, a.normed.Rows(first, rows), w.gate_up, arena);
    arena.Rewind(mark);
    Linear(device, a.mlp.Rows(first, rows), product, w.down, arena);
    arena.Rewind(mark);
  }
  if (comm_->size() > 1) comm_->AllReduceSum(a.mlp, device);
  return a.mlp;
}

size_t Model::WorkspaceBytes(const ModelConfig& config, const Partition& partition, const RankShard& shard,
                             const WeightFormats& formats, KvFormat format, const HeadPlan& heads,
                             const StepLimits& limits, const Device& device) {
  const int group = config.heads / config.kv_heads, d = config.head_dim;
  auto bytes = [&](int rows, bool prefill) {
    Arena arena = Arena::Measuring();
    arena.Matrix(DType::kF32, limits.samples, shard.vocab.size());
    Allocate(arena, config, shard, device, rows, partition.world, MaxEntries(partition, group));
    size_t scratch = 0;
    auto linear = [&](int64_t count, DType dtype, int64_t out, int64_t in, int unit) {
      Weight w;
      w.dtype = dtype;
      w.rows = out;
      w.cols = in;
      w.group = unit;
      if (count > 0 && out > 0 && in > 0) scratch = std::max(scratch, LinearScratchBytes(device, count, w));
    };
    for (const std::vector<LocalHead>& layer : shard.layers) {
      const int64_t n = layer.size();
      linear(rows, formats.matrices, n * (group + 2) * d, config.hidden, 32);
      linear(rows, formats.matrices, config.hidden, n * group * d, 32);
      // Kernels' scratch depends on how the heads stand, not on where: measure views without memory.
      PagedKv whole;
      RingKv ring;
      whole.page = {format, d};
      ring.format = RingFormat(format);
      ring.head_dim = d;
      ring.sink = heads.sink;
      ring.recent = heads.recent;
      auto paged = [&](const PagedKv& kv) {
        scratch = std::max(scratch, prefill ? PrefillScratchBytes(device, rows, group, kv, limits.max_tokens)
                                            : DecodeScratchBytes(device, rows, group, kv, limits.max_tokens));
      };
      for (const LocalHead& head : layer) {
        whole.num_heads += head.kind == HeadKind::kWhole;
        ring.num_heads += head.kind == HeadKind::kStreaming;
        if (head.kind != HeadKind::kSplit) continue;
        PagedKv piece = whole;
        piece.num_heads = 1;
        piece.split = true;
        piece.slots = head.slots;
        piece.first_slot = head.first_slot;
        piece.num_slots = head.last_slot - head.first_slot;
        paged(piece);
      }
      if (whole.num_heads > 0) paged(whole);
      if (ring.num_heads > 0) scratch = std::max(scratch, StreamingScratchBytes(device, rows, group, ring));
    }
    linear(std::min(rows, kMlpRows), formats.matrices, 2 * shard.ffn.size(), config.hidden, 32);
    linear(std::min(rows, kMlpRows), formats.matrices, config.hidden, shard.ffn.size(), 32);
    const size_t layers_end = arena.used() + Arena::Rounded(scratch);
    scratch = 0;
    linear(limits.samples, formats.vocabulary, shard.vocab.size(), config.hidden, 32);
    const size_t head_end = arena.used() +
                            Arena::Rounded(Bytes(ActivationType(device), limits.samples * config.hidden)) +
                            Arena::Rounded(scratch);
    return std::max(layers_end, head_end);
  };
  // Several pieces of scratch are taken one by one, each rounded up: a little air.
  return std::max(bytes(limits.prefill_rows, true), bytes(limits.rows, false)) + 64 * Arena::kAlignment;
}

}  // namespace duo
