#include "runtime/identify/passkey_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/source_dir.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

// Four fifths of the haystack say "training", the rest "reserved".
std::string Haystack() {
  std::string text;
  for (int i = 0; i < 2000; ++i) {
    text += (i < 1580 ? "training line number " : "reserved line number ") + std::to_string(i) + "\n";
  }
  return text;
}

const Tokenizer& DemoTokenizer() {
  static const auto tokenizer = Tokenizer::Load(SourceDir() + "/launcher/demo/needle-6m/tokenizer.json");
  EXPECT_TRUE(tokenizer.ok());
  return *tokenizer;
}

ChatTemplate ChatMl() {
  const ChatTemplateSource source{
      "", "chatml",
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"};
  return ChatTemplate({&source, 1}, {});
}

PasskeyData Make(RecallTask task, bool chat) {
  PasskeyOptions options;
  options.task = task;
  options.words = 6;
  auto data = PasskeyData::Create(DemoTokenizer(), chat ? std::optional(ChatMl()) : std::nullopt, Haystack(), options);
  EXPECT_TRUE(data.ok()) << data.status();
  return std::move(*data);
}

std::string Text(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) {
  return DemoTokenizer().Decode({tokens.data() + begin, static_cast<size_t>(end - begin)});
}

class PasskeyDataTest : public testing::TestWithParam<std::tuple<RecallTask, bool>> {
 protected:
  PasskeyData data_ = Make(std::get<0>(GetParam()), std::get<1>(GetParam()));
};

TEST_P(PasskeyDataTest, EveryAnswerStandsInTheDocumentAndAfterItsQuestion) {
  const PasskeySample sample = data_.Sample(3, 5, 1500);
  const std::string document = Text(sample.tokens, 0, sample.first_label);
  ASSERT_EQ(sample.answers.size(), 10u);
  int64_t before = sample.first_label;
  for (const PasskeySample::Range& answer : sample.answers) {
    const std::string hidden = Text(sample.tokens, answer.begin, answer.end);
    EXPECT_TRUE(Contains(document, hidden));
    // All labels are questions, what leads up to an answer, and answers: the range just before holds a question.
    EXPECT_TRUE(Contains(Text(sample.tokens, before, answer.begin), "?"));
    EXPECT_GT(answer.begin, before);
    before = answer.end;
  }
  EXPECT_LE(before, static_cast<int64_t>(sample.tokens.size()));
  EXPECT_TRUE(Contains(document, "training line"));
  EXPECT_EQ(document.find("reserved line"), std::string::npos);
}

TEST_P(PasskeyDataTest, LengthsAndDepthsAreAsAsked) {
  std::set<double> depths;
  for (const int64_t length : {data_.min_document_tokens(), int64_t{1000}, int64_t{2777}}) {
    for (int64_t index = 0; index < 8; ++index) {
      const PasskeySample sample = data_.Sample(0, index, length);
      // A fact at the head of a line needs no newline before it: up to one token a fact less; the opening comes on top.
      EXPECT_GE(sample.first_label, length - 10);
      EXPECT_LE(sample.first_label, length + 16);
      EXPECT_LE(static_cast<int64_t>(sample.tokens.size()) - sample.first_label, data_.max_question_tokens());
      ASSERT_EQ(sample.depths.size(), 10u);
      EXPECT_TRUE(std::is_sorted(sample.depths.begin(), sample.depths.end()));
      if (length < 2000) continue;  // where facts fill the document they push each other
      EXPECT_GE(sample.depths.front(), 0.03);
      EXPECT_LE(sample.depths.back(), 0.97);
      depths.insert(sample.depths.begin(), sample.depths.end());
    }
  }
  EXPECT_GT(depths.size(), 70u) << "depths differ from sample to sample";
  EXPECT_LT(*depths.begin(), 0.15);
  EXPECT_GT(*depths.rbegin(), 0.85);
}

TEST_P(PasskeyDataTest, ASampleFollowsFromSeedAndNumber) {
  const PasskeySample a = data_.Sample(1, 2, 1200);
  EXPECT_EQ(a.tokens, data_.Sample(1, 2, 1200).tokens);
  EXPECT_NE(a.tokens, data_.Sample(1, 3, 1200).tokens);
  EXPECT_NE(a.tokens, data_.Sample(2, 2, 1200).tokens);
}

TEST_P(PasskeyDataTest, HeldOutDocumentsAreOfTextThatSamplesLeaveAlone) {
  const PasskeyDocument document = data_.HeldOut(0, 0, 1500);
  const std::string text = DemoTokenizer().Decode(document.tokens);
  EXPECT_TRUE(Contains(text, "reserved line"));
  EXPECT_EQ(text.find("training line"), std::string::npos);
  ASSERT_EQ(document.questions.size(), 10u);
  for (size_t i = 0; i < document.questions.size(); ++i) {
    const PasskeyDocument::Question& question = document.questions[i];
    EXPECT_TRUE(Contains(text, question.answer));
    EXPECT_TRUE(Contains(DemoTokenizer().Decode(question.tokens), "?"));
    EXPECT_NEAR(question.depth, 0.05 + 0.9 * (static_cast<double>(i) + 0.5) / 10, 0.06);
  }
}

INSTANTIATE_TEST_SUITE_P(tasks, PasskeyDataTest,
                         testing::Combine(testing::Values(RecallTask::kPasskey, RecallTask::kNeedle), testing::Bool()),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) ? "Chat" : "Plain");
                         });

// What launcher/demo/needle_document.py writes, which is what the demo model was trained on.
TEST(PasskeyData, NeedlesReadAsTheDemoModelKnowsThem) {
  const PasskeyDocument document = Make(RecallTask::kNeedle, false).HeldOut(0, 0, 1500);
  const std::string question = DemoTokenizer().Decode(document.questions[0].tokens);
  const std::string begin = "\nQuestion: What is the passcode for the ", end = "?\nAnswer: ";
  ASSERT_TRUE(question.starts_with(begin) && question.ends_with(end)) << question;
  const std::string key = question.substr(begin.size(), question.size() - begin.size() - end.size());
  EXPECT_TRUE(Contains(DemoTokenizer().Decode(document.tokens),
                       "\nNote: the passcode for the " + key + " is " + document.questions[0].answer + ".\n"));
}

TEST(PasskeyData, ATextTooShortIsRefused) {
  const auto data = PasskeyData::Create(DemoTokenizer(), std::nullopt, "Too short.\n", {});
  ASSERT_FALSE(data.ok());
  EXPECT_TRUE(Contains(data.status().message(), "--haystack"));
}

TEST(PasskeyData, LengthsAreSpreadEvenly) {
  for (const uint64_t seed : {0, 9}) {
    std::multiset<int64_t> lengths, second;
    for (int64_t i = 0; i < kLengths; ++i) {
      lengths.insert(SampleLength(seed, i, 1000, 32000));
      second.insert(SampleLength(seed, kLengths + i, 1000, 32000));
    }
    EXPECT_EQ(lengths, second);
    EXPECT_EQ(*lengths.begin(), 1000);
    EXPECT_EQ(*lengths.rbegin(), 32000);
    int64_t before = -1;
    for (const int64_t length : lengths) {
      if (before >= 0) {
        EXPECT_NEAR(static_cast<double>(length - before), 31000.0 / 49, 1);
      }
      before = length;
    }
  }
  EXPECT_EQ(SampleLength(4, 123, 700, 700), 700);
}

}  // namespace
}  // namespace duo
