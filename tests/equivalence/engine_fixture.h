// A small random model with retrieval and streaming heads in every layer, and an engine on it: what the equivalence
// tests run. On the CPU, or, as EngineOnDevices, on a GPU too. One thread.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <tuple>
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
  virtual DeviceKind kind() const { return DeviceKind::kCpu; }
  bool cuda() const { return kind() == DeviceKind::kCuda; }

  void SetUp() override {
    if (cuda() && Device::CudaDeviceCount() == 0) GTEST_SKIP() << "no GPU here";
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_equivalence_" + std::to_string(getpid()));
    golden_ = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
  }
  void TearDown() override {
    if (!scratch_.empty()) std::filesystem::remove_all(scratch_);
  }

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
    if (cuda()) {
      auto device = Device::Cuda(0, threads);
      EXPECT_TRUE(device.ok()) << device.status();
      if (!device.ok()) return bench;
      bench.device = std::move(*device);
    } else {
      bench.device = Device::Cpu(threads);
    }
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

  // How far logits may lie apart that differ in the order of sums only. A CPU computes in f32, which rounds 2^16 times
  // finer than the bf16 run that the golden's tolerance is derived from; it is held to 2^8 of that where no stored code
  // can round to another one.
  float Tolerance(KvFormat kv = KvFormat::kF32) const { return Tolerance(golden_.duo, kv); }
  float Tolerance(const GoldenRun& run, KvFormat kv) const {
    return !cuda() && kv == KvFormat::kF32 ? run.tolerance() / 256 : run.tolerance();
  }

  // The test rule: logits within the tolerance, and the same token wherever the best logit leads by more than twice
  // that.
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

// The instances of a Suite of it: cpu/Suite.* and gpu/Suite.*, which skip where there is no GPU.
class EngineOnDevices : public EngineFixture, public testing::WithParamInterface<DeviceKind> {
 protected:
  DeviceKind kind() const override { return GetParam(); }
};
#define INSTANTIATE_ON_DEVICES(Suite)                                             \
  INSTANTIATE_TEST_SUITE_P(cpu, Suite, testing::Values(::duo::DeviceKind::kCpu),  \
                           [](const auto&) { return std::string("device"); });    \
  INSTANTIATE_TEST_SUITE_P(gpu, Suite, testing::Values(::duo::DeviceKind::kCuda), \
                           [](const auto&) { return std::string("device"); })

// The same with a KV format; f32 is the CPU's alone.
class EngineOnDevicesWithKv : public EngineFixture,
                              public testing::WithParamInterface<std::tuple<DeviceKind, KvFormat>> {
 protected:
  DeviceKind kind() const override { return std::get<0>(GetParam()); }
  KvFormat kv() const { return std::get<1>(GetParam()); }
};
#define INSTANTIATE_ON_DEVICES_WITH_KV(Suite, ...)                                                                     \
  INSTANTIATE_TEST_SUITE_P(                                                                                            \
      cpu, Suite,                                                                                                      \
      testing::Combine(testing::Values(::duo::DeviceKind::kCpu), testing::Values(::duo::KvFormat::kF32, __VA_ARGS__)), \
      [](const auto& info) { return std::string(Name(std::get<1>(info.param))); });                                    \
  INSTANTIATE_TEST_SUITE_P(gpu, Suite,                                                                                 \
                           testing::Combine(testing::Values(::duo::DeviceKind::kCuda), testing::Values(__VA_ARGS__)),  \
                           [](const auto& info) { return std::string(Name(std::get<1>(info.param))); })

}  // namespace duo
