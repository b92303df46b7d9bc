#include "kernels/attention_plain.h"

#include "kernels/backend.h"

namespace duo {

void AttendPlain(Device& device, float* out, View qkv, const HeadShape& shape, const PagedKv& kv,
                 const StoredTokens& keys) {
  DUO_CHECK(!kv.split && kv.window == 0);
  DUO_CHECK_LE(shape.head_dim, 256);
  DUO_CHECK_GE(keys.tokens, 1);
  BackendOf(device).AttendPlain(device, out, qkv, shape, kv, keys);
}

}  // namespace duo
