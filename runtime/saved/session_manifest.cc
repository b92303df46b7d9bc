#include "runtime/saved/session_manifest.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/json_fields.h"
#include "runtime/files/token_chain.h"
#include "runtime/saved/saved_text.h"
#include "runtime/saved/session_names.h"
#include "runtime/saved/session_sections.h"

namespace duo {
namespace {

using Json = nlohmann::json;
constexpr std::string_view kTrailer = "crc32c ";
constexpr size_t kTrailerBytes = 7 + 8 + 1;  // "crc32c ", eight hex digits, a newline
constexpr int64_t kMostTokens = (int64_t{1} << 31) - 1;
constexpr int kMostNumber = (1 << 30) - 1;  // generations
constexpr char kSections[] = "sections [layer, head, first page, page step, pages, generation, offset, crc32c]";
constexpr char kRings[] = "rings [layer, head, offset, crc32c]";
// What this program reads; all else goes to `more`.
constexpr const char* kFields[] = {"format",          "version",    "generation",
                                   "serial",          "tokens",     "max_tokens",
                                   "durable",         "open",       "kv_format",
                                   "key_scale",       "layers",     "kv_heads",
                                   "head_dim",        "sink",       "recent",
                                   "retrieval",       "rings_file", "rings_valid",
                                   "token_file",      "bytes",      "append",
                                   "sections_file",   "needs",      "owner",
                                   kSections,         kRings,       "model_fingerprint",
                                   "reserved_tokens", "hash_chain", "prefix",
                                   "prefix_salt",     "sparse",     "pinned",
                                   "key_means",       "dual_chunk"};

// Eight hex digits an entry.
std::string ChainText(const std::vector<uint32_t>& chain) {
  std::string text;
  for (const uint32_t link : chain) absl::StrAppendFormat(&text, "%08x", link);
  return text;
}

std::vector<uint32_t> ReadChain(JsonFields& fields, int64_t tokens) {
  const std::string text = fields.String("hash_chain", "");
  std::vector<uint32_t> chain;
  // A program that does not know the field may have cut the tokens.
  for (size_t at = 0; at + 8 <= text.size() && std::ssize(chain) < tokens / kChainTokens; at += 8) {
    uint32_t link = 0;
    if (!absl::SimpleHexAtoi(text.substr(at, 8), &link)) {
      fields.Fail("\"hash_chain\" is not of hex digits");
      return {};
    }
    chain.push_back(link);
  }
  return chain;
}

Json FileJson(const SavedFile& f) { return {{"name", f.name}, {"bytes", f.bytes}, {"crc32c", f.crc}}; }

Json SparseJson(const SparseRead::Kept& kept) {
  const SparseReport& r = kept.report;
  return {
      {"setting", Name(kept.setting)}, {"audits", r.audits},         {"mass", r.mass},   {"least_mass", r.least_mass},
      {"least_layer", r.least_layer},  {"least_head", r.least_head}, {"error", r.error}, {"density", r.density},
      {"densities", kept.densities}};
}

void ReadSparse(JsonFields& fields, const Json& json, const std::string& file, SessionManifest* m) {
  const auto found = json.find("sparse");
  if (found == json.end() || found->is_null()) return;
  if (!found->is_object()) return fields.Fail("\"sparse\" is no object");
  JsonFields inside(*found, file, "sparse.");
  SparseRead::Kept& kept = m->sparse;
  const std::string setting = inside.String("setting");
  const std::optional<PrefillSparsity> named = PrefillSparsityNamed(setting);
  if (inside.ok() && !named.has_value()) {
    inside.Fail(absl::StrCat("\"sparse.setting\" is \"", Shown(setting), "\", which is none"));
  }
  kept.setting = named.value_or(PrefillSparsity());
  kept.length = m->tokens;
  SparseReport& r = kept.report;
  r.setting = Name(kept.setting);
  r.audits = inside.Int("audits", 0, kMostTokens);
  r.mass = inside.Number("mass", 0, 1);
  r.least_mass = inside.Number("least_mass", 0, 1);
  r.least_layer = static_cast<int>(inside.Int("least_layer", -1, m->layers));
  r.least_head = static_cast<int>(inside.Int("least_head", -1, m->kv_heads));
  r.error = inside.Number("error", 0, 1e9);
  r.density = inside.Number("density", 0, 1);
  for (const int density : inside.Ids("densities")) {
    if (density < 1 || density > kDense) inside.Fail("\"sparse.densities\" are not in thousandths");
    kept.densities.push_back(density);
  }
  if (!kept.densities.empty() && std::ssize(kept.densities) != int64_t{m->layers} * m->kv_heads) {
    inside.Fail("\"sparse.densities\" do not fit its sizes");
  }
  fields.Adopt(inside.status());
}

// A file of this kind, or none.
SavedFile ReadFile(JsonFields& fields, const Json& json, const char* key, SavedKind kind, const std::string& file) {
  SavedFile f;
  const auto found = json.find(key);
  if (found == json.end() || !found->is_object()) {
    fields.Fail(absl::StrCat("\"", key, "\" is missing"));
    return f;
  }
  JsonFields inside(*found, file, absl::StrCat(key, "."));
  f.name = inside.String("name");
  f.bytes = inside.Int("bytes", 0, kMostBytes);
  f.crc = static_cast<uint32_t>(inside.Int("crc32c", 0, 0xffffffff));
  if (!f.name.empty() && ParseSavedName(f.name).kind != kind) {
    inside.Fail(absl::StrCat("\"", key, "\" names \"", Shown(f.name), "\", which is none of its files"));
  }
  fields.Adopt(inside.status());
  return f;
}

// A table of versions 1 and 2; false when it is none.
bool ReadRows(const Json& json, const char* key, size_t columns, std::vector<std::vector<int64_t>>* rows) {
  const auto table = json.find(key);
  if (table == json.end() || !table->is_array()) return false;
  for (const Json& entry : *table) {
    if (!entry.is_array() || entry.size() != columns) return false;
    std::vector<int64_t>& row = rows->emplace_back();
    for (const Json& v : entry) {
      if (!v.is_number_integer()) return false;
      row.push_back(v.get<int64_t>());
      if (row.back() < 0 || row.back() >= kMostBytes) return false;
    }
  }
  return true;
}

bool Fits32(const std::vector<int64_t>& row, std::initializer_list<int> columns) {
  return std::all_of(columns.begin(), columns.end(), [&](int c) { return row[c] <= kMostTokens; });
}

// Sections and rings of versions 1 and 2; false when they are damaged.
bool ReadTables(const Json& json, SessionManifest* m) {
  std::vector<std::vector<int64_t>> rows;
  if (!ReadRows(json, kSections, 8, &rows)) return false;
  for (const auto& r : rows) {
    if (!Fits32(r, {0, 1, 2, 3, 4, 5})) return false;
    KvSection s;
    s.layer = static_cast<int32_t>(r[0]);
    s.head = static_cast<int32_t>(r[1]);
    s.first = static_cast<int32_t>(r[2]);
    s.step = static_cast<int32_t>(r[3]);
    s.count = static_cast<int32_t>(r[4]);
    s.generation = static_cast<int32_t>(r[5]);
    s.offset = r[6];
    s.crc = static_cast<uint32_t>(r[7]);
    m->sections.push_back(s);
  }
  rows.clear();
  if (!ReadRows(json, kRings, 4, &rows)) return false;
  for (const auto& r : rows) {
    if (!Fits32(r, {0, 1})) return false;
    m->rings.push_back({static_cast<int32_t>(r[0]), static_cast<int32_t>(r[1]), 0, static_cast<uint32_t>(r[3]), r[2]});
  }
  return true;
}

void ReadAppend(JsonFields& fields, const Json& json, const std::string& file, SessionManifest* m) {
  const auto found = json.find("append");
  if (found == json.end() || found->is_null()) return;
  if (!found->is_object()) return fields.Fail("\"append\" is no object");
  SavedAppend& a = m->append.emplace();
  JsonFields inside(*found, file, "append.");
  a.id = inside.String("id");
  a.received_bytes = inside.Int("received_bytes", 0, kMostBytes);
  a.start = inside.Int("start", 0, m->tokens);
  a.total = inside.Int("total", 0, kMostTokens);
  a.done = inside.Bool("done", false);
  if (!a.done) a.before = ReadSavedText(file, inside);
  m->append_file = ReadFile(inside, *found, "token_file", SavedKind::kAppend, file);
  if (a.id.size() > 256) inside.Fail("\"append.id\" is longer than 256 bytes");
  // A part of an append has been read; the rest must fit, and its tokens must be there.
  if (!a.done && (m->tokens - a.start > a.total || a.start + a.total > m->max_tokens)) {
    inside.Fail(absl::StrFormat("its append of %d tokens behind %d does not fit its %d tokens of at most %d", a.total,
                                a.start, m->tokens, m->max_tokens));
  }
  if (!a.done && (m->append_file.name.empty() || m->append_file.bytes != a.total * 4)) {
    inside.Fail(
        absl::StrFormat("its append's file has %d bytes, %d tokens were expected", m->append_file.bytes, a.total));
  }
  fields.Adopt(inside.status());
}

}  // namespace

std::string FormatManifest(const SessionManifest& m) {
  Json json = m.more.empty() ? Json::object() : Json::parse(m.more, nullptr, false);
  std::vector<std::string> needs = m.needs;
  if (m.sparse.setting.on()) needs.push_back("sparse");
  if (!m.key_means.empty()) needs.push_back("key_means");
  if (!m.dual_chunk.empty()) needs.push_back("dual_chunk");
  json.update(Json{{"format", "duo session"},
                   {"version", kSessionFormatVersion},
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
                   {"sections_file", FileJson(m.sections_file)},
                   {"token_file", FileJson(m.token_file)},
                   {"bytes", m.bytes},
                   {"needs", needs}});
  if (m.sparse.setting.on()) json["sparse"] = SparseJson(m.sparse);
  if (!m.key_means.empty()) json["key_means"] = m.key_means;
  if (!m.dual_chunk.empty()) json["dual_chunk"] = m.dual_chunk;
  if (!m.owner.empty()) json["owner"] = m.owner;
  if (m.reserved_tokens > 0) json["reserved_tokens"] = m.reserved_tokens;
  if (!m.hash_chain.empty()) json["hash_chain"] = ChainText(m.hash_chain);
  if (m.prefix) json["prefix"] = true;
  if (m.pinned) json["pinned"] = true;
  if (!m.prefix_salt.empty()) json["prefix_salt"] = m.prefix_salt;
  PutSavedText(m.text, &json);
  if (m.append.has_value()) {
    json["append"] = {{"id", m.append->id},       {"received_bytes", m.append->received_bytes},
                      {"start", m.append->start}, {"total", m.append->total},
                      {"done", m.append->done},   {"token_file", FileJson(m.append_file)}};
    if (!m.append->done) PutSavedText(m.append->before, &json["append"]);
  }
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  absl::StrAppendFormat(&text, "crc32c %08x\n", Crc32c(text.data(), text.size()));
  return text;
}

bool LooksLikeManifest(std::string_view text) {
  return text.find("\"duo session\"") != text.npos && text.find("\"format\"") != text.npos;
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
  const absl::StatusOr<Json> parsed = ParseJsonObject(body, file);
  if (!parsed.ok()) return damaged("not a JSON object");
  const Json& json = *parsed;

  SessionManifest m;
  JsonFields fields(json, file);
  m.version = static_cast<int>(fields.Int("version", 1, kMostNumber));
  if (fields.ok() && m.version > kSessionFormatVersion) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: format version %d, this program reads versions up to %d",
                                                         file, m.version, kSessionFormatVersion));
  }
  m.generation = static_cast<int>(fields.Int("generation", 1, kMostNumber));
  m.serial = fields.Int("serial", 0, kMostBytes);
  m.max_tokens = fields.Int("max_tokens", 0, kMostTokens);
  m.tokens = fields.Int("tokens", 0, m.max_tokens);
  m.durable = fields.Bool("durable", false);
  m.open = fields.Bool("open", false);
  m.fingerprint = fields.String("model_fingerprint");
  m.kv_format = fields.String("kv_format");
  m.layers = static_cast<int>(fields.Int("layers", 1, 1 << 16));
  m.kv_heads = static_cast<int>(fields.Int("kv_heads", 1, 1 << 16));
  m.head_dim = static_cast<int>(fields.Int("head_dim", 1, 1 << 16));
  m.sink = static_cast<int>(fields.Int("sink", 0, 1 << 24));
  m.recent = static_cast<int>(fields.Int("recent", 0, 1 << 24));
  m.retrieval = fields.String("retrieval");
  m.rings_valid = fields.Bool("rings_valid", false);
  m.rings_file = fields.String("rings_file");
  m.bytes = fields.Int("bytes", 0, kMostBytes);
  m.token_file = ReadFile(fields, json, "token_file", SavedKind::kTokens, file);
  if (fields.ok()) ReadAppend(fields, json, file, &m);
  if (fields.ok() && static_cast<int64_t>(m.retrieval.size()) != int64_t{m.layers} * m.kv_heads) {
    fields.Fail("\"retrieval\" does not fit its sizes");
  }
  if (fields.ok() && m.token_file.bytes != m.tokens * 4) {
    fields.Fail(absl::StrFormat("its token file has %d bytes, it has %d tokens", m.token_file.bytes, m.tokens));
  }
  if (!m.rings_file.empty() && ParseSavedName(m.rings_file).kind != SavedKind::kRings) {
    fields.Fail(absl::StrCat("\"rings_file\" names \"", Shown(m.rings_file), "\", which is none of its files"));
  }
  if (fields.ok() && m.version < 3) {
    std::string what = ReadTables(json, &m) ? Contradiction(m) : "its tables of sections and rings are not whole";
    if (!what.empty()) fields.Fail(what);
  } else if (fields.ok()) {
    m.sections_file = ReadFile(fields, json, "sections_file", SavedKind::kSections, file);
    m.needs = fields.Strings("needs");
    std::erase(m.needs, "sparse");
    std::erase(m.needs, "key_means");
    m.key_means = fields.String("key_means", "");
    std::erase(m.needs, "dual_chunk");
    m.dual_chunk = fields.String("dual_chunk", "");
    ReadSparse(fields, json, file, &m);
    m.owner = fields.String("owner", "");
    m.reserved_tokens = fields.Int("reserved_tokens", 0, kMostTokens, 0);
    m.text = ReadSavedText(file, fields);
    if (m.text.turn.has_value() && m.text.turn->at > m.tokens) m.text.turn.reset();
    m.hash_chain = ReadChain(fields, m.tokens);
    m.prefix = fields.Bool("prefix", false);
    m.pinned = fields.Bool("pinned", false);
    m.prefix_salt = fields.String("prefix_salt", "");
    Json more = json;
    for (const char* known : kFields) more.erase(known);
    for (const char* known : kSavedTextFields) more.erase(known);
    if (!more.empty()) m.more = more.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  if (!fields.ok()) return absl::DataLossError(fields.status().message());
  return m;
}

}  // namespace duo
