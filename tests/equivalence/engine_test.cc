// One document, however it is cut into steps, gives one answer (design: the test rule).
#include <algorithm>

#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

// Document and question in one engine made for the options.
Reply ReadAndAsk(Bench& bench, const std::vector<int32_t>& document, const std::vector<int32_t>& question) {
  const SessionId session = bench.Open(480);
  bench.Append(session, document);
  return bench.AskNow(session, question);
}

class Chunking : public EngineOnDevicesWithKv {};

TEST_P(Chunking, DoesNotChangeTheAnswer) {
  EngineOptions options = Options();
  options.kv = kv();
  const std::vector<int32_t> document = Text(401, 1), question = Text(9, 2);
  Bench whole = Open(options);
  const Reply expected = ReadAndAsk(whole, document, question);
  for (int chunk : {1, 7, 65, 256}) {
    SCOPED_TRACE(chunk);
    options.chunk = chunk;
    Bench bench = Open(options);
    ExpectSame(expected, ReadAndAsk(bench, document, question), Tolerance(kv()));
  }
}

TEST_P(Chunking, ThreadsDoNotChangeTheAnswer) {
  EngineOptions options = Options();
  options.kv = kv();
  const std::vector<int32_t> document = Text(400, 3), question = Text(5, 4);
  Bench one = Open(options, 1), three = Open(options, 3);
  ExpectSame(ReadAndAsk(one, document, question), ReadAndAsk(three, document, question), Tolerance(kv()));
}

INSTANTIATE_ON_DEVICES_WITH_KV(Chunking, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4);

// A document longer than the largest chunk, with the demo model, whose greedy tokens no chunking may change.
class LongDocument : public EngineOnDevicesWithKv {};

TEST_P(LongDocument, GivesTheSameTokensInChunksOfEverySize) {
  const Golden demo = LoadGolden("needle-6m", scratch_.string());
  EngineOptions options;
  options.model_dir = demo.model_dir;
  options.pattern_dir = demo.pattern_dir;
  options.kv = kv();
  options.max_session_tokens = 4608;
  options.kv_tokens = 4608;
  std::vector<int32_t> document(4300);
  for (size_t i = 0; i < document.size(); ++i) {
    document[i] = static_cast<int32_t>(SplitMix64(i) % 4096);
  }
  // What the golden was made of stands at the end, so that the answers mean something.
  std::copy(demo.prompt.begin(), demo.prompt.end() - 1, document.end() - (demo.prompt.size() - 1));
  std::vector<Reply> replies;
  for (int chunk : {4096, 256, 7}) {
    options.chunk = chunk;
    Bench bench = Open(options);
    const SessionId session = bench.Open(4400);
    bench.Append(session, document);
    replies.push_back(bench.AskNow(session, {demo.prompt.back()}));
  }
  EXPECT_EQ(replies[0].tokens, replies[1].tokens);
  EXPECT_EQ(replies[0].tokens, replies[2].tokens);
  float tolerance = Tolerance(demo.duo, kv());
  if (cuda()) {
    // 16-bit products of other shapes round keys and values differently, and some of them then to the next code. That
    // moves these by a step, where making codes has moved all of them by up to half a step: what codes cost bounds it.
    options.kv = KvFormat::kBF16;
    options.chunk = 4096;
    Bench bench = Open(options);
    const SessionId session = bench.Open(4400);
    bench.Append(session, document);
    const Reply uncoded = bench.AskNow(session, {demo.prompt.back()});
    ASSERT_EQ(uncoded.tokens, replies[0].tokens);
    for (size_t step = 0; step < uncoded.logits.size(); ++step) {
      for (size_t i = 0; i < uncoded.logits[step].size(); ++i) {
        tolerance = std::max(tolerance, std::abs(uncoded.logits[step][i] - replies[0].logits[step][i]));
      }
    }
  }
  ExpectSame(replies[0], replies[1], tolerance);
  ExpectSame(replies[0], replies[2], tolerance);
}

INSTANTIATE_ON_DEVICES_WITH_KV(LongDocument, KvFormat::kInt4);

class OneDocument : public EngineOnDevices {};
INSTANTIATE_ON_DEVICES(OneDocument);

TEST_P(OneDocument, TheSameRunGivesTheSameBits) {
  const std::vector<int32_t> document = Text(333, 5), question = Text(11, 6);
  Bench a = Open(Options()), b = Open(Options());
  EXPECT_EQ(ReadAndAsk(a, document, question).logits, ReadAndAsk(b, document, question).logits);
}

TEST_P(OneDocument, QuestionsSideBySideAnswerAsIfAlone) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(390, 7));
  std::vector<Reply> alone(4), together(4);
  for (int i = 0; i < 4; ++i) alone[i] = bench.AskNow(session, Text(3 + 20 * i, 10 + i));
  GenerateParams params;
  params.max_new_tokens = 8;
  for (int i = 0; i < 4; ++i) bench.Ask(session, Text(3 + 20 * i, 10 + i), &together[i], params);
  bench.Run();
  for (int i = 0; i < 4; ++i) ExpectSame(alone[i], together[i], Tolerance());
}

TEST_P(OneDocument, SampledTokensFollowTheSeedAlone) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(300);
  bench.Append(session, Text(100, 8));
  GenerateParams params;
  params.max_new_tokens = 24;
  params.temperature = 100.0f;
  params.seed = 42;
  Reply first, again, other;
  bench.Ask(session, Text(4, 9), &first, params);
  bench.Ask(session, Text(4, 9), &again, params);
  params.seed = 43;
  bench.Ask(session, Text(4, 9), &other, params);
  bench.Run();
  EXPECT_EQ(first.tokens, again.tokens);
  EXPECT_NE(first.tokens, other.tokens);
}

TEST_P(OneDocument, ANucleusOfAlmostNothingIsGreedy) {
  Bench bench = Open(Options());
  const SessionId session = bench.Open(300);
  bench.Append(session, Text(100, 8));
  const Reply greedy = bench.AskNow(session, Text(4, 9));
  GenerateParams params;
  params.max_new_tokens = 8;
  params.temperature = 2.0f;
  params.top_p = 1e-6f;
  params.seed = 5;
  Reply nucleus;
  bench.Ask(session, Text(4, 9), &nucleus, params);
  bench.Run();
  EXPECT_EQ(greedy.tokens, nucleus.tokens);
}

TEST_P(OneDocument, KvBytesFollowTheFormulaToTheByte) {
  EngineOptions options = Options();
  const int64_t d = 64;
  for (auto [format, token, ring] :
       {std::tuple(KvFormat::kF32, 8 * d, 8 * d), std::tuple(KvFormat::kBF16, 4 * d, 4 * d),
        std::tuple(KvFormat::kFp8, 2 * d + 4, 4 * d), std::tuple(KvFormat::kInt8, 2 * d + 8, 4 * d),
        std::tuple(KvFormat::kInt4, d + 8, 4 * d)}) {
    if (cuda() && format == KvFormat::kF32) continue;
    options.kv = format;
    Bench bench = Open(options);
    ASSERT_EQ(bench.engine->config().head_dim, d);
    const HeadPlan& heads = bench.engine->heads();
    EXPECT_EQ(bench.engine->KvBytes(777),
              777 * heads.retrieval_heads() * token + heads.streaming_heads() * (heads.sink + heads.recent + 1) * ring);
    EXPECT_EQ(bench.engine->KvBytesFull(777), 777 * (heads.retrieval_heads() + heads.streaming_heads()) * token);
  }
}

TEST_P(OneDocument, LogitsOfAppendedTokensAreThoseThatQuestionsSee) {
  const std::vector<int32_t> text = Text(290, 10);
  // One chunk; and two, of which the second, a rest, goes through the decode kernels.
  for (const int chunk : {0, 256}) {
    EngineOptions options = Options();
    options.append_logits = true;
    options.chunk = chunk;
    Bench bench = Open(options);
    std::vector<std::vector<float>> logits;
    RequestEvents events;
    events.on_logits = [&](const std::vector<float>& row) { logits.push_back(row); };
    const SessionId session = bench.Open(300);
    ASSERT_TRUE(bench.engine->Append(session, text, events).ok());
    bench.Run();
    ASSERT_EQ(logits.size(), text.size());
    for (const size_t at : {size_t{0}, size_t{63}, size_t{255}, size_t{256}, text.size() - 1}) {
      const SessionId prefix = bench.Open(300);
      if (at > 0) bench.Append(prefix, {text.begin(), text.begin() + static_cast<int64_t>(at)});
      const Reply reply = bench.AskNow(prefix, {text[at]}, 1);
      ASSERT_EQ(reply.logits.size(), 1u);
      for (int i = 0; i < vocab(); ++i) {
        ASSERT_NEAR(logits[at][i], reply.logits[0][i], Tolerance()) << "after token " << at << ", logit " << i;
      }
      ASSERT_TRUE(bench.engine->CloseSession(prefix).ok());
    }
  }
}

TEST_P(OneDocument, LogitsOfAppendedTokensAreRefusedWhereNoRoomWasMadeForThem) {
  Bench bench = Open(Options());
  RequestEvents events;
  events.on_logits = [](const std::vector<float>&) {};
  EXPECT_EQ(bench.engine->Append(bench.Open(300), Text(4, 1), events).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace duo
