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
  const char* type = Spec(config.family).model_type;
  if (!FolderTensorOf(tensor.name, type).name.empty() && (!norm || config.qk_norm)) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(tensor.file, ": tensor ", Printable(tensor.name), " is none that a ",
                                               type, " model has; it is not supported"));
}

// One tensor for each expert of one that holds them all, [experts, ..].
absl::Status AddExperts(const GgufTensor& from, const TensorInfo& all, int64_t experts,
                        std::vector<TensorInfo>* tensors) {
  if (experts < 1 || all.shape.size() < 2 || all.shape[0] != experts)
    return Bad(from, absl::StrCat("expected the weights of ", experts, " experts one after the other"));
  const size_t at = all.name.find("{}"), bytes = all.bytes / experts;
  const std::string before = all.name.substr(0, at), behind = all.name.substr(at + 2);
  TensorInfo one = all;
  one.shape.erase(one.shape.begin());
  one.bytes = bytes;
  for (int64_t expert = 0; expert < experts; ++expert) {
    one.name = absl::StrCat(before, expert, behind);
    one.data = all.data + bytes * expert;
    tensors->push_back(one);
  }
  return absl::OkStatus();
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
  const std::string type = GgufModelType(file);
  const int64_t experts = fields.Int(architecture + ".expert_count", 0, 1024, 0);  // what kernels take
  const int64_t heads = fields.Int(architecture + ".attention.head_count", 1, 4096);
  const int64_t kv_heads = fields.Int(architecture + ".attention.head_count_kv", 1, 4096, heads);
  if (!fields.ok()) return fields.status();
  std::vector<TensorInfo> tensors;
  for (const GgufTensor& from : file.tensors()) {
    TensorInfo tensor;
    const FolderTensor folder = FolderTensorOf(from.name, type);
    if (folder.name.empty()) continue;
    tensor.name = folder.name;
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
    // A folder's row of one output, as the gate of a shared expert is, has two dimensions.
    if (from.shape.size() == 1 && absl::StrContains(from.name, "ffn_gate_inp_shexp")) tensor.shape = {1, from.shape[0]};
    if (!folder.each_expert) {
      tensors.push_back(std::move(tensor));
    } else if (absl::Status s = AddExperts(from, tensor, experts, &tensors); !s.ok()) {
      return s;
    }
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
