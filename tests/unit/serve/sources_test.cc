// Where answers looked, through the calls: sentences of what was appended, in bytes as it was sent, whatever became of
// the session since.
#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

constexpr char kTower[] = "Note: the passcode for the rapid tower is 499748.";
constexpr char kFalcon[] = "Note: the passcode for the amber falcon is 402113.";

class Sources : public ServiceFixture {
 protected:
  Sources() { sources_ = true; }

  static std::string Lines(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "This program is distributed in the hope that it will be useful.\r\n";
    return text;
  }
  static std::string QuestionOn(const std::string& key) {
    return "\nQuestion: What is the passcode for the " + key + "?\nAnswer: ";
  }
  AskRequest Request(const std::string& key) const {
    AskRequest request;
    request.session_id = "doc";
    request.text = QuestionOn(key);
    request.max_new_tokens = 10;
    request.stop = {"\n"};
    request.sources = 3;
    return request;
  }
  // The last message; its sources must be the document's bytes.
  AskUpdate Ask(const AskRequest& request, const std::string& document) {
    AskClient client;
    auto job = StartAsk(client, request);
    const absl::Status status = client.Wait();
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok() || client.messages().empty()) return {};
    AskUpdate last = client.messages().back();
    EXPECT_TRUE(last.done);
    for (const Source& s : last.sources) {
      EXPECT_EQ(s.text, document.substr(s.begin, s.end - s.begin));
      EXPECT_EQ(s.line, 1 + std::count(document.begin(), document.begin() + s.begin, '\n'));
    }
    return last;
  }
  void ExpectFirst(const AskUpdate& told, const std::string& sentence) {
    ASSERT_FALSE(told.sources.empty());
    EXPECT_EQ(told.sources[0].text, sentence);
    EXPECT_GT(told.sources[0].score, 0.3);
  }
};

TEST_F(Sources, AreTheBytesOfAllAppendsBesideKeptQuestionsAndBehindRewinds) {
  Serve();
  ASSERT_TRUE(Create("doc", 2000).ok());
  const std::string first = "Gr\u00fc\u00dfe, \u4f60\u597d!\r\n" + Lines(6) + kTower + "\r\n" + Lines(6) + "word";
  ASSERT_TRUE(Append("doc", first.substr(0, 3)).ok());  // ends inside a character
  ASSERT_TRUE(Append("doc", first.substr(3, 300)).ok());
  ASSERT_TRUE(Append("doc", first.substr(303)).ok());
  const int64_t before = Get("doc")->tokens;
  ExpectFirst(Ask(Request("rapid tower"), first), kTower);
  AskRequest kept = Request("rapid tower");
  kept.keep = true;
  ExpectFirst(Ask(kept, first), kTower);
  const std::string second = "\n" + Lines(5) + kFalcon + "\n" + Lines(5);
  ASSERT_TRUE(Append("doc", second).ok());
  ExpectFirst(Ask(Request("amber falcon"), first + second), kFalcon);
  AskRequest tokens = Request("rapid tower");
  tokens.token_sources = true;
  const AskUpdate each = Ask(tokens, first + second);
  ExpectFirst(each, kTower);
  EXPECT_EQ(static_cast<int64_t>(each.token_sources.size()), each.stats.new_tokens);
  Awaited<SessionView> cut;
  StartRewind(context(), caller_, {"doc", before}, cut.Finish());
  ASSERT_TRUE(cut.Wait().ok());
  ASSERT_TRUE(Append("doc", second).ok());
  const std::string left = first.substr(0, first.rfind("word"));  // the tail goes with a rewind
  const AskUpdate again = Ask(Request("amber falcon"), left + second);
  ExpectFirst(again, kFalcon);
}

TEST_F(Sources, OfARestoredSessionAreOfWhatItsTokensSay) {
  Serve();
  ASSERT_TRUE(Create("doc", 1000).ok());
  const std::string text = Lines(5) + kTower + "\n" + Lines(5);
  ASSERT_TRUE(Append("doc", text).ok());
  Awaited<SaveDone> saved, restored;
  StartSave(context(), caller_, {"doc"}, saved.Finish());
  ASSERT_TRUE(saved.Wait().ok());
  ASSERT_TRUE(Close("doc").ok());
  StartRestore(context(), caller_, {"doc", "", 0, false}, restored.Finish());
  ASSERT_TRUE(restored.Wait().ok());
  ExpectFirst(Ask(Request("rapid tower"), text), kTower);
  ASSERT_TRUE(Append("doc", kFalcon + std::string("\n") + Lines(3)).ok());
  ExpectFirst(Ask(Request("amber falcon"), text + kFalcon + "\n" + Lines(3)), kFalcon);
}

TEST_F(Sources, AreNamedOnlyToWhoAsksAndRefusedWhereTheyCannotBe) {
  Serve();
  ASSERT_TRUE(Create("doc", 500).ok());
  const std::string text = Lines(2) + kTower + "\n" + Lines(2);
  ASSERT_TRUE(Append("doc", text).ok());
  AskRequest quiet = Request("rapid tower");
  quiet.sources = 0;
  const AskUpdate told = Ask(quiet, text);
  EXPECT_TRUE(told.sources.empty());
  const auto refusal = [&](const std::function<void(AskRequest&)>& change) {
    AskRequest request = Request("rapid tower");
    change(request);
    AskClient client;
    auto job = StartAsk(client, request);
    return client.Wait().code();
  };
  EXPECT_EQ(refusal([](AskRequest& r) { r.sources = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](AskRequest& r) { r.sources = 1001; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refusal([](AskRequest& r) {
              r.sources = 0;
              r.token_sources = true;
            }),
            absl::StatusCode::kInvalidArgument);
}

class NoSources : public Sources {
 protected:
  NoSources() { sources_ = false; }
};
TEST_F(NoSources, AServerWithoutThemSaysSo) {
  Serve();
  ASSERT_TRUE(Create("doc", 500).ok());
  ASSERT_TRUE(Append("doc", Lines(2)).ok());
  AskClient client;
  auto job = StartAsk(client, Request("rapid tower"));
  EXPECT_EQ(client.Wait().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace duo
