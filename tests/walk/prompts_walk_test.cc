// A random walk over a tree of prompts: texts that begin alike and part in the middle of anything, edits, three
// callers, open sessions beside them, cancelled calls, memory for a few of them. Each answer must be the one that an
// engine gives that has nothing in its cache, and no page may be lost. Everything follows from the seed.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include "tests/equivalence/engine_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

constexpr int kMostRunning = 5;
constexpr int64_t kLongest = 420;  // tokens of a prompt

struct Asked {
  std::vector<int32_t> prompt;
  Reply reply;
  RequestId id = 0;
  bool cancelled = false;
};

class PromptsWalk : public EngineFixture {
 protected:
  EngineOptions Small() const {
    EngineOptions options = Options();
    options.sink = 4;
    options.recent = 8;
    options.chunk = 64;
    options.sessions = 4;
    options.questions = 3;
    options.prefixes = 6;
    options.kv_tokens = 1600;
    return options;
  }
  uint64_t Draw(uint64_t below) {
    random_ = SplitMix64(random_ + 1);
    return random_ % below;
  }
  // One of the texts so far, cut anywhere, sometimes edited, with something new behind; or all of one again.
  std::vector<int32_t> NextPrompt() {
    std::vector<int32_t> tokens;
    if (!texts_.empty() && Draw(10) > 0) tokens = texts_[Draw(texts_.size())];
    const uint64_t what = Draw(10);
    if (what < 2 && !tokens.empty()) return tokens;
    if (what < 7 && tokens.size() > 40) tokens.resize(40 + Draw(tokens.size() - 40));
    if (what == 7 && !tokens.empty()) tokens[Draw(tokens.size())] = static_cast<int32_t>(Draw(vocab()));
    const std::vector<int32_t> more = Text(1 + static_cast<int>(Draw(Draw(3) == 0 ? 250 : 30)), Draw(1 << 20));
    tokens.insert(tokens.end(), more.begin(), more.end());
    if (std::ssize(tokens) > kLongest) tokens.resize(kLongest);
    if (texts_.size() < 12) {
      texts_.push_back(tokens);
    } else {
      texts_[Draw(texts_.size())] = tokens;
    }
    return tokens;
  }
  void Ask(Engine& engine, SessionId empty, const std::string& realm, Asked* asked) {
    GenerateParams params;
    params.max_new_tokens = kAnswer;
    params.want_logits = true;
    params.prefix = {!realm.empty(), realm};
    RequestEvents events;
    events.on_token = [reply = &asked->reply](int32_t token) {
      reply->tokens.push_back(token);
      return true;
    };
    events.on_logits = [reply = &asked->reply](const std::vector<float>& logits) { reply->logits.push_back(logits); };
    events.on_done = [reply = &asked->reply](const RequestResult& result) {
      reply->result = result;
      reply->done = true;
    };
    const auto id = engine.Ask(empty, asked->prompt, params, std::move(events));
    ASSERT_TRUE(id.ok()) << id.status();
    asked->id = *id;
  }
  const Reply& Fresh(Bench& bench, SessionId empty, const std::vector<int32_t>& prompt) {
    auto& known = fresh_[prompt];
    if (known == nullptr) {
      Asked asked = {prompt, {}};
      Ask(*bench.engine, empty, "", &asked);
      bench.Run();
      known = std::make_unique<Reply>(std::move(asked.reply));
    }
    return *known;
  }

  static constexpr int64_t kAnswer = 6;
  uint64_t random_ = 0;
  std::vector<std::vector<int32_t>> texts_;
  std::map<std::vector<int32_t>, std::unique_ptr<Reply>> fresh_;
};

TEST_F(PromptsWalk, EachAnswerIsThatOfAnEmptyCache) {
  EngineOptions plain = Small();
  plain.prefixes = 0;
  plain.kv_tokens = 4096;
  Bench walked = Open(Small(), 1), reference = Open(plain, 1);
  ASSERT_TRUE(walked.engine != nullptr && reference.engine != nullptr);
  Engine& engine = *walked.engine;
  const SessionId empty = *engine.CreateSession(1, 0), reference_empty = *reference.engine->CreateSession(1, 0);
  const char* seed = std::getenv("DUO_WALK_SEED");
  random_ = SplitMix64(seed != nullptr ? std::strtoull(seed, nullptr, 10) : FirstSeed(24));
  const std::string realms[] = {"one", "two", "three"};
  std::vector<std::unique_ptr<Asked>> running;
  std::vector<SessionId> sessions;
  int64_t answers = 0, open = 0, read = 0, refed = 0, exact = 0;
  for (int i = 0; i < Scaled(1000) && !HasFatalFailure();) {
    const uint64_t what = Draw(100);
    if (what < 40 && running.size() < kMostRunning) {
      const std::string& realm = realms[Draw(8) % 3];
      running.push_back(std::make_unique<Asked>(Asked{NextPrompt(), {}}));
      Ask(engine, empty, realm, running.back().get());
      ++i;
      if (Draw(4) > 0) continue;  // else another one with it
      std::vector<int32_t> alike = running.back()->prompt;
      if (alike.size() > 60) alike.resize(60 + Draw(alike.size() - 60));
      const std::vector<int32_t> more = Text(1 + static_cast<int>(Draw(20)), Draw(1 << 20));
      alike.insert(alike.end(), more.begin(), more.end());
      running.push_back(std::make_unique<Asked>(Asked{std::move(alike), {}}));
      Ask(engine, empty, realm, running.back().get());
      ++i;
    } else if (what < 44 && !running.empty()) {
      Asked& one = *running[Draw(running.size())];
      one.cancelled = engine.Cancel(one.id).ok();
    } else if (what < 47) {  // an open session with the text of a prompt, or one less
      if (sessions.size() < 2 && !texts_.empty()) {
        const auto made = engine.CreateSession(kLongest, 0);
        ASSERT_TRUE(made.ok()) << made.status();
        ASSERT_TRUE(engine.LetMatch(*made, realms[Draw(3)]).ok());
        engine.Append(*made, texts_[Draw(texts_.size())], {}).status().IgnoreError();
        sessions.push_back(*made);
      } else if (!sessions.empty()) {
        ASSERT_TRUE(engine.CloseSession(sessions[0]).ok());
        sessions.erase(sessions.begin());
      }
    } else if (what == 47 && Draw(4) == 0) {
      engine.DropPrefixes();
    } else {
      for (uint64_t n = Draw(8); n > 0 && engine.Step(); --n) {
      }
    }
    for (const auto& one : running) {
      if (!one->reply.done || one->cancelled) continue;
      const RequestResult& result = one->reply.result;
      if (absl::IsResourceExhausted(result.status)) continue;  // sessions are in its way
      ASSERT_TRUE(result.status.ok()) << result.status;
      EXPECT_EQ(result.cached.tokens + result.prompt_tokens, std::ssize(one->prompt));
      ExpectSame(one->reply, Fresh(reference, reference_empty, one->prompt), Tolerance());
      ASSERT_FALSE(HasFailure()) << "prompt " << i << ", " << result.cached.tokens << " of " << one->prompt.size()
                                 << " tokens cached, " << result.cached.refed << " fed again; DUO_WALK_SEED replays it";
      ++answers;
      open += result.cached.from == CachedPrefix::From::kOpen;
      read += result.cached.from == CachedPrefix::From::kRead;
      refed += result.cached.refed > 0;
      exact += result.cached.tokens > 0 && result.cached.refed == 0;
    }
    std::erase_if(running, [](const auto& one) { return one->reply.done; });
    ASSERT_LE(engine.stats().prefixes, 6);
  }
  walked.Run();
  for (const auto& one : running) EXPECT_TRUE(one->reply.done);
  for (SessionId session : sessions) ASSERT_TRUE(engine.CloseSession(session).ok());
  std::printf("%lld answers: %lld went on with what was open, %lld with a read; %lld rebuilt rings; %lld evictions\n",
              static_cast<long long>(answers), static_cast<long long>(open), static_cast<long long>(read),
              static_cast<long long>(refed), static_cast<long long>(engine.stats().prefix.evictions));
  EXPECT_GE(20 * open, answers);
  EXPECT_GE(20 * read, answers);
  EXPECT_GE(20 * refed, answers);
  EXPECT_GE(20 * exact, answers);
  engine.DropPrefixes();
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.pages_free, stats.pages);
  EXPECT_EQ(stats.pages_available, stats.pages);
  EXPECT_EQ(stats.split_pages_free, stats.split_pages);
  EXPECT_EQ(stats.rings_free, stats.rings - 1);
}

}  // namespace
}  // namespace duo
