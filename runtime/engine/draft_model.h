// DraftModel: a smaller model with the same tokenizer, which guesses what answers go on with (--draft-model). It reads
// the last tokens of an answer's text alone, as a text of its own that begins at position 0, with full attention: so
// its cache has a fixed size, whatever the length of the document, and positions that it was trained for. When the
// window is full it begins anew with the last half of it.
//
// What it keeps of a text is compared with the text at every call, token by token, so rejected guesses, rewinds and
// forks need no word: what agrees stays, the rest is read again. Text that is new is read in steps of few rows, on a
// CPU one a call, so that no answer waits long.
//
// It runs on rank 0 alone, on its device, between the steps of the model that answers. Not thread-safe. Errors: a
// Status with a sentence that names the folder.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "parallel/shard.h"
#include "runtime/drafts/model_guesses.h"
#include "runtime/model/worker.h"
#include "runtime/weights/safetensors.h"

namespace duo {

// OK where both models' tokenizers have the same tokens under the same ids; else a sentence with the first that
// differs.
absl::Status CheckSameTokens(const std::string& model_dir, int64_t rows, const std::string& draft_dir,
                             int64_t draft_rows);

class DraftModel {
 public:
  // Reads what is needed to know bytes(); takes no memory. texts: of so many answers at once at most.
  static absl::StatusOr<std::unique_ptr<DraftModel>> Open(const std::string& dir, int texts, Device& device);

  const ModelConfig& config() const { return config_; }
  // Of weights, cache and workspace.
  int64_t bytes() const { return weight_bytes_ + cache_bytes_ + workspace_bytes_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t window() const { return window_; }  // tokens that it begins a text with at most

  absl::Status Load(const std::function<void(int64_t, int64_t)>& progress);

  // vocab: of the model that answers; a token behind it is no guess.
  ModelGuessed Guess(std::span<const GuessAsked> asked, int64_t vocab);

 private:
  // A text that is partly read: tokens from `start` of it.
  struct Text {
    int64_t answer = 0, start = 0, used = 0;
    std::vector<int32_t> fed;
  };

  explicit DraftModel(Device& device) : device_(device), comm_(MakeSelfCommunicator()) {}
  absl::Status Plan(int texts);
  int TextFor(const GuessAsked& asked);
  bool Knows(const GuessAsked& asked, const Text& text) const;
  void Feed(StepPlan* plan, int text, const std::vector<int32_t>& tokens);
  void Read(const GuessAsked& asked, int text, int64_t* most);
  bool Draw(std::span<const GuessAsked> asked, int64_t vocab, std::vector<int>* texts, ModelGuessed* guessed);
  int64_t Unread(const GuessAsked& asked, const Text& text) const {
    return asked.size() - text.start - static_cast<int64_t>(text.fed.size());
  }

  Device& device_;
  std::unique_ptr<Communicator> comm_;
  ModelConfig config_;
  HeadPlan heads_;
  Partition partition_;
  RankShard shard_;
  WeightFormats formats_;
  std::optional<SafetensorsModel> files_;  // until it is loaded
  KvSizes sizes_;
  StepLimits limits_;
  int64_t weight_bytes_ = 0, cache_bytes_ = 0, workspace_bytes_ = 0;
  int64_t window_ = 0;
  std::unique_ptr<Worker> worker_;
  std::vector<Text> texts_;
  int64_t calls_ = 0;
};

}  // namespace duo
