// `duo generate`: reads a prompt once and continues it, or answers each --ask on a fork of it.

#include <time.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "launcher/generate_flags.h"
#include "launcher/generate_replay.h"
#include "launcher/generate_report.h"
#include "launcher/generate_sources.h"
#include "launcher/generate_texts.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/runtime_checks.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/text_stream.h"
#include "runtime/text/token_bytes.h"

namespace duo {
namespace {

// What the engine must have room for; the same on every rank.
struct Room {
  int64_t session_tokens = 0;  // of the longest sequence
  int64_t kv_tokens = 0;
  int64_t max_new_tokens = 0;
  int32_t questions = 1;
};

double ProcessorSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

absl::StatusOr<Room> Plan(const GenerateFlags& flags, const Texts& texts) {
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return config.status();
  size_t longest = 0;
  for (const auto& ask : texts.asks) longest = std::max(longest, ask.size());
  longest += static_cast<size_t>(flags.replay) * (kReplayedBytes + 1);
  const int64_t prompt = static_cast<int64_t>(texts.prompt.size() + longest), positions = MaxPositions(*config);
  if (prompt >= positions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the prompt has %d tokens%s; %s has %d positions, and an answer needs at least one", prompt,
                        texts.asks.empty() ? "" : " with its longest question", flags.runtime.model, positions));
  }
  Room room;
  room.max_new_tokens = std::min(flags.max_new_tokens, positions - prompt);  // the answer ends where the positions do
  room.session_tokens = prompt + room.max_new_tokens;
  room.questions = static_cast<int32_t>(std::clamp<size_t>(texts.asks.size(), 1, 16));
  room.kv_tokens = static_cast<int64_t>(texts.prompt.size()) +
                   room.questions * (static_cast<int64_t>(longest) + room.max_new_tokens);
  return room;
}

// Of what the answers are to be; null where they may be anything. Wants no model, so that what is wrong with a schema
// or a pattern is said before one is loaded.
absl::StatusOr<std::shared_ptr<const Grammar>> ReadGrammar(const SamplingFlags& flags) {
  const absl::StatusOr<Guide> guide = ReadGuideFlags(flags);
  if (!guide.ok()) return guide.status();
  if (guide->kind == Guide::Kind::kNone) return nullptr;
  absl::StatusOr<std::shared_ptr<const Grammar>> grammar = CompileGuide(*guide);
  if (grammar.ok()) return grammar;
  const std::string flag = !flags.json_schema_file.empty() ? absl::StrCat("--json-schema ", flags.json_schema_file)
                           : !flags.grammar_file.empty()   ? absl::StrCat("--grammar ", flags.grammar_file)
                                                           : "--regex";
  return absl::Status(grammar.status().code(), absl::StrCat(flag, ": ", grammar.status().message()));
}

class Generation {
 public:
  // grammar: of what the answers are to be; null: anything
  Generation(const GenerateFlags& flags, const Room& room, std::shared_ptr<const Grammar> grammar, Texts texts,
             Runtime& runtime, Engine& engine)
      : flags_(flags),
        room_(room),
        grammar_(std::move(grammar)),
        texts_(std::move(texts)),
        runtime_(runtime),
        engine_(engine) {}

  int Run() {
    absl::StatusOr<SamplingRules> rules = ReadSamplingFlags(flags_.sampling);
    if (!rules.ok()) return Fail(rules.status());
    out_.rules = std::move(*rules);
    if (grammar_ != nullptr) trie_ = MakeTokenTrie(texts_.tokenizer, engine_.config().vocab);
    const Clock::time_point start = Clock::now();
    progress_ = std::make_unique<Progress>("reading", "tokens", false);
    const absl::Status status = flags_.text.asks.empty() ? Continue() : AskAll();
    progress_.reset();
    if (!status.ok()) return Fail(status);
    out_.seconds = SecondsSince(start);
    for (GeneratedAnswer& answer : out_.answers) out_.new_tokens += answer.stream->tokens();
    PrintGenerated(flags_, texts_, runtime_, engine_, out_);
    return 0;
  }

 private:
  absl::Status Continue() {
    absl::StatusOr<SessionId> session =
        engine_.CreateSession(1);  // the text is continued on a fork, which takes the room
    if (!session.ok()) return session.status();
    out_.answers.resize(1);
    out_.answers[0].prompt = texts_.prompt;
    if (absl::Status s = Ask(*session, out_.answers[0], /*stream_out=*/!flags_.json); !s.ok()) return s;
    if (absl::Status s = RunSteps(); !s.ok()) return s;
    out_.prefill_seconds = out_.answers[0].result.prefill_seconds;
    out_.sparse = out_.answers[0].result.sparse;
    return absl::OkStatus();
  }

  absl::Status AskAll() {
    const int64_t room = std::max<int64_t>(1, static_cast<int64_t>(texts_.prompt.size()));
    absl::StatusOr<SessionId> session = engine_.CreateSession(room);
    if (!session.ok()) return session.status();
    absl::Status read = texts_.prompt.empty() ? absl::OkStatus() : absl::UnknownError("the prompt was not read");
    RequestEvents events;
    events.on_progress = [&](int64_t done, int64_t total) { progress_->Update(done, total); };
    events.on_done = [&](const RequestResult& result) {
      progress_->Done();
      read = result.status;
      out_.prefill_seconds = result.prefill_seconds;
      out_.sparse = result.sparse;
    };
    if (!texts_.prompt.empty()) {  // else all of it comes with the questions: no token of it is certain before
      absl::StatusOr<RequestId> append = engine_.Append(*session, texts_.prompt, std::move(events));
      if (!append.ok()) return append.status();
    }
    if (absl::Status s = Replay(*session); !s.ok()) return s;
    out_.answers.resize(texts_.asks.size());
    for (size_t i = 0; i < out_.answers.size(); ++i) {
      out_.answers[i].prompt = texts_.asks[i];
      if (absl::Status s = Ask(*session, out_.answers[i], false); !s.ok()) return s;
    }
    if (absl::Status s = RunSteps(); !s.ok()) return s;
    return read;
  }

  // What the questions look at is put before them.
  absl::Status Replay(SessionId session) {
    if (flags_.replay == 0) return absl::OkStatus();
    absl::StatusOr<std::vector<std::vector<Source>>> found = LookBefore(engine_, session, texts_, flags_.replay);
    if (!found.ok()) return found.status();
    out_.replayed = *std::move(found);
    TextFlags text = flags_.text;
    for (size_t i = 0; i < out_.replayed.size(); ++i) text.asks[i] = BehindSources(out_.replayed[i], text.asks[i]);
    return AskOtherwise(flags_.runtime.model, text, &texts_);
  }

  absl::Status Ask(SessionId session, GeneratedAnswer& answer, bool stream_out) {
    answer.stream = std::make_unique<TextStream>(texts_.tokenizer, flags_.stops);
    GenerateParams params;
    params.max_new_tokens = room_.max_new_tokens;
    params.temperature = static_cast<float>(flags_.temperature);
    params.top_p = static_cast<float>(flags_.top_p);
    params.seed = flags_.seed;
    params.rules = out_.rules;
    if (!flags_.sampling.ignore_eos) params.end_tokens = texts_.end_tokens;
    params.mass = flags_.sources > 0;
    if (params.mass) {
      const std::span<const int32_t> ask = flags_.text.asks.empty() ? std::span<const int32_t>() : answer.prompt;
      const HeadPlan& heads = engine_.heads();
      answer.sources = std::make_unique<AnswerSources>(texts_, ask, flags_.sources, heads.sink, heads.recent);
    }
    auto show = [this, stream_out](const std::string& text) {
      if (!stream_out || text.empty()) return;
      progress_->Done();
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    RequestEvents events;
    if (flags_.text.asks.empty()) {  // else the bar is the document's, not a question's
      events.on_progress = [this](int64_t done, int64_t total) { progress_->Update(done, total); };
    }
    if (grammar_ != nullptr) {
      answer.matcher = std::make_unique<GrammarMatcher>(grammar_, trie_);
      std::vector<int32_t> ends = params.end_tokens;
      ends.insert(ends.end(), out_.rules.stop_tokens.begin(), out_.rules.stop_tokens.end());
      events.allow = [&answer, ends](std::vector<uint32_t>* mask) { return answer.matcher->Mask(ends, mask); };
    }
    events.on_token = [this, &answer, show](int32_t token) {
      if (answer.tokens.empty()) {
        out_.processor_seconds = ProcessorSeconds();
        out_.processor_tokens = -1;
      }
      ++out_.processor_tokens;
      answer.tokens.push_back(token);
      show(answer.stream->Push(token));
      if (answer.matcher != nullptr) answer.broken = answer.matcher->Accept(token);
      return answer.broken.ok() && !answer.stream->stopped() &&
             (answer.matcher == nullptr || !answer.matcher->must_end());
    };
    events.on_score = [&answer](const TokenScore& score) { answer.scores.push_back(score); };
    events.on_mass = [&answer](const RowMass& mass) { answer.sources->rows.push_back(WhatCounts(mass)); };
    events.on_prompt_score = [&answer](const TokenScore& score) { answer.prompt_scores.push_back(score); };
    events.on_done = [&answer, show](const RequestResult& result) {
      answer.result = result;
      answer.done = true;
      show(answer.stream->Flush());
    };
    return engine_.Ask(session, answer.prompt, params, std::move(events)).status();
  }

  absl::Status RunSteps() {
    while (engine_.Step()) {
    }
    out_.processor_seconds = ProcessorSeconds() - out_.processor_seconds;
    for (const GeneratedAnswer& answer : out_.answers) {
      if (!answer.done) return absl::ResourceExhaustedError("the question needs more KV memory than this run has");
      if (!answer.result.status.ok()) return answer.result.status;
      if (!answer.broken.ok()) return answer.broken;
    }
    return absl::OkStatus();
  }

  const GenerateFlags& flags_;
  Room room_;
  const std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenTrie> trie_;
  Texts texts_;
  Runtime& runtime_;
  Engine& engine_;
  std::unique_ptr<Progress> progress_;
  Generated out_;
};

int RunGenerate(const GenerateFlags& flags, const Launch& launch) {
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  Communicator& comm = *runtime->comm;
  absl::StatusOr<Texts> texts = Texts();
  absl::StatusOr<Room> room = Room();
  absl::StatusOr<std::shared_ptr<const Grammar>> grammar = nullptr;
  if (runtime->leader()) {
    texts = EncodeTexts(flags.runtime.model, flags.text);
    if (texts.ok()) room = Plan(flags, *texts);
    grammar = ReadGrammar(flags.sampling);
    if (texts.ok() && !texts->asks.empty() && texts->prompt.empty() && !texts->tokenizer.has_stable_places()) {
      std::fprintf(stderr, "each question reads the prompt again: with this tokenizer no place in a text is certain\n");
    }
    if (texts.ok() && texts->cut_bytes > 0) {
      std::fprintf(stderr, "the prompt is cut at %s tokens: its last %s bytes are not read\n",
                   Grouped(flags.text.max_tokens).c_str(), Grouped(static_cast<int64_t>(texts->cut_bytes)).c_str());
    }
  }
  absl::Status ready = texts.status();
  ready.Update(room.status());
  ready.Update(grammar.status());
  if (absl::Status s = Agree(comm, ready); !s.ok()) return Fail(s, runtime->leader());
  comm.Broadcast(&*room, sizeof(Room), 0);

  EngineOptions options = MakeEngineOptions(flags.runtime, launch);
  options.sessions = 1;
  options.questions = room->questions;
  options.max_session_tokens = room->session_tokens;
  options.kv_tokens = room->kv_tokens;
  options.provenance = flags.sources > 0 || flags.replay > 0;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, *runtime);
  if (!engine.ok()) return Fail(engine.status(), runtime->leader());
  if (!runtime->leader()) {
    (*engine)->Follow();
    return 0;
  }
  return Generation(flags, *room, *std::move(grammar), *std::move(texts), *runtime, **engine).Run();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Read a prompt once, then continue it or answer questions on it");
  command->footer(
      "Examples:\n"
      "  duo generate --model DIR --prompt 'Once upon a time'\n"
      "  duo generate --model DIR --prompt-file report.txt \\\n"
      "      --ask $'\\nQuestion: What was decided?\\nAnswer:' --stop $'\\n'\n"
      "  duo generate --model DIR --chat --prompt-file report.txt \\\n"
      "      --ask 'What was decided?' --ask 'Who was there?'");
  AddGenerateFlags(*command, *flags);
  command->callback([command, flags, &launch] {
    if (command->count("--prompt") + command->count("--prompt-file") + command->count("--messages") == 0)
      throw CLI::RequiredError("--prompt, --prompt-file or --messages");
    CheckRuntimeFlags(flags->runtime, launch);
    launch.chosen = [flags, &launch] { return RunGenerate(*flags, launch); };
  });
}

}  // namespace duo
