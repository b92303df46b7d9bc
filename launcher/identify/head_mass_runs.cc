#include "launcher/identify/head_mass_runs.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "attn_patterns/lookup.h"
#include "kernels/base/seconds.h"
#include "launcher/terminal/progress.h"
#include "runtime/identify/head_masses.h"
#include "runtime/identify/identify_evaluate.h"
#include "runtime/weights/fingerprint.h"

namespace duo {
namespace {

constexpr int kWords = 8;   // of a passkey, as in reports
constexpr int kNamed = 32;  // provenance heads of a pattern at most

struct Measured {
  RecallTask task = RecallTask::kPasskey;
  std::vector<HeadMasses> masses;
  double best() const {
    double most = 0;
    for (const HeadMasses& m : masses) most = std::max(most, m.found());
    return most;
  }
};

absl::StatusOr<std::vector<HeadMasses>> MeasureTask(const HeadMassRun& run, RecallTask task, const HeadPlan& plan) {
  absl::StatusOr<PasskeyData> data = MakePasskeyData(run.flags, run.inputs, task, std::min(run.flags.words, kWords));
  absl::StatusOr<DocumentLengths> lengths =
      data.ok() ? ChooseDocumentLengths(run.flags, run.inputs, *data, run.runtime.device->is_cuda())
                : absl::StatusOr<DocumentLengths>(data.status());
  if (absl::Status s = Agree(*run.runtime.comm, lengths.status()); !s.ok()) return s;
  // Documents that no report measures on: another seed.
  const RecallSuite suite =
      MakeRecallSuite(*data, run.flags.seed ^ 0x10c4, {lengths->least, lengths->most}, run.flags.documents);
  EngineOptions options = MakeEngineOptions(run.flags.runtime, run.launch);
  MakeRoom(suite, &options);
  ++options.questions;  // the empty one
  const auto& longest = suite.documents.back();
  int64_t empty = 0;
  for (const PasskeyDocument& d : longest) empty = std::max(empty, static_cast<int64_t>(d.empty_question.size()) + 1);
  options.kv_tokens += empty;
  options.heads = plan;
  options.provenance = true;
  options.provenance_heads = AllRetrievalHeads(plan, run.inputs.config.heads / run.inputs.config.kv_heads);
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(run.flags.runtime, options, run.runtime);
  if (!engine.ok()) return engine.status();
  if (!run.runtime.leader()) {
    (*engine)->Follow();
    return std::vector<HeadMasses>();
  }
  std::vector<PasskeyDocument> documents;
  for (const auto& of_length : suite.documents) documents.insert(documents.end(), of_length.begin(), of_length.end());
  Progress progress(absl::StrCat("looking at heads, task ", Name(task)), "questions", false);
  return MeasureHeadMasses(**engine, documents, plan.sink, plan.recent,
                           [&](int64_t done, int64_t total) { progress.Update(done, total); });
}

// Of the tasks that the flags allow the one in which some head finds facts best: models that cannot answer a task do
// not look for its facts.
absl::StatusOr<Measured> Measure(const HeadMassRun& run, const HeadPlan& plan) {
  Measured best;
  absl::Status status = absl::OkStatus();
  for (const RecallTask task : {RecallTask::kPasskey, RecallTask::kNeedle}) {
    if (run.flags.task != "auto" && run.flags.task != Name(task)) continue;
    absl::StatusOr<std::vector<HeadMasses>> masses = MeasureTask(run, task, plan);
    if (!masses.ok()) {
      status = masses.status();
      continue;
    }
    Measured measured = {task, std::move(*masses)};
    if (best.masses.empty() || measured.best() > best.best()) best = std::move(measured);
  }
  if (best.masses.empty() && run.runtime.leader()) return status;
  return best;
}

nlohmann::ordered_json HeadsJson(const std::vector<ProvenanceHead>& heads) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ProvenanceHead& h : heads) list.push_back({h.layer, h.head, h.weight});
  return list;
}

// The heads and what they look at, the best first.
std::string HeadsTable(const Measured& measured, const std::vector<ProvenanceHead>& heads) {
  std::string text =
      absl::StrFormat("task %s: %d of %d query heads find facts\n\n layer  head    fact   empty  copied  outside\n",
                      Name(measured.task), heads.size(), measured.masses.size());
  for (const ProvenanceHead& h : heads) {
    for (const HeadMasses& m : measured.masses) {
      if (m.layer != h.layer || m.head != h.head) continue;
      absl::StrAppendFormat(&text, "%6d %5d %6.1f%% %6.1f%% %6.1f%% %7.1f%%\n", m.layer, m.head, 100 * m.fact,
                            100 * m.empty, 100 * m.copied, 100 * m.outside);
    }
  }
  return text;
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  return text.str();
}

}  // namespace

absl::Status AddProvenanceHeads(const HeadMassRun& run) {
  const ModelConfig& config = run.inputs.config;
  absl::StatusOr<FoundPattern> found = OpenPattern(run.flags.provenance_only, config.layers, config.kv_heads);
  if (absl::Status s = Agree(*run.runtime.comm, found.status()); !s.ok()) return s;
  absl::StatusOr<HeadPlan> plan = PlanBySparsity(found->pattern, run.flags.runtime.sparsity.value_or(0.5));
  if (!plan.ok()) return plan.status();
  absl::StatusOr<Measured> measured = Measure(run, *plan);
  if (!measured.ok()) return measured.status();
  if (!run.runtime.leader()) return absl::OkStatus();
  const std::vector<ProvenanceHead> heads = ChooseProvenanceHeads(measured->masses, kNamed);
  if (heads.empty()) {
    return absl::FailedPreconditionError(
        "no head looks at a fact more when it is asked for than when nothing is: the model does not find facts in "
        "these "
        "documents (other ones: --task, --min-length, --max-length)");
  }
  absl::StatusOr<std::string> text = ReadWhole(found->dir + "/config.json");
  if (!text.ok()) return text.status();
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(*text);  // OpenPattern has read it
  json["provenance_heads"] = HeadsJson(heads);
  std::printf("%s", HeadsTable(*measured, heads).c_str());
  return WritePattern(found->pattern, json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace),
                      found->dir);
}

absl::Status IdentifyQuickly(const HeadMassRun& run) {
  const Clock::time_point start = Clock::now();
  const ModelConfig& config = run.inputs.config;
  HeadPlan full = FullPlan(config.layers, config.kv_heads);
  full.sink = run.flags.sink;
  full.recent = run.flags.recent;
  absl::StatusOr<Measured> measured = Measure(run, full);
  if (!measured.ok()) return measured.status();
  if (!run.runtime.leader()) return absl::OkStatus();
  Pattern pattern;
  pattern.layers = config.layers;
  pattern.kv_heads = config.kv_heads;
  pattern.gates = QuickGates(measured->masses, config.layers, config.kv_heads, config.heads / config.kv_heads);
  pattern.sink = run.flags.sink;
  pattern.recent = run.flags.recent;
  pattern.models = {run.inputs.name};
  const ModelIdentity identity = IdentityOf(run.flags.runtime.model, config);
  if (const std::string print = identity.fingerprint(); !print.empty()) pattern.fingerprints = {print};
  pattern.provenance = ChooseProvenanceHeads(measured->masses, kNamed);
  const double seconds = SecondsSince(start);
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(PatternConfigJson(pattern));
  json["model_name"] = run.inputs.name;
  json["dataset_format"] = measured->task == RecallTask::kPasskey ? "multiple_passkey" : "multiple_needle";
  json["supervision"] = "attention mass in forward passes, no training (--quick)";
  json["seed"] = run.flags.seed;
  json["program"] = "duo identify --quick";
  json["device"] = run.runtime.device->info().name;
  json["seconds"] = seconds;
  // Before this one is written: it may lie where the model's pattern is looked for.
  const absl::StatusOr<FoundPattern> other =
      FindPattern(identity, config.layers, config.kv_heads, PatternRoots(run.launch.program));
  if (absl::Status s = WritePattern(pattern, json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace),
                                    run.flags.out);
      !s.ok()) {
    return s;
  }
  std::printf("%s", HeadsTable(*measured, pattern.provenance).c_str());
  std::printf("\n%s: gates of %d KV heads in %.1f s\n", run.flags.out.c_str(), config.layers * config.kv_heads,
              seconds);
  if (!other.ok()) return absl::OkStatus();
  const absl::StatusOr<HeadPlan> mine = PlanBySparsity(pattern, 0.5), theirs = PlanBySparsity(other->pattern, 0.5);
  if (!mine.ok() || !theirs.ok()) return absl::OkStatus();
  int shared = 0;
  for (size_t i = 0; i < mine->retrieval.size(); ++i) shared += mine->retrieval[i] != 0 && theirs->retrieval[i] != 0;
  std::printf("against %s: rank correlation of gates %.2f; at sparsity 0.5 %d of %d retrieval heads are the same\n",
              other->dir.c_str(), RankCorrelation(pattern.gates, other->pattern.gates), shared,
              mine->retrieval_heads());
  return absl::OkStatus();
}

}  // namespace duo
