// Which formats weights get in memory (weights.h).
#include <algorithm>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/weights/families.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/weights.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

// Every weight of the model, of a rank that holds nothing: names, sizes and units are those of all ranks.
std::vector<HeldWeight> AllWeights(const ModelConfig& config) {
  RankShard none;
  none.layers.resize(config.layers);
  none.experts = {0, config.experts.count};
  return HeldWeights(config, none);
}

// What CUDA's kernels of a few rows multiply with as it is (kernels/cuda/linear/linear_pieces.cu, linear_small.cu,
// linear_scale_blocks.cu); the rest becomes bf16 there. They read 128 columns of int4 and 64 of 8 bits at a time, which
// must lie within a block of groups: int4 of smaller blocks, as where columns are cut into heads of 64, is widened.
CodeFormat OnCuda(CodeFormat format) {
  constexpr CodeFormat kWide = {DType::kBF16, 0, 0};
  if (format.group == 0) return kWide;
  if (format.scale_blocks()) return format.group >= 64 ? format : kWide;
  if (format.table != CodeTable::kNone) return format;
  if (format.block == 0) return format.type == DType::kI4 || format.group == 32 ? format : kWide;
  if (format.group > 32) return kWide;
  if (format.type == DType::kI4 && (format.group != 32 || format.block % 128 != 0)) format.type = DType::kI8;
  return format.type == DType::kI4 || format.block % 64 == 0 ? format : kWide;
}

// The matrices of a GGUF file, or of one whose experts are MXFP4 or whose matrices are fp8 in blocks, each in the
// format that holds what its tensors store, or the nearest that the device has. layers, outer: which of the model's
// weights.
absl::Status KeepBlocks(const SafetensorsModel& files, const ModelConfig& config, bool on_cuda, bool layers, bool outer,
                        WeightFormats& formats) {
  std::set<std::string> expanded, as;
  for (const HeldWeight& held : AllWeights(config)) {
    if (held.is_vector() || !(held.layer < 0 ? outer : layers)) continue;
    std::optional<CodeFormat> joined;
    std::set<std::string> coded;  // types of its tensors
    for (const TensorSlice& slice : held.tensors) {
      absl::StatusOr<StoredMatrix> matrix = FindStored(files, config.quantization, slice);
      if (!matrix.ok()) return matrix.status();
      joined = joined.has_value() ? Join(*joined, matrix->block_format()) : matrix->block_format();
      if (matrix->in_blocks() || matrix->in_scale_blocks()) coded.insert(matrix->type_name());
    }
    const std::optional<CodeFormat> fitted = FitTo(*joined, held);
    CodeFormat format = fitted.value_or(CodeFormat{DType::kF32, 0, 0});
    if (held.record->never_coded && IsQuantized(format.type)) format = {DType::kF32, 0, 0};
    if (on_cuda) format = OnCuda(format);
    if (!IsQuantized(format.type) && !coded.empty()) {
      expanded.insert(coded.begin(), coded.end());
      as.insert(Name(format.type));
    }
    formats.kept[{held.layer, held.role()}] = format;
  }
  if (!expanded.empty()) {
    formats.note = absl::StrCat(
        "matrices of the file that have ", absl::StrJoin(expanded, ", "), " are held as ", absl::StrJoin(as, " and "),
        ", which takes more memory: duo has no kernels for them on ", on_cuda ? "CUDA" : "the CPU");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WeightFormats> ChooseFormats(const SafetensorsModel& files, const ModelConfig& config, bool on_cuda,
                                            const AskedFormats& asked) {
  WeightFormats formats;
  if (config.hidden < 2048) formats.int4_group = 32;
  formats.int8_group = asked.int8_group;
  const bool scale_blocks = config.quantization.block_cols > 0 && KeepsCodes(config.quantization);
  const int64_t q_rows = int64_t{config.heads} * config.head_dim;
  for (auto [wanted, name, rows, out] :
       {std::tuple(asked.matrices, TensorName(config, WeightRole::kQkv, 0, 0), q_rows, &formats.matrices),
        std::tuple(asked.vocabulary, TensorName(config, WeightRole::kEmbedding, 0, -1), config.vocab,
                   &formats.vocabulary)}) {
    absl::StatusOr<StoredMatrix> stored = StoredMatrix::Find(files, config.quantization, name, rows, config.hidden);
    if (!stored.ok()) return stored.status();
    const std::optional<DType> native = stored->native();
    const bool quantized = native.has_value() && IsQuantized(*native);
    // 8 bits in groups stay so; CUDA's kernels have groups of 32.
    const bool grouped = !wanted.has_value() && stored->grouped_int8() && (!on_cuda || stored->group() % 32 == 0);
    *out = wanted.value_or(quantized ? *native : on_cuda ? DType::kBF16 : native.value_or(DType::kBF16));
    if (*out == DType::kI4 && native == DType::kI4) formats.int4_group = Int4Group(stored->group());
    if (grouped) {
      *out = DType::kI8;
      formats.int8_group = on_cuda ? 32 : std::min<int>(128, GroupUnit(stored->group()));
    }
    const bool in_blocks = config.quantization.kind == QuantizationKind::kGguf || scale_blocks;
    const bool own = in_blocks && !wanted.has_value();
    if (config.quantization.kind == QuantizationKind::kMxfp4) {
      if (wanted.has_value() && out == &formats.matrices) {
        formats.note = absl::StrCat("the checkpoint's experts (", Describe(config.quantization), ") are held as ",
                                    Name(*out), ", as asked");
      }
    } else if (config.quantization.kind != QuantizationKind::kNone && !own && !grouped && out == &formats.matrices &&
               native != *out) {
      formats.note = absl::StrCat(
          "the checkpoint's weights (", Describe(config.quantization), ") are held as ", Name(*out),
          native.has_value() || wanted.has_value() ? ", as asked" : "; duo has no format that holds them as they are");
    }
    if (on_cuda && (*out == DType::kF32 || *out == DType::kF16)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Name(*out), " weights run on the CPU only; on CUDA use --weights bf16, fp8, int8 or int4"));
    }
  }
  if (config.quantization.kind != QuantizationKind::kGguf && config.quantization.kind != QuantizationKind::kMxfp4 &&
      !scale_blocks)
    return formats;
  absl::Status kept =
      KeepBlocks(files, config, on_cuda, !asked.matrices.has_value(), !asked.vocabulary.has_value(), formats);
  if (!kept.ok()) return kept;
  return formats;
}

WeightFormats MixedFormats(const ModelConfig& config, bool on_cuda, std::string_view mixture) {
  constexpr CodeFormat kQ4K = {DType::kI4, 32, 256}, kQ6K = {DType::kI8, 16, 256};
  // The layers with more bits: the first and the last eighth, and every third between.
  const auto more = [&](int layer) {
    const int eighth = config.layers / 8;
    return layer < eighth || layer >= 7 * config.layers / 8 || (layer - eighth) % 3 == 2;
  };
  WeightFormats formats;
  for (const HeldWeight& held : AllWeights(config)) {
    if (held.is_vector() || held.record->never_coded) continue;
    const WeightRole role = held.role();
    if (mixture == kMxfp4Weights) {
      if (role != WeightRole::kExpertGateUp && role != WeightRole::kExpertDown) continue;
      const CodeFormat codes = FitTo({DType::kI4, 32, 0, CodeTable::kE2M1}, held.unit).value_or(CodeFormat{});
      formats.kept[{held.layer, role}] = on_cuda ? OnCuda(codes) : codes;
      continue;
    }
    const bool down = role == WeightRole::kDown || role == WeightRole::kExpertDown || role == WeightRole::kSharedDown;
    const bool wide = role == WeightRole::kHead || (role == WeightRole::kEmbedding && config.tie_embeddings) ||
                      ((down || role == WeightRole::kQkv) && more(held.layer));
    const CodeFormat mixed = role == WeightRole::kQkv && wide ? Join(kQ4K, kQ6K) : wide ? kQ6K : kQ4K;
    const CodeFormat fitted = FitTo(mixed, held.unit).value_or(CodeFormat{});
    formats.kept[{held.layer, role}] = on_cuda ? OnCuda(fitted) : fitted;
  }
  return formats;
}

absl::Status CheckGroups(const ModelConfig& config, const WeightFormats& formats) {
  for (const HeldWeight& held : AllWeights(config)) {
    if (held.is_vector() || held.record->never_coded || formats.kept.count({held.layer, held.role()}) > 0) continue;
    if ((held.layer < 0 ? formats.vocabulary : formats.matrices) != DType::kI4) continue;
    if (Int4Group(held.unit, formats.int4_group) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("int4 weights need columns in multiples of 32; ",
                                                   held.tensors[0].name, " has pieces of ", held.unit,
                                                   "; use --weights int8"));
  }
  return absl::OkStatus();
}

absl::StatusOr<WeightFormats> ChooseDraftFormats(const ModelConfig& config, const WeightFormats& served,
                                                 int most_group) {
  bool int4 = served.matrices == DType::kI4;
  for (const auto& [which, format] : served.kept) int4 |= format.type == DType::kI4;
  if (int4) {
    return absl::InvalidArgumentError(
        "--draft-weights int4: the weights that answers are drawn with are int4 themselves, so that a copy would guess "
        "no faster; leave it off");
  }
  if (most_group < 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("--draft-weights int4: int4 needs columns in multiples of 32, but over so many ranks this model's "
                     "MLPs are cut at multiples of ",
                     most_group, "; leave it off"));
  }
  WeightFormats formats;
  formats.matrices = formats.vocabulary = DType::kI4;
  formats.int4_group = std::min(config.hidden < 2048 ? 32 : 128, most_group);
  formats.without_embedding = true;
  for (const HeldWeight& held : AllWeights(config)) {
    if (held.is_vector() || held.record->never_coded || Int4Group(held.unit, formats.int4_group) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("--draft-weights int4: int4 needs columns in multiples of 32, but ",
                                                   held.tensors[0].name, " has pieces of ", held.unit,
                                                   "; leave it off"));
  }
  return formats;
}

}  // namespace duo
