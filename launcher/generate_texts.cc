#include "launcher/generate_texts.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/terminal/prompt_file.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/text/unicode/unicode.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

template <typename T>
absl::Status Assign(absl::StatusOr<T> from, T* to) {
  if (!from.ok()) return from.status();
  *to = *std::move(from);
  return absl::OkStatus();
}

// With questions the prompt is read up to where no question can change its tokens; what is left of it comes with each
// of them, so that prompt and question have the tokens of one text.
absl::Status EncodePlain(const TextFlags& flags, const std::string& prompt, Texts* texts) {
  EncodeOptions options{.parse_special = flags.special};
  texts->read = ReplaceInvalidUtf8(prompt);
  if (flags.asks.empty()) {
    if (absl::Status s = Assign(texts->tokenizer.Encode(prompt, options), &texts->prompt); !s.ok()) return s;
    texts->rendered = prompt;
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
    const std::vector<TextSegment> segments = prepare(*turns);
    for (const TextSegment& segment : segments) texts->rendered += segment.text;
    if (absl::Status s = Assign(texts->tokenizer.EncodeSegments(segments), &texts->prompt); !s.ok()) return s;
  } else if (flags.asks.empty()) {
    std::vector<Message> messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", prompt});
    absl::StatusOr<std::vector<TextSegment>> turns = chat->Render(messages, true);
    if (!turns.ok()) return turns.status();
    const std::vector<TextSegment> segments = prepare(*turns);
    for (const TextSegment& segment : segments) texts->rendered += segment.text;
    if (absl::Status s = Assign(texts->tokenizer.EncodeSegments(segments), &texts->prompt); !s.ok()) return s;
  } else {
    absl::StatusOr<DocumentTurns> turns = RenderQuestions(*chat, flags.system, prompt, flags.asks);
    if (!turns.ok()) return absl::Status(turns.status().code(), absl::StrCat("--ask: ", turns.status().message()));
    const std::vector<TextSegment> document = prepare(turns->document);
    for (const TextSegment& segment : document) texts->read += segment.text;
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

// The longest beginning of a text that has at most `most` tokens, in bytes.
absl::StatusOr<size_t> BytesOfTokens(const Tokenizer& tokenizer, std::string_view text, int64_t most) {
  const auto fits = [&](size_t bytes) -> absl::StatusOr<bool> {
    const absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text.substr(0, bytes), {});
    if (!ids.ok()) return ids.status();
    return static_cast<int64_t>(ids->size()) <= most;
  };
  // A token has a byte at least, nearly always; most texts have more than two.
  size_t low = 0, high = std::min(text.size(), static_cast<size_t>(most) * 2);
  absl::StatusOr<bool> all = fits(high);
  while (all.ok() && *all) {
    if (high == text.size()) return high;
    low = high;
    high = std::min(text.size(), high * 2);
    all = fits(high);
  }
  while (all.ok() && low + 1 < high) {
    const size_t middle = low + (high - low) / 2;
    all = fits(middle);
    if (all.ok()) (*all ? low : high) = middle;
  }
  if (!all.ok()) return all.status();
  return CertainUtf8Prefix(text.substr(0, low));
}

// texts.sent is the prompt.
absl::Status Encode(const std::string& model, const TextFlags& flags, Texts* texts) {
  const bool chat = flags.chat || !flags.messages_file.empty();
  return chat ? EncodeChat(model, flags, texts->sent, texts) : EncodePlain(flags, texts->sent, texts);
}

}  // namespace

absl::Status AskOtherwise(const std::string& model, const TextFlags& flags, Texts* texts) {
  Texts other;
  other.tokenizer = texts->tokenizer;
  other.sent = texts->sent;
  if (absl::Status s = Encode(model, flags, &other); !s.ok()) return s;
  texts->asks = std::move(other.asks);
  return absl::OkStatus();
}

absl::StatusOr<Texts> EncodeTexts(const std::string& model, const TextFlags& flags) {
  Texts texts;
  absl::StatusOr<std::string> prompt = flags.prompt;
  const std::string& file = flags.messages_file.empty() ? flags.prompt_file : flags.messages_file;
  if (!file.empty()) prompt = ReadTextFile(file);
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<ModelConfig> config = LoadConfig(model);
  if (!config.ok()) return config.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(model, config->vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  texts.tokenizer = std::move(*tokenizer);
  if (prompt->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.empty() ? std::string("--prompt") : file, ": the prompt is empty"));
  }
  if (flags.max_tokens > 0) {
    const absl::StatusOr<size_t> kept = BytesOfTokens(texts.tokenizer, *prompt, flags.max_tokens);
    if (!kept.ok()) return kept.status();
    texts.cut_bytes = prompt->size() - *kept;
    prompt->resize(*kept);
  }
  texts.sent = *prompt;
  if (absl::Status s = Encode(model, flags, &texts); !s.ok()) return s;
  if (texts.read.empty()) texts.read = texts.rendered;
  absl::StatusOr<std::vector<int>> stops = StopTokens(model, *config);
  if (!stops.ok()) return stops.status();
  texts.end_tokens.insert(texts.end_tokens.end(), stops->begin(), stops->end());
  return texts;
}

}  // namespace duo
