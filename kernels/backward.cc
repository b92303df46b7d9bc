#include "kernels/backward.h"

#include "kernels/backend.h"

namespace duo {
namespace {

void CheckSame(const View& a, const View& b) {
  DUO_CHECK_EQ(a.rows, b.rows);
  DUO_CHECK_EQ(a.cols, b.cols);
}
void CheckActivations(const Device& device, const View& x, int64_t rows, int64_t cols) {
  DUO_CHECK(x.dtype == ActivationType(device));
  DUO_CHECK_EQ(x.rows, rows);
  DUO_CHECK_EQ(x.cols, cols);
}
void CheckResidual(const View& x) { DUO_CHECK(x.dtype == DType::kF32); }

void CheckMask(const WindowMask& mask) {
  DUO_CHECK_GE(mask.sink, 0);
  DUO_CHECK_GE(mask.recent, 0);
  DUO_CHECK_GE(mask.window, 0);
}

// The whole sequence as one step without history: what the prefill ops attend causally, from qkv alone.
PagedKv NoPages(const HeadShape& shape, int window) {
  PagedKv kv;
  kv.page = {KvFormat::kBF16, shape.head_dim};
  kv.num_heads = shape.kv_heads;
  kv.window = window;
  return kv;
}

}  // namespace

absl::Status CheckBackward(const Device& device, int head_dim, int group) {
  return BackendOf(device).CheckBackward(device, head_dim, group);
}

void DotRows(Device& device, float* out, View a, View b) {
  CheckActivations(device, a, b.rows, b.cols);
  CheckActivations(device, b, a.rows, a.cols);
  if (a.rows == 0) return;
  BackendOf(device).DotRows(device, out, a, b);
}

void AddWeightedRows(Device& device, View to, View from, const WeightedRows& which) {
  CheckResidual(to);
  CheckActivations(device, from, from.rows, to.cols);
  if (which.rows == nullptr) DUO_CHECK_EQ(to.rows, from.rows);
  if (from.empty()) return;
  BackendOf(device).AddWeightedRows(device, to, from, which);
}

void RoundToActivations(Device& device, View out, View in) {
  CheckResidual(in);
  CheckActivations(device, out, in.rows, in.cols);
  if (out.empty()) return;
  BackendOf(device).RoundToActivations(device, out, in);
}

size_t LinearBackwardScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  return BackendOf(device).LinearBackwardScratchBytes(device, rows, weight);
}

void LinearBackward(Device& device, View dx, View dout, const Weight& weight, Arena& scratch) {
  DUO_CHECK(weight.data != nullptr);
  CheckActivations(device, dx, dout.rows, weight.cols);
  CheckActivations(device, dout, dx.rows, weight.rows);
  if (dx.empty()) return;
  BackendOf(device).LinearBackward(device, dx, dout, weight, scratch);
}

void RmsNormBackward(Device& device, View dresidual, View dout, View residual, const float* weight, float eps) {
  CheckResidual(dresidual);
  CheckResidual(residual);
  CheckSame(dresidual, residual);
  CheckActivations(device, dout, residual.rows, residual.cols);
  DUO_CHECK(weight != nullptr);
  if (residual.empty()) return;
  BackendOf(device).RmsNormBackward(device, dresidual, dout, residual, weight, eps);
}

void SwiGluBackward(Device& device, View dgate_up, View dout, View gate_up) {
  CheckActivations(device, gate_up, dout.rows, 2 * dout.cols);
  CheckActivations(device, dgate_up, dout.rows, 2 * dout.cols);
  CheckActivations(device, dout, gate_up.rows, dout.cols);
  if (dout.empty()) return;
  BackendOf(device).SwiGluBackward(device, dgate_up, dout, gate_up);
}

void RotateQkBackward(Device& device, View dqkv, View before, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  CheckActivations(device, dqkv, dqkv.rows, shape.qkv_cols());
  if (norms.q != nullptr || norms.k != nullptr) CheckActivations(device, before, dqkv.rows, dqkv.cols);
  DUO_CHECK(cos_sin.dtype == DType::kF32);
  DUO_CHECK_EQ(cos_sin.cols, shape.head_dim);
  DUO_CHECK_GE(cos_sin.rows, dqkv.rows);
  if (dqkv.empty()) return;
  BackendOf(device).RotateQkBackward(device, dqkv, before, shape, cos_sin, norms);
}

size_t AttendWindowScratchBytes(const Device& device, int64_t rows, const HeadShape& shape) {
  return BackendOf(device).AttendWindowScratchBytes(device, rows, shape);
}

void AttendWindow(Device& device, const Partial& to, const WindowRows& rows, Arena& scratch) {
  CheckActivations(device, rows.qkv, to.out.rows, rows.shape.qkv_cols());
  CheckActivations(device, to.out, rows.qkv.rows, rows.shape.q_cols());
  CheckMask(rows.mask);
  if (to.out.empty()) return;
  BackendOf(device).AttendWindow(device, to, rows, scratch);
}

size_t AttendWindowBackwardScratchBytes(const Device& device, int64_t rows, const HeadShape& shape,
                                        const WindowMask& mask) {
  return BackendOf(device).AttendWindowBackwardScratchBytes(device, rows, shape, mask);
}

void AttendWindowBackward(Device& device, View dqkv, View dout, const Partial& of, const WindowRows& rows,
                          Arena& scratch) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  CheckActivations(device, qkv, of.out.rows, shape.qkv_cols());
  CheckActivations(device, dqkv, of.out.rows, shape.qkv_cols());
  CheckActivations(device, of.out, qkv.rows, shape.q_cols());
  CheckActivations(device, dout, qkv.rows, shape.q_cols());
  CheckMask(rows.mask);
  if (of.out.empty()) return;
  DUO_CHECK(of.lse != nullptr);
  BackendOf(device).AttendWindowBackward(device, dqkv, dout, of, rows, scratch);
}

size_t AttendCausalScratchBytes(const Device& device, int64_t rows, const HeadShape& shape) {
  return PrefillScratchBytes(device, static_cast<int>(rows), shape.group, NoPages(shape, 0), rows);
}

void AttendCausal(Device& device, View out, View qkv, const HeadShape& shape, int window, Arena& scratch) {
  CheckActivations(device, qkv, out.rows, shape.qkv_cols());
  CheckActivations(device, out, qkv.rows, shape.q_cols());
  SeqSpan span;
  span.num_rows = static_cast<int32_t>(out.rows);
  SeqBatch batch;
  batch.host_spans = &span;
  if (!device.is_cuda()) batch.spans = &span;  // CUDA's prefill reads the host's
  batch.num_seqs = 1;
  batch.num_rows = batch.max_rows = span.num_rows;
  batch.max_tokens = span.num_rows;
  AttendPrefill(device, {out}, {qkv, shape, batch}, NoPages(shape, window), true, scratch);
}

void MixHeads(Device& device, View out, const HeadMix& mix) {
  for (const View& x : {out, mix.streaming, mix.full}) CheckActivations(device, x, out.rows, mix.shape.q_cols());
  if (out.empty()) return;
  BackendOf(device).MixHeads(device, out, mix);
}

void MixHeadsBackward(Device& device, View dstreaming, float* dgates, View dout, const HeadMix& mix) {
  for (const View& x : {dstreaming, dout, mix.streaming, mix.full})
    CheckActivations(device, x, dout.rows, mix.shape.q_cols());
  if (dout.empty()) return;
  BackendOf(device).MixHeadsBackward(device, dstreaming, dgates, dout, mix);
}

void DistillLoss(Device& device, float* losses, View dresidual, const Distillation& of) {
  for (const View& x : {dresidual, of.student, of.teacher}) CheckResidual(x);
  CheckSame(dresidual, of.student);
  CheckSame(of.teacher, of.student);
  DUO_CHECK(of.weight != nullptr);
  if (of.student.empty()) return;
  BackendOf(device).DistillLoss(device, losses, dresidual, of);
}

}  // namespace duo
