#include "runtime/text/session_text.h"

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

absl::StatusOr<ChatFrame> Frame(const std::string& jinja, const std::string& system = "") {
  const ChatTemplateSource source{"", "m", jinja};
  return FrameOf(ChatTemplate({&source, 1}, {{"eos_token", "</s>"}}), system);
}

std::string Joined(std::span<const TextSegment> segments) {
  std::string text;
  for (const TextSegment& s : segments) text += s.parse_special ? "[" + s.text + "]" : s.text;
  return text;
}

constexpr char kTurns[] =
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

TEST(ChatFrame, HasTheTemplatesWordsAroundWhatIsSaid) {
  const ChatFrame frame = Frame(kTurns, "Be brief.").value();
  EXPECT_EQ(Joined(frame.before), "[<system>]Be brief.[</s><user>]");
  EXPECT_EQ(Joined(frame.after), "[</s><assistant>]");
  EXPECT_EQ(Joined(frame.between), "[</s><user>]");
  EXPECT_TRUE(frame.goes_on.ok()) << frame.goes_on;
  EXPECT_FALSE(frame.trims);
  EXPECT_TRUE(Frame("{{ messages[0].content | trim }}").value().trims);
}

TEST(ChatFrame, SaysWhichTemplatesItIsNotOf) {
  const absl::Status changes = Frame("{{ messages[0].content | upper }}").status();
  EXPECT_EQ(changes.code(), absl::StatusCode::kUnimplemented) << changes;
  const ChatFrame once =
      Frame("{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}")
          .value();
  EXPECT_FALSE(once.goes_on.ok());
  SessionText text;
  text.chat = text.answered = true;
  EXPECT_EQ(AddDocument(&once, "more", false, &text), once.goes_on);
}

TEST(SessionText, ATurnIsADocumentABlankLineAndAQuestion) {
  const ChatFrame frame = Frame(kTurns).value();
  for (const std::string document : {"", "D", "D\n", "D\n\n", "D\n\n\n"}) {
    SessionText text;
    text.chat = true;
    for (const char c : document) ASSERT_TRUE(AddDocument(&frame, std::string(1, c), false, &text).ok());
    ASSERT_TRUE(AddQuestion(&frame, " Q \n", false, &text).ok());
    BeginAnswer(frame, &text);
    const std::string gap = document.empty() || document.ends_with("\n\n") ? "" : document == "D" ? "\n\n" : "\n";
    EXPECT_EQ(Joined(text.tail), absl::StrCat("[<user>]", document, gap, "Q[</s><assistant>]"));
  }
}

TEST(SessionText, WhiteSpaceThatIsDroppedMayComeInPieces) {
  const ChatFrame frame = Frame("{{ messages[0].content | trim }}").value();
  for (const std::string said : {"\u3000D", "\u00e4D"}) {
    SessionText text;
    text.chat = true;
    for (const char c : said) ASSERT_TRUE(AddDocument(&frame, std::string(1, c), false, &text).ok());
    EXPECT_EQ(Joined(text.tail), said == "\u3000D" ? "D" : said);
  }
}

TEST(SessionText, ACharacterIsOfTheSegmentThatBeginsIt) {
  const std::string emoji = "\U0001f600";
  SessionText text;
  AddText("a" + emoji.substr(0, 2), false, &text);
  AddText(emoji.substr(2) + "<s>", true, &text);
  AddText("", false, &text);
  ASSERT_EQ(text.tail.size(), 2u);
  EXPECT_EQ(text.tail[0].text, "a" + emoji);
  EXPECT_EQ(text.tail[1].text, "<s>");
  EXPECT_EQ(text.tail_bytes(), 8);
}

}  // namespace
}  // namespace duo
