// A prompt and its question, read apart, have the tokens of one text.
#include "launcher/generate_texts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/support/source_dir.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

class GenerateTexts : public testing::Test {
 protected:
  // The demo model's tokenizer and sizes, in a folder with a chat template.
  GenerateTexts() : model_(fs::path(testing::TempDir()) / ("generate_texts_" + std::to_string(getpid()))) {
    fs::remove_all(model_);
    fs::create_directories(model_);
    const fs::path demo = fs::path(SourceDir()) / "launcher/demo/needle-6m";
    for (const char* name : {"config.json", "tokenizer.json"}) fs::copy_file(demo / name, model_ / name);
    std::ofstream(model_ / "tokenizer_config.json")
        << R"({"chat_template": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + )"
           R"(message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %})"
           R"({{ '<|im_start|>assistant\n' }}{% endif %}"})";
  }
  ~GenerateTexts() override { fs::remove_all(model_); }

  Texts Encode(const std::string& prompt, const std::vector<std::string>& asks, bool chat) {
    TextFlags flags;
    flags.prompt = prompt;
    flags.asks = asks;
    flags.chat = chat;
    absl::StatusOr<Texts> texts = EncodeTexts(model_.string(), flags);
    EXPECT_TRUE(texts.ok()) << texts.status();
    return texts.ok() ? *texts : Texts();
  }
  void ExpectOneText(const std::string& prompt, const std::string& ask, bool chat) {
    const Texts apart = Encode(prompt, {ask}, chat);
    std::vector<int32_t> joined = apart.prompt;
    if (!apart.asks.empty()) joined.insert(joined.end(), apart.asks[0].begin(), apart.asks[0].end());
    // In a chat the question stands behind a blank line, in the document's turn.
    const std::string gap = !chat || prompt.ends_with("\n\n") ? "" : prompt.ends_with('\n') ? "\n" : "\n\n";
    EXPECT_EQ(joined, Encode(prompt + gap + ask, {}, chat).prompt) << prompt << "|" << ask;
  }

  fs::path model_;
};

TEST_F(GenerateTexts, APromptAndItsQuestionHaveTheTokensOfOneText) {
  std::mt19937 rng(3);
  const std::string text =
      "The end of it. 'Tis 1234 don't  \n\n  x\t\xC3\xA9\xF0\x9F\x98\x80 -- 99,000 (it) \r\n of the end";
  for (int trial = 0; trial < 300; ++trial) {
    const size_t cut = 1 + rng() % (text.size() - 2);
    ExpectOneText(text.substr(0, cut), text.substr(cut), false);
  }
  for (const char* ask : {" Who?", "\n\nWho?", "who", "\xCC\x81 x", "\x98\x80", "'s", "  ", "1"}) {
    ExpectOneText("The end of it.", ask, false);
    ExpectOneText("the end", ask, false);
    ExpectOneText("The end \n", ask, false);
    ExpectOneText("count 12", ask, false);
  }
}

TEST_F(GenerateTexts, AChatsQuestionContinuesTheTurnOfItsDocument) {
  for (const char* document : {"The end of it.", "the end \n", "x", "count 12", "The end of it.\n\n", "<|im_end|>"}) {
    for (const char* ask : {"Who is it?", "who", "12", "'s"}) ExpectOneText(document, ask, true);
  }
}

TEST_F(GenerateTexts, MostOfAPromptIsReadBeforeItsQuestions) {
  std::string prompt;
  for (int i = 0; i < 200; ++i) prompt += "The river was high that spring, and nobody crossed it. ";
  const Texts texts = Encode(prompt, {"Who crossed?", "When?"}, false);
  ASSERT_EQ(texts.asks.size(), 2u);
  EXPECT_LE(texts.asks[0].size(), 12u);
  EXPECT_GE(texts.prompt.size(), 200u * 10);
}

}  // namespace
}  // namespace duo
