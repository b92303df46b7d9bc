#include "runtime/saved/session_manifest.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"

namespace duo {
namespace {

using Json = nlohmann::json;
constexpr std::string_view kTrailer = "crc32c ";
constexpr size_t kTrailerBytes = 7 + 8 + 1;  // "crc32c ", eight hex digits, a newline

Json FileJson(const SavedFile& f) { return {{"name", f.name}, {"bytes", f.bytes}, {"crc32c", f.crc}}; }

// A reader that remembers the first thing that was wrong.
struct Reader {
  const Json& json;
  std::string* error;

  template <typename T>
  void operator()(const char* key, T* value) const {
    auto found = json.find(key);
    bool good = found != json.end();
    if (good) {
      if constexpr (std::is_same_v<T, bool>) {
        good = found->is_boolean();
      } else if constexpr (std::is_same_v<T, std::string>) {
        good = found->is_string();
      } else {
        good = found->is_number_integer();
      }
    }
    if (good) {
      *value = found->get<T>();
    } else if (error->empty()) {
      *error = absl::StrCat("\"", key, "\" is missing or of a wrong type");
    }
  }
};

SavedFile ReadFile(const Json& json, const char* key, std::string* error) {
  SavedFile file;
  auto found = json.find(key);
  if (found == json.end() || !found->is_object()) {
    if (error->empty()) *error = absl::StrCat("\"", key, "\" is missing");
    return file;
  }
  const Reader read{*found, error};
  read("name", &file.name);
  read("bytes", &file.bytes);
  read("crc32c", &file.crc);
  return file;
}

// A row of integers of a table.
bool Row(const Json& json, size_t size, std::vector<int64_t>* row) {
  if (!json.is_array() || json.size() != size) return false;
  row->clear();
  for (const Json& v : json) {
    if (!v.is_number_integer()) return false;
    row->push_back(v.get<int64_t>());
  }
  return true;
}

// What the numbers must satisfy before anything is read by them.
std::string Contradiction(const SessionManifest& m) {
  auto name_ok = [](const std::string& name) { return name.find('/') == std::string::npos && name.size() < 200; };
  if (m.layers < 1 || m.layers > 1 << 16 || m.kv_heads < 1 || m.kv_heads > 1 << 16 || m.head_dim < 1) return "sizes";
  if (m.tokens < 0 || m.max_tokens < m.tokens || m.tokens > int64_t{1} << 31) return "tokens";
  if (static_cast<int64_t>(m.retrieval.size()) != int64_t{m.layers} * m.kv_heads) return "retrieval";
  if (!name_ok(m.rings_file) || !name_ok(m.token_file.name) || !name_ok(m.append_file.name)) return "file names";
  for (const KvSection& s : m.sections) {
    const bool in_range = s.layer >= 0 && s.layer < m.layers && s.head >= 0 && s.head < m.kv_heads && s.first >= 0 &&
                          s.step >= 1 && s.step <= 4096 && s.count >= 1 && s.count <= kRangePages && s.offset >= 0 &&
                          s.generation >= 1;
    if (!in_range || s.first / kRangePages != (s.first + int64_t{s.step} * (s.count - 1)) / kRangePages)
      return "sections";
  }
  for (const KvRingSection& r : m.rings) {
    if (r.layer < 0 || r.layer >= m.layers || r.head < 0 || r.head >= m.kv_heads || r.offset < 0) return "rings";
  }
  if (m.append.has_value() && (m.append->start < 0 || m.append->total < 0 || m.append->id.size() > 256))
    return "append";
  return "";
}

}  // namespace

std::string FormatManifest(const SessionManifest& m) {
  Json sections = Json::array(), rings = Json::array();
  for (const KvSection& s : m.sections) {
    sections.push_back({s.layer, s.head, s.first, s.step, s.count, s.generation, s.offset, s.crc});
  }
  for (const KvRingSection& r : m.rings) rings.push_back({r.layer, r.head, r.offset, r.crc});
  Json json = {{"format", "duo session"},
               {"version", m.version},
               {"generation", m.generation},
               {"serial", m.serial},
               {"tokens", m.tokens},
               {"max_tokens", m.max_tokens},
               {"durable", m.durable},
               {"open", m.open},
               {"model_fingerprint", m.fingerprint},
               {"kv_format", m.kv_format},
               {"key_scale", nullptr},  // reserved: per-channel scales of keys
               {"layers", m.layers},
               {"kv_heads", m.kv_heads},
               {"head_dim", m.head_dim},
               {"sink", m.sink},
               {"recent", m.recent},
               {"retrieval", m.retrieval},
               {"rings_valid", m.rings_valid},
               {"rings_file", m.rings_file},
               {"rings [layer, head, offset, crc32c]", rings},
               {"sections [layer, head, first page, page step, pages, generation, offset, crc32c]", sections},
               {"token_file", FileJson(m.token_file)},
               {"bytes", m.bytes}};
  if (m.append.has_value()) {
    json["append"] = {{"id", m.append->id},       {"received_bytes", m.append->received_bytes},
                      {"start", m.append->start}, {"total", m.append->total},
                      {"done", m.append->done},   {"token_file", FileJson(m.append_file)}};
  }
  std::string text = json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
  absl::StrAppendFormat(&text, "crc32c %08x\n", Crc32c(text.data(), text.size()));
  return text;
}

absl::StatusOr<SessionManifest> ParseManifest(std::string_view text, const std::string& file) {
  auto damaged = [&](const std::string& what) { return absl::DataLossError(absl::StrCat(file, ": damaged: ", what)); };
  if (text.size() < kTrailerBytes || text.substr(text.size() - kTrailerBytes, kTrailer.size()) != kTrailer) {
    return damaged("its last line is not a checksum");
  }
  const std::string_view body = text.substr(0, text.size() - kTrailerBytes);
  const std::string found(text.substr(text.size() - kTrailerBytes));
  const std::string expected = absl::StrFormat("crc32c %08x\n", Crc32c(body.data(), body.size()));
  if (found != expected) return damaged("its checksum is wrong");
  const Json json = Json::parse(body, nullptr, false);
  if (!json.is_object()) return damaged("not a JSON object");

  std::string error;
  SessionManifest m;
  const Reader read{json, &error};
  read("version", &m.version);
  if (error.empty() && m.version != kSessionFormatVersion) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: format version %d, this program reads version %d", file,
                                                         m.version, kSessionFormatVersion));
  }
  read("generation", &m.generation);
  read("serial", &m.serial);
  read("tokens", &m.tokens);
  read("max_tokens", &m.max_tokens);
  read("durable", &m.durable);
  read("open", &m.open);
  read("model_fingerprint", &m.fingerprint);
  read("kv_format", &m.kv_format);
  read("layers", &m.layers);
  read("kv_heads", &m.kv_heads);
  read("head_dim", &m.head_dim);
  read("sink", &m.sink);
  read("recent", &m.recent);
  read("retrieval", &m.retrieval);
  read("rings_valid", &m.rings_valid);
  read("rings_file", &m.rings_file);
  read("bytes", &m.bytes);
  m.token_file = ReadFile(json, "token_file", &error);
  std::vector<int64_t> row;
  for (const auto& [key, value] : json.items()) {
    if (key.rfind("sections [", 0) != 0 && key.rfind("rings [", 0) != 0) continue;
    const bool pages = key[0] == 's';
    if (!value.is_array()) return damaged(key);
    for (const Json& entry : value) {
      if (!Row(entry, pages ? 8 : 4, &row)) return damaged(key);
      const auto i32 = [&](int i) { return static_cast<int32_t>(row[i]); };
      if (pages) {
        m.sections.push_back(
            {i32(0), i32(1), i32(2), i32(3), i32(4), 0, row[6], static_cast<uint32_t>(row[7]), i32(5)});
      } else {
        m.rings.push_back({i32(0), i32(1), 0, static_cast<uint32_t>(row[3]), row[2]});
      }
    }
  }
  if (auto append = json.find("append"); append != json.end() && append->is_object()) {
    m.append.emplace();
    const Reader field{*append, &error};
    field("id", &m.append->id);
    field("received_bytes", &m.append->received_bytes);
    field("start", &m.append->start);
    field("total", &m.append->total);
    field("done", &m.append->done);
    m.append_file = ReadFile(*append, "token_file", &error);
  }
  if (error.empty()) {
    if (const std::string what = Contradiction(m); !what.empty())
      error = absl::StrCat("its ", what, " contradict each other");
  }
  if (!error.empty()) return damaged(error);
  return m;
}

}  // namespace duo
