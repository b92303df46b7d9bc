#include "runtime/weights/tied_head.h"

#include <cstring>

namespace duo {

bool HasHeadOfItsOwn(const SafetensorsModel& files, const ModelConfig& config) {
  if (!config.tie_embeddings) return false;
  const TensorInfo* head = files.Find("lm_head.weight");
  const TensorInfo* embedding = files.Find("model.embed_tokens.weight");
  if (head == nullptr || embedding == nullptr || head->shape != embedding->shape) return false;
  return head->dtype != embedding->dtype || head->bytes != embedding->bytes ||
         std::memcmp(head->data, embedding->data, head->bytes) != 0;
}

}  // namespace duo
