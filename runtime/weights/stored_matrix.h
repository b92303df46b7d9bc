// StoredMatrix: a weight matrix [rows = outputs, cols = inputs] as a checkpoint stores it, plain or quantised, read row
// by row. Why: checkpoints that come quantised become duo's own formats while loading, code by code where those can
// hold the stored codes, else by value.
//
// What can be read: f32, f16 and bf16; compressed-tensors' float-quantized, int-quantized, naive-quantized and
// pack-quantized; AWQ (gemm); GPTQ of 4 and 8 bits with or without activation order; all experts of a layer in one
// tensor, plain or MXFP4; fp8 in blocks. The value at row r, column c is
//   float or int, scale per tensor or row   code * scale[r]
//   int in groups of columns                (code - zero[r][g]) * scale[r][g], g = c / group, or g_idx[c]
//   fp8 in blocks                           code * scale[r / block rows][c / block columns]
//   MXFP4 (OCP Microscaling 1.0), e2m1      code * 2^(scale[r][c / 32] - 127)
// and a GGUF file's blocks (runtime/gguf/block_types.h), whose type each tensor has of its own.
// The layouts are those of the packages that write them: compressed-tensors (compressors/quantized_compressors,
// pack_quantized), AutoAWQ (utils/packing_utils), AutoGPTQ and GPTQModel (nn_modules/qlinear).
//
// Ownership: views into the SafetensorsModel, which must live as long. Threads: const calls from any thread. Errors: a
// Status that names the tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "runtime/weights/code_format.h"
#include "runtime/weights/quantization_config.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/safetensors.h"

namespace duo {

// `count` values of an f32, f16 or bf16 tensor, from element `first` on. Elements of a vector are its rows.
void ReadFloats(const TensorInfo& tensor, int64_t first, int64_t count, float* out);

// Where the rows of an expert's matrix lie in a tensor of all experts of a layer.
struct StackedRows {
  int64_t experts = 0;           // of the tensor; 0: the tensor is the matrix itself
  int64_t expert = 0;            // this one
  int64_t every = 1, first = 0;  // row r of the matrix is row first + r * every of the expert's
};
// A GGUF file's experts, and their biases, are tensors of their own: "NAME.3.1" is expert 3's rows from the first 1 on.
std::string StackedPartName(const std::string& name, const StackedRows& stacked);

class StoredMatrix {
 public:
  // name: the plain tensor's, "model.layers.0.mlp.up_proj.weight". What is stored beside it under the quantised names
  // decides, so modules that stayed unquantised need no list. Of several groups the module's own says what to look for.
  static absl::StatusOr<StoredMatrix> Find(const SafetensorsModel& files, const QuantizationConfig& config,
                                           const std::string& name, int64_t rows, int64_t cols);

  // Of one expert. NAME_blocks u8 [experts, rows * every, cols / 32, 16] (two codes a byte, the even column's in the
  // low half) with NAME_scales u8 [experts, rows * every, cols / 32], or a plain NAME [experts, cols, rows * every], or
  // a GGUF file's part of it.
  static absl::StatusOr<StoredMatrix> FindStacked(const SafetensorsModel& files, const std::string& name,
                                                  const StackedRows& stacked, int64_t rows, int64_t cols);

  const std::string& file() const { return file_; }
  const std::string& name() const { return name_; }
  const char* type_name() const;  // "BF16", "Q4_K", "int4"
  bool coded() const;             // not plain floats
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // The format that holds a GGUF file's tensor, or MXFP4's, or fp8 in blocks exactly: its codes, or the float type for
  // what is no codes. Not for checkpoints of other codes.
  CodeFormat block_format() const;
  // The same of any checkpoint. What duo's formats cannot hold is bf16, as where a whole checkpoint is so.
  CodeFormat code_format() const;
  bool in_blocks() const { return layout_ == Layout::kBlocks || layout_ == Layout::kMxfp4; }
  // Columns [first, first + count) of an in_blocks() row in a format that holds block_format()'s values (Join, FitTo):
  // codes, pairs of groups and of subs. False if a minimum is beyond f16.
  bool Blocks(int64_t row, int64_t first, int64_t count, const CodeFormat& format, const RowCodes& out) const;

  // The format of duo's that holds the stored codes as they are; nothing where only the values can be taken. int4: with
  // groups of group() columns or of a divisor of it; scales that f16 cannot hold, and zeros times scales, are rounded
  // to it.
  std::optional<DType> native() const;
  int group() const { return group_; }

  // fp8 in blocks: the stored sides of a block, and a block's scale; `Codes` has the codes.
  bool in_scale_blocks() const { return layout_ == Layout::kFp8Blocks; }
  int block_rows() const { return block_rows_; }
  float BlockScale(int64_t block_row, int64_t block_col) const;

  // Values of columns [first, first + count) of a row.
  void Values(int64_t row, int64_t first, int64_t count, float* out) const;

  // native() fp8 or int8, or fp8 in blocks: the codes; and of the former the row's scale.
  void Codes(int64_t row, int64_t first, int64_t count, uint8_t* out) const;
  float RowScale(int64_t row) const;

  // Whether the codes are 8 bits in groups of columns in a row, which int8 in groups of group() columns or of a divisor
  // of it holds, as int4 does those of 4 bits.
  bool grouped_int8() const;

  // Gives back the memory of what was read of its file.
  void DropPages() const;

  // native() int4 or grouped_int8(), columns within one stored group: two codes a byte, or of kI8 signed codes, which
  // hold either, and scale and minimum in f16.
  void Group(int64_t row, int64_t first, int64_t count, DType type, uint8_t* codes, uint16_t* scale_and_min) const;

 private:
  enum class Layout : uint8_t { kPlain, kRowCodes, kPacked, kAwq, kGptq, kBlocks, kStacked, kMxfp4, kFp8Blocks };

  absl::Status FindRowCodes(const SafetensorsModel& files, const std::string& stem, const char* scale,
                            const QuantizationScheme& scheme);
  absl::Status FindFp8Blocks(const SafetensorsModel& files, const std::string& stem, const QuantizationConfig& config);
  absl::Status FindPacked(const SafetensorsModel& files, const std::string& stem, const QuantizationScheme& scheme);
  absl::Status FindTransposed(const SafetensorsModel& files, const std::string& stem, const QuantizationConfig& config);
  absl::Status SetGroups(int group_size, const std::string& stem);
  absl::Status CheckOrder();
  int CodeAt(int64_t row, int64_t col) const;  // unsigned
  int64_t GroupOf(int64_t col) const;
  float ScaleAt(int64_t row, int64_t group) const;
  int64_t StackedRow(int64_t row) const;  // among the rows of all experts
  void StackedValues(int64_t row, int64_t first, int64_t count, float* out) const;
  void Mxfp4Codes(int64_t row, int64_t first, int64_t count, const RowCodes& out) const;
  int ZeroAt(int64_t row, int64_t group) const;  // of the unsigned codes

  Layout layout_ = Layout::kPlain;
  std::string name_, file_;
  int64_t rows_ = 0, cols_ = 0;
  int bits_ = 0;
  int group_ = 0;           // columns that share a scale
  int64_t groups_ = 0;      // of a row
  int block_rows_ = 1;      // fp8 in blocks: rows that share a scale
  bool symmetric_ = false;  // the zero is the middle of the codes
  bool permuted_ = false;   // columns have a g_idx that is not c / group
  int zero_offset_ = 0;     // AutoGPTQ stores zeros less one
  StackedRows stacked_;
  TensorInfo codes_, scales_, zeros_, order_;
};

}  // namespace duo
