#include "runtime/weights/weights.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "runtime/weights/families.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

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
    device_.pool().ParallelFor(CeilDiv(w.rows, 64), [&](int64_t block, int) {
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
        device_.pool().ParallelFor(CeilDiv(count, 16), [&](int64_t block, int) {
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
