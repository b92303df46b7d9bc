// The JSON side of safetensors.h: headers and the index, from memory. They come with the checkpoint and are trusted in
// nothing.
#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/files/json_fields.h"
#include "runtime/files/printable.h"
#include "runtime/weights/safetensors.h"

namespace duo {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr size_t kMaxDims = 16;

absl::Status Bad(const std::string& file, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": ", what));
}

// A JSON object may repeat a key, and a document model silently keeps one of them: look for repeats while parsing.
// `depth` is how many objects a key is inside.
struct DuplicateKeys {
  std::set<std::string> top, inner;
  std::string found;
  void See(int depth, const std::string& key) {
    if (depth == 1) inner.clear();
    if (depth == 1 && !top.insert(key).second) found = key;
    if (depth == 2 && !inner.insert(key).second) found = key;
  }
};

absl::StatusOr<nlohmann::json> ParseHeader(std::string_view text, const std::string& file) {
  using json = nlohmann::json;
  DuplicateKeys keys;
  bool too_deep = false;
  const auto keep = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key) keys.See(depth, value.get<std::string>());
    too_deep |= depth > 8;
    return !too_deep;
  };
  json header;
  try {
    header = json::parse(text.begin(), text.end(), keep);
  } catch (const json::parse_error& error) {
    return Bad(file, absl::StrCat("expected a JSON header, found an error at its byte ", error.byte));
  } catch (const json::exception& error) {
    return Bad(file, absl::StrCat("expected a JSON header, found ", error.what()));
  }
  if (too_deep) return Bad(file, "header is nested deeper than a safetensors header can be");
  if (!keys.found.empty()) return Bad(file, absl::StrCat("header has the key ", Printable(keys.found), " twice"));
  if (!header.is_object()) return Bad(file, absl::StrCat("expected a JSON object as header, found ", Shown(header)));
  return header;
}

// A whole number of 0 or more, at most 2^63 - 1.
bool Natural(const nlohmann::json& value, uint64_t* out) {
  if (!value.is_number_unsigned()) return false;
  *out = value.get<uint64_t>();
  return *out <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
}

// One entry of the header; `data` are the bytes behind it.
absl::StatusOr<TensorInfo> ParseTensor(const std::string& name, const nlohmann::json& entry, std::string_view data,
                                       const std::string& file, uint64_t* begin, uint64_t* end) {
  const auto bad = [&](const std::string& what) {
    return Bad(file, absl::StrCat("tensor ", Printable(name), ": ", what));
  };
  if (!entry.is_object()) return bad(absl::StrCat("expected an object, found ", Shown(entry)));
  TensorInfo tensor;
  tensor.name = name;
  tensor.file = file;

  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return bad("expected a dtype, found none");
  const std::optional<StoredDType> known = ParseStoredDType(dtype->get_ref<const std::string&>());
  if (!known) return bad(absl::StrCat("unknown dtype ", Shown(*dtype)));
  tensor.dtype = *known;

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array()) return bad("expected a shape, found none");
  if (shape->size() > kMaxDims)
    return bad(absl::StrCat("expected at most ", kMaxDims, " dimensions, found ", shape->size()));
  uint64_t bits = static_cast<uint64_t>(Bits(*known));
  for (const nlohmann::json& dim : *shape) {
    uint64_t size = 0;
    if (!Natural(dim, &size))
      return bad(absl::StrCat("expected whole numbers of 0 or more as shape, found ", Shown(*shape)));
    if (__builtin_mul_overflow(bits, size, &bits))
      return bad(absl::StrCat("shape ", Shown(*shape), " is beyond 2^61 bytes"));
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  if (bits % 8 != 0)
    return bad(absl::StrCat("shape ", Shown(*shape), " of ", Name(*known), " is no whole number of bytes"));

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 || !Natural((*offsets)[0], begin) ||
      !Natural((*offsets)[1], end) || *begin > *end) {
    return bad(
        absl::StrCat("expected data_offsets [begin, end], found ", offsets == entry.end() ? "none" : Shown(*offsets)));
  }
  if (*end > data.size()) {
    return bad(absl::StrCat("data_offsets end at byte ", *end, ", but the file holds ", data.size(), " bytes of data"));
  }
  if (*end - *begin != bits / 8) {
    return bad(absl::StrCat("expected ", bits / 8, " bytes for ", Name(*known), " ", Shown(*shape), ", found ",
                            *end - *begin));
  }
  tensor.data = reinterpret_cast<const uint8_t*>(data.data()) + *begin;
  tensor.bytes = static_cast<size_t>(*end - *begin);
  return tensor;
}

}  // namespace

absl::StatusOr<std::vector<TensorInfo>> ParseSafetensors(std::string_view bytes, const std::string& file) {
  if (bytes.size() < 8) {
    return Bad(file, absl::StrCat("truncated, expected a safetensors header, found ", bytes.size(), " bytes"));
  }
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i) length |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  if (length > kMaxHeader) {
    return Bad(file, absl::StrCat("expected a header of at most ", kMaxHeader, " bytes, found a length of ", length,
                                  " (is it a safetensors file?)"));
  }
  if (length > bytes.size() - 8) {
    return Bad(file, absl::StrCat("truncated, expected a header of ", length, " bytes, found ", bytes.size() - 8));
  }
  auto header = ParseHeader(bytes.substr(8, length), file);
  if (!header.ok()) return header.status();
  const std::string_view data = bytes.substr(8 + length);

  struct Range {
    uint64_t begin, end;
    size_t tensor;
  };
  std::vector<TensorInfo> tensors;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      if (!entry.is_object())
        return Bad(file, absl::StrCat("expected an object as __metadata__, found ", Shown(entry)));
      continue;
    }
    Range range{0, 0, tensors.size()};
    auto tensor = ParseTensor(name, entry, data, file, &range.begin, &range.end);
    if (!tensor.ok()) return tensor.status();
    tensors.push_back(std::move(*tensor));
    ranges.push_back(range);
  }

  // The ranges have to tile the data: no byte twice, none left over.
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  uint64_t covered = 0;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const std::string name = Printable(tensors[ranges[i].tensor].name);
    if (ranges[i].begin < covered) {
      return Bad(file,
                 absl::StrCat("tensors ", Printable(tensors[ranges[i - 1].tensor].name), " and ", name, " overlap"));
    }
    if (ranges[i].begin > covered) {
      return Bad(file, absl::StrCat("expected tensor ", name, " at byte ", covered, " of the data, found it at ",
                                    ranges[i].begin, " with a gap before it"));
    }
    covered = ranges[i].end;
  }
  if (covered != data.size()) {
    return Bad(file, absl::StrCat("expected ", covered, " bytes of data, found ", data.size()));
  }
  return tensors;
}

absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(std::string_view text,
                                                                         const std::string& file) {
  auto root = ParseJsonObject(text, file);
  if (!root.ok()) return root.status();
  const auto weight_map = root->find("weight_map");
  if (weight_map == root->end() || !weight_map->is_object() || weight_map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected a weight_map of tensor and file names, found none"));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : weight_map->items()) {
    const std::string* text_of = shard.get_ptr<const std::string*>();
    // A plain name in the same folder: nothing that leads out of it.
    if (!text_of || text_of->empty() || *text_of == "." || *text_of == ".." ||
        text_of->find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": expected a plain file name for tensor ", Printable(name), ", found ", Shown(shard)));
    }
    shards[name] = *text_of;
  }
  return shards;
}

}  // namespace duo
