#include "runtime/text/chat_frame.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

using Segments = std::vector<TextSegment>;

// What is said in the conversations that are rendered to see what stands around it.
constexpr char kAsked[] = "Which words did the user write?", kAnswered[] = "These were the answer's.",
               kAskedNext[] = "And which came after it?";

// Rendered segments cut at one text that somebody wrote: before it, and behind it.
struct CutAt {
  Segments before, behind;
};

std::optional<CutAt> Cut(const Segments& segments, std::string_view said) {
  for (size_t i = 0; i < segments.size(); ++i) {
    const TextSegment& segment = segments[i];
    const size_t at = segment.parse_special ? segment.text.npos : segment.text.find(said);
    if (at == segment.text.npos) continue;
    CutAt cut;
    cut.before.assign(segments.begin(), segments.begin() + static_cast<int64_t>(i));
    if (at > 0) cut.before.push_back({segment.text.substr(0, at), false});
    if (at + said.size() < segment.text.size()) cut.behind.push_back({segment.text.substr(at + said.size()), false});
    cut.behind.insert(cut.behind.end(), segments.begin() + static_cast<int64_t>(i) + 1, segments.end());
    return cut;
  }
  return std::nullopt;
}

absl::Status Changes(const ChatTemplate& chat) {
  return absl::UnimplementedError(
      absl::StrCat(chat.file(),
                   ": this template changes what users or the model write, so a conversation cannot be read as it "
                   "comes"));
}

absl::StatusOr<Segments> RenderTurns(const ChatTemplate& chat, const std::string& system,
                                     const std::vector<Message>& turns) {
  std::vector<Message> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.insert(messages.end(), turns.begin(), turns.end());
  return chat.Render(messages, /*add_generation_prompt=*/true);
}

}  // namespace

absl::StatusOr<std::vector<TextSegment>> PastAnswer(const ChatTemplate& chat, const std::string& system,
                                                    const std::string& answer) {
  std::string next = kAskedNext;
  while (answer.find(next) != answer.npos) next += '?';
  const absl::StatusOr<Segments> all =
      RenderTurns(chat, system, {{"user", kAsked}, {"assistant", answer}, {"user", next}});
  if (!all.ok()) return all.status();
  const std::optional<CutAt> first = Cut(*all, kAsked);
  std::optional<CutAt> second = first.has_value() ? Cut(first->behind, next) : std::nullopt;
  if (!second.has_value()) return Changes(chat);
  return std::move(second->before);
}

absl::StatusOr<ChatFrame> FrameOf(const ChatTemplate& chat, const std::string& system) {
  const auto render = [&](const std::vector<Message>& turns) { return RenderTurns(chat, system, turns); };
  const absl::StatusOr<Segments> one = render({{"user", kAsked}});
  if (!one.ok()) return one.status();
  std::optional<CutAt> first = Cut(*one, kAsked);
  if (!first.has_value()) return Changes(chat);
  ChatFrame frame;
  frame.before = std::move(first->before);
  frame.after = std::move(first->behind);

  const absl::StatusOr<Segments> spaced = render({{"user", absl::StrCat("  ", kAsked)}});
  if (!spaced.ok()) return spaced.status();
  frame.trims = !Cut(*spaced, absl::StrCat("  ", kAsked)).has_value();

  const absl::StatusOr<Segments> two = render({{"user", kAsked}, {"assistant", kAnswered}, {"user", kAskedNext}});
  frame.goes_on = two.status();
  if (!two.ok()) return frame;
  const std::optional<CutAt> answer = Cut(*two, kAnswered);
  std::optional<CutAt> next = answer.has_value() ? Cut(answer->behind, kAskedNext) : std::nullopt;
  if (!next.has_value()) frame.goes_on = Changes(chat);
  if (next.has_value()) frame.between = std::move(next->before);
  return frame;
}

}  // namespace duo
