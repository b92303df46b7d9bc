#include "runtime/text/tokenizer_folder.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/gguf/folder_texts.h"

namespace duo {
namespace {

using nlohmann::json;

constexpr size_t kMostBytes = size_t{1} << 30;  // the greatest known tokenizer.json has 35 MB

// What tokenizer_config.json says of the space before a text's first word, if anything.
absl::StatusOr<std::optional<bool>> PrefixSpace(const std::string& dir) {
  const std::string path = dir + "/tokenizer_config.json";
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return std::nullopt;
  absl::StatusOr<std::string> text = ReadFile(path, kMostBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<json> config = ParseJsonObject(*text, path);
  if (!config.ok()) return config.status();
  const auto found = config->find("add_prefix_space");
  if (found == config->end() || !found->is_boolean()) return std::nullopt;
  return found->get<bool>();
}

// tokenizer.json as a GGUF file would have it.
absl::StatusOr<std::string> GgufText(const std::string& path) {
  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  return file.ok() ? GgufTokenizerJson(*file) : file.status();
}

// Every object of a section, those in Sequences too.
template <typename Change>
void EachStep(json& section, const Change& change) {
  if (!section.is_object()) return;
  change(section);
  for (const char* list : {"normalizers", "pretokenizers", "decoders"}) {
    const auto found = section.find(list);
    if (found == section.end() || !found->is_array()) continue;
    for (json& child : *found) EachStep(child, change);
  }
}

bool IsOfType(const json& step, const char* type) {
  const auto found = step.find("type");
  return found != step.end() && found->is_string() && found->get_ref<const std::string&>() == type;
}

// Without: no step puts one, and none takes one away. With: byte-level words get one; others say how in tokenizer.json.
void SetPrefixSpace(json& root, bool wanted) {
  for (const char* section : {"normalizer", "pre_tokenizer", "decoder"}) {
    const auto found = root.find(section);
    if (found == root.end()) continue;
    EachStep(*found, [&](json& step) {
      if (IsOfType(step, "ByteLevel") && std::string_view(section) == "pre_tokenizer")
        step["add_prefix_space"] = wanted;
      if (wanted) return;
      if (IsOfType(step, "Metaspace")) {
        step["prepend_scheme"] = "never";
        step["add_prefix_space"] = false;
      }
      if (IsOfType(step, "Prepend")) step["prepend"] = "";
      const auto content = step.find("content");
      if (IsOfType(step, "Strip") && content != step.end() && *content == " ") step["start"] = 0;
    });
  }
}

}  // namespace

absl::StatusOr<Tokenizer> LoadTokenizerOf(const std::string& model_dir, int64_t rows) {
  const bool is_file = IsGgufPath(model_dir);
  const std::string path = is_file ? model_dir : model_dir + "/tokenizer.json";
  absl::StatusOr<std::string> text = is_file ? GgufText(model_dir) : ReadFile(path, kMostBytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<std::optional<bool>> prefix_space = is_file ? std::nullopt : PrefixSpace(model_dir);
  if (!prefix_space.ok()) return prefix_space.status();
  if (prefix_space->has_value()) {
    absl::StatusOr<json> root = ParseJsonObject(*text, path);
    if (!root.ok()) return root.status();
    SetPrefixSpace(*root, **prefix_space);
    text = root->dump(-1, ' ', false, json::error_handler_t::replace);
  }
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(*text, path);
  if (tokenizer.ok() && tokenizer->vocab_size() > rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": token \"", std::string(tokenizer->TextOf(tokenizer->vocab_size() - 1)), "\" has id ",
                     tokenizer->vocab_size() - 1, ", outside the model's vocabulary of ", rows,
                     is_file ? " (token_embd.weight)" : " (config.json)"));
  }
  return tokenizer;
}

}  // namespace duo
