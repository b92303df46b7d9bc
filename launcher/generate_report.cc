#include "launcher/generate_report.h"

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "launcher/terminal/outputs.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/sparse_json.h"
#include "launcher/terminal/sparse_text.h"
#include "launcher/terminal/streams.h"
#include "launcher/terminal/weight_formats_json.h"

namespace duo {
namespace {

class Report {
 public:
  Report(const GenerateFlags& flags, const Texts& texts, const Runtime& runtime, const Engine& engine,
         const Generated& generated)
      : flags_(flags), texts_(texts), runtime_(runtime), engine_(engine), out_(generated) {}

  void Print() const {
    if (flags_.json) {
      std::cout << Json().dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    } else if (flags_.text.asks.empty()) {
      std::fputc('\n', stdout);
    } else {
      PrintAnswers();
    }
    std::fflush(stdout);
    if (runtime_.mpi != nullptr) LetOutputPass();
    if (!flags_.json) PrintSources();
    if (OutputsMeet()) std::fputc('\n', stderr);  // between the text and what is said about it
    const HeadPlan& heads = engine_.heads();
    const EngineStats& stats = engine_.counted();
    std::fprintf(
        stderr,
        "%s tokens read in %s (%s tokens/s%s), %d written at %.1f tokens/s%s; weights %s; KV cache %s %s (full "
        "attention: "
        "%s), %d retrieval + %d streaming heads (%s); %s, %d %s\n",
        Grouped(texts_.prompt.size()).c_str(), Duration(out_.prefill_seconds).c_str(),
        Grouped(static_cast<int64_t>(static_cast<double>(texts_.prompt.size()) / std::max(out_.prefill_seconds, 1e-9)))
            .c_str(),
        ReadSparselyText(out_.sparse).c_str(), static_cast<int>(out_.new_tokens), DecodeRate(),
        absl::StrCat(DraftsText(stats.draw_steps, stats.drafted_tokens, stats.accepted_tokens),
                     WrittenSparselyText(stats.decode))
            .c_str(),
        Text(engine_.weight_formats()).c_str(), ByteCount(static_cast<double>(engine_.KvBytes(KvTokens()))).c_str(),
        Name(engine_.kv_format()), ByteCount(static_cast<double>(engine_.KvBytesFull(KvTokens()))).c_str(),
        heads.retrieval_heads(), heads.streaming_heads(), Name(engine_.attention()),
        runtime_.device->info().name.c_str(), runtime_.comm->size(),
        runtime_.comm->size() == 1 ? "rank"
        : ReadByRows()             ? "ranks, long prompts by rows"
                                   : "ranks");
  }

 private:
  double DecodeRate() const {
    int64_t tokens = 0;
    double seconds = 0;
    for (const GeneratedAnswer& answer : out_.answers) {
      tokens += answer.result.new_tokens - 1;  // the first comes from the prefill
      seconds = std::max(seconds, answer.result.decode_seconds);
    }
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  }
  // Other ranks' weights are held for that alone.
  bool ReadByRows() const { return engine_.memory_plan().peer_shards > 0; }
  int64_t KvTokens() const {
    return static_cast<int64_t>(texts_.prompt.size()) + std::max<int64_t>(out_.new_tokens, 1) - 1;
  }

  std::vector<int32_t> Reported(const GeneratedAnswer& answer) const {
    return {answer.tokens.begin(), answer.tokens.begin() + answer.stream->tokens()};
  }

  // Of the answer's tokens, and of what it was asked, where the flags ask.
  void AddScores(const GeneratedAnswer& answer, nlohmann::ordered_json& out) const {
    const auto list = [](const std::vector<TokenScore>& scores, size_t count) {
      nlohmann::ordered_json all = nlohmann::ordered_json::array();
      for (size_t i = 0; i < std::min(count, scores.size()); ++i) {
        nlohmann::ordered_json best = nlohmann::ordered_json::array();
        for (const TokenLogprob& b : scores[i].best) best.push_back({{"token_id", b.token}, {"logprob", b.logprob}});
        all.push_back({{"token_id", scores[i].chosen.token}, {"logprob", scores[i].chosen.logprob}, {"best", best}});
      }
      return all;
    };
    if (out_.rules.scores >= 0) out["logprobs"] = list(answer.scores, answer.stream->tokens());
    if (out_.rules.prompt_scores >= 0) out["prompt_logprobs"] = list(answer.prompt_scores, answer.prompt_scores.size());
  }

  // The list of each answer on stderr, where several are asked behind its question.
  void PrintSources() const {
    const std::string& file = flags_.text.prompt_file;
    for (size_t i = 0; i < out_.answers.size() && flags_.sources > 0; ++i) {
      std::string of;
      if (!flags_.text.asks.empty()) {
        const std::vector<std::string> words =  // of a question, which may have lines: this is one
            absl::StrSplit(flags_.text.asks[i], absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
        of = absl::StrCat(" for \"", absl::StrJoin(words, " "), "\"");
      }
      std::fprintf(stderr, "where the model looked%s:\n%s", of.c_str(),
                   SourcesText(out_.answers[i].sources->Find(out_.answers[i].stream->tokens()), file == "-" ? "" : file)
                       .c_str());
    }
  }

  void AddSources(const GeneratedAnswer& answer, nlohmann::ordered_json& out) const {
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
    for (size_t i = 0; i < out_.answers.size(); ++i) {
      if (together) {
        std::fprintf(stderr, "%s> %s\n", i > 0 ? "\n" : "",
                     std::string(absl::StripAsciiWhitespace(flags_.text.asks[i])).c_str());
      }
      std::fprintf(stdout, "%s\n", out_.answers[i].stream->text().c_str());
      std::fflush(stdout);
    }
  }

  nlohmann::ordered_json Json() const {
    nlohmann::ordered_json out;
    // With --ask the top level counts all answers together: text holds one a line, as stdout would.
    std::string text;
    std::vector<int32_t> ids;
    for (const GeneratedAnswer& answer : out_.answers) {
      absl::StrAppend(&text, text.empty() ? "" : "\n", answer.stream->text());
      const std::vector<int32_t> own = Reported(answer);
      ids.insert(ids.end(), own.begin(), own.end());
    }
    out["text"] = text;
    out["token_ids"] = ids;
    out["finish"] = Name(out_.answers.back().result.finish);
    out["prompt_tokens"] = texts_.prompt.size();
    out["new_tokens"] = out_.new_tokens;
    out["prefill_seconds"] = out_.prefill_seconds;
    out["decode_tokens_per_second"] = DecodeRate();
    out["decode_processor_tokens"] = out_.processor_tokens;
    out["decode_processor_seconds"] = out_.processor_seconds;
    out["draw_steps"] = engine_.counted().draw_steps;
    out["drafted_tokens"] = engine_.counted().drafted_tokens;
    out["accepted_tokens"] = engine_.counted().accepted_tokens;
    out["guess_steps"] = engine_.counted().guess_steps;
    out["total_seconds"] = out_.seconds;
    out["kv_bytes"] = engine_.KvBytes(KvTokens());
    out["kv_bytes_full"] = engine_.KvBytesFull(KvTokens());
    out["kv_format"] = Name(engine_.kv_format());
    out["weight_formats"] = WeightFormatsJson(engine_.weight_formats());
    out["attention"] = Name(engine_.attention());
    out["retrieval_heads"] = engine_.heads().retrieval_heads();
    out["streaming_heads"] = engine_.heads().streaming_heads();
    out["key_means"] = engine_.key_means();
    out["prefill_sparsity"] = Name(engine_.prefill_sparsity());
    if (out_.sparse.sparse()) out["sparse"] = ReadSparselyJson(out_.sparse);
    out["decode_sparsity"] = Name(engine_.decode_sparsity());
    if (engine_.counted().decode.sparse()) out["listed"] = WrittenSparselyJson(engine_.counted().decode);
    out["device"] = runtime_.device->info().name;
    out["world"] = runtime_.comm->size();
    if (runtime_.comm->size() > 1)
      out["prefill_split"] = Name(ReadByRows() ? PrefillSplit::kRows : PrefillSplit::kHeads);
    if (engine_.config().experts.count > 0 && runtime_.comm->size() > 1) {
      out["experts"] = Name(engine_.partition().whole_experts ? ExpertPlacement::kWhole : ExpertPlacement::kSplit);
    }
    if (flags_.text.asks.empty()) {
      AddScores(out_.answers[0], out);
      AddSources(out_.answers[0], out);
    }
    if (!flags_.text.asks.empty()) {
      out["answers"] = nlohmann::ordered_json::array();
      for (size_t i = 0; i < out_.answers.size(); ++i) {
        const GeneratedAnswer& answer = out_.answers[i];
        out["answers"].push_back({{"ask", flags_.text.asks[i]},
                                  {"text", answer.stream->text()},
                                  {"token_ids", Reported(answer)},
                                  {"new_tokens", answer.stream->tokens()},
                                  {"finish", Name(answer.result.finish)}});
        AddScores(answer, out["answers"].back());
        AddSources(answer, out["answers"].back());
        if (flags_.replay > 0) out["answers"].back()["replayed"] = SourcesJson(out_.replayed[i]);
      }
    }
    return out;
  }

  const GenerateFlags& flags_;
  const Texts& texts_;
  const Runtime& runtime_;
  const Engine& engine_;
  const Generated& out_;
};

}  // namespace

void PrintGenerated(const GenerateFlags& flags, const Texts& texts, const Runtime& runtime, const Engine& engine,
                    const Generated& generated) {
  Report(flags, texts, runtime, engine, generated).Print();
}

}  // namespace duo
