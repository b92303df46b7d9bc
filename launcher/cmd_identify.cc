// `duo identify`: finds a model's retrieval heads by training gates, or measures a pattern that exists (--evaluate).

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "attn_patterns/lookup.h"
#include "kernels/base/seconds.h"
#include "launcher/identify/head_mass_runs.h"
#include "launcher/identify/held_out_recall.h"
#include "launcher/identify/identify_flags.h"
#include "launcher/identify/identify_inputs.h"
#include "launcher/identify/identify_report.h"
#include "launcher/identify/key_mean_run.h"
#include "launcher/identify/pattern_svg.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/runtime_flags.h"
#include "runtime/identify/identify.h"
#include "runtime/weights/fingerprint.h"

namespace duo {
namespace {

constexpr int kHeldOutWords = 8;  // of a held-out passkey, as in the paper's ablation
constexpr double kSparsities[] = {0.25, 0.5, 0.75, 0.9};
constexpr int kLengthsReported = 4;

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.flush();
  return file ? absl::OkStatus() : absl::DataLossError(absl::StrCat(path, ": cannot be written"));
}

class Identification {
 public:
  Identification(const IdentifyFlags& flags, const Launch& launch, Runtime& runtime, IdentifyInputs inputs)
      : flags_(flags), launch_(launch), runtime_(runtime), inputs_(std::move(inputs)) {}

  absl::Status Run() {
    if (absl::Status s = flags_.evaluate.empty() ? Train() : OpenGiven(); !s.ok()) return s;
    if (absl::Status s = Report(); !s.ok()) return s;
    if (!runtime_.leader()) return absl::OkStatus();
    return Write();
  }

 private:
  bool cuda() const { return runtime_.device->is_cuda(); }

  absl::StatusOr<IdentifyModel> OpenModel(int64_t max_tokens) {
    Progress progress("loading weights", "B", !runtime_.leader());
    IdentifyModel::Sizes sizes;
    sizes.sink = flags_.evaluate.empty() ? flags_.sink : pattern_.sink;
    sizes.recent = flags_.evaluate.empty() ? flags_.recent : pattern_.recent;
    sizes.max_tokens = max_tokens;
    if (flags_.evaluate.empty() && flags_.full_branch == "student") sizes.full_branch = FullBranch::kStudent;
    absl::StatusOr<IdentifyModel> model =
        IdentifyModel::Load(flags_.runtime.model, sizes, *runtime_.device,
                            [&](int64_t done, int64_t total) { progress.Update(done, total); });
    if (absl::Status s = Agree(*runtime_.comm, model.status()); !s.ok()) return s;
    return model;
  }

  // The tasks to choose from, lengths for each, and the model; then the task that the model answers best.
  absl::StatusOr<IdentifyModel> Prepare() {
    std::vector<PasskeyData> all;
    std::vector<DocumentLengths> lengths;
    int64_t max_tokens = 0;
    absl::Status status;
    for (const RecallTask task : {RecallTask::kPasskey, RecallTask::kNeedle}) {
      if (flags_.task != "auto" && flags_.task != Name(task)) continue;
      absl::StatusOr<PasskeyData> data = MakePasskeyData(flags_, inputs_, task, flags_.words);
      absl::StatusOr<DocumentLengths> chosen = data.ok() ? ChooseDocumentLengths(flags_, inputs_, *data, cuda())
                                                         : absl::StatusOr<DocumentLengths>(data.status());
      if (!chosen.ok()) {
        status = chosen.status();
        continue;
      }
      all.push_back(std::move(*data));
      lengths.push_back(*chosen);
      // Lines are kept whole and openings differ: a little air.
      max_tokens = std::max(max_tokens, chosen->most + all.back().max_question_tokens() + 128);
    }
    if (absl::Status s = Agree(*runtime_.comm, all.empty() ? status : absl::OkStatus()); !s.ok()) return s;
    absl::StatusOr<IdentifyModel> model = OpenModel(max_tokens);
    if (!model.ok()) return model;
    size_t best = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      recalls_.push_back(Recall(*model, all[i], flags_.seed, lengths[i].least));
      // Passkeys are longer and say more: needles only where the model does not know what to do with them.
      if (i > 0 && recalls_[0] < 0.5 && recalls_[i] > recalls_[best]) best = i;
    }
    data_ = std::move(all[best]);
    lengths_ = lengths[best];
    recall_ = recalls_[best];
    return model;
  }

  absl::Status Train() {
    absl::StatusOr<IdentifyModel> model = Prepare();
    if (!model.ok()) return model.status();
    options_.steps = flags_.steps > 0 ? flags_.steps : cuda() ? 2000 : 200;
    options_.samples = flags_.samples > 0 ? flags_.samples : runtime_.comm->size();
    options_.rate = flags_.rate;
    options_.reg = flags_.reg;
    options_.min_length = lengths_.least;
    options_.max_length = lengths_.most;
    options_.seed = flags_.seed;
    options_.state_file = flags_.out + "/identify_state.json";
    options_.fingerprint = absl::StrFormat(
        "model %s, task %s, %d facts of %d words, sink %d, recent %d, full branch of the %s, haystack of %d bytes",
        inputs_.name, Name(data_->options().task), flags_.facts, flags_.words, flags_.sink, flags_.recent,
        flags_.full_branch, inputs_.haystack.size());
    if (runtime_.leader()) {
      std::error_code error;
      std::filesystem::create_directories(flags_.out, error);
      std::fprintf(
          stderr,
          "task %s%s: the model predicts %.0f %% of the answers' tokens; %d steps, documents of %s to %s tokens, "
          "%s of workspace\n",
          Name(data_->options().task), inputs_.chat.has_value() ? " in chat turns" : "", 100 * recall_, options_.steps,
          Grouped(lengths_.least).c_str(), Grouped(lengths_.most).c_str(),
          ByteCount(static_cast<double>(model->workspace_bytes())).c_str());
      if (recall_ < 0.5) {
        std::fprintf(stderr, "warning: with so few answers the gates will say little about retrieval\n");
      }
    }
    Progress progress("identifying", "steps", !runtime_.leader());
    int first = -1;
    absl::StatusOr<Identified> trained =
        IdentifyGates(*model, *data_, options_, *runtime_.comm, [&](const IdentifyProgress& p) {
          if (first < 0) first = p.step - 1;
          progress.Note(
              absl::StrFormat("loss %.5f, mean gate %.3f", p.distillation + options_.reg * p.mean_gate, p.mean_gate));
          progress.Update(p.step - first, options_.steps - first);
          return true;
        });
    progress.Done();
    if (!trained.ok()) return trained.status();
    trained_ = std::move(*trained);
    pattern_.layers = inputs_.config.layers;
    pattern_.kv_heads = inputs_.config.kv_heads;
    pattern_.gates = trained_.gates;
    pattern_.sink = flags_.sink;
    pattern_.recent = flags_.recent;
    pattern_.models = {inputs_.name};
    if (const std::string print = IdentityOf(flags_.runtime.model, inputs_.config).fingerprint(); !print.empty()) {
      pattern_.fingerprints = {print};  // so that a copy of the model is known whatever its folder is called
    }
    // What took hours is safe before the report begins.
    const absl::Status written =
        runtime_.leader() ? WritePattern(pattern_, ConfigJson(), flags_.out) : absl::OkStatus();
    return Agree(*runtime_.comm, written);
  }

  // --evaluate: the pattern of that folder, and where streaming heads would have looked.
  absl::Status OpenGiven() {
    absl::StatusOr<FoundPattern> found = OpenPattern(flags_.evaluate, inputs_.config.layers, inputs_.config.kv_heads);
    if (absl::Status s = Agree(*runtime_.comm, found.status()); !s.ok()) return s;
    pattern_ = found->pattern;
    pattern_.sink = flags_.runtime.sink.value_or(pattern_.sink);
    pattern_.recent = flags_.runtime.recent.value_or(pattern_.recent);
    absl::StatusOr<IdentifyModel> model = Prepare();
    if (!model.ok()) return model.status();
    const PasskeySample sample = data_->Sample(flags_.seed, 0, std::min<int64_t>(lengths_.most, 4096));
    mass_outside_ = model->MassOutside(sample.tokens);
    return absl::OkStatus();
  }

  std::string ConfigJson() const {
    nlohmann::ordered_json config = nlohmann::ordered_json::parse(PatternConfigJson(pattern_));
    config["model_name"] = inputs_.name;
    config["dataset_name"] =
        flags_.haystack.empty() ? "licences and Perl pods of the system" : FolderName(flags_.haystack);
    config["dataset_format"] = data_->options().task == RecallTask::kPasskey ? "multiple_passkey" : "multiple_needle";
    config["lr"] = options_.rate;
    config["num_steps"] = options_.steps;
    config["batch_size"] = options_.samples;
    config["context_length_min"] = options_.min_length;
    config["context_length_max"] = options_.max_length;
    config["context_lengths_num_intervals"] = kLengths;
    config["num_passkeys"] = data_->options().facts;
    if (data_->options().task == RecallTask::kPasskey) config["passkey_length"] = data_->options().words;
    config["min_needle_depth_ratio"] = data_->options().min_depth;
    config["max_needle_depth_ratio"] = data_->options().max_depth;
    config["reg_weight"] = options_.reg;
    config["initial_value"] = 1.0;
    config["supervision"] = "distill";
    config["full_branch"] = flags_.full_branch;
    config["seed"] = options_.seed;
    config["program"] = "duo identify";
    config["device"] = runtime_.device->info().name;
    config["seconds"] = trained_.seconds;
    return config.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  }

  absl::Status Report() {
    absl::StatusOr<PasskeyData> held_out =
        MakePasskeyData(flags_, inputs_, data_->options().task, std::min(flags_.words, kHeldOutWords));
    if (absl::Status s = Agree(*runtime_.comm, held_out.status()); !s.ok()) return s;
    std::vector<int64_t> lengths;
    for (int i = kLengthsReported - 1; i >= 0; --i) {
      const int64_t length = std::max(lengths_.most >> i, held_out->min_document_tokens());
      if (lengths.empty() || length > lengths.back()) lengths.push_back(length);
    }
    suite_ = MakeRecallSuite(*held_out, flags_.seed, lengths, flags_.documents);
    std::vector<int32_t> text = held_out->HeldOutText();
    text.resize(std::min<size_t>(text.size(), flags_.perplexity_tokens));
    report_.window = static_cast<int>(std::min<int64_t>(2048, MaxPlainPositions(inputs_.config)));
    windows_ = PerplexityWindows(text, inputs_.tokenizer.bos_id(), report_.window);
    report_.model = inputs_.name;
    report_.task = Name(data_->options().task);
    report_.device = runtime_.device->info().name;
    report_.lengths = lengths;

    const HeadPlan full = FullPlan(pattern_.layers, pattern_.kv_heads),
                   streaming = StreamingPlan(pattern_.layers, pattern_.kv_heads, pattern_.sink, pattern_.recent);
    std::vector<std::tuple<std::string, double, HeadPlan>> choices = {{"full", 0.0, full}};
    const std::vector<double> sparsities = flags_.runtime.sparsity.has_value()
                                               ? std::vector<double>{*flags_.runtime.sparsity}
                                               : std::vector<double>(std::begin(kSparsities), std::end(kSparsities));
    for (const double sparsity : sparsities) {
      absl::StatusOr<HeadPlan> plan = PlanBySparsity(pattern_, sparsity);
      if (!plan.ok()) return plan.status();
      choices.emplace_back(absl::StrFormat("duo %g", sparsity), sparsity, *plan);
    }
    choices.emplace_back("streaming", 1.0, streaming);
    for (size_t i = 0; i < choices.size(); ++i) {
      const auto& [name, sparsity, plan] = choices[i];
      ReportRow row;
      row.name = name;
      row.sparsity = sparsity;
      row.retrieval = plan.retrieval_heads();
      row.streaming = plan.streaming_heads();
      if (absl::Status s = Measure(plan, absl::StrCat("measuring ", name), &row); !s.ok()) return s;
      report_.rows.push_back(std::move(row));
    }
    return absl::OkStatus();
  }

  absl::Status Measure(const HeadPlan& plan, const std::string& label, ReportRow* row) {
    const Clock::time_point start = Clock::now();
    EngineOptions options = MakeEngineOptions(flags_.runtime, launch_);
    MakeRoom(suite_, &options);
    options.max_session_tokens = std::max<int64_t>(options.max_session_tokens, report_.window);
    options.kv_tokens = std::max<int64_t>(options.kv_tokens, report_.window);
    options.append_logits = true;
    options.heads = plan;
    absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags_.runtime, options, runtime_);
    if (!engine.ok()) return engine.status();
    if (!runtime_.leader()) {
      (*engine)->Follow();
      return absl::OkStatus();
    }
    Progress progress(label, "questions", false);
    absl::StatusOr<std::vector<std::vector<RecallCount>>> recall =
        MeasureRecall(**engine, inputs_.tokenizer, suite_, inputs_.end_tokens,
                      [&](int64_t done, int64_t total) { progress.Update(done, total); });
    if (!recall.ok()) return recall.status();
    row->recall = std::move(*recall);
    absl::StatusOr<Perplexity> perplexity =
        MeasurePerplexity(**engine, windows_, runtime_.device->pool(), [](int64_t, int64_t) {});
    if (!perplexity.ok()) return perplexity.status();
    row->perplexity = *perplexity;
    row->seconds = SecondsSince(start);
    return absl::OkStatus();
  }

  absl::Status Write() {
    nlohmann::ordered_json json = ReportJson(report_);
    std::string text = ReportTable(report_);
    const ReportRow& chosen = report_.rows[report_.rows.size() > 3 ? 2 : 1];  // sparsity 0.5, or the one asked for
    absl::StrAppend(&text, "\n", DepthTable(report_, chosen));
    json["teacher_recall"] = recall_;
    if (!trained_.gates.empty()) {
      json["identification"] = {{"steps", options_.steps},
                                {"samples_a_step", options_.samples},
                                {"document_tokens", {options_.min_length, options_.max_length}},
                                {"seed", options_.seed},
                                {"seconds", trained_.seconds},
                                {"distillation", trained_.distillation}};
    }
    if (!mass_outside_.empty()) {
      json["attention_mass_outside_window"] = MassOutsideJson(pattern_, mass_outside_);
      absl::StrAppend(&text, "\n", MassOutsideTable(pattern_, chosen.sparsity, mass_outside_));
    }
    const std::string table = text;
    if (flags_.json) {
      std::printf("%s\n", json.dump(2).c_str());
    } else {
      std::printf("%s", table.c_str());
    }
    if (flags_.out.empty()) return absl::OkStatus();
    if (!flags_.evaluate.empty()) {
      std::error_code error;
      std::filesystem::create_directories(flags_.out, error);
    }
    const std::string title = inputs_.name + (flags_.evaluate.empty() ? ": identified gates" : ": gates");
    for (const auto& [name, content] :
         std::vector<std::pair<const char*, std::string>>{{"report.json", json.dump(1) + "\n"},
                                                          {"report.txt", table},
                                                          {"heads.svg", PatternSvg(pattern_, title)},
                                                          {"sparsity.svg", ReportSvg(report_)}}) {
      if (absl::Status s = WriteFile(absl::StrCat(flags_.out, "/", name), content); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  const IdentifyFlags& flags_;
  const Launch& launch_;
  Runtime& runtime_;
  IdentifyInputs inputs_;
  std::optional<PasskeyData> data_;
  DocumentLengths lengths_;
  std::vector<double> recalls_;
  double recall_ = 0;  // of the chosen task, by full attention
  IdentifyOptions options_;
  Identified trained_;
  Pattern pattern_;
  std::vector<double> mass_outside_;
  RecallSuite suite_;
  std::vector<std::vector<int32_t>> windows_;
  IdentifyReport report_;
};

int RunIdentify(const IdentifyFlags& flags, const Launch& launch) {
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  absl::StatusOr<IdentifyInputs> inputs = ReadIdentifyInputs(flags);
  if (absl::Status s = Agree(*runtime->comm, inputs.status()); !s.ok()) return Fail(s, runtime->leader());
  const HeadMassRun heads = {flags, launch, *runtime, *inputs};
  if (!flags.key_means.empty()) {
    const absl::Status status = MeasureKeyMeans(heads);
    return status.ok() ? 0 : Fail(status, runtime->leader());
  }
  if (flags.quick || !flags.provenance_only.empty()) {
    const absl::Status status = flags.quick ? IdentifyQuickly(heads) : AddProvenanceHeads(heads);
    return status.ok() ? 0 : Fail(status, runtime->leader());
  }
  const absl::Status status = Identification(flags, launch, *runtime, std::move(*inputs)).Run();
  return status.ok() ? 0 : Fail(status, runtime->leader());
}

}  // namespace

void AddIdentifyCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<IdentifyFlags>();
  CLI::App* command = app.add_subcommand("identify", "Find which heads of a model must keep everything");
  command->footer(
      "Hides facts in a text and trains one gate per KV head until only those heads keep full attention\n"
      "that the answers need; then measures the result at several sparsities. Writes to --out:\n"
      "full_attention_heads.tsv and config.json (the pattern, for --pattern), heads.svg, report.txt,\n"
      "report.json, sparsity.svg, and identify_state.json, from which the same command goes on after an\n"
      "interruption. Under mpirun each rank takes a sample of its own in every step.\n"
      "\nExamples:\n"
      "  duo identify --model DIR --out attn_patterns/NAME\n"
      "  duo identify --model DIR --out OUT --haystack book.txt --steps 500 --max-length 16000\n"
      "  duo identify --model DIR --out attn_patterns/NAME --quick\n"
      "  duo identify --model DIR --evaluate attn_patterns/NAME\n"
      "  duo identify --model DIR --provenance-only attn_patterns/NAME\n"
      "  duo identify --model DIR --key-means book.txt --out attn_patterns/NAME\n"
      "  mpirun -n 8 duo identify --model DIR --out OUT");
  AddIdentifyFlags(*command, *flags);
  command->callback([flags, command, &launch] {
    if (command->count("--out") + command->count("--evaluate") + command->count("--provenance-only") == 0) {
      throw CLI::RequiredError("--out (or --evaluate, --provenance-only)");
    }
    if ((flags->quick || !flags->key_means.empty()) && flags->out.empty()) throw CLI::RequiredError("--out");
    if (flags->min_length > 0 && flags->max_length > 0 && flags->min_length > flags->max_length) {
      throw CLI::ValidationError("--min-length", absl::StrFormat("expected at most --max-length %d, found %d",
                                                                 flags->max_length, flags->min_length));
    }
    flags->sink = flags->runtime.sink.value_or(flags->sink);
    flags->recent = flags->runtime.recent.value_or(flags->recent);
    launch.chosen = [flags, &launch] { return RunIdentify(*flags, launch); };
  });
}

}  // namespace duo
