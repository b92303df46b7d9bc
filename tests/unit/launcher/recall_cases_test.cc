// What `duo bench recall` asks and how it judges.
#include "launcher/bench/recall_cases.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

namespace duo {
namespace {

TEST(RecallCases, PredictionsAreJudgedInOrderOrInAny) {
  const std::vector<int32_t> tokens = {9, 9, 5, 6, 7, 9};
  const InsideQuestion ordered{"note", 2, 3, false}, any{"list", 2, 3, true};
  EXPECT_TRUE(PredictedRight(ordered, tokens, {5, 6, 7}));
  EXPECT_FALSE(PredictedRight(ordered, tokens, {5, 7, 7}));
  EXPECT_TRUE(PredictedRight(any, tokens, {7, 7, 7}));   // each is still to come
  EXPECT_FALSE(PredictedRight(any, tokens, {7, 5, 7}));  // 5 has been there
  EXPECT_FALSE(PredictedRight(any, tokens, {9, 6, 7}));
}

TEST(RecallCases, AnswersAreTheFirstLine) {
  const AskedQuestion note{"note", "", " bad dek", false}, list{"list", "", " a b c", true};
  EXPECT_TRUE(AnsweredRight(note, " bad dek\n ask"));
  EXPECT_TRUE(AnsweredRight(note, "bad dek.\n"));
  EXPECT_FALSE(AnsweredRight(note, " bad dek gub\n"));
  EXPECT_FALSE(AnsweredRight(note, " dek bad\n"));
  EXPECT_TRUE(AnsweredRight(list, " c a b\n"));
  EXPECT_FALSE(AnsweredRight(list, " c a a\n"));
  EXPECT_FALSE(AnsweredRight(list, " c a\n"));
}

TEST(RecallCases, TheFirstQuestionsOfEachTaskAreAsked) {
  std::vector<AskedQuestion> questions;
  for (int i = 0; i < 9; ++i) questions.push_back({i % 3 == 0 ? "rare" : "often", std::to_string(i), "", false});
  std::vector<std::string> asks;
  for (const AskedQuestion& each : FirstOfEach(questions, 2)) asks.push_back(each.ask);
  EXPECT_EQ(asks, (std::vector<std::string>{"0", "1", "2", "3"}));
  EXPECT_EQ(FirstOfEach(questions, 6).size(), 9u);
  EXPECT_TRUE(FirstOfEach(questions, 0).empty());
}

TEST(RecallCases, LossIsPaired) {
  const PairedLoss same = LossOf(std::string(1000, '1'), std::string(1000, '1'));
  EXPECT_EQ(same.net, 0);
  EXPECT_GT(same.bound, 0.001);  // a thousand questions without a loss do not show that there is none
  EXPECT_LT(same.bound, 0.003);
  std::string second(1000, '1');
  for (int i = 0; i < 20; ++i) second[i] = '0';
  const PairedLoss loss = LossOf(std::string(1000, '1'), second);
  EXPECT_EQ(loss.lost, 20);
  EXPECT_EQ(loss.gained, 0);
  EXPECT_DOUBLE_EQ(loss.net, 0.02);
  // (20.5 - 0.5) / 1002 + 1.6448536 sqrt(21 / 1002 - (20 / 1002)^2) / sqrt(1002)
  EXPECT_NEAR(loss.bound, 0.0274110, 1e-6);
  std::string third = std::string(10, '0') + std::string(990, '1');
  const PairedLoss both = LossOf(third, second);  // ten are wrong in both
  EXPECT_EQ(both.lost, 10);
  EXPECT_EQ(both.gained, 0);
  EXPECT_EQ(LossOf(second, third).gained, 10);
}

// A folder with a document and its questions, and a tokenizer whose tokens are single bytes.
class RecallFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string vocab = R"("<s>":0)";
    for (char c = 'a'; c <= 'z'; ++c) vocab += std::string(",\"") + c + "\":" + std::to_string(c - 'a' + 1);
    vocab += R"(,"\u0120":27,"\u010a":28)";
    tokenizer_ = *Tokenizer::Parse(
        R"({"version":"1.0","added_tokens":[{"id":0,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,)"
        R"("normalized":false,"special":true}],"normalizer":null,)"
        R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},)"
        R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},)"
        R"({"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[0],)"
        R"("tokens":["<s>"]}}},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)"
        R"("use_regex":true},"model":{"type":"BPE","vocab":{)" +
            vocab + R"(},"merges":[]}})",
        "test");
    text_ = ::testing::TempDir() + "/recall.txt";
    questions_ = ::testing::TempDir() + "/recall.json";
    Write(text_, "cat is red\nask cat is red\nend\n");
  }
  static void Write(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }
  absl::StatusOr<RecallDocument> Parsed(const std::string& inside) {
    Write(questions_, R"({"document":")" + text_ + R"(","inside":)" + inside +
                          R"(,"questions":[{"ask":"ask cat is","answer":" red"}]})");
    return ReadRecallDocument(questions_, tokenizer_);
  }
  Tokenizer tokenizer_;
  std::string text_, questions_;
};

TEST_F(RecallFiles, AnswersInsideAreFoundByTheirBytes) {
  const absl::StatusOr<RecallDocument> document = Parsed(R"([{"task":"note","at":21,"answer":" red"}])");
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_EQ(document->tokens.front(), 0);
  ASSERT_EQ(document->inside.size(), 1u);
  EXPECT_EQ(document->inside[0].first, 22);  // behind BOS
  EXPECT_EQ(document->inside[0].count, 4);
  EXPECT_EQ(document->tokens[22], 27);
  ASSERT_EQ(document->asked.size(), 1u);
  EXPECT_EQ(document->asked[0].task, "fact");
  EXPECT_EQ(document->asked[0].answer, " red");
}

TEST_F(RecallFiles, WhatIsNotAtItsPlaceIsRefusedWithTheFilesName) {
  for (const char* inside : {R"([{"at":20,"answer":" red"}])", R"([{"at":2000,"answer":" red"}])", R"([{"at":21}])",
                             R"([{"at":-4,"answer":" red"}])"}) {
    const absl::StatusOr<RecallDocument> document = Parsed(inside);
    EXPECT_FALSE(document.ok()) << inside;
    EXPECT_NE(document.status().message().find(questions_), std::string::npos) << document.status();
  }
}

}  // namespace
}  // namespace duo
