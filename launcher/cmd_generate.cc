// `duo generate`: reads a prompt once and continues it, or answers each --ask on a fork of it.

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "launcher/generate_flags.h"
#include "launcher/generate_sources.h"
#include "launcher/generate_texts.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/outputs.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/sparse_json.h"
#include "launcher/terminal/sparse_text.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/text_stream.h"
#include "runtime/text/token_bytes.h"

namespace duo {
namespace {

// One text to be continued: the prompt, or an --ask on a fork of it.
struct Answer {
  std::vector<int32_t> prompt;
  std::unique_ptr<TextStream> stream;
  std::unique_ptr<GrammarMatcher> matcher;        // where the answer is to be something
  std::vector<int32_t> tokens;                    // as drawn
  std::vector<TokenScore> scores, prompt_scores;  // where they are asked for
  std::unique_ptr<AnswerSources> sources;         // likewise
  RequestResult result;
  absl::Status broken;  // the matcher could not follow
  bool done = false;
};

// What the engine must have room for; the same on every rank.
struct Room {
  int64_t session_tokens = 0;  // of the longest sequence
  int64_t kv_tokens = 0;
  int64_t max_new_tokens = 0;
  int32_t questions = 1;
};

absl::StatusOr<Room> Plan(const GenerateFlags& flags, const Texts& texts) {
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return config.status();
  size_t longest = 0;
  for (const auto& ask : texts.asks) longest = std::max(longest, ask.size());
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

class Generation {
 public:
  Generation(const GenerateFlags& flags, const Room& room, Texts texts, Runtime& runtime, Engine& engine)
      : flags_(flags), room_(room), texts_(std::move(texts)), runtime_(runtime), engine_(engine) {}

  int Run() {
    absl::StatusOr<SamplingRules> rules = ReadSamplingFlags(flags_.sampling);
    if (!rules.ok()) return Fail(rules.status());
    rules_ = std::move(*rules);
    if (absl::Status s = ReadGuide(); !s.ok()) return Fail(s);
    const Clock::time_point start = Clock::now();
    progress_ = std::make_unique<Progress>("reading", "tokens", false);
    const absl::Status status = flags_.text.asks.empty() ? Continue() : AskAll();
    progress_.reset();
    if (!status.ok()) return Fail(status);
    seconds_ = SecondsSince(start);
    for (Answer& answer : answers_) new_tokens_ += answer.stream->tokens();
    Print();
    return 0;
  }

 private:
  absl::Status ReadGuide() {
    absl::StatusOr<Guide> guide = ReadGuideFlags(flags_.sampling);
    if (!guide.ok() || guide->kind == Guide::Kind::kNone) return guide.status();
    absl::StatusOr<std::shared_ptr<const Grammar>> grammar = CompileGuide(*guide);
    if (!grammar.ok()) return grammar.status();
    grammar_ = std::move(*grammar);
    trie_ = MakeTokenTrie(texts_.tokenizer, engine_.config().vocab);
    return absl::OkStatus();
  }

  absl::Status Continue() {
    absl::StatusOr<SessionId> session =
        engine_.CreateSession(1);  // the text is continued on a fork, which takes the room
    if (!session.ok()) return session.status();
    answers_.resize(1);
    answers_[0].prompt = texts_.prompt;
    if (absl::Status s = Ask(*session, answers_[0], /*stream_out=*/!flags_.json); !s.ok()) return s;
    if (absl::Status s = RunSteps(); !s.ok()) return s;
    prefill_seconds_ = answers_[0].result.prefill_seconds;
    sparse_ = answers_[0].result.sparse;
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
      prefill_seconds_ = result.prefill_seconds;
      sparse_ = result.sparse;
    };
    if (!texts_.prompt.empty()) {  // else all of it comes with the questions: no token of it is certain before
      absl::StatusOr<RequestId> append = engine_.Append(*session, texts_.prompt, std::move(events));
      if (!append.ok()) return append.status();
    }
    answers_.resize(texts_.asks.size());
    for (size_t i = 0; i < answers_.size(); ++i) {
      answers_[i].prompt = texts_.asks[i];
      if (absl::Status s = Ask(*session, answers_[i], false); !s.ok()) return s;
    }
    if (absl::Status s = RunSteps(); !s.ok()) return s;
    return read;
  }

  absl::Status Ask(SessionId session, Answer& answer, bool stream_out) {
    answer.stream = std::make_unique<TextStream>(texts_.tokenizer, flags_.stops);
    GenerateParams params;
    params.max_new_tokens = room_.max_new_tokens;
    params.temperature = static_cast<float>(flags_.temperature);
    params.top_p = static_cast<float>(flags_.top_p);
    params.seed = flags_.seed;
    params.rules = rules_;
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
      ends.insert(ends.end(), rules_.stop_tokens.begin(), rules_.stop_tokens.end());
      events.allow = [&answer, ends](std::vector<uint32_t>* mask) { return answer.matcher->Mask(ends, mask); };
    }
    events.on_token = [&answer, show](int32_t token) {
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
    for (const Answer& answer : answers_) {
      if (!answer.done) return absl::ResourceExhaustedError("the question needs more KV memory than this run has");
      if (!answer.result.status.ok()) return answer.result.status;
      if (!answer.broken.ok()) return answer.broken;
    }
    return absl::OkStatus();
  }

  double DecodeRate() const {
    int64_t tokens = 0;
    double seconds = 0;
    for (const Answer& answer : answers_) {
      tokens += answer.result.new_tokens - 1;  // the first comes from the prefill
      seconds = std::max(seconds, answer.result.decode_seconds);
    }
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }
  int64_t KvTokens() const {
    return static_cast<int64_t>(texts_.prompt.size()) + std::max<int64_t>(new_tokens_, 1) - 1;
  }

  std::vector<int32_t> Reported(const Answer& answer) const {
    return {answer.tokens.begin(), answer.tokens.begin() + answer.stream->tokens()};
  }

  // Of the answer's tokens, and of what it was asked, where the flags ask.
  void AddScores(const Answer& answer, nlohmann::ordered_json& out) const {
    const auto list = [](const std::vector<TokenScore>& scores, size_t count) {
      nlohmann::ordered_json all = nlohmann::ordered_json::array();
      for (size_t i = 0; i < std::min(count, scores.size()); ++i) {
        nlohmann::ordered_json best = nlohmann::ordered_json::array();
        for (const TokenLogprob& b : scores[i].best) best.push_back({{"token_id", b.token}, {"logprob", b.logprob}});
        all.push_back({{"token_id", scores[i].chosen.token}, {"logprob", scores[i].chosen.logprob}, {"best", best}});
      }
      return all;
    };
    if (rules_.scores >= 0) out["logprobs"] = list(answer.scores, answer.stream->tokens());
    if (rules_.prompt_scores >= 0) out["prompt_logprobs"] = list(answer.prompt_scores, answer.prompt_scores.size());
  }

  void Print() {
    if (flags_.json) {
      std::cout << Json().dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    } else if (flags_.text.asks.empty()) {
      std::fputc('\n', stdout);
    } else {
      PrintAnswers();
    }
    std::fflush(stdout);
    if (!flags_.json) PrintSources();
    if (OutputsMeet()) std::fputc('\n', stderr);  // between the text and what is said about it
    const HeadPlan& heads = engine_.heads();
    const EngineStats& stats = engine_.counted();
    std::fprintf(
        stderr,
        "%s tokens read in %s (%s tokens/s%s), %d written at %.1f tokens/s%s; KV cache %s %s (full attention: %s), %d "
        "retrieval + %d streaming heads (%s); %s, %d %s\n",
        Grouped(texts_.prompt.size()).c_str(), Duration(prefill_seconds_).c_str(),
        Grouped(static_cast<int64_t>(static_cast<double>(texts_.prompt.size()) / std::max(prefill_seconds_, 1e-9)))
            .c_str(),
        ReadSparselyText(sparse_).c_str(), static_cast<int>(new_tokens_), DecodeRate(),
        absl::StrCat(DraftsText(stats.draw_steps, stats.drafted_tokens, stats.accepted_tokens),
                     WrittenSparselyText(stats.decode))
            .c_str(),
        ByteCount(static_cast<double>(engine_.KvBytes(KvTokens()))).c_str(), Name(engine_.kv_format()),
        ByteCount(static_cast<double>(engine_.KvBytesFull(KvTokens()))).c_str(), heads.retrieval_heads(),
        heads.streaming_heads(), Name(engine_.attention()), runtime_.device->info().name.c_str(), runtime_.comm->size(),
        runtime_.comm->size() == 1 ? "rank" : "ranks");
  }

  // The list of each answer on stderr, where several are asked behind its question.
  void PrintSources() const {
    const std::string& file = flags_.text.prompt_file;
    for (size_t i = 0; i < answers_.size() && flags_.sources > 0; ++i) {
      std::string of;
      if (!flags_.text.asks.empty()) of = absl::StrCat(" for ", absl::StripAsciiWhitespace(flags_.text.asks[i]));
      std::fprintf(
          stderr, "where the model looked%s:\n%s", of.c_str(),
          SourcesText(answers_[i].sources->Find(answers_[i].stream->tokens()), file == "-" ? "" : file).c_str());
    }
  }

  void AddSources(const Answer& answer, nlohmann::ordered_json& out) const {
    if (answer.sources == nullptr) return;
    const auto tokens = static_cast<size_t>(answer.stream->tokens());
    out["provenance"] = SourcesJson(answer.sources->Find(tokens));
    for (size_t i = 0; i < tokens && flags_.token_sources; ++i) {
      out["token_provenance"].push_back(SourcesJson(answer.sources->FindToken(i)));
    }
  }

  // One answer a line on stdout. Where a person reads both streams in one place, each behind its question.
  void PrintAnswers() const {
    const bool together = OutputsMeet();
    for (size_t i = 0; i < answers_.size(); ++i) {
      if (together) {
        std::fprintf(stderr, "%s> %s\n", i > 0 ? "\n" : "",
                     std::string(absl::StripAsciiWhitespace(flags_.text.asks[i])).c_str());
      }
      std::fprintf(stdout, "%s\n", answers_[i].stream->text().c_str());
      std::fflush(stdout);
    }
  }

  nlohmann::ordered_json Json() const {
    nlohmann::ordered_json out;
    // With --ask the top level counts all answers together: text holds one a line, as stdout would.
    std::string text;
    std::vector<int32_t> ids;
    for (const Answer& answer : answers_) {
      absl::StrAppend(&text, text.empty() ? "" : "\n", answer.stream->text());
      const std::vector<int32_t> own = Reported(answer);
      ids.insert(ids.end(), own.begin(), own.end());
    }
    out["text"] = text;
    out["token_ids"] = ids;
    out["finish"] = Name(answers_.back().result.finish);
    out["prompt_tokens"] = texts_.prompt.size();
    out["new_tokens"] = new_tokens_;
    out["prefill_seconds"] = prefill_seconds_;
    out["decode_tokens_per_second"] = DecodeRate();
    out["draw_steps"] = engine_.counted().draw_steps;
    out["drafted_tokens"] = engine_.counted().drafted_tokens;
    out["accepted_tokens"] = engine_.counted().accepted_tokens;
    out["total_seconds"] = seconds_;
    out["kv_bytes"] = engine_.KvBytes(KvTokens());
    out["kv_bytes_full"] = engine_.KvBytesFull(KvTokens());
    out["kv_format"] = Name(engine_.kv_format());
    out["attention"] = Name(engine_.attention());
    out["retrieval_heads"] = engine_.heads().retrieval_heads();
    out["streaming_heads"] = engine_.heads().streaming_heads();
    out["prefill_sparsity"] = Name(engine_.prefill_sparsity());
    if (sparse_.sparse()) out["sparse"] = ReadSparselyJson(sparse_);
    out["decode_sparsity"] = Name(engine_.decode_sparsity());
    if (engine_.counted().decode.sparse()) out["listed"] = WrittenSparselyJson(engine_.counted().decode);
    out["device"] = runtime_.device->info().name;
    out["world"] = runtime_.comm->size();
    if (flags_.text.asks.empty()) {
      AddScores(answers_[0], out);
      AddSources(answers_[0], out);
    }
    if (!flags_.text.asks.empty()) {
      out["answers"] = nlohmann::ordered_json::array();
      for (size_t i = 0; i < answers_.size(); ++i) {
        const Answer& answer = answers_[i];
        out["answers"].push_back({{"ask", flags_.text.asks[i]},
                                  {"text", answer.stream->text()},
                                  {"token_ids", Reported(answer)},
                                  {"new_tokens", answer.stream->tokens()},
                                  {"finish", Name(answer.result.finish)}});
        AddScores(answer, out["answers"].back());
        AddSources(answer, out["answers"].back());
      }
    }
    return out;
  }

  const GenerateFlags& flags_;
  Room room_;
  SamplingRules rules_;
  std::shared_ptr<const Grammar> grammar_;  // null: answers may be anything
  std::shared_ptr<const TokenTrie> trie_;
  Texts texts_;
  Runtime& runtime_;
  Engine& engine_;
  std::unique_ptr<Progress> progress_;
  std::vector<Answer> answers_;
  int64_t new_tokens_ = 0;
  double prefill_seconds_ = 0, seconds_ = 0;
  SparseReport sparse_;  // how the prompt was read
};

int RunGenerate(const GenerateFlags& flags, const Launch& launch) {
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  Communicator& comm = *runtime->comm;
  absl::StatusOr<Texts> texts = Texts();
  absl::StatusOr<Room> room = Room();
  if (runtime->leader()) {
    texts = EncodeTexts(flags.runtime.model, flags.text);
    if (texts.ok()) room = Plan(flags, *texts);
    if (texts.ok() && !texts->asks.empty() && texts->prompt.empty() && !texts->tokenizer.has_stable_places()) {
      std::fprintf(stderr, "each question reads the prompt again: with this tokenizer no place in a text is certain\n");
    }
    if (texts.ok() && texts->cut_bytes > 0) {
      std::fprintf(stderr, "the prompt is cut at %s tokens: its last %s bytes are not read\n",
                   Grouped(flags.text.max_tokens).c_str(), Grouped(static_cast<int64_t>(texts->cut_bytes)).c_str());
    }
  }
  if (absl::Status s = Agree(comm, texts.ok() ? room.status() : texts.status()); !s.ok())
    return Fail(s, runtime->leader());
  comm.Broadcast(&*room, sizeof(Room), 0);

  EngineOptions options = MakeEngineOptions(flags.runtime, launch);
  options.sessions = 1;
  options.questions = room->questions;
  options.max_session_tokens = room->session_tokens;
  options.kv_tokens = room->kv_tokens;
  options.provenance = flags.sources > 0;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, *runtime);
  if (!engine.ok()) return Fail(engine.status(), runtime->leader());
  if (!runtime->leader()) {
    (*engine)->Follow();
    return 0;
  }
  return Generation(flags, *room, std::move(*texts), *runtime, **engine).Run();
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
    launch.chosen = [flags, &launch] { return RunGenerate(*flags, launch); };
  });
}

}  // namespace duo
