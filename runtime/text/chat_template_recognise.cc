// Which family a chat template belongs to, read off its source.
#include <algorithm>
#include <ctime>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/text/chat_template.h"

namespace duo {
namespace {

constexpr size_t kMostBytes = 64 << 20;  // of the files read here

bool Has(const std::string& text, const char* what) { return text.find(what) != std::string::npos; }

// The text between <|im_start|>system\n and <|im_end|>, where the template itself spells it out: a default.
std::string DefaultSystem(const std::string& source) {
  constexpr std::string_view kOpen = "<|im_start|>system\n";
  for (size_t at = source.find(kOpen); at != std::string::npos; at = source.find(kOpen, at + 1)) {
    const size_t begin = at + kOpen.size();
    const size_t end = source.find("<|im_end|>", begin);
    if (end == std::string::npos) break;
    const std::string text = source.substr(begin, end - begin);
    if (!text.empty() && text.find_first_of("'{}") == std::string::npos) return text;
  }
  return "";
}

absl::StatusOr<ChatTemplate> RecogniseMistral(const std::string& source, ChatTemplate chat, const std::string& name) {
  chat.family = ChatFamily::kMistral;
  chat.user_open = std::string(Has(source, "' [INST] '")  ? " [INST] "
                               : Has(source, "'[INST] '") ? "[INST] "
                                                          : "[INST]");
  chat.user_close = std::string(Has(source, "' [/INST]'") ? " [/INST]" : "[/INST]");
  chat.assistant_open = std::string(Has(source, "' ' + message['content']") ? " " : "");
  chat.assistant_close = chat.eos + (Has(source, "eos_token + ' '") ? " " : "");
  chat.trims_answers =
      Has(source, "message['content']|trim + eos_token") || Has(source, "message['content'] | trim + eos_token");
  chat.system_place = Has(source, "loop.last and system_message")    ? ChatTemplate::SystemPlace::kLastUser
                      : Has(source, "loop.first and system_message") ? ChatTemplate::SystemPlace::kFirstUser
                                                                     : ChatTemplate::SystemPlace::kNone;
  if (chat.system_place == ChatTemplate::SystemPlace::kNone && Has(source, "system_message")) {
    return absl::UnimplementedError(
        absl::StrCat(name, ": this [INST] chat template places the system text in an unknown way"));
  }
  return chat;
}

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  return std::string(text, std::strftime(text, sizeof(text), "%d %b %Y", &local));
}

// bos_token and eos_token are strings or {"content": string}.
std::string TokenText(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string())
    return (*found)["content"].get<std::string>();
  return "";
}

// chat_template is a string, or a list of {"name", "template"} of which "default" counts.
std::string TemplateSource(const nlohmann::json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return "";
  for (const auto& entry : *found) {
    if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" && entry.contains("template") &&
        entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<ChatTemplate> RecogniseChatTemplate(std::string_view jinja, const std::string& bos,
                                                   const std::string& eos, const std::string& today,
                                                   const std::string& name) {
  // Quotes of one kind and real line ends, so that one look finds every spelling.
  const std::string source = absl::StrReplaceAll(std::string(jinja), {{"\"", "'"}, {"\\n", "\n"}});
  ChatTemplate chat;
  chat.bos = bos;
  chat.eos = eos;
  if (Has(source, "<|start_header_id|>") && Has(source, "<|eot_id|>")) {
    chat.family = ChatFamily::kLlama3;
    if (Has(source, "Cutting Knowledge Date: December 2023"))
      chat.date = Has(source, "strftime_now") ? today : "26 Jul 2024";
    return chat;
  }
  if (Has(source, "<|im_start|>") && Has(source, "<|im_end|>") && !Has(source, "<|im_sep|>")) {
    chat.family = ChatFamily::kChatMl;
    chat.default_system = DefaultSystem(source);
    chat.drops_thinking = Has(source, "last_query_index");
    chat.opens_thinking = Has(source, "<|im_start|>assistant\n<think>\n'");
    return chat;
  }
  if (Has(source, "[INST]") && Has(source, "<<SYS>>")) {
    chat.family = ChatFamily::kLlama2;
    return chat;
  }
  if (Has(source, "[INST]") && !Has(source, "[SYSTEM_PROMPT]")) return RecogniseMistral(source, chat, name);
  std::string shown(jinja.substr(0, 80));
  std::replace(shown.begin(), shown.end(), '\n', ' ');
  return absl::UnimplementedError(absl::StrCat(name,
                                               ": expected a chat template of Llama-2, Llama-3, Mistral v0.1 to v0.3 "
                                               "or Nemo, or ChatML; found one that begins \"",
                                               shown, "\""));
}

absl::StatusOr<ChatTemplate> ChatTemplateFor(const std::string& model_dir) {
  const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  const std::string jinja_path = absl::StrCat(model_dir, "/chat_template.jinja");
  std::error_code missing;
  if (!std::filesystem::exists(config_path, missing)) {
    return absl::NotFoundError(
        absl::StrCat(config_path, ": not found, and it would hold the chat template (is this a base model?)"));
  }
  const absl::StatusOr<std::string> text = ReadFile(config_path, kMostBytes);
  if (!text.ok()) return text.status();
  const absl::StatusOr<nlohmann::json> config = ParseJsonObject(*text, config_path);
  if (!config.ok()) return config.status();
  std::string source = TemplateSource(*config);
  std::string name = config_path;
  std::error_code ignored;
  if (std::filesystem::exists(jinja_path, ignored)) {  // newer folders keep it apart
    absl::StatusOr<std::string> jinja = ReadFile(jinja_path, kMostBytes);
    if (!jinja.ok()) return jinja.status();
    source = *std::move(jinja);
    name = jinja_path;
  }
  if (source.empty()) {
    return absl::NotFoundError(
        absl::StrCat(config_path, ": expected a chat_template, found none (is this a base model?)"));
  }
  return RecogniseChatTemplate(source, TokenText(*config, "bos_token"), TokenText(*config, "eos_token"), Today(), name);
}

}  // namespace duo
