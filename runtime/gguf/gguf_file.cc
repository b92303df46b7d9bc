#include "runtime/gguf/gguf_file.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/printable.h"

namespace duo {
namespace {

constexpr std::string_view kEnding = ".gguf";

template <typename T>
T As(std::string_view bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
  return value;
}

std::optional<double> NumberOf(GgufValueType type, std::string_view bytes) {
  switch (type) {
    case GgufValueType::kU8:
      return As<uint8_t>(bytes);
    case GgufValueType::kI8:
      return As<int8_t>(bytes);
    case GgufValueType::kU16:
      return As<uint16_t>(bytes);
    case GgufValueType::kI16:
      return As<int16_t>(bytes);
    case GgufValueType::kU32:
      return As<uint32_t>(bytes);
    case GgufValueType::kI32:
      return As<int32_t>(bytes);
    case GgufValueType::kF32:
      return As<float>(bytes);
    case GgufValueType::kU64:
      return static_cast<double>(As<uint64_t>(bytes));
    case GgufValueType::kI64:
      return static_cast<double>(As<int64_t>(bytes));
    case GgufValueType::kF64:
      return As<double>(bytes);
    default:
      return std::nullopt;
  }
}

// The part that a file is of how many, by its name: NAME-00002-of-00005.gguf.
struct Part {
  std::string before;  // NAME, with its folder
  int number = 0, of = 0;
};
std::optional<Part> PartOf(const std::string& path) {
  constexpr size_t kTail = std::string_view("-00001-of-00005.gguf").size();
  if (path.size() < kTail || !path.ends_with(kEnding)) return std::nullopt;
  const std::string tail = path.substr(path.size() - kTail);
  Part part;
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || !absl::SimpleAtoi(tail.substr(1, 5), &part.number) ||
      !absl::SimpleAtoi(tail.substr(10, 5), &part.of) || part.number < 1 || part.number > part.of) {
    return std::nullopt;
  }
  part.before = path.substr(0, path.size() - kTail);
  return part;
}

// "Q4_K_M", "IQ4_XS", "BF16", ..: what files are named by beside the model.
bool IsQuantisationName(const std::string& name) {
  const std::string upper = absl::AsciiStrToUpper(name);
  for (const char* whole : {"F32", "F16", "BF16", "FP16", "FP32", "MXFP4", "MXFP4_MOE"}) {
    if (upper == whole) return true;
  }
  std::string_view rest = upper;
  if (rest.starts_with("I")) rest.remove_prefix(1);
  return rest.size() >= 2 && rest[0] == 'Q' && absl::ascii_isdigit(rest[1]) && (rest.size() == 2 || rest[2] == '_');
}

}  // namespace

const char* Name(GgufValueType type) {
  constexpr const char* kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                    "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

std::optional<int64_t> GgufValue::Int() const {
  if (type == GgufValueType::kU64) {
    const auto value = As<uint64_t>(bytes);
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    return static_cast<int64_t>(value);
  }
  if (type == GgufValueType::kI64) return As<int64_t>(bytes);
  if (type == GgufValueType::kF32 || type == GgufValueType::kF64) return std::nullopt;
  const std::optional<double> number = NumberOf(type, bytes);
  if (!number.has_value()) return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::optional<double> GgufValue::Number() const { return NumberOf(type, bytes); }

std::optional<bool> GgufValue::Bool() const {
  if (type != GgufValueType::kBool) return std::nullopt;
  return bytes[0] != 0;
}

std::optional<std::string_view> GgufValue::String() const {
  if (type != GgufValueType::kString) return std::nullopt;
  return bytes;
}

std::optional<std::vector<std::string_view>> GgufValue::Strings() const {
  if (type != GgufValueType::kArray || element != GgufValueType::kString) return std::nullopt;
  std::vector<std::string_view> texts;
  texts.reserve(count);
  for (std::string_view rest = bytes; rest.size() >= 8;) {  // lengths were checked when the file was parsed
    const auto length = As<uint64_t>(rest);
    texts.push_back(rest.substr(8, length));
    rest.remove_prefix(8 + length);
  }
  return texts;
}

std::optional<std::vector<double>> GgufValue::Numbers() const {
  if (type != GgufValueType::kArray || count == 0) {
    return type == GgufValueType::kArray ? std::optional(std::vector<double>()) : std::nullopt;
  }
  if (!NumberOf(element, bytes).has_value()) return std::nullopt;
  const size_t size = bytes.size() / count;
  std::vector<double> numbers;
  numbers.reserve(count);
  for (uint64_t i = 0; i < count; ++i) numbers.push_back(*NumberOf(element, bytes.substr(i * size, size)));
  return numbers;
}

bool IsGgufPath(const std::string& path) {
  std::error_code error;
  return absl::AsciiStrToLower(path).ends_with(kEnding) && !std::filesystem::is_directory(path, error);
}

std::string GgufModelName(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  if (const std::optional<Part> part = PartOf(name)) {
    name = part->before;
  } else if (absl::AsciiStrToLower(name).ends_with(kEnding)) {
    name.resize(name.size() - kEnding.size());
  }
  const size_t at = name.find_last_of(".-");
  if (at != std::string::npos && at > 0 && IsQuantisationName(name.substr(at + 1))) name.resize(at);
  return name;
}

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  GgufFile model;
  model.path_ = path;
  const Part part = PartOf(path).value_or(Part{"", 1, 1});
  for (int number = 1; number <= part.of; ++number) {
    const std::string file = part.of == 1 && part.before.empty()
                                 ? path
                                 : absl::StrFormat("%s-%05d-of-%05d.gguf", part.before, number, part.of);
    std::error_code error;
    if (part.of > 1 && !std::filesystem::exists(file, error)) {
      return absl::NotFoundError(
          absl::StrCat(path, ": is one of ", part.of, " files of a model; expected ", file, " beside it, found none"));
    }
    absl::StatusOr<std::unique_ptr<MappedFile>> mapping = MappedFile::Map(file, 24, "a GGUF header");
    if (!mapping.ok()) return mapping.status();
    absl::StatusOr<GgufContents> contents = ParseGguf((*mapping)->bytes(), file);
    if (!contents.ok()) return contents.status();
    model.mappings_.push_back(std::move(*mapping));
    const auto split = contents->values.find("split.count");
    const int64_t count = split == contents->values.end() ? 1 : split->second.Int().value_or(1);
    if (count > 1 && count != part.of) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": is one of ", count,
                                                     " files of a model, expected a name that ends in -0000N-of-",
                                                     absl::StrFormat("%05d", count), ".gguf"));
    }
    for (GgufTensor& tensor : contents->tensors) {
      if (!model.index_.emplace(tensor.name, model.tensors_.size()).second)
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": has the tensor ", Printable(tensor.name), ", as an earlier file of the model does"));
      model.tensors_.push_back(std::move(tensor));
    }
    if (number == 1) model.values_ = std::move(contents->values);
  }
  return model;
}

const GgufValue* GgufFile::Find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void GgufFields::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", message));
}

void GgufFields::Unsupported(const std::string& message) {
  if (status_.ok()) status_ = absl::UnimplementedError(absl::StrCat(file_.path(), ": ", message));
}

const GgufValue* GgufFields::Get(const std::string& key, bool required) {
  const GgufValue* found = file_.Find(key);
  if (found == nullptr && required) Fail(absl::StrCat("has no key ", key));
  return found;
}

void GgufFields::Expected(const std::string& key, const std::string& what, const GgufValue& found) {
  const std::optional<double> number = found.Number();
  const std::string shown = number.has_value()           ? absl::StrCat(*number)
                            : found.String().has_value() ? absl::StrCat("\"", Printable(found.bytes), "\"")
                                                         : std::string(Name(found.type));
  Fail(absl::StrCat(key, ": expected ", what, ", found ", shown));
}

int64_t GgufFields::Int(const std::string& key, int64_t least, int64_t most, std::optional<int64_t> fallback) {
  const GgufValue* found = Get(key, !fallback.has_value());
  if (found == nullptr) return fallback.value_or(least);
  const std::optional<int64_t> value = found->Int();
  if (value.has_value() && *value >= least && *value <= most) return *value;
  Expected(key, absl::StrCat("a whole number from ", least, " to ", most), *found);
  return fallback.value_or(least);
}

double GgufFields::Number(const std::string& key, double least, double most, std::optional<double> fallback) {
  const GgufValue* found = Get(key, !fallback.has_value());
  if (found == nullptr) return fallback.value_or(least);
  const std::optional<double> value = found->Number();
  if (value.has_value() && *value >= least && *value <= most) return *value;
  Expected(key, absl::StrCat("a number from ", least, " to ", most), *found);
  return fallback.value_or(least);
}

bool GgufFields::Bool(const std::string& key, bool fallback) {
  const GgufValue* found = Get(key, false);
  if (found == nullptr) return fallback;
  const std::optional<bool> value = found->Bool();
  if (!value.has_value()) Expected(key, "true or false", *found);
  return value.value_or(fallback);
}

std::string GgufFields::String(const std::string& key, const std::optional<std::string>& fallback) {
  const GgufValue* found = Get(key, !fallback.has_value());
  if (found == nullptr) return fallback.value_or("");
  const std::optional<std::string_view> value = found->String();
  if (!value.has_value()) Expected(key, "a string", *found);
  return std::string(value.value_or(""));
}

std::vector<std::string_view> GgufFields::Strings(const std::string& key) {
  const GgufValue* found = Get(key, false);
  if (found == nullptr) return {};
  std::optional<std::vector<std::string_view>> value = found->Strings();
  if (!value.has_value()) Expected(key, "an array of strings", *found);
  return value.has_value() ? *std::move(value) : std::vector<std::string_view>();
}

std::vector<double> GgufFields::Numbers(const std::string& key) {
  const GgufValue* found = Get(key, false);
  if (found == nullptr) return {};
  std::optional<std::vector<double>> value = found->Numbers();
  if (!value.has_value()) Expected(key, "an array of numbers", *found);
  return value.has_value() ? *std::move(value) : std::vector<double>();
}

}  // namespace duo
