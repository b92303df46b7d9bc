#include "attn_patterns/pattern.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "kernels/base/read_file.h"
#include "nlohmann/json.hpp"

namespace duo {
namespace {

constexpr char kGatesFile[] = "full_attention_heads.tsv";
constexpr char kConfigFile[] = "config.json";
constexpr size_t kMaxFile = 64 << 20;  // bytes; 4096 layers of 4096 heads have fewer than the heaviest real model
constexpr int kMaxLayers = 4096, kMaxHeads = 4096;
constexpr int64_t kMaxWindow = 1 << 24;  // tokens
constexpr size_t kMaxProvenance = 1 << 16;

// Whole or not at all: a reader never sees half a file.
absl::Status WriteFile(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path part = path.string() + ".part";
  std::error_code error;
  {
    std::ofstream out(part, std::ios::binary | std::ios::trunc);
    out << text;
    out.flush();
    if (!out) {
      out.close();
      std::filesystem::remove(part, error);
      return absl::DataLossError(absl::StrCat(path.string(), ": cannot be written"));
    }
  }
  std::filesystem::rename(part, path, error);
  if (error) return absl::DataLossError(absl::StrCat(path.string(), ": cannot be written (", error.message(), ")"));
  return absl::OkStatus();
}

// A field of a hostile file, fit for one line of a terminal.
std::string Shown(std::string_view field) {
  std::string text;
  for (const char c : field.substr(0, 40)) text += c >= 0x20 && c < 0x7f ? c : '?';
  return absl::StrCat("\"", text, field.size() > 40 ? "..." : "", "\"");
}

}  // namespace

absl::Status ParsePatternGates(std::string_view text, const std::string& file, Pattern* pattern) {
  const auto bad = [&](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat(file, ": ", what)); };
  std::vector<double> gates;
  int layers = 0, heads = 0;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty()) return bad(absl::StrCat("line ", layers + 1, ": expected numbers, found an empty line"));
    if (layers == kMaxLayers) return bad(absl::StrCat("expected at most ", kMaxLayers, " lines, one a layer"));
    int count = 0;
    for (bool more = true; more;) {
      const size_t tab = line.find('\t');
      const std::string_view field = line.substr(0, tab);
      more = tab != std::string_view::npos;
      line.remove_prefix(more ? tab + 1 : line.size());
      double gate = 0;
      const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), gate);
      if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(gate)) {
        return bad(
            absl::StrCat("line ", layers + 1, ": expected a finite number for head ", count, ", found ", Shown(field)));
      }
      if (++count > kMaxHeads)
        return bad(absl::StrCat("line ", layers + 1, ": expected at most ", kMaxHeads, " numbers"));
      gates.push_back(gate);
    }
    if (layers == 0) heads = count;
    if (count != heads) {
      return bad(absl::StrCat("line ", layers + 1, ": expected ", heads, " numbers like line 1, found ", count));
    }
    ++layers;
  }
  if (layers == 0) return bad("expected one line of gates a layer, found no lines");
  pattern->layers = layers;
  pattern->kv_heads = heads;
  pattern->gates = std::move(gates);
  return absl::OkStatus();
}

absl::Status ParsePatternConfig(std::string_view text, const std::string& file, Pattern* pattern) {
  using json = nlohmann::json;
  const auto bad = [&](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat(file, ": ", what)); };
  bool too_deep = false;
  const auto keep = [&](int depth, json::parse_event_t, json&) {
    too_deep |= depth > 64;  // no pattern nests; code that walks a value would not survive unlimited depth
    return !too_deep;
  };
  json root;
  try {
    root = json::parse(text.begin(), text.end(), keep);
  } catch (const json::parse_error& error) {
    return bad(absl::StrCat("expected JSON, found an error at byte ", error.byte));
  } catch (const json::exception& error) {  // a number beyond f64, say
    return bad(absl::StrCat("expected JSON, found ", error.what()));
  }
  if (too_deep || !root.is_object()) return bad("expected a JSON object");

  const auto tokens = [&](const char* key, int least, int* out) -> absl::Status {
    const auto it = root.find(key);
    if (it == root.end() || !it->is_number_unsigned() || it->get<uint64_t>() < static_cast<uint64_t>(least) ||
        it->get<uint64_t>() > static_cast<uint64_t>(kMaxWindow)) {
      std::string found = "none";
      if (it != root.end()) found = it->dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 40);
      return bad(
          absl::StrCat(key, " must be a whole number of tokens from ", least, " to ", kMaxWindow, ", found ", found));
    }
    *out = it->get<int>();
    return absl::OkStatus();
  };
  int sink = 0, recent = 0;
  if (absl::Status status = tokens("sink_size", 0, &sink); !status.ok()) return status;
  if (absl::Status status = tokens("recent_size", 1, &recent); !status.ok()) return status;
  auto texts = [&](const char* key, std::vector<std::string>* out) -> absl::Status {
    const auto it = root.find(key);
    if (it == root.end() || it->is_null()) return absl::OkStatus();
    const bool good =
        it->is_array() && std::all_of(it->begin(), it->end(), [](const json& v) { return v.is_string(); });
    if (!good) return bad(absl::StrCat(key, " must be a list of texts"));
    for (const json& text : *it) out->push_back(text.get<std::string>());
    return absl::OkStatus();
  };
  std::vector<std::string> models, fingerprints;
  if (absl::Status status = texts("models", &models); !status.ok()) return status;
  if (absl::Status status = texts("fingerprints", &fingerprints); !status.ok()) return status;
  std::vector<ProvenanceHead> provenance;
  if (const auto it = root.find("provenance_heads"); it != root.end() && !it->is_null()) {
    const auto whole = [](const json& v) { return v.is_number_unsigned() && v.get<uint64_t>() < (1u << 20); };
    const auto good = [&](const json& v) {
      return v.is_array() && v.size() == 3 && whole(v[0]) && whole(v[1]) && v[2].is_number() &&
             v[2].get<double>() > 0 && v[2].get<double>() < 1e9;
    };
    if (!it->is_array() || it->size() > kMaxProvenance || !std::all_of(it->begin(), it->end(), good)) {
      return bad("provenance_heads must be a list of [layer, query head, weight], weights above 0");
    }
    for (const json& v : *it) provenance.push_back({v[0].get<int32_t>(), v[1].get<int32_t>(), v[2].get<double>()});
  }
  pattern->sink = sink;
  pattern->recent = recent;
  pattern->models = std::move(models);
  pattern->fingerprints = std::move(fingerprints);
  pattern->provenance = std::move(provenance);
  return absl::OkStatus();
}

absl::StatusOr<Pattern> ReadPattern(const std::string& dir) {
  const std::filesystem::path gates = std::filesystem::path(dir) / kGatesFile;
  const std::filesystem::path config = std::filesystem::path(dir) / kConfigFile;
  Pattern pattern;
  auto gates_text = ReadFile(gates.string(), kMaxFile);
  if (!gates_text.ok()) return gates_text.status();
  if (absl::Status status = ParsePatternGates(*gates_text, gates.string(), &pattern); !status.ok()) return status;
  auto config_text = ReadFile(config.string(), kMaxFile);
  if (!config_text.ok()) return config_text.status();
  if (absl::Status status = ParsePatternConfig(*config_text, config.string(), &pattern); !status.ok()) return status;
  return pattern;
}

std::string FormatPatternGates(const Pattern& pattern) {
  DUO_CHECK_EQ(pattern.gates.size(), static_cast<size_t>(pattern.layers) * pattern.kv_heads);
  std::string text;
  for (int layer = 0; layer < pattern.layers; ++layer) {
    for (int head = 0; head < pattern.kv_heads; ++head) {
      absl::StrAppendFormat(&text, "%s%.18e", head == 0 ? "" : "\t", pattern.gate(layer, head));
    }
    text += '\n';
  }
  return text;
}

std::string PatternConfigJson(const Pattern& pattern) {
  nlohmann::ordered_json root;
  root["sink_size"] = pattern.sink;
  root["recent_size"] = pattern.recent;
  if (!pattern.models.empty()) root["models"] = pattern.models;
  if (!pattern.fingerprints.empty()) root["fingerprints"] = pattern.fingerprints;
  for (const ProvenanceHead& h : pattern.provenance) root["provenance_heads"].push_back({h.layer, h.head, h.weight});
  return root.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}

absl::Status WritePattern(const Pattern& pattern, const std::string& config_json, const std::string& dir) {
  // What cannot be read back is not written.
  const std::filesystem::path folder(dir), gates = folder / kGatesFile, config = folder / kConfigFile;
  const std::string text = FormatPatternGates(pattern);
  Pattern back;
  if (absl::Status status = ParsePatternGates(text, gates.string(), &back); !status.ok()) return status;
  if (absl::Status status = ParsePatternConfig(config_json, config.string(), &back); !status.ok()) return status;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::DataLossError(absl::StrCat(dir, ": cannot be created (", error.message(), ")"));
  if (absl::Status status = WriteFile(gates, text); !status.ok()) return status;
  return WriteFile(config, config_json);
}

absl::Status CheckPatternShape(const Pattern& pattern, int layers, int kv_heads, const std::string& dir) {
  if (pattern.layers == layers && pattern.kv_heads == kv_heads) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat((std::filesystem::path(dir) / kGatesFile).string(), ": expected a pattern of ", layers, " layers x ",
                   kv_heads, " KV heads, the model's, found ", pattern.layers, " x ", pattern.kv_heads));
}

}  // namespace duo
