// IdentifyModel: a frozen model run twice over one sequence, as its own teacher with full attention and as a student
// whose KV head j attends with (1 - a_j) * streaming + a_j * full, and the gradient of their difference with respect to
// the gates a. `duo identify` trains with it (arXiv 2410.10819 section 2.3, as the released code does it):
//
//   - the streaming branch attends with the student's q, k and v and the exact window of streaming heads
//   (kernels/README.md). The full
//     branch is either the teacher's own attention output, without gradient, or attends with the student's q, k and v
//     too (FullBranch);
//   - loss = mean over label rows and hidden channels of (student - teacher)^2 of the last hidden state, after the
//     final norm.
//
// The layers themselves are those that questions run (transformer.h); here is how teacher and student attend, and the
// way back. Weights have no gradient, so the way back carries the residual stream's gradient and the gradients of the
// student's own branches. Memory is bounded by recomputing each layer on the way back from the layer's input. Kept for
// every layer are:
//   - the student's input residual, f32 [tokens][hidden];
//   - the teacher's attention output, if that is the full branch, T [tokens][q columns]. Recomputing it instead would
//     need the teacher's residuals, which are larger, and cost the quadratic part of the work once more.
//
// Every rank holds the whole model (data parallel). Owns weights and workspace, borrows the device; allocates nothing
// after it is made. Not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/backward.h"
#include "kernels/base/buffer.h"
#include "runtime/model/transformer.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// Whose states a mixed head's full attention is of.
enum class FullBranch {
  kTeacher,  // the released code's: cheap on the way back, but blind to what streaming heads of earlier layers do to
             // the queries, keys and values that retrieval heads will find when the pattern is used
  kStudent,  // the paper's formula: what will be computed when the pattern is used; quadratic work on the way back
};

struct GateGradient {
  double loss = 0;               // of distillation alone
  std::vector<double> gradient;  // [layers][kv_heads]
};

class IdentifyModel {
 public:
  struct Sizes {
    int sink = 64, recent = 256;  // the student's streaming window
    int64_t max_tokens = 0;       // of one sequence
    FullBranch full_branch = FullBranch::kTeacher;
  };

  // Weights as stored (f32 and f16 become bf16 on CUDA). progress: bytes loaded, bytes in all.
  static absl::StatusOr<IdentifyModel> Load(const std::string& model_dir, const Sizes& sizes, Device& device,
                                            const std::function<void(int64_t, int64_t)>& progress);
  // Random weights of this shape, for benchmarks.
  static absl::StatusOr<IdentifyModel> Random(const ModelConfig& config, const Sizes& sizes, Device& device);

  // Labels are the rows [first_label, tokens.size()). gates [layers][kv_heads].
  GateGradient LossAndGradient(const std::vector<int32_t>& tokens, int64_t first_label,
                               const std::vector<double>& gates);
  // The same loss, forward only.
  double Loss(const std::vector<int32_t>& tokens, int64_t first_label, const std::vector<double>& gates);

  // The teacher's most likely token after each of the rows [first, first + count).
  std::vector<int32_t> TeacherChoices(const std::vector<int32_t>& tokens, int64_t first, int64_t count);

  // How much of the teacher's attention a streaming window would miss: 1 - exp(lse_window - lse_full), mean over rows
  // and a KV head's query heads. [layers][kv_heads].
  std::vector<double> MassOutside(const std::vector<int32_t>& tokens);

  // The sum of a text's keys as RoPE takes them, over all of its tokens but the first, which is unlike any other.
  // [layers][kv_heads][head_dim].
  std::vector<double> KeySums(const std::vector<int32_t>& tokens);

  const ModelConfig& config() const { return config_; }
  int gates() const { return config_.layers * config_.kv_heads; }
  // Device memory that was taken.
  int64_t weight_bytes() const { return static_cast<int64_t>(weights_.storage.size()); }
  int64_t workspace_bytes() const { return static_cast<int64_t>(arena_.capacity()); }

 private:
  // Views of max_tokens rows; a pass takes the first n of each.
  struct Workspace {
    Activations a;                              // `projected` and `mlp` are one
    View gradient, teacher;                     // f32 [tokens][hidden]
    View before, dqkv, streaming, mixed;        // T; `before` only with q and k norms
    View dfull;                                 // T, only where the full branch is the student's
    std::vector<View> inputs, full;             // [layers]; the student's full branch is one view for all
    float *lse = nullptr, *full_lse = nullptr;  // [q heads][tokens]
    float *gates = nullptr, *closed = nullptr;  // [layers][kv_heads]: a and 1 - a
    float *gate_gradient = nullptr, *unused = nullptr;
    float *losses = nullptr, *row_weights = nullptr;  // [tokens]
    int32_t *tokens = nullptr, *positions = nullptr;  // [tokens]
    double* frequencies = nullptr;                    // [head_dim / 2]
  };

  explicit IdentifyModel(const ModelConfig& config, const Sizes& sizes, Device& device);
  static absl::StatusOr<IdentifyModel> Prepare(const ModelConfig& config, const Sizes& sizes, Device& device,
                                               RankShard* shard);
  absl::Status Allocate();
  Workspace LayOut(Arena& arena) const;
  size_t MeasureBytes() const;  // what all passes over max_tokens take of an arena

  // One pass over the first `rows` rows. Both leave the last layer's output in w_.a.residual.
  void Start(const std::vector<int32_t>& tokens);
  void Teacher(int64_t rows, int64_t first_label);
  void Student(int64_t rows, int64_t first_label);
  void Backward(int64_t rows, int64_t first_label);
  double Compare(int64_t rows, int64_t first_label);  // loss and, in w_.gradient, its gradient

  Activations First(int64_t rows) const;  // of a pass over so many rows
  Transformer Layers() { return Transformer(config_, weights_, *device_, *comm_, arena_); }
  // Runs the layers; attend(layer) goes from w_.a.qkv to what it returns, of all rows. Leaves the last layer's output
  // in w_.a.residual, in the rows from FirstRow of the last layer on.
  void Run(int64_t rows, int64_t first_label, absl::FunctionRef<View(int layer)> attend);
  void Mix(int layer, int64_t rows);  // the student's attention, then its mix
  // w_.gradient += through one of the student's branches, `out`, from its gradient `dout`, to the layer's input.
  void BranchBackward(int layer, int64_t rows, View dout, const Partial& of, const WindowMask& mask);
  void MlpBackward(int layer, int64_t rows, int64_t first);
  WindowMask Window(int layer) const;
  // Full attention as a window: the op that gives an lse and has a gradient.
  WindowMask Whole(int layer) const;
  int WindowOf(int layer) const;
  // In the last layer only label rows count behind attention.
  int64_t FirstRow(int layer, int64_t first_label) const { return layer + 1 == config_.layers ? first_label : 0; }

  ModelConfig config_;
  Sizes sizes_;
  HeadShape shape_;
  Device* device_;
  std::unique_ptr<Communicator> comm_;  // this rank alone
  ModelWeights weights_;
  Arena arena_;
  Workspace w_;
  double rope_factor_ = 1;
  int64_t mlp_columns_ = 0;  // the most of any layer's MLP that works on all tokens
};

}  // namespace duo
