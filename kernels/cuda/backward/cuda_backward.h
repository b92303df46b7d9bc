// The CUDA backend of kernels/backward.h, with the same contracts and signatures. Only kernels/backward.cc calls these;
// shapes are checked there. Asynchronous, ordered by the device's stream; needs no CUDA header.
#pragma once

#include "kernels/backward.h"

namespace duo::cuda {

size_t LinearBackwardScratchBytes(const Device& device, int64_t rows, const Weight& weight);
void LinearBackward(Device& device, View dx, View dout, const Weight& weight, Arena& scratch);

void RoundToActivations(Device& device, View out, View in);
void RmsNormBackward(Device& device, View dresidual, View dout, View residual, const float* weight, float eps);
void SwiGluBackward(Device& device, View dgate_up, View dout, View gate_up);
void RotateQkBackward(Device& device, View dqkv, View before, const HeadShape& shape, View cos_sin, const float* q_norm,
                      const float* k_norm, float eps);

absl::Status CheckBackward(const Device& device, int head_dim, int group);
size_t AttendWindowScratchBytes(const Device& device, int64_t rows, const HeadShape& shape);
void AttendWindow(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const WindowMask& mask,
                  Arena& scratch);
size_t AttendWindowBackwardScratchBytes(const Device& device, int64_t rows, const HeadShape& shape,
                                        const WindowMask& mask);
void AttendWindowBackward(Device& device, View dqkv, View dout, View out, const float* lse, View qkv,
                          const HeadShape& shape, const WindowMask& mask, Arena& scratch);

void MixHeads(Device& device, View out, View streaming, View full, const float* gates, const HeadShape& shape);
void MixHeadsBackward(Device& device, View dstreaming, float* dgates, View dout, View streaming, View full,
                      const float* gates, const HeadShape& shape);
void DistillLoss(Device& device, float* losses, View dresidual, View student, View teacher, const float* weight,
                 float eps, const float* row_weights);

}  // namespace duo::cuda
