// A file's bytes, mapped: pages come in when they are touched. The file must not be cut short while it is mapped (a
// read beyond the new end raises SIGBUS). Owns the mapping, which is gone with it; reads from any thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace duo {

class MappedFile {
 public:
  // least: bytes, of at least 1, that the file must have to be a `what` ("a safetensors header").
  static absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& file, size_t least, const char* what);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::string_view bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}
  void* data_;
  size_t size_;
};

// Gives back the memory of what was touched between these bytes of a mapping: they come in again when they are touched.
void DropPages(const void* data, size_t bytes);

}  // namespace duo
