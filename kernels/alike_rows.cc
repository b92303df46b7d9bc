#include "kernels/alike_rows.h"

namespace duo {

bool LinearAlike([[maybe_unused]] const Device& device, [[maybe_unused]] const Weight& weight) {
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) return cuda::LinearAlike(device, weight);
#endif
  return true;
}

bool AttentionAlike([[maybe_unused]] const Device& device, [[maybe_unused]] int head_dim, [[maybe_unused]] int group,
                    [[maybe_unused]] KvFormat format) {
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) return cuda::AttentionAlike(device, head_dim, group, format);
#endif
  return true;
}

}  // namespace duo
