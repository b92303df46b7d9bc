// What a model's folder says about its chat template, read as transformers reads it.
#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/gguf/folder_texts.h"
#include "runtime/text/chat_template.h"

namespace duo {
namespace {

constexpr size_t kMostBytes = 64 << 20;  // of the files read here

constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};

// An empty object if there is no such file.
absl::StatusOr<nlohmann::json> ReadObject(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nlohmann::json::object();
  const absl::StatusOr<std::string> text = ReadFile(path, kMostBytes);
  if (!text.ok()) return text.status();
  return ParseJsonObject(*text, path);
}

// A token's text: a string or {"content": string}.
std::string TokenText(const nlohmann::json& config, const std::string& key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
    return (*found)["content"].get<std::string>();
  return "";
}

// tokenizer_config.json names them; special_tokens_map.json goes before it where that has no added_tokens_decoder, and
// fills what it leaves out.
std::vector<std::pair<std::string, std::string>> TokensOf(const nlohmann::json& config, const nlohmann::json& map) {
  std::vector<std::string> names(std::begin(kTokenNames), std::end(kTokenNames));
  for (const nlohmann::json* from : {&config, &map}) {  // a model may have more: image_token, ..
    for (const auto& [key, value] : from->items()) {
      if (key.ends_with("_token") && value.is_string() && std::find(names.begin(), names.end(), key) == names.end())
        names.push_back(key);
    }
  }
  const bool map_first = !config.contains("added_tokens_decoder");
  std::vector<std::pair<std::string, std::string>> tokens;
  for (const std::string& name : names) {
    std::string text = TokenText(map_first ? map : config, name);
    if (text.empty()) text = TokenText(map_first ? config : map, name);
    if (!text.empty()) tokens.emplace_back(name, std::move(text));
  }
  return tokens;
}

absl::Status AddFile(const std::string& path, const std::string& name, std::vector<ChatTemplateSource>* sources) {
  absl::StatusOr<std::string> jinja = ReadFile(path, kMostBytes);
  if (!jinja.ok()) return jinja.status();
  sources->push_back({name, path, *std::move(jinja)});
  return absl::OkStatus();
}

// chat_template.jinja and additional_chat_templates/NAME.jinja, which go before those of tokenizer_config.json.
absl::Status AddTemplateFiles(const std::string& dir, std::vector<ChatTemplateSource>* sources) {
  std::error_code error;
  std::vector<std::string> additional;
  for (std::filesystem::directory_iterator it(dir + "/additional_chat_templates", error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().extension() == ".jinja") additional.push_back(it->path().string());
  }
  std::sort(additional.begin(), additional.end());
  if (const std::string path = dir + "/chat_template.jinja"; std::filesystem::exists(path, error)) {
    if (absl::Status added = AddFile(path, additional.empty() ? "" : "default", sources); !added.ok()) return added;
  }
  for (const std::string& path : additional) {
    if (absl::Status added = AddFile(path, std::filesystem::path(path).stem().string(), sources); !added.ok())
      return added;
  }
  return absl::OkStatus();
}

// A string, or a list of {"name", "template"}.
void AddConfigTemplates(const nlohmann::json& config, const std::string& file,
                        std::vector<ChatTemplateSource>* sources) {
  const auto found = config.find("chat_template");
  if (found == config.end()) return;
  if (found->is_string()) sources->push_back({"", file, found->get<std::string>()});
  if (!found->is_array()) return;
  for (const auto& entry : *found) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) continue;
    if (!entry["name"].is_string() || !entry["template"].is_string()) continue;
    sources->push_back({entry["name"].get<std::string>(), file, entry["template"].get<std::string>()});
  }
}

absl::Status CheckContent(nlohmann::ordered_json* message, const std::string& where) {
  const auto content = message->find("content");
  if (content == message->end() || content->is_null() || content->is_string()) return absl::OkStatus();
  if (!content->is_array())
    return absl::InvalidArgumentError(absl::StrCat(where, ": expected its content to be a text or a list of parts"));
  std::string joined;
  for (const auto& part : *content) {
    const auto is_text = [&part](const char* key) { return part.contains(key) && part[key].is_string(); };
    if (!part.is_object() || !is_text("type") || part["type"] != "text" || !is_text("text"))
      return absl::InvalidArgumentError(absl::StrCat(where, ": a part of its content is not of type text"));
    joined += part["text"].get_ref<const std::string&>();
  }
  *content = joined;
  return absl::OkStatus();
}

}  // namespace

namespace {

absl::StatusOr<ChatTemplate> ChatTemplateOfGguf(const std::string& path) {
  const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
  if (!file.ok()) return file.status();
  const absl::StatusOr<std::string> text = GgufTokenizerConfigJson(*file);
  if (!text.ok()) return text.status();
  const absl::StatusOr<nlohmann::json> config = ParseJsonObject(*text, path);
  if (!config.ok()) return config.status();
  std::vector<ChatTemplateSource> sources;
  AddConfigTemplates(*config, path, &sources);
  if (sources.empty()) {
    return absl::NotFoundError(
        absl::StrCat(path, ": expected the key tokenizer.chat_template, found none (is this a base model?)"));
  }
  return ChatTemplate(sources, TokensOf(*config, nlohmann::json::object()));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplateFor(const std::string& model_dir) {
  if (IsGgufPath(model_dir)) return ChatTemplateOfGguf(model_dir);
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  const absl::StatusOr<nlohmann::json> config = ReadObject(config_path);
  if (!config.ok()) return config.status();
  const absl::StatusOr<nlohmann::json> map = ReadObject(absl::StrCat(model_dir, "/special_tokens_map.json"));
  if (!map.ok()) return map.status();
  std::vector<ChatTemplateSource> sources;
  if (absl::Status added = AddTemplateFiles(model_dir, &sources); !added.ok()) return added;
  if (sources.empty()) AddConfigTemplates(*config, config_path, &sources);
  if (sources.empty()) {
    return absl::NotFoundError(absl::StrCat(
        config_path, ": expected a chat_template there or in chat_template.jinja, found none (is this a base model?)"));
  }
  return ChatTemplate(sources, TokensOf(*config, *map));
}

absl::StatusOr<Conversation> ParseConversation(std::string_view json, const std::string& name) {
  const auto parsed = nlohmann::ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(name, ": expected JSON"));
  Conversation conversation;
  conversation.messages = parsed;
  if (parsed.is_object()) {
    conversation.messages = parsed.value("messages", nlohmann::ordered_json());
    conversation.tools = parsed.value("tools", nlohmann::ordered_json());
    conversation.documents = parsed.value("documents", nlohmann::ordered_json());
  }
  if (absl::Status checked = CheckConversation(&conversation, name); !checked.ok()) return checked;
  return conversation;
}

absl::Status CheckConversation(Conversation* conversation, const std::string& name) {
  if (!conversation->messages.is_array() || conversation->messages.empty())
    return absl::InvalidArgumentError(absl::StrCat(name, ": expected a list of messages, or an object with one"));
  for (const nlohmann::ordered_json* list : {&conversation->tools, &conversation->documents}) {
    if (!list->is_null() && !list->is_array())
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected tools and documents to be lists"));
  }
  for (size_t i = 0; i < conversation->messages.size(); ++i) {
    nlohmann::ordered_json& message = conversation->messages[i];
    const std::string where = absl::StrCat(name, ": message ", i + 1);
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      return absl::InvalidArgumentError(absl::StrCat(where, ": expected an object with a role"));
    if (absl::Status checked = CheckContent(&message, where); !checked.ok()) return checked;
  }
  return absl::OkStatus();
}

}  // namespace duo
