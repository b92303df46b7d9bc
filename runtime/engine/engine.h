// Engine: the runtime behind `duo generate`, `duo serve` and `duo bench`. It owns the model's weights, the KV cache and
// the sessions, and turns requests into steps. Rank 0 schedules and broadcasts; the other ranks call Follow() and
// execute.
//
// A session is a document's state: tokens, pages, rings. Requests on one session take effect in the order they were
// submitted; a question runs on a fork of the session as it is when its turn comes, and leaves the session unchanged
// unless `keep` is set. Requests of different sessions run side by side: rows of many sequences in one step, long
// appends in chunks in turn.
//
// Admission is exact: Create and Fork reserve what reserved_tokens says, an append the pages of its tokens before it
// reads, a question those of its text and its answer before its first step. What has to wait for running questions
// alone waits; what has no room beside the other sessions is refused with the numbers. Nothing runs out half-way.
//
// Threads: none inside. One thread owns an Engine and calls everything on it, Step() included; callbacks run in Step()
// (or in Cancel/Close) on that thread and must not call back into the Engine. Errors are absl::Status with a sentence
// for the user: NOT_FOUND (no such session), RESOURCE_EXHAUSTED (with the numbers), INVALID_ARGUMENT,
// FAILED_PRECONDITION.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "kernels/base/device.h"
#include "kernels/dual_chunk.h"
#include "kernels/kv_codec.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "parallel/prefill_split.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/kv/kv_io.h"
#include "runtime/scheduler/request.h"
#include "runtime/weights/config.h"
#include "runtime/weights/format_shares.h"

namespace duo {

// kAuto: duo where a pattern is found or a flag asks for one, else full, with a note that says so.
enum class AttentionMode { kAuto, kDuo, kFull, kStreaming };
const char* Name(AttentionMode mode);  // "auto", "duo", "full", "streaming"

// Several tokens of an answer in one step, where a text that was read has them (runtime/drafts); answers are the same.
// kSelf: where none has, also what the model guesses from the pages where it looked; kModel: or what a smaller model
// guesses. kAuto: kModel where there is such a model, else kText where answers are then the same to the last bit:
// on the CPU, and those that are written alone on GPUs, for the models and formats that kernels/README.md names; else
// kOff.
enum class Speculation { kAuto, kOff, kText, kSelf, kModel };
const char* Name(Speculation speculation);  // "auto", "off", "text", "self", "model"

struct EngineOptions {
  std::string model_dir;
  std::string program;  // argv[0]'s file, for the pattern look-up; may be empty

  AttentionMode attention = AttentionMode::kAuto;
  std::string pattern_dir;                    // empty: looked up
  std::optional<double> sparsity, threshold;  // neither: sparsity 0.5
  std::optional<int> sink, recent;            // neither: the pattern's, else 64 and 256

  std::optional<KvFormat> kv;         // unset: bf16 on CUDA, f32 on the CPU
  std::optional<DType> weights;       // unset: as stored
  std::optional<DType> weights_head;  // embedding and vocabulary head; unset: 16 bit (as stored)
  int int8_group = 0;                 // int8 weights: columns that share a scale, 16, 32, 64 or 128; 0: whole rows.
                                      // fp8 weights: 128: blocks of 128 x 128 that do
  Strategy strategy = Strategy::kAuto;
  ExpertPlacement experts = ExpertPlacement::kAuto;
  std::vector<double> rank_weights;
  // What ranks share out of long chunks of prompt. Answers are the same, KV cache and saved sessions, too.
  PrefillSplit prefill_split = PrefillSplit::kHeads;

  int chunk = 0;          // tokens of a prefill step at most; 0: chosen for the device
  double max_wait = 0.5;  // seconds that a prefill step may take while other sessions are open
  double max_gap = 0;     // seconds that one may take while answers are being written; 0: chosen for the device
  bool measured = true;   // false: what steps take is never measured, and what is chosen by it follows from the calls

  // What the KV cache is made for. sessions and questions bound the ring sets, max_session_tokens the page tables.
  int sessions = 1;                // open at once
  int questions = 16;              // open at once, on forks; of more than 256 the last ones wait without rings
  int prefixes = 0;                // kept at once (GenerateParams::prefix), each with rings and a table
  int64_t max_session_tokens = 0;  // 0: the model's positions
  int64_t kv_tokens = 0;           // tokens of retrieval KV in all; 0: what the device's memory leaves

  std::optional<HeadPlan> heads;  // these instead of a pattern's

  Speculation speculate = Speculation::kOff;
  std::string draft_model;   // of kModel: a folder or a .gguf file with the same tokenizer
  bool int4_drafts = false;  // of kSelf: guesses by a copy of the weights in int4
  int guess_target = 900;    // of kSelf: the share of attention, in thousandths, that guesses see

  // Answers may ask where they looked (GenerateParams::mass). It is read from the pattern's provenance heads, as far as
  // they keep everything here; where there are none from all query heads of retrieval heads alike; or from these.
  bool provenance = false;
  std::vector<ProvenanceHead> provenance_heads;

  PrefillSparsity prefill_sparsity;  // not exact; off unless asked for
  DecodeSparsity decode_sparsity;    // likewise, of answers

  // Keys are kept without their mean (runtime/model/key_shift.h). Where that lies; empty: in the pattern's folder.
  bool key_means = false;
  std::string key_means_dir;

  // Appends may ask for the logits after each of their tokens (RequestEvents::on_logits). Those of a chunk are held at
  // once: it has no more tokens then than 64 MiB hold logits of, but up to 256 whatever the vocabulary.
  bool append_logits = false;

  // Where saved sessions lie; null: the machine's own. Outlives the engine.
  const FileSystem* files = nullptr;

  // Called on every rank while weights load: bytes done, bytes in all.
  std::function<void(int64_t, int64_t)> on_load;
};

// What a session is made of in device memory, for the session store.
struct SessionKv {
  std::vector<int32_t> tokens;
  std::vector<int32_t> pages, split_pages;  // ids, from the first token on
  int32_t ring = 0;                         // ring set
  bool rings_valid = false;                 // the rings are those of all tokens; otherwise only their sinks count
  SparseRead::Kept sparse;                  // how they were read
};

class Engine {
 public:
  // Every rank calls it with the same options; it loads this rank's weights and allocates everything. `device` and
  // `comm` must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, Device& device,
                                                        Communicator& comm);
  ~Engine();  // on rank 0 ends the other ranks' Follow()

  void Follow();  // ranks other than 0: executes until rank 0's engine ends

  // max_tokens is the limit. reserved_tokens: the session has room for so many, whatever others do; not given: for all.
  absl::StatusOr<SessionId> CreateSession(int64_t max_tokens, std::optional<int64_t> reserved_tokens = std::nullopt);
  absl::Status CloseSession(SessionId id);  // its requests end with CANCELLED
  // A session of its own with the same content; shares full pages. max_tokens >= its tokens.
  absl::StatusOr<SessionId> Fork(SessionId id, int64_t max_tokens,
                                 std::optional<int64_t> reserved_tokens = std::nullopt);
  // From now on the session has room for so many tokens; less than it holds, or runs, takes nothing away.
  absl::Status Reserve(SessionId id, int64_t reserved_tokens);
  // RESOURCE_EXHAUSTED with the numbers, if there is no room for the session to hold `tokens` tokens in all, nor will
  // be when the questions that run are answered.
  absl::Status CheckRoom(SessionId id, int64_t tokens) const;
  // Cuts the session to its first `tokens` tokens. Rings are rebuilt by re-feeding when next needed. Refused while
  // requests of the session are pending that extend it or have no fork of it yet.
  absl::Status Rewind(SessionId id, int64_t tokens);
  absl::StatusOr<SessionInfo> Get(SessionId id) const;
  std::vector<SessionInfo> List() const;
  absl::StatusOr<std::vector<int32_t>> Tokens(SessionId id) const;

  // Reads two chunks of nonsense, answers once and records the steps of all batches, so that what is chosen, compiled
  // and recorded on first use is ready before the first request. Its steps are not counted in stats(). Only while no
  // session is open.
  absl::Status WarmUp();
  // Both check what can be checked and queue; the rest comes through the events.
  // more_tokens: that later appends will add. They have their room before this one starts, by raising what is reserved.
  absl::StatusOr<RequestId> Append(SessionId id, std::vector<int32_t> tokens, RequestEvents events,
                                   int64_t more_tokens = 0, const Whose& whose = {});
  absl::StatusOr<RequestId> Ask(SessionId id, std::vector<int32_t> tokens, const GenerateParams& params,
                                RequestEvents events);
  // As many answers to one question as there are events, the i-th with params.seed + i and not one kept. The question
  // is read once, and the answers are written on forks of it, side by side as far as there is room; where there is room
  // for one only, it is read again. Refused as Ask is, all or none.
  absl::StatusOr<std::vector<RequestId>> AskMany(SessionId id, std::vector<int32_t> tokens,
                                                 const GenerateParams& params, std::vector<RequestEvents> answers);
  // How long so many tokens behind a history are predicted to take with nothing beside, by the chunks so far. What
  // beside them ran is in the time that others took: what is left is to that as the predictions are.
  double PredictRead(int64_t tokens, int64_t history) const;
  // Prompts of this realm (PrefixUse) may go on where the session's text agrees with theirs.
  absl::Status LetMatch(SessionId id, const std::string& realm);
  // What prompts left. They hold their room only until something else needs it.
  std::vector<PrefixInfo> Prefixes();
  int DropPrefixes();  // all; how many
  // How many tokens of such a prompt need not be read, as things are, or will be when the reads under way are done.
  int64_t FindPrefix(const std::vector<int32_t>& tokens, const std::string& realm);

  absl::Status Cancel(RequestId id);  // takes effect before the next step; tokens already fed by an append stay

  // Runs one step if any request can run. False: nothing to do.
  bool Step();

  // For whoever has had nothing to step for a while: shows the other ranks that this one lives, and checks them.
  void KeepAlive();

  // --- For the session store (session_store.h), between steps.
  // Copies that forks and rewinds have asked for are done when it returns.
  absl::StatusOr<SessionKv> Kv(SessionId id);
  // A session of these tokens; the caller fills its pages and rings by RunIo. rings_valid: as in SessionKv.
  absl::StatusOr<SessionId> Adopt(int64_t max_tokens, std::vector<int32_t> tokens, bool rings_valid,
                                  std::optional<int64_t> reserved_tokens = std::nullopt);
  // How an adopted session was read, unless densely.
  void SetSparse(SessionId id, const SparseRead::Kept& kept);
  // The same as a prefix, which prompts meet from Filled on, and which CloseSession drops. Prefixes have numbers as
  // sessions have, by which Kv knows them; one may be gone at any moment, and is then NOT_FOUND.
  absl::StatusOr<SessionId> AdoptPrefix(std::vector<int32_t> tokens, bool rings_valid, const std::string& realm);
  absl::Status Filled(SessionId id);
  // On every rank; waits for their disks.
  absl::StatusOr<KvIoResult> RunIo(const KvIoPlan& plan);
  // The same with steps in between: no step waits for a disk. One plan at a time is under way, from BeginIo until EndIo
  // gives its result; nothing: some rank's disk is still at work. What a plan writes is copied by BeginIo. What it
  // reads reaches the session with the result, and not at all unless `keep`.
  void BeginIo(const KvIoPlan& plan);
  std::optional<absl::StatusOr<KvIoResult>> EndIo(bool keep = true);
  bool io_under_way() const;
  bool io_waits() const;  // this rank's disk is at work: EndIo would give nothing
  // Called when this rank's disk has done its part, on another thread. Empty: nobody, from when it returns.
  void TellIo(std::function<void()> tell);

  const ModelConfig& config() const;
  const HeadPlan& heads() const;
  AttentionMode attention() const;  // that runs, so never kAuto; on rank 0
  const Partition& partition() const;
  const MemoryPlan& memory_plan() const;
  KvFormat kv_format() const;
  // Of the weights' matrices on all ranks, the largest share first.
  const std::vector<FormatShare>& weight_formats() const;
  // Whose attention answers may ask for, weights adding up to 1; empty without EngineOptions::provenance. On rank 0.
  const std::vector<ProvenanceHead>& provenance_heads() const;
  Speculation speculation() const;  // never kAuto
  const PrefillSparsity& prefill_sparsity() const;
  const DecodeSparsity& decode_sparsity() const;
  const std::string& key_means() const;  // fingerprint of what keys are kept without; empty: nothing. On rank 0
  // By which positions are read. length 0: sessions here are so short that plain RoPE gives the same.
  const DualChunk& dual_chunk() const;
  int64_t RingBytesPerHead() const;  // of one streaming head's ring of one sequence, slack for drafts included
  // What the user should know about this model in these formats, a sentence each. On rank 0.
  const std::vector<std::string>& notes() const;
  EngineStats stats() const;
  const EngineStats& counted() const;  // of it, what steps add up; the rest is 0
  // KV bytes of n tokens over all ranks, without page rounding and the slots that rings have for drafts: n * retrieval
  // bytes + rings; and with full attention.
  int64_t KvBytes(int64_t tokens) const;
  int64_t KvBytesFull(int64_t tokens) const;

 private:
  absl::Status CheckAsked(const GenerateParams& params) const;
  friend class EngineProbe;  // probe.h: benchmarks
  Engine();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
