// Reads checkpoints in the safetensors format: an 8-byte little-endian header length, a JSON header of names, dtypes,
// shapes and byte ranges, then the data. A folder holds either model.safetensors or model.safetensors.index.json, which
// names the shard of every tensor; as in transformers the single file wins where both exist. Format:
// https://huggingface.co/docs/safetensors.
//
// A path that is a GGUF file (runtime/gguf) opens that instead: the same tensors under the names that a folder has for
// them, their quantised types as kBlocks.
//
// Files are mapped, not read: pages come in when a tensor's bytes are touched. The header is trusted in nothing: after
// Open every range lies inside its file, no two overlap, none is left over, and bytes equals shape times dtype.
//
// SafetensorsModel owns the mappings; a TensorInfo's data lives as long as the model does. Files must not be cut short
// while they are mapped (a read beyond the new end raises SIGBUS). Immutable after Open, so any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/base/dtype.h"
#include "runtime/files/mapped_file.h"
#include "runtime/gguf/gguf_file.h"

namespace duo {

enum class StoredDType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
  kC64,
  kBlocks,  // of a GGUF file: TensorInfo::blocks says which
};
const char* Name(StoredDType dtype);  // as in the file: "BF16"
int Bits(StoredDType dtype);          // of one element
std::optional<StoredDType> ParseStoredDType(std::string_view name);
std::optional<DType> ToDType(StoredDType dtype);  // the kernels' type, where they have it

struct TensorInfo {
  std::string name;
  StoredDType dtype = StoredDType::kF32;
  std::vector<int64_t> shape;     // outermost first; empty for a scalar
  const uint8_t* data = nullptr;  // [shape], row-major, little-endian; may be unaligned: copy, do not cast
  size_t bytes = 0;
  std::string file;                  // where it is stored
  GgufType blocks = GgufType::kF32;  // of dtype kBlocks
  // Not 0: the rows are the q's or k's of so many heads, and lie in pairs for interleaved RoPE (StoredRow).
  int paired_heads = 0;
};
// "BF16", "Q4_K".
const char* TypeName(const TensorInfo& tensor);

// Where row `row` of a tensor lies among its stored rows. A head of d rows in pairs has row i of its first half at 2 i,
// and of its second half at 2 i + 1.
inline int64_t StoredRow(const TensorInfo& tensor, int64_t row) {
  if (tensor.paired_heads == 0) return row;
  const int64_t d = tensor.shape[0] / tensor.paired_heads, head = row / d, in_head = row % d;
  return head * d + 2 * (in_head % (d / 2)) + in_head / (d / 2);
}

// The header of one file's bytes; every data pointer points into `bytes`. `file` is what errors call it.
absl::StatusOr<std::vector<TensorInfo>> ParseSafetensors(std::string_view bytes, const std::string& file);

// The weight_map of model.safetensors.index.json: tensor name -> file name, a plain name in the same folder.
absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view text,
                                                                         const std::string& file);

class SafetensorsModel {
 public:
  // model: a folder or a GGUF file.
  static absl::StatusOr<SafetensorsModel> Open(const std::string& model);

  const TensorInfo* Find(std::string_view name) const;  // null when there is none
  // The tensor, if it has one of the dtypes and exactly this shape; the error gives expected and found.
  absl::StatusOr<TensorInfo> Require(std::string_view name, absl::Span<const StoredDType> dtypes,
                                     absl::Span<const int64_t> shape) const;
  std::vector<std::string> names() const;  // ascending
  uint64_t bytes() const;                  // of all tensors

 private:
  static absl::StatusOr<SafetensorsModel> OpenGguf(const std::string& path);
  SafetensorsModel() = default;
  std::string where_;  // the file or folder that errors about missing tensors name
  std::vector<std::unique_ptr<MappedFile>> mappings_;
  std::optional<GgufFile> gguf_;
  std::map<std::string, TensorInfo, std::less<>> tensors_;
};

}  // namespace duo
