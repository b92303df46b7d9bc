#include "kernels/backend.h"

namespace duo::cuda {

#define DUO_OP(name) .name = name,
extern const Backend kBackend = {DUO_BACKEND_OPS};
#undef DUO_OP

}  // namespace duo::cuda
