// Which formats weights get in memory (weights.h).
#include <algorithm>
#include <functional>
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
  if (format.group == 0) return HasRowScales(format.type) ? format : kWide;
  if (format.scale_blocks()) return format.group >= 64 ? format : kWide;
  if (format.table != CodeTable::kNone) return format;
  if (format.block == 0 && format.type == DType::kI8 && format.group % 32 == 0) format.group = 32;  // the same numbers
  if (format.block == 0) return format.type == DType::kI4 || format.group == 32 ? format : kWide;
  if (format.group > 32) return kWide;
  if (format.type == DType::kI4 && (format.group != 32 || format.block % 128 != 0)) format.type = DType::kI8;
  return format.type == DType::kI4 || format.block % 64 == 0 ? format : kWide;
}

// That holds what a scheme stores in rows of so many columns, as StoredMatrix::code_format has it.
CodeFormat FormatOf(const QuantizationConfig& config, int64_t cols) {
  constexpr CodeFormat kWide = {DType::kBF16, 0, 0};
  if (config.block_cols > 0) return ScaleBlockFormat(config.block_rows, config.block_cols).value_or(kWide);
  if (config.weights.type == QuantizationType::kFloat) return {DType::kF8E4M3, 0, 0};
  if (config.format != "pack-quantized") return {DType::kI8, 0, 0};
  const int64_t group = config.weights.group_size > 0 ? config.weights.group_size : cols;
  if (config.activation_order && group < cols) return kWide;
  if (config.weights.bits == 4) return group % 32 == 0 ? CodeFormat{DType::kI4, Int4Group(group), 0} : kWide;
  return group % 16 == 0 ? CodeFormat{DType::kI8, std::min<int>(128, GroupUnit(group)), 0} : kWide;
}

// A tensor as it is stored.
struct StoredFormat {
  CodeFormat format;  // that holds it
  std::string coded;  // what it is called where it is no plain floats; or empty
};
using FormatOfTensor = std::function<absl::StatusOr<StoredFormat>(const TensorSlice&)>;

FormatOfTensor FromFiles(const SafetensorsModel& files, const QuantizationConfig& quantization) {
  return [&](const TensorSlice& slice) -> absl::StatusOr<StoredFormat> {
    absl::StatusOr<StoredMatrix> matrix = FindStored(files, quantization, slice);
    if (!matrix.ok()) return matrix.status();
    const CodeFormat format = quantization.mixed() ? matrix->code_format() : matrix->block_format();
    const bool coded = quantization.mixed() ? matrix->coded() : matrix->in_blocks() || matrix->in_scale_blocks();
    return StoredFormat{format, coded ? matrix->type_name() : ""};
  };
}

// The experts of a layer are rows of one matrix: of several formats all would have the widest, in f32.
absl::Status CheckAlike(const HeldWeight& held, const CodeFormat& first, const TensorSlice& slice,
                        const StoredFormat& stored) {
  if (!held.record->each_expert || stored.format == first || IsQuantized(Join(first, stored.format).type)) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat(
      slice.name, " is ", stored.coded.empty() ? Name(stored.format.type) : stored.coded.c_str(), " and ",
      held.tensors[0].name, " is ", Name(first.type),
      ": experts of a layer in formats that have no code in common are not supported; use an edition whose experts are "
      "alike, or give all of them one format, for example with --weights int8"));
}

// The matrices of a file whose tensors have formats of their own, each in the format that holds what its tensors store,
// or the nearest that the device has. layers, outer: which of the model's weights.
absl::Status KeepStored(const FormatOfTensor& format_of, const ModelConfig& config, bool on_cuda, bool layers,
                        bool outer, WeightFormats& formats) {
  std::set<std::string> expanded, as;
  for (const HeldWeight& held : AllWeights(config)) {
    if (held.is_vector() || !(held.layer < 0 ? outer : layers)) continue;
    std::optional<CodeFormat> joined;
    std::set<std::string> coded;  // types of its tensors
    for (const TensorSlice& slice : held.tensors) {
      const absl::StatusOr<StoredFormat> stored = format_of(slice);
      if (!stored.ok()) return stored.status();
      if (joined.has_value() && config.quantization.mixed()) {
        if (absl::Status s = CheckAlike(held, *joined, slice, *stored); !s.ok()) return s;
      }
      joined = joined.has_value() ? Join(*joined, stored->format) : stored->format;
      if (!stored->coded.empty()) coded.insert(stored->coded);
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
    if (config.quantization.mixed()) absl::StrAppend(&formats.note, ", or one matrix is made of several formats");
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
  const bool mixed = config.quantization.mixed();
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
    const bool own =
        (config.quantization.kind == QuantizationKind::kGguf || scale_blocks || mixed) && !wanted.has_value();
    if (config.quantization.kind == QuantizationKind::kMxfp4) {
      if (wanted.has_value() && out == &formats.matrices) {
        formats.note = absl::StrCat("the checkpoint's experts (", Describe(config.quantization), ") are held as ",
                                    Name(*out), ", as asked");
      }
    } else if (config.quantization.kind != QuantizationKind::kNone && !own && !grouped && out == &formats.matrices &&
               (native != *out || mixed)) {
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
      !scale_blocks && !mixed)
    return formats;
  absl::Status kept = KeepStored(FromFiles(files, config.quantization), config, on_cuda, !asked.matrices.has_value(),
                                 !asked.vocabulary.has_value(), formats);
  if (!kept.ok()) return kept;
  return formats;
}

absl::StatusOr<WeightFormats> FormatsOfGroups(const ModelConfig& config, bool on_cuda) {
  WeightFormats formats;
  if (config.hidden < 2048) formats.int4_group = 32;
  const DType plain = on_cuda ? DType::kBF16 : config.dtype;
  const auto by_config = [&](const TensorSlice& slice) -> absl::StatusOr<StoredFormat> {
    const QuantizationConfig own = ConfigOf(config.quantization, ModuleOf(slice.name));
    if (own.kind == QuantizationKind::kNone) return StoredFormat{{plain, 0, 0}, ""};
    return StoredFormat{FormatOf(own, slice.cols), Describe(own.weights)};
  };
  const absl::Status kept = KeepStored(by_config, config, on_cuda, true, true, formats);
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
