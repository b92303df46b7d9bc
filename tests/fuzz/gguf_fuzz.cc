// GGUF files. Whatever is accepted must lie inside its bytes; keys and tokenizers made of it are refused or read.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/base/check.h"
#include "runtime/gguf/folder_texts.h"
#include "runtime/gguf/gguf_file.h"
#include "runtime/text/tokenizer.h"
#include "runtime/weights/gguf_model.h"

namespace duo {
namespace {

void CheckInside(std::string_view bytes) {
  const absl::StatusOr<GgufContents> contents = ParseGguf(bytes, "model.gguf");
  if (!contents.ok()) {
    DUO_CHECK(!contents.status().message().empty());
    return;
  }
  const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
  for (const GgufTensor& tensor : contents->tensors) {
    DUO_CHECK(tensor.data >= begin && tensor.data + tensor.bytes <= begin + bytes.size());
    const GgufTypeInfo& info = Info(tensor.type);
    if (tensor.bytes == 0 || info.group == 0) continue;
    float values[kMaxBlock];
    BlockValues(tensor.type, tensor.data, 0, info.elements, values);
  }
  for (const auto& [key, value] : contents->values) {
    value.Int();
    value.Number();
    value.Bool();
    value.Strings();
    value.Numbers();
  }
}

// As a file: what is read from it by name.
void CheckModel(std::string_view bytes) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("duo_gguf_fuzz_" + std::to_string(getpid()) + ".gguf")).string();
  std::ofstream(path, std::ios::binary) << bytes;
  if (const absl::StatusOr<GgufFile> file = GgufFile::Open(path); file.ok()) {
    const absl::StatusOr<std::string> tokenizer = GgufTokenizerJson(*file);
    if (tokenizer.ok()) Tokenizer::Parse(*tokenizer, path).status().IgnoreError();
    GgufTokenizerConfigJson(*file).status().IgnoreError();
    GgufTensors(*file).status().IgnoreError();
    LoadGgufConfig(path).status().IgnoreError();
  }
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace duo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  duo::CheckInside(bytes);
  duo::CheckModel(bytes);
  return 0;
}
