// Writes GGUF files for tests, byte by byte as the format says.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace duo {

class GgufBuilder {
 public:
  template <typename T>
  static std::string Raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string Text(std::string_view text) { return Raw<uint64_t>(text.size()).append(text); }

  // type: the format's number of the value's type; encoded: the value.
  GgufBuilder& Value(std::string_view key, uint32_t type, const std::string& encoded) {
    values_ += Text(key) + Raw(type) + encoded;
    ++value_count_;
    return *this;
  }
  GgufBuilder& U32(std::string_view key, uint32_t x) { return Value(key, 4, Raw(x)); }
  GgufBuilder& F32(std::string_view key, float x) { return Value(key, 6, Raw(x)); }
  GgufBuilder& Bool(std::string_view key, bool x) { return Value(key, 7, Raw<uint8_t>(x)); }
  GgufBuilder& String(std::string_view key, std::string_view x) { return Value(key, 8, Text(x)); }
  GgufBuilder& Strings(std::string_view key, const std::vector<std::string>& list) {
    std::string encoded = Raw<uint32_t>(8) + Raw<uint64_t>(list.size());
    for (const std::string& text : list) encoded += Text(text);
    return Value(key, 9, encoded);
  }
  template <typename T>
  GgufBuilder& Array(std::string_view key, uint32_t element, const std::vector<T>& list) {
    std::string encoded = Raw<uint32_t>(element) + Raw<uint64_t>(list.size());
    for (T x : list) encoded += Raw(x);
    return Value(key, 9, encoded);
  }

  // dims: fastest first. Data goes behind the data before it, aligned to 32.
  GgufBuilder& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::string& data) {
    data_.resize((data_.size() + 31) / 32 * 32);
    return TensorAt(name, dims, type, data_.size(), data);
  }
  GgufBuilder& TensorAt(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                        const std::string& data) {
    tensors_ += Text(name) + Raw<uint32_t>(dims.size());
    for (uint64_t dim : dims) tensors_ += Raw(dim);
    tensors_ += Raw(type) + Raw(offset);
    ++tensor_count_;
    data_ += data;
    return *this;
  }
  GgufBuilder& Floats(std::string_view name, const std::vector<uint64_t>& dims, const std::vector<float>& values) {
    return Tensor(name, dims, 0, std::string(reinterpret_cast<const char*>(values.data()), 4 * values.size()));
  }

  std::string Bytes(uint32_t version = 3) const {
    std::string bytes = "GGUF" + Raw(version) + Raw(tensor_count_) + Raw(value_count_) + values_ + tensors_;
    bytes.resize((bytes.size() + 31) / 32 * 32);
    return bytes + data_;
  }

 private:
  uint64_t tensor_count_ = 0, value_count_ = 0;
  std::string values_, tensors_, data_;
};

}  // namespace duo
