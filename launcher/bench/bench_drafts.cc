// `duo bench drafts`: what a step takes that checks drafts, and one that guesses them, beside a plain one, with the
// cache filled to a length by random codes or by a text; and how many tokens are drawn otherwise where rows share a
// step.

#include <algorithm>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "kernels/alike_rows.h"
#include "kernels/base/read_file.h"
#include "kernels/base/seconds.h"
#include "kernels/row_cuts.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"
#include "runtime/engine/draft_probe.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

constexpr int kWarm = 4;  // steps; the first of a kind may be recorded
constexpr int64_t kRoom = 4096;
constexpr int64_t kVerified = 320 + 2;  // tokens of the sessions of VerifyEngine, which the engine has to hold too

// before: of each step.
template <typename Step>
double MedianOf(int steps, absl::FunctionRef<void()> before, const Step& step) {
  std::vector<double> seconds;
  for (int i = 0; i < kWarm + steps; ++i) {
    before();
    const double one = step();
    if (i >= kWarm) seconds.push_back(one);
  }
  return Median(seconds);
}

// The text's tokens; so many are needed.
absl::StatusOr<std::vector<int32_t>> TextTokens(const BenchFlags& flags, int64_t needed) {
  absl::StatusOr<std::string> text = ReadFile(flags.text);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return config.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(flags.runtime.model, config->vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::vector<int32_t>> tokens = tokenizer->Encode(*text, {});
  if (!tokens.ok()) return tokens;
  if (std::ssize(*tokens) < needed) {
    return absl::InvalidArgumentError(absl::StrCat(flags.text, " has ", tokens->size(),
                                                   " tokens, and --context and what is drawn behind it need ", needed,
                                                   ": take a longer text or a smaller --context"));
  }
  tokens->resize(needed);
  return tokens;
}

// A session that has read them.
absl::StatusOr<SessionId> CreateReadSession(Engine& engine, std::vector<int32_t> tokens) {
  const absl::StatusOr<SessionId> session = engine.CreateSession(std::ssize(tokens));
  if (!session.ok()) return session;
  absl::Status read;
  RequestEvents events;
  events.on_done = [&read](const RequestResult& result) { read = result.status; };
  const auto append = engine.Append(*session, std::move(tokens), std::move(events));
  if (!append.ok()) return append.status();
  while (engine.Step()) {
  }
  if (!read.ok()) return read;
  return session;
}

absl::StatusOr<std::vector<Measurement>> Rows(const BenchFlags& flags, Engine& engine, const std::string& attention,
                                              int64_t context, int64_t room, const std::vector<int32_t>& text,
                                              double copy_rate, int together) {
  const absl::StatusOr<SessionId> session =
      text.empty() ? EngineProbe(engine).CreateFilledSession(context + room, context + room)
                   : CreateReadSession(engine, text);
  if (!session.ok()) return session.status();
  DraftProbe probe(engine, *session, room);
  std::vector<Measurement> rows;
  const auto add = [&](const std::string& what, double seconds) {
    Measurement row;
    row.what = absl::StrCat("drafts ", attention, " kv ", Name(engine.kv_format()), " ", what);
    row.context = context;
    row.seconds = seconds;
    row.details["of_a_plain_step"] = seconds / (rows.empty() ? seconds : rows[0].seconds);
    rows.push_back(row);
  };
  const bool listed = context / kPageTokens + 1 >= DecodeListRule::kFewestPages;
  const int copies = flags.runtime.draft_weights == "int4" ? 2 : 1;
  const int64_t kinds = 1 + static_cast<int64_t>(flags.checks.size()) + (listed ? 1 : 0) + copies * (listed ? 2 : 1);
  Progress progress("timing", "steps", false);
  int64_t steps = 0;
  const auto before = [&] { progress.Update(steps++, kinds * (kWarm + flags.steps)); };
  const double bytes =
      static_cast<double>(EngineProbe(engine).DecodeWeightBytes()) + static_cast<double>(engine.KvBytes(context));
  add("plain", MedianOf(flags.steps, before, [&] { return probe.Step(1); }));
  rows[0].floor_seconds = bytes / copy_rate;
  for (const int count : flags.checks)
    add(absl::StrCat("check of ", count, " rows"), MedianOf(flags.steps, before, [&] { return probe.Step(count); }));
  double density = 1;
  const auto lists = [&] { return probe.MakeLists(flags.share, &density); };
  if (listed) add("lists made", MedianOf(std::min(flags.steps, 8), before, lists));
  for (const bool copy : {false, true}) {
    if (copy && flags.runtime.draft_weights != "int4") continue;
    const std::string by = copy ? " by int4 weights" : "";
    if (listed) {
      add("guess by lists" + by, MedianOf(flags.steps, before, [&] { return probe.Guess(GuessKind::kLists, copy); }));
      rows.back().details["list_density"] = density;
    }
    add("guess by ends" + by, MedianOf(flags.steps, before, [&] { return probe.Guess(GuessKind::kEnds, copy); }));
  }
  progress.Done();
  for (const float temperature : {0.0f, 1.0f}) {
    if (flags.drawn == 0) break;
    Progress drawing("drawing", "tokens", false);
    Measurement row;
    row.what = absl::StrCat("drawn ", text.empty() ? "" : "behind the text ", "in steps of ", together,
                            " rows at temperature ", temperature);
    row.context = context;
    const Clock::time_point start = Clock::now();
    const int64_t tokens = flags.drawn;
    row.details["tokens"] = static_cast<double>(tokens);
    row.details["drawn_otherwise"] = static_cast<double>(
        probe.DrawnOtherwise(tokens, together, temperature, text.empty() ? RowsFed::kDrawn : RowsFed::kSession,
                             [&](int64_t drawn) { drawing.Update(drawn, tokens); }));
    row.seconds = SecondsSince(start) / static_cast<double>(tokens);
    rows.push_back(row);
  }
  if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
  return rows;
}

}  // namespace

absl::Status BenchDrafts(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  if (runtime.comm->size() > 1) return absl::InvalidArgumentError("bench drafts measures one rank");
  const Rates rates = RatesOf(*runtime.device);
  std::vector<Measurement> all;
  // A text is long enough for what is drawn and no longer: models end at their positions.
  const int64_t room =
      flags.text.empty() ? std::max(kRoom, flags.drawn + kPageTokens) : std::max<int64_t>(kPageTokens, flags.drawn);
  for (const int64_t context : flags.contexts) {
    absl::StatusOr<std::vector<int32_t>> text = std::vector<int32_t>();
    if (!flags.text.empty()) text = TextTokens(flags, context + room);
    if (!text.ok()) return text.status();
    for (const std::string& attention : flags.attentions) {
      absl::StatusOr<ProbeOptions> options = BenchEngine(flags, launch, attention, std::max(context + room, kVerified));
      if (!options.ok()) return options.status();
      options->speculate = Speculation::kSelf;
      options->int4_drafts = flags.runtime.draft_weights == "int4";
      if (options->chunk == 0) options->chunk = 256;
      absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, *options, runtime);
      if (!engine.ok()) return engine.status();
      absl::StatusOr<EngineCheck> check = VerifyEngine(**engine);
      if (!check.ok()) return check.status();
      absl::StatusOr<std::vector<Measurement>> rows = Rows(flags, **engine, attention, context, room, *text, rates.copy,
                                                           runtime.device->is_cuda() ? kAlikeRows : kExactRows);
      if (!rows.ok()) return rows.status();
      (*rows)[0].details["verified_error"] = check->error;
      all.insert(all.end(), rows->begin(), rows->end());
    }
  }
  PrintRows(flags, runtime, rates, all, "drafts");
  return absl::OkStatus();
}

}  // namespace duo
