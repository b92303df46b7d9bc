// A session of a length that no other test reads: pages filled with random codes, the end of the document and a
// question really read on top, and then decode attention over all of it against plain attention on the same pages.
#include "runtime/engine/probe.h"
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

class FilledSession : public EngineOnDevicesWithKv {};

TEST_P(FilledSession, OfTwoHundredThousandTokensAgreesWithPlainAttention) {
  constexpr int64_t kRoom = 200500, kFilled = 200000;
  GivePositions(golden_, kRoom);
  EngineOptions options = Options();
  options.kv = kv();
  options.questions = 1;
  options.chunk = 256;
  options.max_session_tokens = kRoom;
  options.kv_tokens = kRoom + 3 * kPageTokens;
  Bench bench = Open(options);
  ASSERT_NE(bench.engine, nullptr);
  EngineProbe probe(*bench.engine);
  const absl::StatusOr<SessionId> session = probe.CreateFilledSession(kFilled, kRoom);
  ASSERT_TRUE(session.ok()) << session.status();
  bench.Append(*session, Text(300, 1));  // a chunk over the whole history, and rows of decode kernels
  GenerateParams params;
  params.max_new_tokens = 4;
  params.keep = true;
  Reply reply;
  bench.Ask(*session, Text(7, 2), &reply, params);
  bench.Run();
  ASSERT_TRUE(reply.result.status.ok()) << reply.result.status;
  ASSERT_EQ(bench.engine->Get(*session)->tokens, kFilled + 311);
  const absl::StatusOr<double> difference = probe.CompareWithPlainAttention(*session);
  ASSERT_TRUE(difference.ok()) << difference.status();
  // CUDA rounds softmax weights and outputs to bf16, 2^-9 each; the CPU sums in f32.
  EXPECT_LE(*difference, cuda() ? 4 * 0x1p-9 : 1e-5);
  EXPECT_GT(*difference, 0) << "nothing was compared";
}

INSTANTIATE_ON_DEVICES_WITH_KV(FilledSession, KvFormat::kBF16, KvFormat::kInt4);

}  // namespace
}  // namespace duo
