// Saved sessions over ranks: what one rank saved, several restore, extend and save, and one restores again, each time
// with the logits of a session that was never saved (the test rule). Run by ctest as
//   mpirun -n N saved_test [--device cuda]
// for random models with retrieval and streaming heads in every layer, and for a mixture whose experts are then split
// or dealt out whole: nothing of them is in a saved session. The directory is one that every rank sees, and then one
// that only rank 0 sees. The program exits with 0 when all agreed.
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "runtime/saved/session_store.h"
#include "tests/golden/golden_model.h"
#include "tests/mpi/rank_setup.h"
#include "tests/mpi/session_steps.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRoom = 480;  // of the models' 512 positions
constexpr int kDocument = 301, kMore = 130, kQuestion = 9, kNewTokens = 6;
constexpr char kId[] = "doc";

struct Case {
  const Golden* golden = nullptr;
  KvFormat kv = KvFormat::kF32;
  Strategy strategy = Strategy::kSplit;
  bool weighted = false;
  bool shared = true;  // every rank sees the directory
  float tolerance = 0;
  ExpertPlacement experts = ExpertPlacement::kAuto;
  PrefillSplit prefill = PrefillSplit::kHeads;

  std::string Text() const {
    return absl::StrFormat("%s kv %s %s, experts %s, prefill by %s%s%s", golden->name, Name(kv), Name(strategy),
                           Name(experts), Name(prefill), weighted ? ", unequal ranks" : "",
                           shared ? "" : ", a directory of rank 0");
  }
};

std::vector<int32_t> Text(const Case& c, int count, uint64_t seed) {
  return RandomTokens(static_cast<int64_t>(c.golden->full.logits.size()), count, seed);
}

// The question is always the same.
absl::StatusOr<Answer> Ask(Engine& engine, SessionId session, const Case& c) {
  GenerateParams params;
  params.max_new_tokens = kNewTokens;
  return AskNow(engine, session, Text(c, kQuestion, 3), params);
}

// A cold disk whose older parts come later: where two sections hold a page, whoever reads both at once ends with the
// older one.
FileSystem SlowFiles() {
  FileSystem files = RealFiles();
  files.read = [](int fd, void* data, int64_t bytes, int64_t offset) {
    FileInfo info;
    if (RealFiles().info_of(fd, &info) == 0 && offset < info.bytes / 2) usleep(3000);
    return RealFiles().read(fd, data, bytes, offset);
  };
  return files;
}

absl::StatusOr<std::unique_ptr<Engine>> Open(const Case& c, Device& device, Communicator& comm,
                                             const FileSystem& files = RealFiles()) {
  EngineOptions options;
  options.files = &files;
  options.model_dir = c.golden->model_dir;
  options.pattern_dir = c.golden->pattern_dir;
  options.threshold = 0.5;
  options.kv = c.kv;
  if (comm.size() > 1) {
    options.strategy = c.strategy;
    options.experts = c.experts;
    options.prefill_split = c.prefill;
    for (int r = 0; c.weighted && r < comm.size(); ++r) {
      options.rank_weights.push_back(std::vector<double>{2, 1, 3, 1}[r % 4]);
    }
  }
  options.questions = 1;
  options.max_session_tokens = kRoom;
  options.kv_tokens = 4 * kRoom;
  return Engine::Create(options, device, comm);
}

absl::Status Save(SessionStore& store, SessionId session) {
  SessionManifest meta;
  meta.max_tokens = kRoom;
  absl::StatusOr<std::unique_ptr<SaveJob>> job = store.StartSave(kId, session, meta);
  if (!job.ok()) return job.status();
  while (true) {
    const absl::StatusOr<bool> done = (*job)->Step();
    if (!done.ok()) return done.status();
    if (*done) return absl::OkStatus();
  }
}

absl::StatusOr<SessionId> Restore(SessionStore& store) {
  absl::StatusOr<std::unique_ptr<RestoreJob>> job = store.StartRestore(kId, 0);
  if (!job.ok()) return job.status();
  while (true) {
    const absl::StatusOr<bool> done = (*job)->Step();
    if (!done.ok()) return done.status();
    if (*done) return (*job)->session();
  }
}

// One case on rank 0, with one rank and with all of `comm`; the others follow the latter's engine. What differs or
// fails.
std::string Run(const Case& c, const std::string& dir, Device& device, Communicator& comm) {
  auto failed = [](const char* where, const absl::Status& status) {
    return absl::StrCat(where, ": ", status.message());
  };
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  Answer first, second;  // expected of the document, and of the extended one
  if (comm.rank() == 0) {
    fs::remove_all(dir);
    auto one = Open(c, device, *self);
    DUO_CHECK_MSG(one.ok(), std::string(one.status().message()));
    auto store = SessionStore::Open(dir, c.golden->model_dir, **one);
    DUO_CHECK_MSG(store.ok(), std::string(store.status().message()));
    const absl::StatusOr<SessionId> session = (*one)->CreateSession(kRoom);
    absl::Status status = session.status();
    if (status.ok()) status = AppendAll(**one, *session, Text(c, kDocument, 1));
    absl::StatusOr<Answer> answer = status.ok() ? Ask(**one, *session, c) : status;
    if (answer.ok()) first = std::move(*answer);
    status.Update(answer.status());
    if (status.ok()) status = Save(**store, *session);
    if (status.ok()) status = AppendAll(**one, *session, Text(c, kMore, 2));
    answer = status.ok() ? Ask(**one, *session, c) : status;
    if (answer.ok()) second = std::move(*answer);
    DUO_CHECK_MSG(answer.ok(), std::string(answer.status().message()));
  }
  std::string wrong;
  {
    auto many = Open(c, device, comm);
    if (!many.ok()) return failed("several ranks", many.status());
    if (comm.rank() != 0) {
      (*many)->Follow();
      return "";
    }
    auto store = SessionStore::Open(dir, c.golden->model_dir, **many);
    if (!store.ok()) return failed("several ranks", store.status());
    if (comm.size() > 1 && (*store)->shared() != c.shared) return "the ranks were wrong about what they see";
    const absl::StatusOr<SessionId> session = Restore(**store);
    if (!session.ok()) return failed("restored by several", session.status());
    absl::StatusOr<Answer> answer = Ask(**many, *session, c);
    if (!answer.ok()) return failed("restored by several", answer.status());
    wrong = Difference("restored by several", *answer, first, c.tolerance);
    if (!wrong.empty()) return wrong;
    absl::Status status = AppendAll(**many, *session, Text(c, kMore, 2));
    if (status.ok()) status = Save(**store, *session);
    answer = status.ok() ? Ask(**many, *session, c) : status;
    if (!answer.ok()) return failed("extended by several", answer.status());
    wrong = Difference("extended by several", *answer, second, c.tolerance);
    if (!wrong.empty()) return wrong;
  }
  // By several threads at once; on a GPU they read, and one feeds it.
  const std::unique_ptr<Device> threads = device.is_cuda() ? nullptr : Device::Cpu(4);
  const FileSystem slow = SlowFiles();
  auto one = Open(c, threads != nullptr ? *threads : device, *self, slow);
  if (!one.ok()) return failed("one rank", one.status());
  auto store = SessionStore::Open(dir, c.golden->model_dir, **one);
  if (!store.ok()) return failed("one rank", store.status());
  const absl::StatusOr<SessionId> session = Restore(**store);
  if (!session.ok()) return failed("restored by one again", session.status());
  const absl::StatusOr<Answer> answer = Ask(**one, *session, c);
  if (!answer.ok()) return failed("restored by one again", answer.status());
  return Difference("restored by one again", *answer, second, c.tolerance);
}

int RunCases(bool cuda) {
  Ranks ranks = StartRanks(cuda, CommKind::kMpi);
  // Every rank works in a folder of its own, so that a relative path is a directory that only rank 0 has.
  int64_t name = getpid();
  const fs::path scratch = fs::temp_directory_path() / absl::StrCat("duo_saved_", name);
  fs::create_directories(scratch);
  fs::current_path(scratch);
  ranks.comm->Broadcast(&name, sizeof name, 0);
  const std::string common = fs::temp_directory_path() / absl::StrCat("duo_saved_common_", name);
  int cases = 0, failures = 0;
  const std::vector<Strategy> strategies = {Strategy::kSplit, Strategy::kHeads, Strategy::kAuto};
  for (const char* model : {"llama_mha_untied", "qwen3_norms"}) {  // 3 and 5 KV heads
    const Golden golden = LoadGolden(model, scratch / "models");
    for (const KvFormat kv : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8, KvFormat::kInt4}) {
      if (cuda && kv == KvFormat::kF32) continue;
      for (const bool shared : {true, false}) {
        // As in ranks_main.cc: f32 on the CPU is held to 2^8 of the tolerance that is derived from bf16.
        const float tolerance = golden.duo.tolerance() / (!cuda && kv == KvFormat::kF32 ? 256 : 1);
        Case c = {&golden, kv, strategies[cases % strategies.size()], cases % 4 == 3, shared, tolerance};
        if (cases % 3 == 0) c.prefill = PrefillSplit::kRows;
        ++cases;
        failures += Failed(ranks, c.Text(), Run(c, shared ? common : "saved", *ranks.device, *ranks.comm));
      }
    }
  }
  const Golden mixture = LoadGolden("mixtral_sharded", scratch / "models");
  GivePositions(mixture, 512);
  for (const ExpertPlacement experts : {ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
    const KvFormat kv = cuda ? KvFormat::kBF16 : KvFormat::kF32;
    Case c = {&mixture, kv, Strategy::kSplit, false, true, mixture.duo.tolerance() / (cuda ? 1 : 256)};
    c.experts = experts;
    ++cases;
    failures += Failed(ranks, c.Text(), Run(c, common, *ranks.device, *ranks.comm));
  }
  fs::current_path("/");
  fs::remove_all(scratch);
  if (ranks.leader()) fs::remove_all(common);
  const std::string what = absl::StrFormat("saved by 1 rank, restored by %d, and back, on %s", ranks.comm->size(),
                                           ranks.device->info().name);
  return Agreed(ranks, what, cases, failures);
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) { return duo::RunOnDevice(argc, argv, duo::RunCases); }
