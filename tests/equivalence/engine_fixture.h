// A small random model with retrieval and streaming heads in every layer, and an engine on it: what the equivalence
// tests run. One thread.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/splitmix64.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "tests/golden/golden_model.h"

namespace duo {

// What one question gave.
struct Reply {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
  RequestResult result;
  bool done = false;
};

// Device, communicator and engine, in the order in which they may go.
struct Bench {
  std::unique_ptr<Device> device;
  std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  std::unique_ptr<Engine> engine;

  void Run() {
    while (engine->Step()) {
    }
  }
  SessionId Open(int64_t max_tokens) {
    auto session = engine->CreateSession(max_tokens);
    EXPECT_TRUE(session.ok()) << session.status();
    return session.ok() ? *session : 0;
  }
  void Append(SessionId session, std::vector<int32_t> tokens) {
    RequestEvents events;
    events.on_done = [](const RequestResult& result) { EXPECT_TRUE(result.status.ok()) << result.status; };
    auto request = engine->Append(session, std::move(tokens), std::move(events));
    EXPECT_TRUE(request.ok()) << request.status();
  }
  // Queued; `reply` must outlive the run.
  void Ask(SessionId session, std::vector<int32_t> tokens, Reply* reply, GenerateParams params = {}) {
    params.want_logits = true;
    RequestEvents events;
    events.on_token = [reply](int32_t token) {
      reply->tokens.push_back(token);
      return true;
    };
    events.on_logits = [reply](const std::vector<float>& logits) { reply->logits.push_back(logits); };
    events.on_done = [reply](const RequestResult& result) {
      reply->result = result;
      reply->done = true;
    };
    auto request = engine->Ask(session, std::move(tokens), params, std::move(events));
    EXPECT_TRUE(request.ok()) << request.status();
  }
  Reply AskNow(SessionId session, std::vector<int32_t> tokens, int64_t max_new_tokens = 8) {
    Reply reply;
    GenerateParams params;
    params.max_new_tokens = max_new_tokens;
    Ask(session, std::move(tokens), &reply, params);
    Run();
    EXPECT_TRUE(reply.done);
    EXPECT_TRUE(reply.result.status.ok()) << reply.result.status;
    return reply;
  }
};

class EngineFixture : public testing::Test {
 protected:
  void SetUp() override {
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_equivalence_" + std::to_string(getpid()));
    golden_ = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
  }
  void TearDown() override { std::filesystem::remove_all(scratch_); }

  EngineOptions Options() const {
    EngineOptions options;
    options.model_dir = golden_.model_dir;
    options.pattern_dir = golden_.pattern_dir;
    options.threshold = 0.5;
    options.sessions = 4;
    options.questions = 4;
    options.kv_tokens = 4096;
    options.max_session_tokens = 512;
    return options;
  }
  Bench Open(const EngineOptions& options, int threads = 2) const {
    Bench bench;
    bench.device = Device::Cpu(threads);
    auto engine = Engine::Create(options, *bench.device, *bench.comm);
    EXPECT_TRUE(engine.ok()) << engine.status();
    if (engine.ok()) bench.engine = std::move(*engine);
    return bench;
  }
  // Token ids that follow from the seed alone.
  std::vector<int32_t> Text(int count, uint64_t seed) const {
    std::vector<int32_t> tokens(count);
    for (int i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(SplitMix64(seed * 1000003 + i) % vocab());
    return tokens;
  }
  int vocab() const { return static_cast<int>(golden_.full.logits.size()); }

  // The test rule: logits within the tolerance derived from a plain bf16 run, and the same token wherever the best
  // logit leads by more than twice that.
  void ExpectSame(const Reply& a, const Reply& b, float tolerance) const {
    ASSERT_EQ(a.tokens.size(), b.tokens.size());
    ASSERT_EQ(a.logits.size(), b.logits.size());
    for (size_t step = 0; step < a.logits.size(); ++step) {
      std::vector<float> sorted = a.logits[step];
      for (size_t i = 0; i < sorted.size(); ++i) {
        ASSERT_LE(std::abs(a.logits[step][i] - b.logits[step][i]), tolerance) << "step " << step << ", logit " << i;
      }
      std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<float>());
      if (sorted[0] - sorted[1] > 2 * tolerance) {
        ASSERT_EQ(a.tokens[step], b.tokens[step]) << "step " << step;
      } else if (a.tokens[step] != b.tokens[step]) {
        return;  // a tie within the tolerance: from here on the texts differ
      }
    }
  }

  std::filesystem::path scratch_;
  Golden golden_;
};

}  // namespace duo
