// Plain values as bytes and back, for messages between ranks of one build: a value is its bytes; a vector or a string
// is its length as int64, then its elements' bytes. A message type lists its fields once, for both directions:
//
//     constexpr auto kFields = [](auto& m, auto visit) { return visit(m.kind) && visit(m.tokens) && ..; };
//
// Pure, thread-safe.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace duo {

template <typename T>
void PutPlain(std::string& out, const T& value) {
  if constexpr (requires { value.data(); }) {
    static_assert(std::is_trivially_copyable_v<typename T::value_type>);
    const int64_t count = value.size();
    out.append(reinterpret_cast<const char*>(&count), sizeof count);
    if (count > 0) {
      out.append(reinterpret_cast<const char*>(value.data()), count * sizeof(typename T::value_type));
    }
  } else {
    static_assert(std::is_trivially_copyable_v<T>);
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
}

// False when `in`, which is shortened by what was taken, does not hold the value whole.
template <typename T>
bool TakePlain(std::string_view& in, T& value) {
  if constexpr (requires { value.data(); }) {
    int64_t count = 0;
    constexpr size_t kItem = sizeof(typename T::value_type);
    if (!TakePlain(in, count) || count < 0 || static_cast<uint64_t>(count) > in.size() / kItem) return false;
    value.resize(count);
    if (count > 0) std::memcpy(value.data(), in.data(), count * kItem);
    in.remove_prefix(count * kItem);
  } else {
    if (in.size() < sizeof value) return false;
    std::memcpy(&value, in.data(), sizeof value);
    in.remove_prefix(sizeof value);
  }
  return true;
}

template <typename Message, typename Fields>
std::string PutFields(const Message& message, Fields each_field) {
  std::string out;
  each_field(message, [&](const auto& field) {
    PutPlain(out, field);
    return true;
  });
  return out;
}

// False for bytes that no PutFields of this type made.
template <typename Message, typename Fields>
bool TakeFields(std::string_view bytes, Message* message, Fields each_field) {
  return each_field(*message, [&](auto& field) { return TakePlain(bytes, field); }) && bytes.empty();
}

}  // namespace duo
