// Random walks (sessions_walk.h) on the smallest model, whose steps take next to no time, and on the demo model.
#include "tests/walk/sessions_walk.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "parallel/communicator.h"
#include "tests/golden/golden_model.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

class RandomWalk : public testing::Test {
 protected:
  void Open(const std::string& model_dir, const std::string& pattern_dir, std::optional<double> threshold) {
    EngineOptions options;
    options.files = &files_;
    options.model_dir = model_dir_ = model_dir;
    options.pattern_dir = pattern_dir;
    options.threshold = threshold;
    options.chunk = 64;
    options.sessions = 6;
    options.questions = 3;
    options.kv_tokens = 4096;
    options.max_session_tokens = 512;
    auto engine = Engine::Create(options, *device_, *comm_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
  }
  void OpenSmallest() {
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_walk_" + std::to_string(getpid()));
    const Golden golden = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
    Open(golden.model_dir, golden.pattern_dir, 0.5);
  }
  ~RandomWalk() override { close(nowhere_); }
  void TearDown() override { std::filesystem::remove_all(scratch_); }

  // `calls` of them in walks of 500, each with a seed of its own; DUO_WALK_SEED in the environment replays one.
  void Walk(int calls, uint64_t first_seed, bool threaded = false) {
    constexpr int kCallsOfAWalk = 500;
    WalkOptions options;
    options.threaded = threaded;
    const char* only = std::getenv("DUO_WALK_SEED");
    for (int done = 0; done < calls && !HasFailure(); done += kCallsOfAWalk) {
      const uint64_t seed = only != nullptr ? std::strtoull(only, nullptr, 10) : first_seed + done / kCallsOfAWalk;
      SCOPED_TRACE("DUO_WALK_SEED=" + std::to_string(seed) + " replays it");
      disk_.state = FaultDisk().state;  // or what a power cut leaves would follow from the walks before
      SessionsWalk(options, {*engine_, disk_, model_dir_, log_}, seed, &counts_).Go(kCallsOfAWalk);
      if (only != nullptr) break;
    }
    std::printf("%lld calls, %lld refused for state, %lld cancelled, %lld faults, %lld crashes\n",
                static_cast<long long>(counts_.calls), static_cast<long long>(counts_.refused),
                static_cast<long long>(counts_.cancelled), static_cast<long long>(counts_.faults),
                static_cast<long long>(counts_.crashes));
    if (only == nullptr) {
      EXPECT_LE(10 * counts_.refused, counts_.calls);
    }
  }
  // Prints the rarest one, too: so often at least was each taken, and those of several processes add up.
  void ExpectEveryStep(int64_t least) {
    int64_t fewest = counts_.calls;
    std::string rarest;
    const auto expect = [&](const auto& taken, const auto& step) {
      const auto found = taken.find({step.from, step.to});
      const int64_t times = found == taken.end() ? 0 : found->second;
      const std::string name = std::string(Name(step.from)) + " -> " + std::string(Name(step.to));
      EXPECT_GE(times, least) << name;
      if (times >= fewest) return;
      fewest = times;
      rarest = name;
    };
    for (const auto& step : kPlaceSteps) expect(counts_.places, step);
    for (const auto& step : kAppendSteps) expect(counts_.phases, step);
    std::printf("the rarest step, %s: %lld times\n", rarest.c_str(), static_cast<long long>(fewest));
  }

  const int nowhere_ = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const Log log_{true, nowhere_};
  FaultDisk disk_;
  FileSystem files_ = disk_.Files();
  std::filesystem::path scratch_;
  std::string model_dir_;
  std::unique_ptr<Device> device_ = Device::Cpu(1);
  std::unique_ptr<Communicator> comm_ = MakeSelfCommunicator();
  std::unique_ptr<Engine> engine_;
  WalkCounts counts_;
};

TEST_F(RandomWalk, OnTheSmallestModel) {
  OpenSmallest();
  Walk(Scaled(10000), FirstSeed(1));
  if (std::getenv("DUO_WALK_SEED") == nullptr) ExpectEveryStep(TestScale() >= 10 ? 50 : 1);
}

// As the server runs it. When a piece of work meets the disk is the machine's affair, so a seed replays its calls only.
TEST_F(RandomWalk, OnTheSmallestModelWithAThreadForTheDisk) {
  OpenSmallest();
  Walk(Scaled(3000), FirstSeed(400001), true);
}

TEST_F(RandomWalk, OnTheDemoModel) {
  Open(SourceDir() + "/launcher/demo/needle-6m", SourceDir() + "/attn_patterns/needle-6m", std::nullopt);
  Walk(Scaled(2000), FirstSeed(200001));
}

}  // namespace
}  // namespace duo
