// What an answer's text is told as, however it is cut.
#include "runtime/text/answer_parts.h"

#include <gtest/gtest.h>

#include <random>

namespace duo {
namespace {

using Kind = AnswerPart::Kind;
using Tools = AnswerForm::Tools;

// The parts with neighbours of one kind joined.
std::vector<AnswerPart> Join(std::vector<AnswerPart> joined, const std::vector<AnswerPart>& more) {
  for (const AnswerPart& part : more) {
    if (!joined.empty() && part.kind != Kind::kToolCall && joined.back().kind == part.kind) {
      joined.back().text += part.text;
    } else {
      joined.push_back(part);
    }
  }
  return joined;
}

std::vector<AnswerPart> PartsOf(const AnswerForm& form, const std::string& text, const std::vector<size_t>& cuts) {
  AnswerParts parts(form);
  std::vector<AnswerPart> all;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    all = Join(std::move(all), parts.Push(text.substr(begin, cut - begin)));
    begin = cut;
  }
  all = Join(std::move(all), parts.Push(text.substr(begin)));
  return Join(std::move(all), parts.Flush());
}

const AnswerForm kHermes{true, false, Tools::kHermes}, kLlama{false, false, Tools::kLlama3},
    kThinking{true, true, Tools::kNone}, kPlain{};

struct Case {
  AnswerForm form;
  std::string text;
  std::vector<AnswerPart> parts;
};

std::vector<Case> Cases() {
  return {
      {kPlain, " <think>no</think> {\"name\":1}", {{Kind::kContent, " <think>no</think> {\"name\":1}"}}},
      {kThinking,
       "\nfirst\n\n</think>\n\nthen <think>x",
       {{Kind::kReasoning, "first"}, {Kind::kContent, "then <think>x"}}},
      {kThinking, "never ends </thin", {{Kind::kReasoning, "never ends </thin"}}},
      {kHermes, "<think>\na</think>b", {{Kind::kReasoning, "a"}, {Kind::kContent, "b"}}},
      {kHermes, "<thin air>", {{Kind::kContent, "<thin air>"}}},
      {kHermes,
       "Let me look.\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"q\": \"</tool\", \"n\": 2}}\n</tool_call>\n"
       "<tool_call>{\"name\":\"stop\"}</tool_call>\n",
       {{Kind::kContent, "Let me look."},
        {Kind::kToolCall, R"({"q":"</tool","n":2})", "find"},
        {Kind::kToolCall, "{}", "stop"}}},
      {kHermes, "a <tool_call>no call</tool_call> b", {{Kind::kContent, "a<tool_call>no call</tool_call> b"}}},
      {kHermes, "<tool_call>{\"name\":\"cut\",\"argum", {{Kind::kContent, "<tool_call>{\"name\":\"cut\",\"argum"}}},
      {kLlama,
       " {\"name\": \"find\", \"parameters\": {\"q\": \"a;b\"}}",
       {{Kind::kToolCall, R"({"q":"a;b"})", "find"}}},
      {kLlama,
       R"({"name":"a","parameters":{}}; {"name":"b","parameters":{"x":1}})",
       {{Kind::kToolCall, "{}", "a"}, {Kind::kToolCall, R"({"x":1})", "b"}}},
      {kLlama, "{\"an\": \"object\"}", {{Kind::kContent, "{\"an\": \"object\"}"}}},
      {kLlama, "plain {\"name\":\"x\"}", {{Kind::kContent, "plain {\"name\":\"x\"}"}}},
  };
}

TEST(AnswerParts, AreReadFromTheText) {
  for (const Case& c : Cases()) EXPECT_EQ(PartsOf(c.form, c.text, {}), c.parts) << c.text;
}

TEST(AnswerParts, DoNotDependOnHowTheTextIsCut) {
  std::mt19937 rng(3);
  for (const Case& c : Cases()) {
    std::vector<size_t> every;
    for (size_t i = 1; i < c.text.size(); ++i) {
      every.push_back(i);
      EXPECT_EQ(PartsOf(c.form, c.text, {i}), c.parts) << c.text << " cut at " << i;
    }
    EXPECT_EQ(PartsOf(c.form, c.text, every), c.parts) << c.text << " byte by byte";
  }
  // Texts of pieces that matter, nested and broken.
  const std::string pieces[] = {
      "<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\":\"f\",\"arguments\":{}}",
      "{",       "}",        " ",           "\n",           "word",
      "<",       "</",       ";",           "\"",           "think>"};
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (size_t i = 1 + rng() % 9; i > 0; --i) text += pieces[rng() % std::size(pieces)];
    for (const AnswerForm& form : {kHermes, kLlama, kThinking}) {
      const std::vector<AnswerPart> whole = PartsOf(form, text, {});
      std::vector<size_t> cuts;
      for (size_t i = 1; i < text.size(); ++i) {
        if (rng() % 3 == 0) cuts.push_back(i);
      }
      ASSERT_EQ(PartsOf(form, text, cuts), whole) << text;
    }
  }
}

TEST(AnswerParts, TheFormIsThatOfTheTemplate) {
  EXPECT_TRUE(AnswerFormOf("..<tool_call>..").tools == Tools::kHermes);
  EXPECT_TRUE(AnswerFormOf("Environment: ipython ..{\"name\": .., \"parameters\": ..}").tools == Tools::kLlama3);
  EXPECT_TRUE(AnswerFormOf("content.split('</think>')").reasoning);
  EXPECT_FALSE(AnswerFormOf("plain").reasoning);
}

}  // namespace
}  // namespace duo
