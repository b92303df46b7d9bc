// The bytes of one GGUF file to values and tensors.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"
#include "runtime/gguf/gguf_file.h"

namespace duo {
namespace {

constexpr uint64_t kMaxKey = 65535;          // bytes; the format's own limit
constexpr uint64_t kMaxName = 255;           // bytes of a tensor's name; the format has 64
constexpr uint64_t kMaxAlignment = 1 << 20;  // bytes
constexpr int kMaxDims = 4;                  // the format's own limit
constexpr int kMaxDepth = 8;                 // of arrays in arrays
constexpr uint64_t kLeastTensor = 8 + 4 + 4 + 8, kLeastValue = 8 + 4 + 1;  // bytes that one takes at least

// Of a value with a fixed size; 0 for strings and arrays.
size_t SizeOf(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    default:
      return 0;
  }
}

// Reads forward; after the first error everything is zero or empty.
class Cursor {
 public:
  Cursor(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  template <typename T>
  T Fixed(const char* what) {
    T value{};
    const std::string_view raw = Bytes(sizeof value, what);
    if (raw.size() == sizeof value) std::memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  std::string_view Bytes(uint64_t count, const char* what) {
    if (!status_.ok()) return {};
    if (count > bytes_.size() - at_) {
      Fail(absl::StrCat("truncated, expected ", count, " bytes of ", what, " at byte ", at_, ", found ",
                        bytes_.size() - at_));
      return {};
    }
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  std::string_view Text(uint64_t limit, const char* what) {
    const auto length = Fixed<uint64_t>(what);
    if (status_.ok() && length > limit) {
      Fail(absl::StrCat("expected at most ", limit, " bytes of ", what, " at byte ", at_, ", found a length of ",
                        length));
    }
    return Bytes(length, what);
  }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = absl::DataLossError(absl::StrCat(file_, ": ", what));
  }
  void Refuse(const std::string& what) {
    if (status_.ok()) status_ = absl::UnimplementedError(absl::StrCat(file_, ": ", what));
  }
  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  std::string_view Since(uint64_t begin) const { return bytes_.substr(begin, at_ - begin); }

 private:
  std::string_view bytes_;
  const std::string& file_;
  uint64_t at_ = 0;
  absl::Status status_;
};

GgufValueType ReadValueType(Cursor& in, const std::string& key) {
  const auto number = in.Fixed<uint32_t>("a value's type");
  if (number <= static_cast<uint32_t>(GgufValueType::kF64)) return static_cast<GgufValueType>(number);
  in.Fail(absl::StrCat("key ", key, ": unknown value type ", number));
  return GgufValueType::kU8;
}

void SkipElements(Cursor& in, GgufValueType type, uint64_t count, const std::string& key, int depth) {
  if (const size_t size = SizeOf(type); size > 0) {
    if (count > in.left() / size) {
      in.Fail(absl::StrCat("key ", key, ": truncated, expected an array of ", count, " ", Name(type), " values, found ",
                           in.left(), " bytes"));
      return;
    }
    in.Bytes(count * size, "an array");
    return;
  }
  if (depth >= kMaxDepth) in.Fail(absl::StrCat("key ", key, ": arrays are nested deeper than ", kMaxDepth));
  for (uint64_t i = 0; i < count && in.ok(); ++i) {
    if (type == GgufValueType::kString) {
      in.Text(in.left(), "a string");
      continue;
    }
    const GgufValueType inner = ReadValueType(in, key);
    SkipElements(in, inner, in.Fixed<uint64_t>("an array's length"), key, depth + 1);
  }
}

GgufValue ReadValue(Cursor& in, const std::string& key) {
  GgufValue value;
  value.type = ReadValueType(in, key);
  if (value.type == GgufValueType::kString) {
    value.bytes = in.Text(in.left(), "a string");
  } else if (value.type == GgufValueType::kArray) {
    value.element = ReadValueType(in, key);
    value.count = in.Fixed<uint64_t>("an array's length");
    const uint64_t begin = in.at();
    SkipElements(in, value.element, value.count, key, 0);
    value.bytes = in.Since(begin);
  } else {
    value.bytes = in.Bytes(SizeOf(value.type), "a value");
  }
  return value;
}

struct Placed {
  uint64_t begin, end;  // in the data
  size_t tensor;
};

// A tensor but for its data, which comes when it is known where the data begins. `offset` is in the data.
GgufTensor ReadTensor(Cursor& in, uint64_t* offset) {
  GgufTensor tensor;
  tensor.name = std::string(in.Text(kMaxName, "a tensor's name"));
  const std::string name = Printable(tensor.name);
  const auto dims = in.Fixed<uint32_t>("a tensor's dimensions");
  if (dims > kMaxDims) in.Fail(absl::StrCat("tensor ", name, ": expected at most 4 dimensions, found ", dims));
  uint64_t elements = 1, fastest = 1;
  for (uint32_t i = 0; i < dims && in.ok(); ++i) {
    const auto size = in.Fixed<uint64_t>("a tensor's dimensions");
    if (in.ok() && (size == 0 || size > uint64_t{1} << 40 || __builtin_mul_overflow(elements, size, &elements) ||
                    elements > uint64_t{1} << 48)) {
      in.Fail(absl::StrCat("tensor ", name, ": expected dimensions from 1 to 2^40, of 2^48 elements together, found ",
                           size));
    }
    if (i == 0) fastest = size;
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto number = in.Fixed<uint32_t>("a tensor's type");
  *offset = in.Fixed<uint64_t>("a tensor's offset");
  const std::optional<GgufType> type = GgufTypeOf(number);
  if (!type.has_value()) {
    in.Refuse(absl::StrCat("tensor ", name, ": its type ", NameOfGgufNumber(number),
                           " is not supported; supported are ", SupportedGgufTypes()));
    return tensor;
  }
  tensor.type = *type;
  const GgufTypeInfo& info = Info(*type);
  if (in.ok() && fastest % info.elements != 0) {
    in.Fail(absl::StrCat("tensor ", name, ": rows of ", fastest, " elements are no whole number of ", info.name,
                         " blocks of ", info.elements));
  }
  tensor.bytes = elements / info.elements * info.bytes;
  return tensor;
}

// Every tensor's bytes, from `data`, which the file's rest is: aligned, inside, none twice.
absl::Status Place(std::string_view data, uint64_t alignment, std::vector<Placed>& places,
                   std::vector<GgufTensor>& tensors, const std::string& file) {
  const auto bad = [&](const GgufTensor& tensor, const std::string& what) {
    return absl::DataLossError(absl::StrCat(file, ": tensor ", Printable(tensor.name), ": ", what));
  };
  for (Placed& place : places) {
    GgufTensor& tensor = tensors[place.tensor];
    if (place.begin % alignment != 0)
      return bad(tensor, absl::StrCat("expected an offset in multiples of ", alignment, ", found ", place.begin));
    if (place.begin > data.size() || tensor.bytes > data.size() - place.begin) {
      return bad(tensor, absl::StrCat("truncated, expected ", tensor.bytes, " bytes at byte ", place.begin,
                                      " of the data, found ", data.size(), " bytes of data"));
    }
    place.end = place.begin + tensor.bytes;
    tensor.data = reinterpret_cast<const uint8_t*>(data.data()) + place.begin;
    tensor.file = file;
  }
  std::sort(places.begin(), places.end(), [](const Placed& a, const Placed& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i].begin < places[i - 1].end) {
      return bad(tensors[places[i].tensor],
                 absl::StrCat("overlaps with tensor ", Printable(tensors[places[i - 1].tensor].name)));
    }
  }
  return absl::OkStatus();
}

void ReadHead(Cursor& in, uint64_t* tensors, uint64_t* values) {
  if (in.Bytes(4, "the magic GGUF") != "GGUF") in.Fail("expected a GGUF file, found other first bytes than GGUF");
  const auto version = in.Fixed<uint32_t>("a version");
  if (version != 2 && version != 3 && in.ok()) {
    const bool big_endian = version != 0 && __builtin_bswap32(version) <= 3;
    in.Refuse(big_endian ? std::string("big-endian GGUF files are not supported; convert the model for this machine")
                         : absl::StrCat("GGUF version ", version, " is not supported; supported are 2 and 3"));
  }
  *tensors = in.Fixed<uint64_t>("the number of tensors");
  *values = in.Fixed<uint64_t>("the number of keys");
  if (in.ok() && *tensors > in.left() / kLeastTensor)
    in.Fail(absl::StrCat("truncated, expected ", *tensors, " tensors, found ", in.left(), " bytes"));
  if (in.ok() && *values > in.left() / kLeastValue)
    in.Fail(absl::StrCat("truncated, expected ", *values, " keys, found ", in.left(), " bytes"));
}

}  // namespace

absl::StatusOr<GgufContents> ParseGguf(std::string_view bytes, const std::string& file) {
  Cursor in(bytes, file);
  uint64_t tensor_count = 0, value_count = 0;
  ReadHead(in, &tensor_count, &value_count);
  GgufContents contents;
  for (uint64_t i = 0; i < value_count && in.ok(); ++i) {
    const std::string key(in.Text(kMaxKey, "a key"));
    GgufValue value = ReadValue(in, Printable(key));
    if (in.ok() && !contents.values.emplace(key, value).second)
      in.Fail(absl::StrCat("has the key ", Printable(key), " twice"));
  }
  uint64_t alignment = 32;
  if (const auto found = contents.values.find("general.alignment"); in.ok() && found != contents.values.end()) {
    const std::optional<int64_t> given = found->second.Int();
    alignment = given.has_value() && *given > 0 ? static_cast<uint64_t>(*given) : 0;
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment)
      in.Fail(absl::StrCat("general.alignment: expected a power of two up to ", kMaxAlignment));
  }
  std::vector<Placed> places;
  std::set<std::string, std::less<>> names;
  for (uint64_t i = 0; i < tensor_count && in.ok(); ++i) {
    Placed place{0, 0, i};
    GgufTensor tensor = ReadTensor(in, &place.begin);
    if (in.ok() && !names.insert(tensor.name).second)
      in.Fail(absl::StrCat("has the tensor ", Printable(tensor.name), " twice"));
    contents.tensors.push_back(std::move(tensor));
    places.push_back(place);
  }
  if (!in.ok()) return in.status();
  const uint64_t padding = (alignment - in.at() % alignment) % alignment;
  std::string_view data;
  if (padding <= in.left()) data = bytes.substr(in.at() + padding);
  if (absl::Status placed = Place(data, alignment, places, contents.tensors, file); !placed.ok()) return placed;
  return contents;
}

}  // namespace duo
