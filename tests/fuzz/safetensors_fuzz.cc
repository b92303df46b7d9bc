// Safetensors headers and indexes. Whatever is accepted must lie inside its file, without overlaps.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/weights/safetensors.h"

namespace duo {
namespace {

void Check(std::string_view bytes) {
  const auto tensors = ParseSafetensors(bytes, "model.safetensors");
  if (!tensors.ok()) {
    DUO_CHECK(!tensors.status().message().empty());
    return;
  }
  const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
  size_t total = 0;
  for (const TensorInfo& tensor : *tensors) {
    DUO_CHECK(tensor.data >= begin && tensor.data + tensor.bytes <= begin + bytes.size());
    size_t bits = Bits(tensor.dtype);
    for (const int64_t dim : tensor.shape) bits *= static_cast<size_t>(dim);
    DUO_CHECK_EQ(bits, tensor.bytes * 8);
    total += tensor.bytes;
  }
  DUO_CHECK_LE(total, bytes.size());
}

// The input as a header of the right length, before `data` bytes: most inputs would otherwise fail at the length.
void CheckAsHeader(std::string_view header, size_t data) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  bytes.append(header).append(data, 'x');
  Check(bytes);
}

}  // namespace
}  // namespace duo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  duo::Check(bytes);
  duo::CheckAsHeader(bytes, 16);
  const auto index = duo::ParseSafetensorsIndex(bytes, "model.safetensors.index.json");
  if (index.ok()) {
    for (const auto& [name, file] : *index) DUO_CHECK(file.find('/') == std::string::npos && file != "..");
  }
  return 0;
}
