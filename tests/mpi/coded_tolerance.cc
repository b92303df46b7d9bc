#include "tests/mpi/coded_tolerance.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "parallel/communicator.h"
#include "tests/mpi/session_steps.h"

namespace duo {
namespace {

constexpr int kDocuments = 6;
constexpr int kQuestion = 9;
constexpr int64_t kNewTokens = 6;

std::vector<Answer> AnswersOf(const EngineOptions& options, Device& device) {
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  const auto engine = Engine::Create(options, device, *self);
  DUO_CHECK_MSG(engine.ok(), std::string(engine.status().message()));
  const int64_t vocab = (*engine)->config().vocab;
  const auto room = options.max_session_tokens;
  GenerateParams params;
  params.max_new_tokens = kNewTokens;
  std::vector<Answer> answers;
  for (int i = 0; i < kDocuments; ++i) {
    const auto session = (*engine)->CreateSession(room);
    DUO_CHECK_MSG(session.ok(), std::string(session.status().message()));
    const int length = static_cast<int>(room - kNewTokens - kQuestion) * (i + 1) / kDocuments;
    DUO_CHECK(AppendAll(**engine, *session, RandomTokens(vocab, length, 100 + i)).ok());
    auto answer = AskNow(**engine, *session, RandomTokens(vocab, kQuestion, 200 + i), params);
    DUO_CHECK_MSG(answer.ok(), std::string(answer.status().message()));
    answers.push_back(*std::move(answer));
    DUO_CHECK((*engine)->CloseSession(*session).ok());
  }
  return answers;
}

}  // namespace

float CodedTolerance(const EngineOptions& options, const GoldenRun& run, Device& device) {
  const absl::StatusOr<std::unique_ptr<Device>> cpu = Device::Cpu(1);
  DUO_CHECK(cpu.ok());
  const std::vector<Answer> exact = AnswersOf(options, **cpu), found = AnswersOf(options, device);
  float apart = 0;
  for (size_t i = 0; i < exact.size(); ++i) apart = std::max(apart, LargestDifference(found[i], exact[i]));
  const std::string weights = options.weights.has_value() ? absl::StrCat("weights ", Name(*options.weights), ", ") : "";
  std::printf("%skv %s on one GPU: logits are up to %g away from the CPU's; bf16 moves them by %g\n", weights.c_str(),
              Name(*options.kv), apart, run.bf16_error);
  return std::max(run.tolerance(), 2 * apart);
}

}  // namespace duo
