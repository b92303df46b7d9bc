#include "kernels/backend.h"

namespace duo::cpu {

#define DUO_OP(name) .name = name,
extern const Backend kBackend = {DUO_BACKEND_OPS};
#undef DUO_OP

}  // namespace duo::cpu
