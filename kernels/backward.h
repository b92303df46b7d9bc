// Gradients through a frozen transformer, and the attention of a student, a copy of the model each of whose heads mixes
// full and streaming attention: `duo identify` trains the heads' gates with them (arXiv 2410.10819 section 2.3).
// Weights are frozen, so the gradients are with respect to activations and gates. CPU and CUDA behind one door, as in
// kernels/ops.h.
//
// One sequence of `rows` tokens, positions 0 .. rows - 1, whole in memory: no pages, no rings. dx is the gradient of
// the loss with respect to x, of the shape and type of x. T is f32 on the CPU and bf16 on CUDA; residual streams and
// their gradients are f32; sums are f32 or wider. All pointers are device memory. Work is asynchronous on CUDA, ordered
// by the device's stream. Results do not depend on the number of threads and are the same in every run.
#pragma once

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {

// Fails with a sentence when this device's kernels cannot do a head_dim or group.
absl::Status CheckBackward(const Device& device, int head_dim, int group);

// out [rows, cols] T = in [rows, cols] f32, rounded: how a residual's gradient enters a layer's branch.
void RoundToActivations(Device& device, View out, View in);

// Of out = x W^T + bias: dx [rows, weight.cols] T = dout [rows, weight.rows] T times W. Weights of any format.
size_t LinearBackwardScratchBytes(const Device& device, int64_t rows, const Weight& weight);
void LinearBackward(Device& device, View dx, View dout, const Weight& weight, Arena& scratch);

// Of out = residual / rms(residual) * weight: dresidual [rows, dim] f32 += its gradient, from dout [rows, dim] T and
// the norm's input.
void RmsNormBackward(Device& device, View dresidual, View dout, View residual, const float* weight, float eps);

// Of out = silu(gate) * up: dgate_up [rows, 2 n] T, which may be gate_up, from dout [rows, n] T and gate_up [rows, 2
// n].
void SwiGluBackward(Device& device, View dgate_up, View dout, View gate_up);

// out[i] f32 = the sum of a * b [rows, cols] T along row i.
void DotRows(Device& device, float* out /*[rows]*/, View a, View b);

// to [.., cols] f32: its row rows[i] += weights[i] * from's row i, from [count, cols] T. The rows are all different;
// null: row i. weights null: 1.
struct WeightedRows {
  const int32_t* rows = nullptr;
  const float* weights = nullptr;
};
void AddWeightedRows(Device& device, View to, View from, const WeightedRows& which);

// Of RotateQk, in place: dqkv [rows, qkv_cols] T holds the gradient of the rotated q and k (and of v, which stays) and
// becomes that of what was rotated. `before` [rows, qkv_cols] T is qkv before RotateQk; it is read only where there is
// a norm and may be empty otherwise.
void RotateQkBackward(Device& device, View dqkv, View before, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms);

// Row p of a streaming head sees keys j <= p with (j < sink or p - j <= recent), and with a window p - j < window, too.
struct WindowMask {
  int sink = 0;
  int recent = 0;
  int window = 0;  // 0: none
};

// One sequence's rows, and which keys they see.
struct WindowRows {
  View qkv;  // [rows, qkv_cols] T, rotated
  HeadShape shape;
  WindowMask mask;
};

// Streaming attention of all heads.
size_t AttendWindowScratchBytes(const Device& device, int64_t rows, const HeadShape& shape);
void AttendWindow(Device& device, const Partial& to, const WindowRows& rows, Arena& scratch);
// Its gradient: dqkv [rows, qkv_cols] T, all of it written, from dout [rows, q_cols] T and AttendWindow's results `of`.
// With P = exp(scores - lse), dP = dout V^T and D = rowsum(dout * out), by the rule of softmax dS = P (dP - D);
// dq = dS k / sqrt(d), dk = dS^T q / sqrt(d), dv = P^T dout (Dao et al. 2022, appendix B).
size_t AttendWindowBackwardScratchBytes(const Device& device, int64_t rows, const HeadShape& shape,
                                        const WindowMask& mask);
void AttendWindowBackward(Device& device, View dqkv, View dout, const Partial& of, const WindowRows& rows,
                          Arena& scratch);

// Full causal attention of all heads, the teacher's: out [rows, q_cols] T from rotated qkv. window as in WindowMask.
size_t AttendCausalScratchBytes(const Device& device, int64_t rows, const HeadShape& shape);
void AttendCausal(Device& device, View out, View qkv, const HeadShape& shape, int window, Arena& scratch);

// What a student's heads mix.
struct HeadMix {
  View streaming, full;          // [rows, q_cols] T
  const float* gates = nullptr;  // [kv_heads] f32
  HeadShape shape;
};

// out [rows, q_cols] T = (1 - a) * streaming + a * full, a = gates[KV head]. out may be either input.
void MixHeads(Device& device, View out, const HeadMix& mix);
// dstreaming = (1 - a) * dout and dgates[KV head] f32 += the sum of dout * (full - streaming) over rows and the head's
// columns. dstreaming may be dout.
void MixHeadsBackward(Device& device, View dstreaming, float* dgates, View dout, const HeadMix& mix);

// The distillation loss on last hidden states h = residual / rms(residual) * weight:
//   losses[r] = row_weights[r] * mean over columns of (h_student - h_teacher)^2
// and dresidual [rows, dim] f32 = the gradient of their sum with respect to the student's residual. f32 throughout.
struct Distillation {
  View student, teacher;               // [rows, dim]: their residuals
  const float* weight = nullptr;       // [dim]: the final norm's
  const float* row_weights = nullptr;  // [rows]
  float eps = 0;
};
void DistillLoss(Device& device, float* losses, View dresidual, const Distillation& of);

}  // namespace duo
