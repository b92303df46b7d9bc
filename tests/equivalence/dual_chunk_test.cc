// Dual chunk attention: no answer depends on how a session was read, in whatever chunks, batches, forks and formats;
// sessions that end before it makes a difference have plain RoPE's bits; what a saved session says of it; and what is
// refused with it. That it computes what was published is golden_test.cc's.
#include "runtime/saved/session_store.h"
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

constexpr int kChunk = 57;    // of the golden model
constexpr int kTrained = 71;  // up to here plain RoPE gives the same

class DualChunkTest : public EngineOnDevices {
 protected:
  void SetUp() override {
    EngineOnDevices::SetUp();
    if (!IsSkipped()) golden_ = LoadGolden("qwen2_dual_chunk", scratch_.string());
  }
  EngineOptions With(AttentionMode attention, KvFormat kv) const {
    EngineOptions options = Options();
    options.attention = attention;
    if (attention == AttentionMode::kFull) {
      options.pattern_dir.clear();
      options.threshold.reset();
    }
    options.kv = kv;
    return options;
  }
  KvFormat Widest() const { return cuda() ? KvFormat::kBF16 : KvFormat::kF32; }
  Reply Whole(const EngineOptions& options, const std::vector<int32_t>& prompt, int64_t new_tokens) const {
    Bench bench = Open(options);
    return bench.AskNow(bench.Open(options.max_session_tokens), prompt, new_tokens);
  }
  std::vector<int32_t> Joined(std::vector<int32_t> a, const std::vector<int32_t>& b) const {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
};
INSTANTIATE_ON_DEVICES(DualChunkTest);

TEST_P(DualChunkTest, NoAnswerDependsOnHowASessionWasRead) {
  const std::vector<int32_t> text = Text(160, 1), other = Text(90, 2), ask = Text(5, 3);
  for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
    for (const KvFormat kv : {Widest(), KvFormat::kInt4, KvFormat::kFp8}) {
      const EngineOptions options = With(attention, kv);
      // Answers that cross the bound of a chunk: 160 + 5 + 20 > 3 * 57.
      const Reply long_one = Whole(options, Joined(text, ask), 20);
      const Reply forked = Whole(options, Joined(Joined(text, other), ask), 8);
      const Reply rewound = Whole(options, Joined({text.begin(), text.begin() + 100}, ask), 20);
      const float tolerance = Tolerance(attention == AttentionMode::kDuo ? golden_.duo : golden_.full, kv);
      for (const int chunk : {0, 23, 64}) {
        SCOPED_TRACE(testing::Message() << Name(attention) << " kv " << Name(kv) << " chunk " << chunk);
        EngineOptions pieces = options;
        pieces.chunk = chunk;
        if (chunk == 23) pieces.speculate = Speculation::kText;
        Bench bench = Open(pieces);
        ASSERT_NE(bench.engine, nullptr);
        const SessionId session = bench.Open(400);
        bench.Append(session, text);
        bench.Run();
        const auto fork = bench.engine->Fork(session, 400);
        ASSERT_TRUE(fork.ok());
        bench.Append(*fork, other);
        bench.Run();
        // Side by side, with histories in other chunks.
        Reply replies[2];
        GenerateParams params;
        params.max_new_tokens = 20;
        bench.Ask(session, ask, &replies[0], params);
        params.max_new_tokens = 8;
        bench.Ask(*fork, ask, &replies[1], params);
        bench.Run();
        ExpectSame(long_one, replies[0], tolerance);
        ExpectSame(forked, replies[1], tolerance);
        ASSERT_TRUE(bench.engine->Rewind(session, 100).ok());
        ExpectSame(rewound, bench.AskNow(session, ask, 20), tolerance);
      }
    }
  }
}

TEST_P(DualChunkTest, ShortSessionsAreReadAsByPlainRope) {
  EngineOptions chunked = With(AttentionMode::kDuo, Widest()), plain = chunked;
  plain.max_session_tokens = kTrained;
  EXPECT_EQ(Open(plain).engine->dual_chunk().length, 0);
  EXPECT_EQ(Open(chunked).engine->dual_chunk().length, kChunk);
  const float tolerance = Tolerance(golden_.duo, Widest());
  // Within the first chunk to the bit, and up to the trained length, where distances are the true ones still, within
  // the rounding.
  const Reply first = Whole(chunked, Text(kChunk - 10, 1), 8), first_plain = Whole(plain, Text(kChunk - 10, 1), 8);
  ExpectSame(first, first_plain, tolerance);
  if (!cuda()) {
    EXPECT_EQ(first.logits, first_plain.logits);
  }
  ExpectSame(Whole(chunked, Text(kTrained - 8, 1), 8), Whole(plain, Text(kTrained - 8, 1), 8), tolerance);
}

TEST_P(DualChunkTest, ASavedSessionSaysWhetherItsKeysAreOfChunks) {
  const std::string dir = scratch_.string() + "/saved";
  const auto store = [&](Bench& bench) { return *SessionStore::Open(dir, golden_.model_dir, *bench.engine); };
  const auto finish = [](auto& job) -> absl::Status {
    while (true) {
      const absl::StatusOr<bool> done = job.Step();
      if (!done.ok()) return done.status();
      if (*done) return absl::OkStatus();
    }
  };
  const EngineOptions chunked = With(AttentionMode::kDuo, Widest());
  EngineOptions plain = chunked;
  plain.max_session_tokens = kTrained;
  const auto save = [&](const EngineOptions& options, const std::string& id, int tokens) {
    Bench bench = Open(options);
    const SessionId session = bench.Open(kTrained);
    bench.Append(session, Text(tokens, 1));
    bench.Run();
    const auto saved = store(bench);
    const auto job = saved->StartSave(id, session, SessionManifest());
    ASSERT_TRUE(job.ok() && finish(**job).ok());
  };
  save(chunked, "short", kChunk);
  save(chunked, "chunked", kChunk + 4);
  save(plain, "plain", kChunk + 4);
  struct {
    const EngineOptions& options;
    std::string id, refusal;  // empty: it is restored
  } const cases[] = {{chunked, "short", ""},
                     {plain, "short", ""},
                     {chunked, "chunked", ""},
                     {plain, "plain", ""},
                     {plain, "chunked", "57 of 83 from 71, this server has none"},
                     {chunked, "plain", "none, this server has 57 of 83 from 71"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.id + (c.refusal.empty() ? "" : " is refused"));
    Bench bench = Open(c.options);
    const auto saved = store(bench);
    const absl::StatusOr<SavedSession> found = saved->Find(c.id);
    ASSERT_TRUE(found.ok() && found->manifest.ok()) << found.status();
    const std::string text = FormatManifest(*found->manifest);
    EXPECT_EQ(text.find("\"needs\":[\"dual_chunk\"]") != std::string::npos, c.id == "chunked") << text;
    const auto job = saved->StartRestore(c.id, kTrained);
    const absl::Status restored = job.ok() ? finish(**job) : job.status();
    if (c.refusal.empty()) {
      ASSERT_TRUE(restored.ok()) << restored;
      const int tokens = c.id == "short" ? kChunk : kChunk + 4;
      ExpectSame(Whole(c.options, Joined(Text(tokens, 1), Text(2, 2)), 5),
                 bench.AskNow((*job)->session(), Text(2, 2), 5), Tolerance(golden_.duo, Widest()));
      continue;
    }
    EXPECT_EQ(restored.code(), absl::StatusCode::kFailedPrecondition) << restored;
    EXPECT_NE(restored.message().find(c.refusal), absl::string_view::npos) << restored;
  }
}

TEST_P(DualChunkTest, WhatScoresPagesIsRefusedByNameForLongSessionsOnly) {
  const auto opened = [&](const EngineOptions& options) {
    const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
    const auto device = cuda() ? std::move(*Device::Cuda(0, 1)) : Device::Cpu(1);
    return Engine::Create(options, *device, *comm).status();
  };
  EngineOptions lists = With(AttentionMode::kDuo, Widest()), self = lists, sources = lists, means = lists;
  lists.decode_sparsity = DecodeSparsity{900};
  self.speculate = Speculation::kSelf;
  sources.provenance = true;
  means.key_means = true;
  for (EngineOptions* options : {&lists, &self, &sources}) {
    const absl::Status refused = opened(*options);
    EXPECT_NE(refused.message().find("dual chunk attention"), absl::string_view::npos) << refused;
    EXPECT_NE(refused.message().find("sessions of more than 71 tokens"), absl::string_view::npos) << refused;
    options->max_session_tokens = kTrained;
    EXPECT_TRUE(opened(*options).ok()) << opened(*options);
  }
  EXPECT_NE(opened(means).message().find("--key-means: models with dual chunk attention"), absl::string_view::npos);
}

}  // namespace
}  // namespace duo
