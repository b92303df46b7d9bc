#include "runtime/weights/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/weights/gguf_model.h"

namespace duo {
namespace {

constexpr size_t kMaxIndex = 100'000'000;  // bytes of an index; as much as the format allows a header

struct DTypeRow {
  StoredDType dtype;
  const char* name;
  int bits;
};
// In the order of StoredDType.
constexpr DTypeRow kDTypes[] = {
    {StoredDType::kBool, "BOOL", 8},
    {StoredDType::kU8, "U8", 8},
    {StoredDType::kI8, "I8", 8},
    {StoredDType::kF8E5M2, "F8_E5M2", 8},
    {StoredDType::kF8E4M3, "F8_E4M3", 8},
    {StoredDType::kF8E8M0, "F8_E8M0", 8},
    {StoredDType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {StoredDType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {StoredDType::kF4, "F4", 4},
    {StoredDType::kF6E2M3, "F6_E2M3", 6},
    {StoredDType::kF6E3M2, "F6_E3M2", 6},
    {StoredDType::kI16, "I16", 16},
    {StoredDType::kU16, "U16", 16},
    {StoredDType::kF16, "F16", 16},
    {StoredDType::kBF16, "BF16", 16},
    {StoredDType::kI32, "I32", 32},
    {StoredDType::kU32, "U32", 32},
    {StoredDType::kF32, "F32", 32},
    {StoredDType::kI64, "I64", 64},
    {StoredDType::kU64, "U64", 64},
    {StoredDType::kF64, "F64", 64},
    {StoredDType::kC64, "C64", 64},
    {StoredDType::kBlocks, "blocks", 0},
};

const DTypeRow& Row(StoredDType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

std::string ShapeText(absl::Span<const int64_t> shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// What a folder without safetensors may hold instead, so that the error can say what to do.
std::string OtherWeights(const std::filesystem::path& dir) {
  std::error_code error;
  for (const char* name : {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"}) {
    if (std::filesystem::exists(dir / name, error)) {
      return absl::StrCat("; it holds ", name,
                          ", which Hugging Face transformers' save_pretrained turns into safetensors");
    }
  }
  return "";
}

}  // namespace

const char* Name(StoredDType dtype) { return Row(dtype).name; }
const char* TypeName(const TensorInfo& tensor) {
  return tensor.dtype == StoredDType::kBlocks ? Name(tensor.blocks) : Name(tensor.dtype);
}
int Bits(StoredDType dtype) { return Row(dtype).bits; }

std::optional<StoredDType> ParseStoredDType(std::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name && row.bits > 0) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> ToDType(StoredDType dtype) {
  switch (dtype) {
    case StoredDType::kF32:
      return DType::kF32;
    case StoredDType::kF16:
      return DType::kF16;
    case StoredDType::kBF16:
      return DType::kBF16;
    case StoredDType::kF8E4M3:
      return DType::kF8E4M3;
    case StoredDType::kI8:
      return DType::kI8;
    case StoredDType::kI32:
      return DType::kI32;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<SafetensorsModel> SafetensorsModel::OpenGguf(const std::string& path) {
  absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  SafetensorsModel model;
  absl::StatusOr<std::vector<TensorInfo>> tensors = GgufTensors(*file);
  if (!tensors.ok()) return tensors.status();
  for (TensorInfo& tensor : *tensors) {
    std::string name = tensor.name;
    model.tensors_.emplace(std::move(name), std::move(tensor));
  }
  model.where_ = path;
  model.gguf_.emplace(*std::move(file));
  return model;
}

absl::StatusOr<SafetensorsModel> SafetensorsModel::Open(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) return OpenGguf(model_dir);
  const std::filesystem::path dir(model_dir);
  const std::string single = (dir / "model.safetensors").string();
  const std::string index = (dir / "model.safetensors.index.json").string();
  std::error_code error;
  SafetensorsModel model;
  const auto add = [&](const std::string& file) -> absl::StatusOr<std::vector<TensorInfo>> {
    // Eight bytes are the length of the header.
    absl::StatusOr<std::unique_ptr<MappedFile>> mapping = MappedFile::Map(file, 8, "a safetensors header");
    if (!mapping.ok()) return mapping.status();
    model.mappings_.push_back(std::move(*mapping));
    return ParseSafetensors(model.mappings_.back()->bytes(), file);
  };

  if (std::filesystem::exists(single, error)) {
    auto tensors = add(single);
    if (!tensors.ok()) return tensors.status();
    for (TensorInfo& tensor : *tensors) {
      std::string name = tensor.name;
      model.tensors_.emplace(std::move(name), std::move(tensor));
    }
    model.where_ = single;
    return model;
  }
  if (!std::filesystem::exists(index, error)) {
    return absl::NotFoundError(absl::StrCat(
        model_dir, ": expected model.safetensors or model.safetensors.index.json, found neither", OtherWeights(dir)));
  }

  auto text = ReadFile(index, kMaxIndex);
  if (!text.ok()) return text.status();
  auto weight_map = ParseSafetensorsIndex(*text, index);
  if (!weight_map.ok()) return weight_map.status();
  std::set<std::string> shards;
  for (const auto& [name, shard] : *weight_map) shards.insert(shard);
  for (const std::string& shard : shards) {
    const std::string file = (dir / shard).string();
    if (!std::filesystem::exists(file, error)) {
      return absl::NotFoundError(absl::StrCat(index, ": names the file ", shard, ", which is not there"));
    }
    auto tensors = add(file);
    if (!tensors.ok()) return tensors.status();
    for (TensorInfo& tensor : *tensors) {
      const auto it = weight_map->find(tensor.name);  // a copy that the index places elsewhere is not the tensor
      if (it == weight_map->end() || it->second != shard) continue;
      std::string name = tensor.name;
      model.tensors_.emplace(std::move(name), std::move(tensor));
    }
  }
  for (const auto& [name, shard] : *weight_map) {
    if (!model.tensors_.count(name)) {
      return absl::NotFoundError(absl::StrCat((dir / shard).string(), ": expected the tensor ", name,
                                              ", which model.safetensors.index.json places there, found none"));
    }
  }
  model.where_ = index;
  return model;
}

const TensorInfo* SafetensorsModel::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::StatusOr<TensorInfo> SafetensorsModel::Require(std::string_view name, absl::Span<const StoredDType> dtypes,
                                                     absl::Span<const int64_t> shape) const {
  const TensorInfo* tensor = Find(name);
  if (!tensor)
    return absl::NotFoundError(absl::StrCat(where_, ": expected the tensor ", std::string(name), ", found none"));
  if (std::find(dtypes.begin(), dtypes.end(), tensor->dtype) == dtypes.end()) {
    std::string allowed;
    for (const StoredDType dtype : dtypes) absl::StrAppend(&allowed, allowed.empty() ? "" : " or ", Name(dtype));
    return absl::InvalidArgumentError(absl::StrCat(tensor->file, ": tensor ", tensor->name, ": expected dtype ",
                                                   allowed, ", found ", TypeName(*tensor)));
  }
  if (absl::Span<const int64_t>(tensor->shape) != shape) {
    return absl::InvalidArgumentError(absl::StrCat(tensor->file, ": tensor ", tensor->name, ": expected shape ",
                                                   ShapeText(shape), ", found ", ShapeText(tensor->shape)));
  }
  return *tensor;
}

std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

uint64_t SafetensorsModel::bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_) bytes += tensor.bytes;
  return bytes;
}

}  // namespace duo
