#include "runtime/weights/fingerprint.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"

namespace duo {

std::string WeightsFingerprint(const SafetensorsModel& model) {
  uint32_t shape_crc = 0, byte_crc = 0;
  for (const std::string& name : model.names()) {
    const TensorInfo& t = *model.Find(name);
    shape_crc = Crc32c(name.data(), name.size(), shape_crc);
    shape_crc = Crc32c(TypeName(t), std::strlen(TypeName(t)), shape_crc);
    shape_crc = Crc32c(t.shape.data(), t.shape.size() * sizeof(int64_t), shape_crc);
    constexpr size_t kSample = 4096;
    const size_t n = std::min(t.bytes, kSample);
    byte_crc = Crc32c(t.data, n, byte_crc);
    byte_crc = Crc32c(t.data + (t.bytes - n) / 2, n, byte_crc);
    byte_crc = Crc32c(t.data + t.bytes - n, n, byte_crc);
  }
  return absl::StrFormat("%08x%08x%016x", shape_crc, byte_crc, model.bytes());
}

std::string TextFingerprint(std::string_view text) { return absl::StrFormat("%08x", Crc32c(text.data(), text.size())); }

ModelIdentity IdentityOf(const std::string& model_dir, const ModelConfig& config) {
  ModelIdentity identity;
  identity.dir = model_dir;
  identity.names = ModelNames(model_dir, config.name_or_path);
  if (IsGgufPath(model_dir)) identity.names.insert(identity.names.begin(), GgufModelName(model_dir));
  identity.fingerprint = [model_dir] {
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(model_dir);
    return files.ok() ? WeightsFingerprint(*files) : std::string();  // whoever loads the model says what is wrong
  };
  return identity;
}

}  // namespace duo
