// Sparse reading of a whole model: what it does not depend on, and that it is not taken for exact.
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

class SparsePrefill : public EngineOnDevicesWithKv {
 protected:
  static constexpr int kTokens = 7500;

  void SetUp() override {
    EngineOnDevicesWithKv::SetUp();
    if (!IsSkipped()) GivePositions(golden_, 16384);
  }
  EngineOptions Sparse(const std::string& setting, int chunk) const {
    EngineOptions options = Options();
    options.kv = kv();
    options.chunk = chunk;
    options.max_session_tokens = 8192;
    options.kv_tokens = 24'000;
    options.prefill_sparsity = *PrefillSparsityNamed(setting);
    return options;
  }
  // The answer behind a text that was read so; how it was read goes to `report`.
  Reply Read(const EngineOptions& options, SparseReport* report = nullptr, int threads = 2, bool beside = false) {
    Bench bench = Open(options, threads);
    if (bench.engine == nullptr) return {};
    const SessionId session = bench.Open(kTokens + 100);
    if (beside) bench.Append(bench.Open(2000), Text(1500, 9));
    bench.Append(session, Text(kTokens, 1));
    Reply reply = bench.AskNow(session, Text(5, 2), 4);
    if (report != nullptr) *report = bench.engine->Get(session)->sparse;
    return reply;
  }
  static float Difference(const Reply& a, const Reply& b) {
    float most = 0;
    for (size_t i = 0; i < a.logits[0].size(); ++i) {
      most = std::max(most, std::abs(a.logits[0][i] - b.logits[0][i]));
    }
    return most;
  }
};
INSTANTIATE_ON_DEVICES_WITH_KV(SparsePrefill, KvFormat::kBF16, KvFormat::kInt4);

TEST_P(SparsePrefill, DependsOnNeitherChunksNorThreadsNorWhatIsReadBeside) {
  for (const char* setting : {"0.1", "auto:0.3"}) {
    if (setting != std::string("0.1") && kv() != KvFormat::kF32) continue;
    SCOPED_TRACE(setting);
    SparseReport report;
    const Reply reply = Read(Sparse(setting, 1024), &report);
    ASSERT_FALSE(reply.logits.empty());
    EXPECT_EQ(report.setting, setting);
    EXPECT_GT(report.audits, 1);
    EXPECT_LT(report.mass, 0.999);
    const float tolerance = Tolerance(kv());
    ExpectSame(reply, Read(Sparse(setting, 256)), tolerance);
    ExpectSame(reply, Read(Sparse(setting, 1500), nullptr, 3, true), tolerance);
    if (cuda() || kv() != KvFormat::kF32) continue;  // whose tolerance is for codes that round to others
    EXPECT_GT(Difference(reply, Read(Sparse("off", 1024))), tolerance) << "nothing was left out";
  }
}

TEST_P(SparsePrefill, LeavesNothingOutOfWhatItsListsHold) {
  SparseReport report;
  const Reply sparse = Read(Sparse("0.999", 1024), &report);
  ASSERT_FALSE(sparse.logits.empty());
  EXPECT_EQ(report.setting, "off") << "every list held all pages";
  ExpectSame(sparse, Read(Sparse("off", 1024)), Tolerance(kv()));
}

TEST_P(SparsePrefill, AutoKeepsItsTargetOrReadsDensely) {
  SparseReport report;
  Read(Sparse("auto:0.98", 1024), &report);
  EXPECT_GE(report.mass, 0.98) << "this model's attention is spread evenly: no list keeps so much of it";
}

TEST_F(EngineFixture, SparsePrefillIsRefusedWhereAChunkHoldsNoBlock) {
  EngineOptions options = Options();
  options.chunk = 255;
  options.prefill_sparsity = *PrefillSparsityNamed("auto");
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  const absl::Status refused = Engine::Create(options, *device, *comm).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
}

}  // namespace
}  // namespace duo
