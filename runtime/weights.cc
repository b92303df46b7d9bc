#include "runtime/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/splitmix64.h"
#include "kernels/random_fill.h"
#include "runtime/families.h"
#include "runtime/quantize.h"

namespace duo {
namespace {

// Walks the layout of all weights: once to count bytes, once to hand out pointers.
class Layout {
 public:
  Layout(uint8_t* base, int int4_group) : base_(base), int4_group_(int4_group) {}

  uint8_t* Take(int64_t bytes) {
    uint8_t* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += Arena::Rounded(bytes);
    return piece;
  }
  const float* Floats(int64_t count) { return reinterpret_cast<const float*>(Take(4 * count)); }

  // unit: pieces of the columns that groups must not straddle are multiples of it.
  Weight Matrix(DType dtype, int64_t rows, int64_t cols, int64_t unit, bool bias) {
    Weight w;
    w.dtype = dtype;
    w.rows = rows;
    w.cols = cols;
    w.data = Take(Bytes(dtype, rows * cols));
    if (dtype == DType::kF8E4M3 || dtype == DType::kI8) w.scales = Floats(rows);
    if (dtype == DType::kI4) {
      w.group = Int4Group(unit, int4_group_);
      w.groups = reinterpret_cast<const uint16_t*>(Take(w.group > 0 ? rows * (cols / w.group) * 4 : 0));
    }
    if (bias) w.bias = Floats(rows);
    return w;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int int4_group_;
  int64_t used_ = 0;
};

ModelWeights LayOut(const ModelConfig& config, const RankShard& shard, const WeightFormats& formats, Layout& layout) {
  ModelWeights weights;
  const int64_t d = config.head_dim, group = config.heads / config.kv_heads;
  const int64_t ffn = shard.ffn.size();
  const bool leader = shard.rank == 0;  // adds the biases of what is summed over ranks
  for (int l = 0; l < config.layers; ++l) {
    LayerWeights w;
    const int64_t heads = shard.layers[l].size();
    w.qkv =
        layout.Matrix(formats.matrices, heads * (group + 2) * d, config.hidden, config.hidden, config.attention_bias);
    w.o = layout.Matrix(formats.matrices, config.hidden, heads * group * d, d, config.o_bias && leader);
    w.gate_up = layout.Matrix(formats.matrices, 2 * ffn, config.hidden, config.hidden, config.mlp_bias);
    w.down = layout.Matrix(formats.matrices, config.hidden, ffn, config.intermediate, config.mlp_bias && leader);
    w.input_norm = layout.Floats(config.hidden);
    w.post_norm = layout.Floats(config.hidden);
    if (config.qk_norm) {
      w.q_norm = layout.Floats(d);
      w.k_norm = layout.Floats(d);
    }
    weights.layers.push_back(w);
  }
  weights.final_norm = layout.Floats(config.hidden);
  weights.embedding = layout.Matrix(formats.vocabulary, shard.vocab.size(), config.hidden, config.hidden, false);
  weights.head = config.tie_embeddings
                     ? weights.embedding
                     : layout.Matrix(formats.vocabulary, shard.vocab.size(), config.hidden, config.hidden, false);
  weights.first_id = static_cast<int32_t>(shard.vocab.begin);
  return weights;
}

// Rows of a stored tensor, some of its columns: one part of a matrix.
struct Part {
  StoredMatrix matrix;
  Range rows;
  std::vector<Range> cols;    // in the order they stand in memory
  std::vector<bool> present;  // [cols]; absent pieces are zeros
};

class Loader {
 public:
  Loader(const SafetensorsModel& files, const ModelConfig& config, const RankShard& shard, Device& device,
         Communicator& comm, const std::function<void(int64_t, int64_t)>& progress)
      : files_(files), config_(config), shard_(shard), device_(device), comm_(comm), progress_(progress) {}

  absl::Status Load(ModelWeights& weights, int64_t total) {
    total_ = total;
    const TensorNames& names = Spec(config_.family).names;
    const int64_t d = config_.head_dim, group = config_.heads / config_.kv_heads, hidden = config_.hidden;
    const int64_t q_rows = config_.heads * d, kv_rows = config_.kv_heads * d, ffn = config_.intermediate;
    for (int l = 0; l < config_.layers; ++l) {
      LayerWeights& w = weights.layers[l];
      const std::vector<LocalHead>& heads = shard_.layers[l];
      auto find = [&](const char* pattern, int64_t rows, int64_t cols) {
        return FindMatrix(LayerName(pattern, l), rows, cols);
      };

      std::vector<Part> qkv, o(1);
      for (const auto& [pattern, rows, per_head] :
           {std::tuple(names.q, q_rows, group * d), std::tuple(names.k, kv_rows, d), std::tuple(names.v, kv_rows, d)}) {
        absl::StatusOr<StoredMatrix> matrix = find(pattern, rows, hidden);
        if (!matrix.ok()) return matrix.status();
        for (const LocalHead& head : heads) {
          const int64_t first = head.kv_head * per_head;
          qkv.push_back({*matrix, {first, first + per_head}, {{0, hidden}}, {true}});
        }
      }
      if (absl::Status s = Fill(w.qkv, qkv, false); !s.ok()) return s;

      absl::StatusOr<StoredMatrix> matrix = find(names.o, hidden, q_rows);
      if (!matrix.ok()) return matrix.status();
      o[0] = {*matrix, {0, hidden}, {}, {}};
      for (const LocalHead& head : heads) {
        o[0].cols.push_back({head.kv_head * group * d, (head.kv_head + 1) * group * d});
        o[0].present.push_back(head.adds_output);
      }
      if (absl::Status s = Fill(w.o, o, true); !s.ok()) return s;

      std::vector<Part> gate_up, down;
      for (const char* pattern : {names.gate, names.up}) {
        matrix = find(pattern, ffn, hidden);
        if (!matrix.ok()) return matrix.status();
        gate_up.push_back({*matrix, shard_.ffn, {{0, hidden}}, {true}});
      }
      if (absl::Status s = Fill(w.gate_up, gate_up, false); !s.ok()) return s;
      matrix = find(names.down, hidden, ffn);
      if (!matrix.ok()) return matrix.status();
      down.push_back({*matrix, {0, hidden}, {shard_.ffn}, {true}});
      if (absl::Status s = Fill(w.down, down, true); !s.ok()) return s;

      for (const auto& [pattern, out, size] :
           {std::tuple(names.input_norm, w.input_norm, hidden), std::tuple(names.post_norm, w.post_norm, hidden),
            std::tuple(names.q_norm, w.q_norm, d), std::tuple(names.k_norm, w.k_norm, d)}) {
        if (out == nullptr) continue;
        if (absl::Status s = FillVector(out, LayerName(pattern, l), {{0, size}}, size); !s.ok()) return s;
      }
      if (absl::Status s = LoadBiases(w, l, names); !s.ok()) return s;
    }
    if (absl::Status s = FillVector(weights.final_norm, names.final_norm, {{0, hidden}}, hidden); !s.ok()) return s;
    absl::StatusOr<StoredMatrix> matrix = FindMatrix(names.embedding, config_.vocab, hidden);
    if (!matrix.ok()) return matrix.status();
    if (absl::Status s = Fill(weights.embedding, {{*matrix, shard_.vocab, {{0, hidden}}, {true}}}, false); !s.ok())
      return s;
    if (config_.tie_embeddings) return absl::OkStatus();
    matrix = FindMatrix(names.lm_head, config_.vocab, hidden);
    if (!matrix.ok()) return matrix.status();
    return Fill(weights.head, {{*matrix, shard_.vocab, {{0, hidden}}, {true}}}, false);
  }

 private:
  absl::StatusOr<TensorInfo> Find(const std::string& name, std::vector<int64_t> shape) {
    return files_.Require(name, {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16}, shape);
  }

  absl::StatusOr<StoredMatrix> FindMatrix(const std::string& name, int64_t rows, int64_t cols) {
    return StoredMatrix::Find(files_, config_.quantization, name, rows, cols);
  }

  absl::Status LoadBiases(LayerWeights& w, int l, const TensorNames& names) {
    const int64_t d = config_.head_dim, group = config_.heads / config_.kv_heads;
    auto bias = [&](const char* pattern) { return BiasName(LayerName(pattern, l)); };
    if (w.qkv.bias != nullptr) {
      const float* out = w.qkv.bias;
      for (const auto& [pattern, per_head] :
           {std::pair(names.q, group * d), std::pair(names.k, d), std::pair(names.v, d)}) {
        std::vector<Range> rows;
        for (const LocalHead& head : shard_.layers[l])
          rows.push_back({head.kv_head * per_head, (head.kv_head + 1) * per_head});
        if (absl::Status s = FillVector(out, bias(pattern), rows, config_.kv_heads * per_head); !s.ok()) return s;
        out += static_cast<int64_t>(rows.size()) * per_head;
      }
    }
    if (w.gate_up.bias != nullptr) {
      const float* out = w.gate_up.bias;
      for (const char* pattern : {names.gate, names.up}) {
        if (absl::Status s = FillVector(out, bias(pattern), {shard_.ffn}, config_.intermediate); !s.ok()) return s;
        out += shard_.ffn.size();
      }
    }
    for (const auto& [weight, pattern] : {std::pair(&w.o, names.o), std::pair(&w.down, names.down)}) {
      if (weight->bias == nullptr) continue;
      if (absl::Status s = FillVector(weight->bias, bias(pattern), {{0, config_.hidden}}, config_.hidden); !s.ok())
        return s;
    }
    return absl::OkStatus();
  }

  absl::Status FillVector(const float* out, const std::string& name, const std::vector<Range>& pieces, int64_t size) {
    absl::StatusOr<TensorInfo> tensor = Find(name, {size});
    if (!tensor.ok()) return tensor.status();
    std::vector<float> values;
    for (const Range& piece : pieces) {
      const size_t end = values.size();
      values.resize(end + piece.size());
      ReadFloats(*tensor, piece.begin, piece.size(), values.data() + end);
    }
    device_.Upload(const_cast<float*>(out), values.data(), 4 * values.size());
    return absl::OkStatus();
  }

  static void GatherRow(const Part& part, int64_t row, float* out) {
    for (size_t i = 0; i < part.cols.size(); ++i) {
      const Range& piece = part.cols[i];
      if (part.present[i]) {
        part.matrix.Values(row, piece.begin, piece.size(), out);
      } else {
        std::fill(out, out + piece.size(), 0.0f);
      }
      out += piece.size();
    }
  }

  // A row whose stored codes are this format's: the codes and parameters as they are.
  static void CopyRow(const Part& part, int64_t row, const Weight& w, uint8_t* codes, float* scale, uint16_t* groups) {
    for (size_t i = 0; i < part.cols.size(); ++i) {
      const Range& piece = part.cols[i];
      if (w.dtype != DType::kI4) {
        if (part.present[i]) {
          part.matrix.Codes(row, piece.begin, piece.size(), codes);
        } else {
          std::fill(codes, codes + piece.size(), uint8_t{0});
        }
        codes += piece.size();
        continue;
      }
      for (int64_t c = piece.begin; c < piece.end; c += w.group, codes += w.group / 2, groups += 2) {
        if (part.present[i]) {
          part.matrix.Group(row, c, w.group, codes, groups);
        } else {
          std::fill(codes, codes + w.group / 2, uint8_t{0});
          groups[0] = groups[1] = 0;
        }
      }
    }
    if (w.dtype != DType::kI4) *scale = part.matrix.RowScale(row);
  }

  // Whether the stored codes can be kept: int4 groups must lie within the stored ones, wherever the columns are cut.
  static bool Keeps(const Part& part, const Weight& w) {
    if (!IsQuantized(w.dtype) || part.matrix.native() != w.dtype) return false;
    if (w.dtype != DType::kI4) return true;
    if (part.matrix.group() % w.group != 0) return false;
    for (const Range& piece : part.cols) {
      if (piece.begin % w.group != 0 || piece.size() % w.group != 0) return false;
    }
    return true;
  }

  // The row maxima over all ranks, for matrices whose rows are cut between ranks.
  std::vector<float> SharedMaxima(const Part& part, const Weight& w) {
    std::vector<float> maxima(w.rows);
    device_.pool().ParallelFor((w.rows + 63) / 64, [&](int64_t block, int) {
      std::vector<float> row(w.cols);
      for (int64_t r = block * 64; r < std::min(w.rows, block * 64 + 64); ++r) {
        GatherRow(part, r, row.data());
        maxima[r] = AbsMax(row.data(), w.cols);
      }
    });
    if (comm_.size() == 1) return maxima;
    std::vector<float> all(maxima.size() * comm_.size());
    comm_.AllGatherHost(all.data(), maxima.data(), 4 * maxima.size());
    for (int r = 0; r < comm_.size(); ++r) {
      for (int64_t i = 0; i < w.rows; ++i) maxima[i] = std::max(maxima[i], all[r * w.rows + i]);
    }
    return maxima;
  }

  absl::Status Fill(const Weight& w, const std::vector<Part>& parts, bool cut_rows) {
    if (w.dtype == DType::kI4 && w.group == 0 && !parts.empty()) {
      const StoredMatrix& matrix = parts.front().matrix;
      return absl::InvalidArgumentError(absl::StrCat("int4 weights need columns in multiples of 32; ", matrix.name(),
                                                     " has ", matrix.cols(), "; use --weights int8"));
    }
    std::vector<float> maxima;
    const bool row_scaled = w.dtype == DType::kF8E4M3 || w.dtype == DType::kI8;
    if (row_scaled && cut_rows && !Keeps(parts[0], w)) maxima = SharedMaxima(parts[0], w);

    const int64_t row_bytes = Bytes(w.dtype, w.cols);
    const int64_t row_groups = w.dtype == DType::kI4 ? w.cols / w.group : 0;
    const int64_t block_rows = std::max<int64_t>(1, (int64_t{32} << 20) / std::max<int64_t>(1, 4 * w.cols));
    int64_t out_row = 0;
    for (const Part& part : parts) {
      const bool keeps = Keeps(part, w);
      for (int64_t first = part.rows.begin; first < part.rows.end && w.cols > 0; first += block_rows) {
        const int64_t count = std::min(block_rows, part.rows.end - first);
        codes_.resize(count * row_bytes);
        scales_.resize(count);
        groups_.resize(count * row_groups * 2);
        device_.pool().ParallelFor((count + 15) / 16, [&](int64_t block, int) {
          std::vector<float> row(w.cols);
          for (int64_t r = block * 16; r < std::min(count, block * 16 + 16); ++r) {
            if (keeps) {
              CopyRow(part, first + r, w, codes_.data() + r * row_bytes, &scales_[r],
                      groups_.data() + r * row_groups * 2);
              continue;
            }
            GatherRow(part, first + r, row.data());
            const float absmax = !row_scaled ? 0.0f : cut_rows ? maxima[first + r] : AbsMax(row.data(), w.cols);
            QuantizeRow(w.dtype, row.data(), w.cols, absmax, w.group, codes_.data() + r * row_bytes, &scales_[r],
                        groups_.data() + r * row_groups * 2);
          }
        });
        auto* data = static_cast<uint8_t*>(const_cast<void*>(w.data));
        device_.Upload(data + out_row * row_bytes, codes_.data(), codes_.size());
        if (row_scaled) device_.Upload(const_cast<float*>(w.scales) + out_row, scales_.data(), 4 * count);
        if (row_groups > 0) {
          device_.Upload(const_cast<uint16_t*>(w.groups) + out_row * row_groups * 2, groups_.data(),
                         2 * groups_.size());
        }
        out_row += count;
        done_ += count * row_bytes;
        if (progress_) progress_(done_, total_);
      }
    }
    return absl::OkStatus();
  }

  const SafetensorsModel& files_;
  const ModelConfig& config_;
  const RankShard& shard_;
  Device& device_;
  Communicator& comm_;
  const std::function<void(int64_t, int64_t)>& progress_;
  int64_t done_ = 0, total_ = 0;
  std::vector<uint8_t> codes_;  // staging of one block of rows
  std::vector<float> scales_;
  std::vector<uint16_t> groups_;
};

}  // namespace

absl::StatusOr<WeightFormats> ChooseFormats(const SafetensorsModel& files, const ModelConfig& config,
                                            const Device& device, std::optional<DType> matrices,
                                            std::optional<DType> vocabulary) {
  const TensorNames& names = Spec(config.family).names;
  WeightFormats formats;
  if (config.hidden < 2048) formats.int4_group = 32;
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  for (auto [asked, name, rows, out] :
       {std::tuple(matrices, LayerName(names.q, 0), q_rows, &formats.matrices),
        std::tuple(vocabulary, std::string(names.embedding), config.vocab, &formats.vocabulary)}) {
    absl::StatusOr<StoredMatrix> stored = StoredMatrix::Find(files, config.quantization, name, rows, config.hidden);
    if (!stored.ok()) return stored.status();
    const std::optional<DType> native = stored->native();
    const bool quantized = native.has_value() && IsQuantized(*native);
    *out = asked.value_or(quantized ? *native : device.is_cuda() ? DType::kBF16 : native.value_or(DType::kBF16));
    if (*out == DType::kI4 && native == DType::kI4) formats.int4_group = Int4Group(stored->group());
    if (config.quantization.kind != QuantizationKind::kNone && out == &formats.matrices && native != *out) {
      formats.note =
          absl::StrCat("the checkpoint's weights (", Describe(config.quantization), ") are held as ", Name(*out),
                       native.has_value() ? ", as asked" : "; duo has no format that holds them as they are");
    }
    if (device.is_cuda() && (*out == DType::kF32 || *out == DType::kF16)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(*out), " weights run on the CPU only; on CUDA use --weights bf16, fp8, int8 or int4"));
    }
  }
  return formats;
}

int64_t WeightBytes(const ModelConfig& config, const RankShard& shard, const WeightFormats& formats) {
  Layout layout(nullptr, formats.int4_group);
  LayOut(config, shard, formats, layout);
  return layout.used();
}

namespace {

// Every matrix points into `storage`, whose bytes are as allocated.
absl::StatusOr<ModelWeights> LayOutWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device) {
  absl::StatusOr<Buffer> storage = Buffer::Allocate(device, WeightBytes(config, shard, formats), "the model's weights");
  if (!storage.ok()) return storage.status();
  Layout layout(storage->as<uint8_t>(), formats.int4_group);
  ModelWeights weights = LayOut(config, shard, formats, layout);
  weights.storage = std::move(*storage);
  return weights;
}

}  // namespace

absl::StatusOr<ModelWeights> RandomWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device) {
  absl::StatusOr<ModelWeights> weights = LayOutWeights(config, shard, formats, device);
  if (!weights.ok()) return weights;
  // A head's weights follow from the head, not from the rank: the holders of a split head must agree. The other
  // matrices are cut without overlap, so a rank's own numbers do.
  auto seed_of = [](uint64_t what, uint64_t layer, uint64_t unit) {
    return SplitMix64(SplitMix64(what << 32 | layer) + unit);
  };
  auto amplitude = [](int64_t inputs) {
    // Uniform in +- sqrt(3 / inputs) has variance 1 / inputs: outputs are about as large as inputs.
    return std::sqrt(3.0f / static_cast<float>(inputs));
  };
  auto fill = [&](const Weight& w, int64_t inputs, uint64_t what, uint64_t layer) {
    FillWeight(device, w, seed_of(what, layer, shard.rank), amplitude(inputs));
  };
  // Rows [first, first + count) of a matrix as one of its own.
  auto rows_of = [](const Weight& w, int64_t first, int64_t count) {
    Weight part = w;
    part.rows = count;
    part.data = static_cast<const uint8_t*>(w.data) + Bytes(w.dtype, first * w.cols);
    if (w.scales != nullptr) part.scales = w.scales + first;
    if (w.groups != nullptr) part.groups = w.groups + first * (w.cols / w.group) * 2;
    if (w.bias != nullptr) part.bias = w.bias + first;
    return part;
  };
  auto fill_heads = [&](const LayerWeights& w, uint64_t layer) {
    const std::vector<LocalHead>& heads = shard.layers[layer];
    const auto count = static_cast<int64_t>(heads.size());
    const int64_t d = config.head_dim, group = config.heads / config.kv_heads;
    fill(w.o, int64_t{config.heads} * d, 1, layer);  // scales and groups; the codes again, head by head, below
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t head = heads[i].kv_head;
      FillWeight(device, rows_of(w.qkv, i * group * d, group * d), seed_of(2, layer, head), amplitude(config.hidden));
      FillWeight(device, rows_of(w.qkv, (count * group + i) * d, d), seed_of(3, layer, head), amplitude(config.hidden));
      FillWeight(device, rows_of(w.qkv, (count * (group + 1) + i) * d, d), seed_of(4, layer, head),
                 amplitude(config.hidden));
      FillRun columns;
      columns.data = static_cast<uint8_t*>(const_cast<void*>(w.o.data)) + Bytes(w.o.dtype, i * group * d);
      columns.stride = static_cast<int64_t>(Bytes(w.o.dtype, w.o.cols));
      columns.runs = w.o.rows;
      columns.amplitude = amplitude(int64_t{config.heads} * d);
      columns.kind = w.o.dtype == DType::kF32      ? FillKind::kF32
                     : w.o.dtype == DType::kF16    ? FillKind::kF16
                     : w.o.dtype == DType::kBF16   ? FillKind::kBF16
                     : w.o.dtype == DType::kF8E4M3 ? FillKind::kE4M3
                                                   : FillKind::kCode;
      columns.count = columns.kind == FillKind::kCode ? static_cast<int64_t>(Bytes(w.o.dtype, group * d)) : group * d;
      FillElements(device, columns, seed_of(5, layer, head));
    }
  };
  auto ones = [&](const float* norm, int64_t count) {
    if (norm != nullptr) FillFloats(device, const_cast<float*>(norm), count, 1.0f);
  };
  for (int l = 0; l < config.layers; ++l) {
    const LayerWeights& w = weights->layers[l];
    fill_heads(w, l);
    fill(w.gate_up, config.hidden, 6, l);
    fill(w.down, config.intermediate, 7, l);
    ones(w.input_norm, config.hidden);
    ones(w.post_norm, config.hidden);
    ones(w.q_norm, config.head_dim);
    ones(w.k_norm, config.head_dim);
  }
  ones(weights->final_norm, config.hidden);
  FillWeight(device, weights->embedding, seed_of(8, 0, shard.rank), 1.0f);
  if (!config.tie_embeddings) fill(weights->head, config.hidden, 9, 0);
  return weights;
}

absl::StatusOr<ModelWeights> LoadWeights(const SafetensorsModel& files, const ModelConfig& config,
                                         const RankShard& shard, const WeightFormats& formats, Device& device,
                                         Communicator& comm, const std::function<void(int64_t, int64_t)>& progress) {
  absl::StatusOr<ModelWeights> weights = LayOutWeights(config, shard, formats, device);
  if (!weights.ok()) return weights.status();
  Loader loader(files, config, shard, device, comm, progress);
  if (absl::Status s = loader.Load(*weights, weights->storage.size()); !s.ok()) return s;
  return weights;
}

}  // namespace duo
