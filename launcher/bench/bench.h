// `duo bench`: what its verbs share. A benchmark verifies its result, then times it, and prints time, floor and their
// ratio; floors are in tests/bench/README.md. One thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/bench/kernel_bench.h"
#include "launcher/terminal/runtime_flags.h"

namespace duo {

// What `duo bench attention` times.
inline std::vector<std::string> KernelGroups() { return {"decode", "company", "streaming", "prefill", "linear"}; }

struct BenchFlags {
  RuntimeFlags runtime;  // model may be empty: then shape
  std::string shape = "llama-3-8b";
  std::vector<std::string> attentions = {"duo"};
  std::vector<int64_t> contexts = {100000};
  int64_t most = 0;  // capacity: tokens at most; 0: what fits
  int steps = 32;    // decode: timed steps
  // decode: answers on so many forks of the document in one step, or so many of its tokens
  std::vector<int> forks = {1}, rows = {1};
  std::vector<int> checks = {8};  // rows of a step that checks drafts
  bool sample = false;   // prefill: chunks at five histories, integrated
  std::string simulate;  // decode: "r/N", this rank's share of N alone
  // balance: numbers of ranks and placements
  std::vector<int> worlds = {2, 4, 8};
  std::vector<std::string> strategies = {"contiguous", "split"};
  std::vector<std::string> kernels = KernelGroups();  // attention: which
  std::string text;                                   // perplexity, drafts: a file
  int window = 2048;                                  // perplexity: tokens
  int64_t tokens = 0;      // perplexity: of the text at most; 0: all. gradients: of the sequence; 0: 32,768
  std::vector<std::string> questions;  // recall: files
  int64_t asked = 1 << 20;             // recall: questions of each task and document at most
  std::vector<std::string> prefill_sparsities, decode_sparsities;  // recall: each beside dense
  int64_t length = 32000;  // identify: tokens of the longest sequence
  int repeat = 2;          // identify: timed steps of each length
  bool json = false;
  int share = 70;     // drafts: of the attention, in thousandths, that lists are made for
  int64_t drawn = 0;  // drafts: tokens drawn alone and together
};

// Rates that floors are measured against.
struct Rates {
  double copy = 0;       // bytes/s
  double gemm = 0;       // FLOP/s
  double attention = 0;  // FLOP/s
  std::string source;    // "H100 80GB, fixed" or "measured in this run"
};
Rates RatesOf(Device& device);

// The models of the paper and others, by name; refused with the list of names.
absl::StatusOr<ModelConfig> ShapeNamed(const std::string& name);
std::string ShapeNames();

// The model that --shape or --model names.
absl::StatusOr<ModelConfig> BenchModel(const BenchFlags& flags);

// Engine options for one attention mode ("duo" or "full") at a context; with a shape, duo's heads come from --pattern
// or, without one, are spread evenly by the tie rule at --sparsity.
absl::StatusOr<ProbeOptions> BenchEngine(const BenchFlags& flags, const Launch& launch, const std::string& attention,
                                         int64_t session_tokens);

// Two independent ways through the kernels give the same logits: 320 tokens as one prefill chunk, and as short appends
// that read their keys back from the pages. The relative L2 difference; fails above 5 % (20 % with fp8 and int4 KV).
// Of a mixture the second way gets the experts of the first (runtime/model/route_tape.h says why): the logits of its
// routers may differ by as much, and the experts of the first have to be those of the largest logits. Rank 0 only.
struct EngineCheck {
  double error = 0, router_error = 0;
};
absl::StatusOr<EngineCheck> VerifyEngine(Engine& engine);

struct Measurement {
  std::string what;          // "decode duo"
  int64_t context = 0;       // tokens; 0 where `what` says it
  double seconds = 0;        // of one decode step, or of the whole prefill
  double floor_seconds = 0;  // 0: none is known
  nlohmann::ordered_json details;
};
// Whether a CPU was faster than its memory can be read, because what is read again and again stays in its caches: the
// floor, which is of memory, says nothing then.
bool InCache(const Measurement& row, bool on_cuda);
// What the table says of a row, its details left out: `what` in `width` columns, tokens, time, floor, and the share of
// the floor in the time.
std::string RowText(const Measurement& row, size_t width, bool on_cuda);
// A table for people, or one JSON object with the machine, the flags and the rows.
void PrintRows(const BenchFlags& flags, const Runtime& runtime, const Rates& rates,
               const std::vector<Measurement>& rows, const char* verb);
// The same of single kernels; an error if a row's result was wrong.
absl::Status PrintKernelRows(const BenchFlags& flags, const Runtime& runtime, const Rates& rates,
                             const std::vector<BenchRow>& rows, const char* verb);

double Median(std::vector<double> values);

absl::Status BenchDecode(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchDrafts(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchBalance(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchCapacity(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchPrefill(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchAttention(const BenchFlags& flags, Runtime& runtime);
absl::Status BenchGradients(const BenchFlags& flags, Runtime& runtime);
absl::Status BenchPerplexity(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchRecall(const BenchFlags& flags, const Launch& launch, Runtime& runtime);
absl::Status BenchIdentify(const BenchFlags& flags, Runtime& runtime);
absl::Status BenchComm(const BenchFlags& flags, Runtime& runtime);

}  // namespace duo
