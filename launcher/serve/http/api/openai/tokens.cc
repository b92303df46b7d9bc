#include "launcher/serve/http/api/openai/tokens.h"

#include "kernels/base/read_file.h"
#include "launcher/serve/http/api/openai/chat.h"
#include "runtime/gguf/folder_texts.h"

namespace duo::http {
namespace {

constexpr size_t kMostConfigBytes = 64 << 20;

absl::StatusOr<std::vector<int32_t>> ReadTokens(const Service& service, Body& body) {
  const std::optional<std::string> prompt = body.String("prompt");
  const Json* messages = body.Find("messages");
  const bool special = body.Bool("add_special_tokens", !body.Has("messages"));
  const bool generation = body.Bool("add_generation_prompt", true);
  const Json* arguments = body.Find("chat_template_kwargs");
  if (!body.status().ok()) return body.status();
  if (prompt.has_value() == (messages != nullptr)) return FieldError("prompt", "give prompt or messages, one of them");
  if (messages != nullptr) return EncodeChat(service, *messages, Json(), arguments, generation);
  return service.calls.load()->tokenizer->Encode(*prompt,
                                                 EncodeOptions{.parse_special = true, .add_special_tokens = special});
}

absl::StatusOr<std::string> TokenizerConfigText(const std::string& model) {
  if (!IsGgufPath(model)) return ReadFile(model + "/tokenizer_config.json", kMostConfigBytes);
  const absl::StatusOr<GgufFile> file = GgufFile::Open(model);
  return file.ok() ? GgufTokenizerConfigJson(*file) : file.status();
}

}  // namespace

absl::StatusOr<Json> TokenizeText(Service& service, Body& body) {
  body.String("model");
  const bool strings = body.Bool("return_token_strs", false);
  const absl::StatusOr<std::vector<int32_t>> tokens = ReadTokens(service, body);
  if (!tokens.ok()) return tokens.status();
  Json answer = {{"count", tokens->size()},
                 {"max_model_len", service.limits.window},
                 {"tokens", *tokens},
                 {"token_strs", nullptr}};
  if (!strings) return answer;
  answer["token_strs"] = Json::array();
  for (int32_t token : *tokens) {
    answer["token_strs"].push_back(std::string(service.calls.load()->tokenizer->TextOf(token)));
  }
  return answer;
}

absl::StatusOr<Json> DetokenizeTokens(Service& service, Body& body) {
  body.String("model");
  const CallContext& context = *service.calls;
  if (!body.Has("tokens")) return FieldError("tokens", "tokens is missing");
  const std::vector<int32_t> tokens = body.Tokens("tokens");
  if (!body.status().ok()) return body.status();
  if (absl::Status s = context.CheckTokens(tokens); !s.ok()) return FieldError("tokens", s.message());
  return Json{{"prompt", context.tokenizer->Decode(tokens, /*skip_special=*/false)}};
}

Json ReadTokenizerInfo(const std::string& model_dir) {
  Json info = {{"tokenizer_class", "duo"}, {"bos_token", nullptr}, {"eos_token", nullptr}, {"pad_token", nullptr}};
  const absl::StatusOr<std::string> text = TokenizerConfigText(model_dir);
  if (!text.ok()) return info;
  const absl::StatusOr<Json> config = ParseBody(*text);
  if (!config.ok()) return info;
  for (const char* name : {"tokenizer_class", "bos_token", "eos_token", "pad_token", "unk_token", "chat_template",
                           "model_max_length", "add_bos_token", "add_eos_token"}) {
    const auto found = config->find(name);
    if (found == config->end()) continue;
    const bool spelled = found->is_object() && found->contains("content");
    info[name] = spelled ? (*found)["content"] : *found;
  }
  return info;
}

}  // namespace duo::http
