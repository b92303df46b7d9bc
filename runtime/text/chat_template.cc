#include "runtime/text/chat_template.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

using Segments = std::vector<TextSegment>;

// What transformers does to a message before a template sees it: keys without a value go, and reasoning is there under
// each of the names that templates know.
nlohmann::ordered_json Prepared(const nlohmann::ordered_json& message) {
  nlohmann::ordered_json kept = nlohmann::ordered_json::object();
  for (const auto& [key, value] : message.items()) {
    if (!value.is_null()) kept[key] = value;
  }
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = kept.find(name);
    if (found == kept.end()) continue;
    const nlohmann::ordered_json reasoning = *found;
    nlohmann::ordered_json out = nlohmann::ordered_json::object();
    out["thinking"] = reasoning;
    for (const auto& [key, value] : kept.items()) out[key] = value;
    out["reasoning_content"] = reasoning;
    return out;
  }
  return kept;
}

// What Python's str.strip() and Jinja's trim remove: white space and the four ASCII separators.
bool IsStripped(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

Conversation ConversationOf(std::span<const Message> messages) {
  Conversation conversation;
  for (const Message& message : messages) {
    conversation.messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return conversation;
}

bool SameSegments(const Segments& a, const Segments& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const TextSegment& x, const TextSegment& y) {
    return x.text == y.text && x.parse_special == y.parse_special;
  });
}

}  // namespace

std::string_view TrimmedText(std::string_view text, bool right) { return Stripped(text, true, right, IsStripped); }

ChatTemplate::ChatTemplate(std::span<const ChatTemplateSource> sources,
                           std::vector<std::pair<std::string, std::string>> tokens)
    : tokens_(std::move(tokens)) {
  for (const ChatTemplateSource& source : sources) {
    templates_.push_back({source.name, source.file, jinja::Template::Parse(source.jinja, source.file)});
    absl::StrAppend(&source_, source.jinja, "\n");
  }
}

absl::StatusOr<const jinja::Template*> ChatTemplate::Choose(bool with_tools) const {
  const Named* chosen = templates_.size() == 1 && templates_[0].name.empty() ? &templates_[0] : nullptr;
  std::string names;
  for (const Named& named : templates_) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", named.name);
    if (named.name == "default" && chosen == nullptr) chosen = &named;
    if (named.name == "tool_use" && with_tools) chosen = &named;
  }
  if (chosen == nullptr) {
    return absl::NotFoundError(absl::StrCat(templates_.empty() ? "" : file(),
                                            ": expected a chat template named default, found these: ", names));
  }
  if (!chosen->parsed.ok()) return chosen->parsed.status();
  return &*chosen->parsed;
}

absl::Status ChatTemplate::status() const { return Choose(false).status(); }

absl::StatusOr<Segments> ChatTemplate::Render(const Conversation& conversation, bool add_generation_prompt) const {
  if (conversation.messages.empty()) return absl::InvalidArgumentError("a conversation needs at least one message");
  const absl::StatusOr<const jinja::Template*> chosen = Choose(!conversation.tools.is_null());
  if (!chosen.ok()) return chosen.status();
  jinja::Inputs inputs;
  inputs.given = arguments_;
  nlohmann::ordered_json& messages = inputs.given["messages"] = nlohmann::ordered_json::array();
  for (const auto& message : conversation.messages) messages.push_back(Prepared(message));
  inputs.given["tools"] = conversation.tools;
  inputs.given["documents"] = conversation.documents;
  inputs.given["add_generation_prompt"] = add_generation_prompt;
  inputs.own = tokens_;
  inputs.clock = clock_;
  absl::StatusOr<std::vector<jinja::Piece>> pieces = (*chosen)->Render(inputs);
  if (!pieces.ok()) return pieces.status();
  Segments segments;
  for (jinja::Piece& piece : *pieces) segments.push_back({std::move(piece.text), !piece.given});
  return segments;
}

absl::StatusOr<Segments> ChatTemplate::Render(std::span<const Message> messages, bool add_generation_prompt) const {
  return Render(ConversationOf(messages), add_generation_prompt);
}

std::optional<int32_t> ChatTemplate::EndOfTurn(const Tokenizer& tokenizer) const {
  const std::string answer = "The answer.";
  const std::vector<Message> talk = {{"user", "A question?"}, {"assistant", answer}};
  if (const absl::StatusOr<Segments> rendered = Render(talk, false); rendered.ok()) {
    const auto found = std::find_if(rendered->rbegin(), rendered->rend(), [&](const TextSegment& s) {
      return !s.parse_special && s.text.find(answer) != std::string::npos;
    });
    if (found != rendered->rend()) {
      const std::vector<TextSegment> behind(found.base(), rendered->end());
      const absl::StatusOr<std::vector<int32_t>> ids = tokenizer.EncodeSegments(behind);
      if (ids.ok()) {
        const auto end = std::find_if(ids->begin(), ids->end(), [&](int32_t id) { return tokenizer.is_special(id); });
        if (end != ids->end()) return *end;
      }
    }
  }
  for (const auto& [name, text] : tokens_) {
    if (name == "eos_token") return tokenizer.IdOf(text);
  }
  return std::nullopt;
}

absl::StatusOr<DocumentTurns> RenderQuestions(const ChatTemplate& chat, const std::string& system,
                                              const std::string& document, std::span<const std::string> questions) {
  const char* gap = document.ends_with("\n\n") ? "" : document.ends_with('\n') ? "\n" : "\n\n";
  DocumentTurns turns;
  for (const std::string& asked : questions) {
    const std::string repaired = ReplaceInvalidUtf8(asked), question(TrimmedText(repaired));
    if (question.empty()) return absl::InvalidArgumentError("the question is empty");
    std::vector<Message> messages;
    if (!system.empty()) messages.push_back({"system", system});
    messages.push_back({"user", absl::StrCat(document, gap, question)});
    absl::StatusOr<Segments> rendered = chat.Render(messages, true);
    if (!rendered.ok()) return rendered.status();
    // The turn's text ends with the question, whatever the template trims.
    const auto turn = std::find_if(rendered->rbegin(), rendered->rend(), [&](const TextSegment& s) {
      return !s.parse_special && s.text.ends_with(question);
    });
    if (turn == rendered->rend()) {
      return absl::UnimplementedError(absl::StrCat(
          chat.file(), ": this template changes what users write, so a document cannot be read before its question"));
    }
    const auto at = turn.base() - rendered->begin();  // the segment after the turn
    turn->text.resize(turn->text.size() - question.size());
    Segments before(rendered->begin(), rendered->begin() + at);
    if (turns.questions.empty()) {
      turns.document = std::move(before);
    } else if (!SameSegments(turns.document, before)) {
      return absl::UnimplementedError(absl::StrCat(
          chat.file(), ": what this template writes before a document depends on the question, so ask one at a time"));
    }
    Segments& rest = turns.questions.emplace_back();
    rest.push_back({question, false});
    rest.insert(rest.end(), rendered->begin() + at, rendered->end());
  }
  return turns;
}

}  // namespace duo
