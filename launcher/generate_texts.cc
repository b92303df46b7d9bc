#include "launcher/generate_texts.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/read_file.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/unicode/unicode.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

template <typename T>
absl::Status Assign(absl::StatusOr<T> from, T* to) {
  if (from.ok()) *to = *std::move(from);
  return from.status();
}

// With questions the prompt is read up to where no question can change its tokens; what is left of it comes with each
// of them, so that prompt and question have the tokens of one text.
absl::Status EncodePlain(const TextFlags& flags, const std::string& prompt, Texts* texts) {
  EncodeOptions options{.parse_special = flags.special};
  if (flags.asks.empty()) {
    if (absl::Status s = Assign(texts->tokenizer.Encode(prompt, options), &texts->prompt); !s.ok()) return s;
    if (texts->prompt.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
    return absl::OkStatus();
  }
  StableTokens stable;
  if (absl::Status s = Assign(texts->tokenizer.EncodeStable(prompt, options), &stable); !s.ok()) return s;
  texts->prompt = stable.ids;
  options.continued = stable.bytes > 0;
  for (const std::string& ask : flags.asks) {
    if (ask.empty()) return absl::InvalidArgumentError("--ask: the text is empty");
    texts->asks.emplace_back();
    const std::string text = prompt.substr(stable.bytes) + ask;
    if (absl::Status s = Assign(texts->tokenizer.Encode(text, options), &texts->asks.back()); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// What is left of segments behind their first `bytes`.
std::vector<TextSegment> Behind(const std::vector<TextSegment>& segments, size_t bytes) {
  std::vector<TextSegment> rest;
  for (const TextSegment& segment : segments) {
    const size_t skipped = std::min(bytes, segment.text.size());
    bytes -= skipped;
    if (skipped < segment.text.size()) rest.push_back({segment.text.substr(skipped), segment.parse_special});
  }
  return rest;
}

// NAME=VALUE: a value that is JSON is that, any other is a text.
absl::Status SetTemplateArgument(const std::string& argument, ChatTemplate* chat) {
  const size_t equals = argument.find('=');
  const std::string name = argument.substr(0, equals);
  for (const char* own : {"messages", "tools", "documents", "add_generation_prompt"}) {
    if (name == own)
      return absl::InvalidArgumentError(absl::StrCat("--template-arg: ", name, " is not for users to set"));
  }
  if (equals == std::string::npos || name.empty())
    return absl::InvalidArgumentError(absl::StrCat("--template-arg: expected NAME=VALUE, found \"", argument, "\""));
  const std::string value = argument.substr(equals + 1);
  auto parsed = nlohmann::ordered_json::parse(value, nullptr, /*allow_exceptions=*/false);
  chat->SetArgument(name, parsed.is_discarded() ? nlohmann::ordered_json(value) : parsed);
  return absl::OkStatus();
}

// The prompt is a user turn, or a file has the turns; with questions each of them ends that turn instead, on a fork of
// what is before it.
absl::Status EncodeChat(const std::string& model, const TextFlags& flags, const std::string& prompt, Texts* texts) {
  absl::StatusOr<ChatTemplate> chat = ChatTemplateFor(model);
  if (!chat.ok()) return chat.status();
  for (const std::string& argument : flags.template_arguments) {
    if (absl::Status set = SetTemplateArgument(argument, &*chat); !set.ok()) return set;
  }
  auto prepare = [&](std::vector<TextSegment> segments) {
    for (TextSegment& segment : segments) {
      segment.text = ReplaceInvalidUtf8(segment.text);
      segment.parse_special |= flags.special;
    }
    return segments;
  };
  if (!flags.messages_file.empty()) {
    absl::StatusOr<Conversation> conversation = ParseConversation(prompt, flags.messages_file);
    if (!conversation.ok()) return conversation.status();
    absl::StatusOr<std::vector<TextSegment>> turns = chat->Render(*conversation, true);
    if (!turns.ok()) return turns.status();
    if (absl::Status s = Assign(texts->tokenizer.EncodeSegments(prepare(*turns)), &texts->prompt); !s.ok()) return s;
  } else if (flags.asks.empty()) {
    std::vector<Message> messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", prompt});
    absl::StatusOr<std::vector<TextSegment>> turns = chat->Render(messages, true);
    if (!turns.ok()) return turns.status();
    if (absl::Status s = Assign(texts->tokenizer.EncodeSegments(prepare(*turns)), &texts->prompt); !s.ok()) return s;
  } else {
    absl::StatusOr<DocumentTurns> turns = RenderQuestions(*chat, flags.system, prompt, flags.asks);
    if (!turns.ok()) return absl::Status(turns.status().code(), absl::StrCat("--ask: ", turns.status().message()));
    const std::vector<TextSegment> document = prepare(turns->document);
    StableTokens stable;
    if (absl::Status s = Assign(texts->tokenizer.EncodeStable(document), &stable); !s.ok()) return s;
    texts->prompt = stable.ids;
    for (const std::vector<TextSegment>& question : turns->questions) {
      std::vector<TextSegment> turn = Behind(document, stable.bytes);
      for (TextSegment& segment : prepare(question)) turn.push_back(std::move(segment));
      texts->asks.emplace_back();
      absl::Status s = Assign(texts->tokenizer.EncodeSegments(turn, /*add_special_tokens=*/false, stable.bytes > 0),
                              &texts->asks.back());
      if (!s.ok()) return s;
    }
  }
  if (std::optional<int32_t> id = chat->EndOfTurn(texts->tokenizer)) texts->end_tokens.push_back(*id);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Texts> EncodeTexts(const std::string& model, const TextFlags& flags) {
  Texts texts;
  absl::StatusOr<std::string> prompt = flags.prompt;
  const std::string& file = flags.messages_file.empty() ? flags.prompt_file : flags.messages_file;
  if (!file.empty()) prompt = ReadFile(file);
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<ModelConfig> config = LoadConfig(model);
  if (!config.ok()) return config.status();
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(model + "/tokenizer.json");
  if (!tokenizer.ok()) return tokenizer.status();
  texts.tokenizer = std::move(*tokenizer);
  if (prompt->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.empty() ? std::string("--prompt") : file, ": the prompt is empty"));
  }
  absl::Status encoded = flags.chat || !flags.messages_file.empty() ? EncodeChat(model, flags, *prompt, &texts)
                                                                    : EncodePlain(flags, *prompt, &texts);
  if (!encoded.ok()) return encoded;
  std::vector<std::vector<int32_t>> all = texts.asks;
  all.push_back(texts.prompt);
  for (const std::vector<int32_t>& ids : all) {
    for (int32_t id : ids) {
      if (id >= config->vocab) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "%s/tokenizer.json: token %d is outside the model's vocabulary of %d", model, id, config->vocab));
      }
    }
  }
  absl::StatusOr<std::vector<int>> stops = StopTokens(model, *config);
  if (!stops.ok()) return stops.status();
  texts.end_tokens.insert(texts.end_tokens.end(), stops->begin(), stops->end());
  return texts;
}

}  // namespace duo
