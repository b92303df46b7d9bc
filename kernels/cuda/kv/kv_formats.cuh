// The KV formats that CUDA has kernels for, and the choice among kernels compiled for each.
#pragma once

#include "kernels/base/check.h"
#include "kernels/kv_codec.h"

namespace duo::cuda {

// Calls visit with std::integral_constant<KvFormat, format>.
template <typename Visit>
void VisitFormat(KvFormat format, const Visit& visit) {
  const bool found = VisitKvFormat<KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4>(format, visit);
  DUO_CHECK_MSG(found, "f32 KV is for the CPU");
}

}  // namespace duo::cuda
