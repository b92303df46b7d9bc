// GGUF files: magic "GGUF", a version, counts, then typed key-value pairs, then for each tensor its name, dimensions
// (fastest first), type and offset, then, aligned, the data. Little-endian. A large model is several such files,
// NAME-00001-of-0000N.gguf, whose first has the keys. Format:
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
//
// Files are mapped, not read. They are trusted in nothing: after Open every name, value and tensor lies inside its
// file, no two tensors overlap, and a tensor's bytes are what its type and dimensions say.
//
// GgufFile owns the mappings; values and tensors point into them. Immutable after Open, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/files/mapped_file.h"
#include "runtime/gguf/block_types.h"

namespace duo {

enum class GgufValueType : uint8_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
const char* Name(GgufValueType type);  // "u32", "string", ..

struct GgufValue {
  GgufValueType type = GgufValueType::kU8;
  GgufValueType element = GgufValueType::kU8;  // of an array
  uint64_t count = 1;                          // of an array's elements
  std::string_view bytes;                      // a string's text; else as the file has them

  // Nothing where the value is of another kind, or does not fit.
  std::optional<int64_t> Int() const;
  std::optional<double> Number() const;  // of whole numbers too
  std::optional<bool> Bool() const;
  std::optional<std::string_view> String() const;
  std::optional<std::vector<std::string_view>> Strings() const;  // of an array
  std::optional<std::vector<double>> Numbers() const;            // of an array
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;  // outermost first, unlike in the file
  const uint8_t* data = nullptr;
  size_t bytes = 0;
  std::string file;
};

using GgufValues = std::map<std::string, GgufValue, std::less<>>;
struct GgufContents {
  GgufValues values;
  std::vector<GgufTensor> tensors;
};
// One file's bytes, into which the result points. `file` is what errors call it.
absl::StatusOr<GgufContents> ParseGguf(std::string_view bytes, const std::string& file);

// Whether a model's path names a GGUF file: it ends in .gguf and is no folder.
bool IsGgufPath(const std::string& path);
// Of a path, what the model may be called: the file's name without ".gguf", the number of its part and the name of its
// quantisation ("SmolLM2-135M-Instruct" of "SmolLM2-135M-Instruct.Q4_K_M.gguf").
std::string GgufModelName(const std::string& path);

class GgufFile {
 public:
  // Any file of a model that comes in several opens them all.
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const GgufValue* Find(std::string_view key) const;          // null when there is none
  const GgufTensor* FindTensor(std::string_view name) const;  // likewise
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufValues& values() const { return values_; }

 private:
  std::string path_;
  std::vector<std::unique_ptr<MappedFile>> mappings_;
  GgufValues values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

// Typed, range-checked reads of a file's values: like JsonFields, the first thing that is wrong is remembered. Not
// thread-safe; the file must outlive it.
class GgufFields {
 public:
  explicit GgufFields(const GgufFile& file) : file_(file) {}

  // Without a fallback the key must be there.
  int64_t Int(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback = std::nullopt);
  double Number(const std::string& key, double least, double most, std::optional<double> fallback = std::nullopt);
  bool Bool(const std::string& key, bool fallback);
  std::string String(const std::string& key, const std::optional<std::string>& fallback = std::nullopt);
  // An array; absent: none.
  std::vector<std::string_view> Strings(const std::string& key);
  std::vector<double> Numbers(const std::string& key);
  bool Has(const std::string& key) const { return file_.Find(key) != nullptr; }

  // Remembers "FILE: MESSAGE", if nothing came before.
  void Fail(const std::string& message);
  void Unsupported(const std::string& message);
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  // Null and an error where the key must be there and is not.
  const GgufValue* Get(const std::string& key, bool required);
  void Expected(const std::string& key, const std::string& what, const GgufValue& found);
  const GgufFile& file_;
  absl::Status status_;
};

}  // namespace duo
