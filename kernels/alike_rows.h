// Which products and heads give the rows of a small step the bits that each has alone, as checking drafts wants it. On
// CPUs all do, for up to kExactRows rows of any sequences (row_cuts.h).
#pragma once

#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {

// On GPUs: so many rows of a step's only sequence, whose positions lie in one page.
constexpr int kAlikeRows = 8;

// Linear and LinearSwiGlu, while the device keeps rows alike (Device::KeepRowsAlike). By shape and format: no element
// is looked at.
bool LinearAlike(const Device& device, const Weight& weight);
// AttendPages and AttendStreaming, of heads without a window and of all keys.
bool AttentionAlike(const Device& device, int head_dim, int group, KvFormat format);

#ifdef DUO_HAVE_CUDA
namespace cuda {
bool LinearAlike(const Device& device, const Weight& weight);
bool AttentionAlike(const Device& device, int head_dim, int group, KvFormat format);
}  // namespace cuda
#endif

}  // namespace duo
