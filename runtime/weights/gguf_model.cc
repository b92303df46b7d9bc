#include "runtime/weights/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"
#include "runtime/gguf/folder_texts.h"

namespace duo {
namespace {

StoredDType StoredTypeOf(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return StoredDType::kF32;
    case GgufType::kF16:
      return StoredDType::kF16;
    case GgufType::kBF16:
      return StoredDType::kBF16;
    default:
      return StoredDType::kBlocks;
  }
}

absl::Status Bad(const GgufTensor& tensor, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", Printable(tensor.name), ": ", what));
}

absl::Status ReadRopeDivisors(const GgufFile& file, ModelConfig* config) {
  const GgufTensor* tensor = file.FindTensor(kGgufRopeFreqs);
  if (tensor == nullptr) return absl::OkStatus();
  const int64_t count = config->head_dim / 2;
  if (tensor->type != GgufType::kF32 || tensor->shape != std::vector<int64_t>{count})
    return Bad(*tensor,
               absl::StrCat("expected F32 [", count, "], found ", Name(tensor->type), " of ", tensor->bytes, " bytes"));
  config->rope.divisors.resize(count);
  std::memcpy(config->rope.divisors.data(), tensor->data, tensor->bytes);
  for (float divisor : config->rope.divisors) {
    if (!std::isfinite(divisor) || divisor <= 0)
      return Bad(*tensor, absl::StrCat("expected divisors above 0, found ", divisor));
  }
  return absl::OkStatus();
}

// Every weight of a file goes into the model, or the model would be another one than the file's.
absl::Status CheckName(const GgufTensor& tensor, const ModelConfig& config) {
  const bool norm = absl::StrContains(tensor.name, "attn_q_norm") || absl::StrContains(tensor.name, "attn_k_norm");
  if (!FolderTensorName(tensor.name).empty() && (!norm || config.qk_norm)) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(tensor.file, ": tensor ", Printable(tensor.name), " is none that a ",
                                               Spec(config.family).model_type, " model has; it is not supported"));
}

}  // namespace

absl::StatusOr<ModelConfig> LoadGgufConfig(const std::string& path) {
  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> text = GgufConfigJson(*file);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = ParseConfig(*text, path);
  if (!config.ok()) return config;
  // Whether there are biases is for the tensors to say.
  const auto has = [&](const char* name) { return file->FindTensor(name) != nullptr; };
  config->attention_bias = has("blk.0.attn_q.bias");
  config->o_bias = has("blk.0.attn_output.bias");
  config->mlp_bias = has("blk.0.ffn_up.bias");
  if (absl::Status s = ReadRopeDivisors(*file, &*config); !s.ok()) return s;
  for (const GgufTensor& tensor : file->tensors()) {
    if (tensor.name == kGgufRopeFreqs) continue;
    if (absl::Status s = CheckName(tensor, *config); !s.ok()) return s;
  }
  config->quantization.kind = QuantizationKind::kGguf;
  config->quantization.format = GgufTypeCounts(*file);
  return config;
}

absl::StatusOr<std::vector<TensorInfo>> GgufTensors(const GgufFile& file) {
  GgufFields fields(file);
  const std::string architecture = fields.String("general.architecture");
  const bool paired = HasPairedRows(file);
  const int64_t heads = fields.Int(architecture + ".attention.head_count", 1, 4096);
  const int64_t kv_heads = fields.Int(architecture + ".attention.head_count_kv", 1, 4096, heads);
  if (!fields.ok()) return fields.status();
  std::vector<TensorInfo> tensors;
  for (const GgufTensor& from : file.tensors()) {
    TensorInfo tensor;
    tensor.name = FolderTensorName(from.name);
    if (tensor.name.empty()) continue;
    tensor.dtype = StoredTypeOf(from.type);
    tensor.shape = from.shape;
    tensor.data = from.data;
    tensor.bytes = from.bytes;
    tensor.file = from.file;
    tensor.blocks = from.type;
    const bool q = absl::StrContains(from.name, "attn_q."), k = absl::StrContains(from.name, "attn_k.");
    if (paired && (q || k)) {
      tensor.paired_heads = static_cast<int>(q ? heads : kv_heads);
      if (from.shape.empty() || from.shape[0] % (2 * tensor.paired_heads) != 0)
        return Bad(from, absl::StrCat("expected rows of ", tensor.paired_heads, " heads in pairs"));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

std::string GgufTypeCounts(const GgufFile& file) {
  struct Count {
    int tensors = 0;
    size_t bytes = 0;
  };
  std::map<GgufType, Count> counts;
  for (const GgufTensor& tensor : file.tensors()) {
    ++counts[tensor.type].tensors;
    counts[tensor.type].bytes += tensor.bytes;
  }
  std::vector<std::pair<GgufType, Count>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  std::string text;
  for (const auto& [type, count] : sorted)
    absl::StrAppend(&text, text.empty() ? "" : ", ", count.tensors, " ", Name(type));
  return text;
}

}  // namespace duo
