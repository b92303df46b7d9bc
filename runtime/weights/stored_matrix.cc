#include "runtime/weights/stored_matrix.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "runtime/files/mapped_file.h"
#include "runtime/weights/compressed_tensors_config.h"

namespace duo {
namespace {

constexpr StoredDType kPlain[] = {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16};

// AWQ puts column kAwqOrder[i] of eight into nibble i; this is the reverse.
constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};

uint32_t WordAt(const TensorInfo& tensor, int64_t index) {
  uint32_t word;
  std::memcpy(&word, tensor.data + 4 * index, 4);
  return word;
}

float FloatAt(const TensorInfo& tensor, int64_t index) {
  if (tensor.dtype == StoredDType::kF32) return BitsFloat(WordAt(tensor, index));
  uint16_t bits;
  std::memcpy(&bits, tensor.data + 2 * index, 2);
  return tensor.dtype == StoredDType::kBF16 ? ToFloat(bf16{bits}) : ToFloat(f16{bits});
}

// A tensor of one of the float types; of these shapes any will do.
absl::StatusOr<TensorInfo> RequireScales(const SafetensorsModel& files, const std::string& name,
                                         std::vector<std::vector<int64_t>> shapes) {
  const TensorInfo* found = files.Find(name);
  for (const std::vector<int64_t>& shape : shapes) {
    if (found != nullptr && found->shape == shape) return files.Require(name, kPlain, shape);
  }
  return files.Require(name, kPlain, shapes.front());
}

}  // namespace

void ReadFloats(const TensorInfo& tensor, int64_t first, int64_t count, float* out) {
  const bool paired = tensor.paired_heads != 0 && tensor.shape.size() == 1;
  if (tensor.dtype == StoredDType::kF32 && !paired) {
    std::memcpy(out, tensor.data + 4 * first, 4 * count);
    return;
  }
  DUO_CHECK_MSG(ToDType(tensor.dtype).has_value() && Bits(tensor.dtype) >= 16, TypeName(tensor));
  for (int64_t i = 0; i < count; ++i) out[i] = FloatAt(tensor, paired ? StoredRow(tensor, first + i) : first + i);
}

absl::StatusOr<StoredMatrix> StoredMatrix::Find(const SafetensorsModel& files, const QuantizationConfig& all,
                                                const std::string& name, int64_t rows, int64_t cols) {
  StoredMatrix matrix;
  matrix.name_ = name;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  const std::string stem = name.substr(0, name.size() - std::string_view("weight").size());
  const TensorInfo* plain = files.Find(name);
  const QuantizationConfig of_module = all.mixed() ? ConfigOf(all, ModuleOf(name)) : QuantizationConfig();
  const QuantizationConfig& config = all.mixed() ? of_module : all;
  absl::Status status;
  if (plain != nullptr && plain->dtype == StoredDType::kBlocks) {
    absl::StatusOr<TensorInfo> tensor = files.Require(name, {StoredDType::kBlocks}, {rows, cols});
    status = tensor.status();
    matrix.layout_ = Layout::kBlocks;
    if (tensor.ok()) matrix.codes_ = *std::move(tensor);
  } else if (config.kind == QuantizationKind::kNone || config.kind == QuantizationKind::kGguf ||
             config.kind == QuantizationKind::kMxfp4 ||
             (plain != nullptr && plain->dtype != StoredDType::kI8 && plain->dtype != StoredDType::kF8E4M3)) {
    absl::StatusOr<TensorInfo> tensor = files.Require(name, kPlain, {rows, cols});
    status = tensor.status();
    if (tensor.ok()) matrix.codes_ = *std::move(tensor);
  } else if (config.block_cols > 0) {
    status = matrix.FindFp8Blocks(files, stem, config);
  } else if (config.weights.bits == 0) {  // nothing is quantised but activations or the KV cache
    status = files.Require(name, kPlain, {rows, cols}).status();
  } else if (config.kind != QuantizationKind::kCompressedTensors && config.kind != QuantizationKind::kFp8Blocks) {
    status = matrix.FindTransposed(files, stem, config);
  } else if (config.format == "pack-quantized") {
    status = matrix.FindPacked(files, stem, config.weights);
  } else {
    // An inverse by its name alone.
    const bool inverse = config.kind == QuantizationKind::kFp8Blocks && files.Find(stem + "weight_scale") == nullptr;
    status = matrix.FindRowCodes(files, stem, inverse ? "weight_scale_inv" : "weight_scale", config.weights);
  }
  if (!status.ok() && all.mixed()) {
    return absl::Status(status.code(), absl::StrCat(status.message(), "; by quantization_config the module is ",
                                                    Describe(TakenBy(all, ModuleOf(name)))));
  }
  if (!status.ok()) return status;
  matrix.file_ = matrix.codes_.file;
  return matrix;
}

absl::Status StoredMatrix::SetGroups(int group_size, const std::string& stem) {
  group_ = group_size > 0 ? group_size : static_cast<int>(cols_);
  groups_ = CeilDiv(cols_, group_);
  // compressed-tensors fills a last word up; the others' rows and columns are whole words.
  const bool whole_words = layout_ == Layout::kPacked || (rows_ % 8 == 0 && cols_ % 8 == 0);
  if (cols_ % group_ == 0 && whole_words) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(stem, "*: quantised groups of ", group_, " do not divide [", rows_, ", ",
                                               cols_, "], which is not supported"));
}

absl::Status StoredMatrix::FindRowCodes(const SafetensorsModel& files, const std::string& stem, const char* scale,
                                        const QuantizationScheme& scheme) {
  layout_ = Layout::kRowCodes;
  const bool is_float = scheme.type == QuantizationType::kFloat;
  absl::StatusOr<TensorInfo> codes =
      files.Require(stem + "weight", {is_float ? StoredDType::kF8E4M3 : StoredDType::kI8}, {rows_, cols_});
  if (!codes.ok()) return codes.status();
  codes_ = *std::move(codes);
  absl::StatusOr<TensorInfo> scales = RequireScales(files, stem + scale, {{rows_, 1}, {rows_}, {1}, {}, {1, 1}});
  if (!scales.ok()) return scales.status();
  scales_ = *std::move(scales);
  bits_ = 8;
  group_ = static_cast<int>(cols_);
  groups_ = 1;
  return absl::OkStatus();
}

absl::Status StoredMatrix::FindFp8Blocks(const SafetensorsModel& files, const std::string& stem,
                                         const QuantizationConfig& config) {
  layout_ = Layout::kFp8Blocks;
  bits_ = 8;
  block_rows_ = config.block_rows;
  group_ = config.block_cols;
  groups_ = CeilDiv(cols_, group_);
  absl::StatusOr<TensorInfo> codes = files.Require(stem + "weight", {StoredDType::kF8E4M3}, {rows_, cols_});
  if (!codes.ok()) return codes.status();
  codes_ = *std::move(codes);
  const char* name = config.kind == QuantizationKind::kFp8Blocks ? "weight_scale_inv" : "weight_scale";
  absl::StatusOr<TensorInfo> scales =
      RequireScales(files, stem + name, {{CeilDiv<int64_t>(rows_, block_rows_), groups_}});
  if (!scales.ok()) return scales.status();
  scales_ = *std::move(scales);
  return absl::OkStatus();
}

absl::Status StoredMatrix::FindPacked(const SafetensorsModel& files, const std::string& stem,
                                      const QuantizationScheme& scheme) {
  layout_ = Layout::kPacked;
  bits_ = scheme.bits;
  symmetric_ = scheme.symmetric;
  if (absl::Status s = SetGroups(scheme.group_size, stem); !s.ok()) return s;
  const int64_t in_word = 32 / bits_;
  absl::StatusOr<TensorInfo> codes =
      files.Require(stem + "weight_packed", {StoredDType::kI32}, {rows_, CeilDiv(cols_, in_word)});
  if (!codes.ok()) return codes.status();
  codes_ = *std::move(codes);
  std::vector<std::vector<int64_t>> shapes = {{rows_, groups_}};
  if (groups_ == 1) shapes.insert(shapes.end(), {{rows_}, {1}, {}});
  absl::StatusOr<TensorInfo> scales = RequireScales(files, stem + "weight_scale", shapes);
  if (!scales.ok()) return scales.status();
  scales_ = *std::move(scales);
  if (!symmetric_) {
    absl::StatusOr<TensorInfo> zeros =
        files.Require(stem + "weight_zero_point", {StoredDType::kI32}, {CeilDiv(rows_, in_word), groups_});
    if (!zeros.ok()) return zeros.status();
    zeros_ = *std::move(zeros);
  }
  if (files.Find(stem + "weight_g_idx") == nullptr) return absl::OkStatus();
  absl::StatusOr<TensorInfo> order = files.Require(stem + "weight_g_idx", {StoredDType::kI32}, {cols_});
  if (!order.ok()) return order.status();
  order_ = *std::move(order);
  return CheckOrder();
}

absl::Status StoredMatrix::FindTransposed(const SafetensorsModel& files, const std::string& stem,
                                          const QuantizationConfig& config) {
  const bool awq = config.kind == QuantizationKind::kAwq;
  layout_ = awq ? Layout::kAwq : Layout::kGptq;
  bits_ = config.weights.bits;
  if (absl::Status s = SetGroups(config.weights.group_size, stem); !s.ok()) return s;
  const int64_t in_word = 32 / bits_;
  struct Wanted {
    TensorInfo* out;
    const char* name;
    std::vector<int64_t> shape;
  };
  std::vector<Wanted> wanted = {
      {&codes_, "qweight", awq ? std::vector<int64_t>{cols_, rows_ / 8} : std::vector<int64_t>{cols_ / in_word, rows_}},
      {&zeros_, "qzeros", {groups_, rows_ / in_word}}};
  if (!awq && files.Find(stem + "g_idx") != nullptr) wanted.push_back({&order_, "g_idx", {cols_}});
  for (const Wanted& w : wanted) {
    absl::StatusOr<TensorInfo> tensor = files.Require(stem + w.name, {StoredDType::kI32}, w.shape);
    if (!tensor.ok()) return tensor.status();
    *w.out = *std::move(tensor);
  }
  absl::StatusOr<TensorInfo> scales = files.Require(stem + "scales", kPlain, {groups_, rows_});
  if (!scales.ok()) return scales.status();
  scales_ = *std::move(scales);
  zero_offset_ = !awq && config.format != "gptq_v2" ? 1 : 0;
  return CheckOrder();
}

absl::Status StoredMatrix::CheckOrder() {
  if (order_.data == nullptr) return absl::OkStatus();
  bool unset = true;  // some writers leave -1 where there is no order
  for (int64_t c = 0; c < cols_; ++c) unset &= static_cast<int32_t>(WordAt(order_, c)) == -1;
  for (int64_t c = 0; c < cols_ && !unset; ++c) {
    const auto group = static_cast<int32_t>(WordAt(order_, c));
    if (group < 0 || group >= groups_) {
      return absl::InvalidArgumentError(absl::StrCat(order_.file, ": tensor ", order_.name,
                                                     ": expected groups from 0 to ", groups_ - 1, ", found ", group,
                                                     " at column ", c));
    }
    permuted_ |= group != c / group_;
  }
  if (!permuted_) order_ = TensorInfo();
  return absl::OkStatus();
}

std::optional<DType> StoredMatrix::native() const {
  switch (layout_) {
    case Layout::kPlain:
    case Layout::kRowCodes:
    case Layout::kStacked:
      return ToDType(codes_.dtype);
    case Layout::kBlocks:
    case Layout::kMxfp4:
    case Layout::kFp8Blocks:
      return std::nullopt;
    default:
      // duo's groups are of at least 32 columns in a row.
      return bits_ == 4 && !permuted_ && group_ % 32 == 0 ? std::optional(DType::kI4) : std::nullopt;
  }
}

bool StoredMatrix::grouped_int8() const {
  const bool floats = layout_ == Layout::kRowCodes || layout_ == Layout::kFp8Blocks;  // or scales of whole rows
  return bits_ == 8 && !floats && !permuted_ && group_ % 16 == 0;
}

int StoredMatrix::CodeAt(int64_t row, int64_t col) const {
  const int64_t in_word = 32 / bits_;
  const uint32_t mask = (1u << bits_) - 1;
  switch (layout_) {
    case Layout::kPacked:
      return static_cast<int>(WordAt(codes_, row * CeilDiv(cols_, in_word) + col / in_word) >> bits_ * (col % in_word) &
                              mask);
    case Layout::kAwq:
      return static_cast<int>(WordAt(codes_, col * (rows_ / 8) + row / 8) >> 4 * kAwqNibble[row % 8] & mask);
    default:
      return static_cast<int>(WordAt(codes_, col / in_word * rows_ + row) >> bits_ * (col % in_word) & mask);
  }
}

int64_t StoredMatrix::GroupOf(int64_t col) const {
  return permuted_ ? static_cast<int32_t>(WordAt(order_, col)) : col / group_;
}

float StoredMatrix::ScaleAt(int64_t row, int64_t group) const {
  if (layout_ == Layout::kPacked)
    return FloatAt(scales_, scales_.bytes / (Bits(scales_.dtype) / 8) > 1 ? row * groups_ + group : 0);
  return FloatAt(scales_, group * rows_ + row);
}

int StoredMatrix::ZeroAt(int64_t row, int64_t group) const {
  const int64_t in_word = 32 / bits_;
  const uint32_t mask = (1u << bits_) - 1;
  switch (layout_) {
    case Layout::kPacked:
      if (symmetric_) return 1 << (bits_ - 1);
      return static_cast<int>(WordAt(zeros_, row / in_word * groups_ + group) >> bits_ * (row % in_word) & mask);
    case Layout::kAwq:
      return static_cast<int>(WordAt(zeros_, group * (rows_ / 8) + row / 8) >> 4 * kAwqNibble[row % 8] & mask);
    default:
      return zero_offset_ +
             static_cast<int>(WordAt(zeros_, group * (rows_ / in_word) + row / in_word) >> bits_ * (row % in_word) &
                              mask);
  }
}

float StoredMatrix::RowScale(int64_t row) const {
  return FloatAt(scales_, scales_.bytes / (Bits(scales_.dtype) / 8) > 1 ? row : 0);
}

void StoredMatrix::DropPages() const {
  for (const TensorInfo* tensor : {&codes_, &scales_, &zeros_, &order_}) {
    if (tensor->data != nullptr) duo::DropPages(tensor->data, tensor->bytes);
  }
}

void StoredMatrix::Codes(int64_t row, int64_t first, int64_t count, uint8_t* out) const {
  std::memcpy(out, codes_.data + row * cols_ + first, count);
}

void StoredMatrix::Group(int64_t row, int64_t first, int64_t count, DType type, uint8_t* codes,
                         uint16_t* scale_and_min) const {
  const int64_t group = first / group_;
  DUO_CHECK_EQ((first + count - 1) / group_, group);
  DUO_CHECK(type == DType::kI8 || (type == DType::kI4 && bits_ == 4));
  const int middle = bits_ == 8 ? 128 : 0;  // codes of 8 bits become signed
  const bool bytes = type == DType::kI8;
  for (int64_t i = 0; i < count && bytes; ++i) codes[i] = static_cast<uint8_t>(CodeAt(row, first + i) - middle);
  for (int64_t i = 0; i < count && !bytes; i += 2) {
    codes[i / 2] = static_cast<uint8_t>(CodeAt(row, first + i) | CodeAt(row, first + i + 1) << 4);
  }
  const float scale = ScaleAt(row, group);
  scale_and_min[0] = ToF16(scale).bits;
  scale_and_min[1] = ToF16(-scale * static_cast<float>(ZeroAt(row, group) - middle)).bits;
}

float StoredMatrix::BlockScale(int64_t block_row, int64_t block_col) const {
  return FloatAt(scales_, block_row * groups_ + block_col);
}

bool StoredMatrix::coded() const { return layout_ != Layout::kPlain && layout_ != Layout::kStacked; }

const char* StoredMatrix::type_name() const {
  switch (layout_) {
    case Layout::kMxfp4:
      return "MXFP4";
    case Layout::kPacked:
    case Layout::kAwq:
    case Layout::kGptq:
      return bits_ == 4 ? "int4" : "int8";
    default:
      return TypeName(codes_);
  }
}

CodeFormat StoredMatrix::code_format() const {
  if (layout_ == Layout::kRowCodes) return {*ToDType(codes_.dtype), 0, 0};
  if (layout_ != Layout::kPacked && layout_ != Layout::kAwq && layout_ != Layout::kGptq) return block_format();
  if (native() == DType::kI4) return {DType::kI4, Int4Group(group_), 0};
  if (grouped_int8()) return {DType::kI8, std::min<int>(128, static_cast<int>(GroupUnit(group_))), 0};
  return {DType::kBF16, 0, 0};
}

CodeFormat StoredMatrix::block_format() const {
  if (in_scale_blocks()) return ScaleBlockFormat(block_rows_, group_).value_or(CodeFormat{DType::kBF16, 0, 0});
  if (!in_blocks()) return {ToDType(codes_.dtype).value_or(DType::kF32), 0, 0};
  if (layout_ == Layout::kMxfp4) return {DType::kI4, 32, 0, CodeTable::kE2M1};
  const GgufTypeInfo& info = Info(codes_.blocks);
  const CodeTable table = info.table == nullptr               ? CodeTable::kNone
                          : codes_.blocks == GgufType::kMXFP4 ? CodeTable::kE2M1
                                                              : CodeTable::kIq4;
  return {info.bits == 4 ? DType::kI4 : DType::kI8, info.group, info.two_levels ? info.elements : 0, table};
}

bool StoredMatrix::Blocks(int64_t row, int64_t first, int64_t count, const CodeFormat& format,
                          const RowCodes& out) const {
  if (layout_ == Layout::kMxfp4) {
    Mxfp4Codes(row, first, count, out);
    return true;
  }
  const GgufTypeInfo& info = Info(codes_.blocks);
  const uint8_t* stored = codes_.data + StoredRow(codes_, row) * (static_cast<int64_t>(codes_.bytes) / rows_);
  const int pair_cols = format.block > 0 ? format.block : format.group;
  auto [codes, scale, groups, subs, exponents] = out;
  const bool powers = format.table == CodeTable::kE2M1;
  const int8_t* table = format.table == CodeTable::kNone ? info.table : nullptr;  // of numbers to write for codes
  GgufBlock block;
  int64_t unpacked = -1;
  bool fits = true;
  for (int64_t c = first; c < first + count; c += format.group) {
    if (c / info.elements != unpacked) {
      unpacked = c / info.elements;
      UnpackBlock(codes_.blocks, stored + unpacked * info.bytes, &block);
      const f16 min = ToF16(block.min);
      fits = fits && (min.bits & 0x7fff) < 0x7c00;
      for (int i = 0; table != nullptr && i < info.elements; ++i) block.codes[i] = table[block.codes[i]];
    }
    const auto at = static_cast<int>(c % info.elements);
    const int8_t* from = block.codes + at;
    if (format.type == DType::kI8) {
      std::memcpy(codes, from, format.group);
    } else {
      for (int i = 0; i < format.group; i += 2) codes[i / 2] = static_cast<uint8_t>(from[i] | from[i + 1] << 4);
    }
    codes += Bytes(format.type, format.group);
    if (powers) {
      *exponents++ = block.exponent;
    } else if ((c - first) % pair_cols == 0) {
      *groups++ = ToF16(block.scale).bits;
      *groups++ = ToF16(block.min).bits;
    }
    if (format.block > 0) {
      *subs++ = block.sub_scale[at / info.group];
      *subs++ = block.sub_min[at / info.group];
    }
  }
  return fits;
}

void StoredMatrix::Values(int64_t row, int64_t first, int64_t count, float* out) const {
  if (layout_ == Layout::kPlain) {
    ReadFloats(codes_, StoredRow(codes_, row) * cols_ + first, count, out);
    return;
  }
  if (layout_ == Layout::kBlocks) {
    const auto row_bytes = static_cast<int64_t>(codes_.bytes) / rows_;
    BlockValues(codes_.blocks, codes_.data + StoredRow(codes_, row) * row_bytes, first, count, out);
    return;
  }
  if (layout_ == Layout::kStacked || layout_ == Layout::kMxfp4) return StackedValues(row, first, count, out);
  if (layout_ == Layout::kRowCodes) {
    const float scale = RowScale(row);
    const uint8_t* codes = codes_.data + row * cols_ + first;
    const bool is_float = codes_.dtype == StoredDType::kF8E4M3;
    for (int64_t i = 0; i < count; ++i) {
      out[i] = scale * (is_float ? F8ToFloat(codes[i]) : static_cast<float>(static_cast<int8_t>(codes[i])));
    }
    return;
  }
  if (layout_ == Layout::kFp8Blocks) {
    const uint8_t* codes = codes_.data + row * cols_;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = first + i;
      out[i] = F8ToFloat(codes[c]) * BlockScale(row / block_rows_, c / group_);
    }
    return;
  }
  int64_t group = -1;
  float scale = 0;
  int zero = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (const int64_t own = GroupOf(first + i); own != group) {
      group = own;
      scale = ScaleAt(row, group);
      zero = ZeroAt(row, group);
    }
    out[i] = scale * static_cast<float>(CodeAt(row, first + i) - zero);
  }
}

}  // namespace duo
