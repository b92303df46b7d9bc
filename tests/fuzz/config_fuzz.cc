// config.json and generation_config.json. Whatever is accepted must have usable sizes and finite frequencies.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "kernels/base/check.h"
#include "runtime/model/rope.h"
#include "runtime/weights/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace duo;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = ParseConfig(text, "config.json");
  if (!config.ok()) {
    DUO_CHECK(!config.status().message().empty());
    (void)ParseStopTokens(text, "generation_config.json", ModelConfig());
    return 0;
  }
  DUO_CHECK(config->hidden > 0 && config->intermediate > 0 && config->layers > 0 && config->vocab > 0);
  DUO_CHECK(config->kv_heads > 0 && config->heads % config->kv_heads == 0);
  DUO_CHECK(config->head_dim > 0 && config->head_dim % 2 == 0);
  DUO_CHECK(config->window_layers.size() == (config->sliding_window > 0 ? static_cast<size_t>(config->layers) : 0u));
  DUO_CHECK_GE(MaxPositions(*config), config->max_position_embeddings);
  const RopeFrequencies rope = ComputeRopeFrequencies(*config, MaxPositions(*config));
  DUO_CHECK_EQ(rope.inv_freq.size(), static_cast<size_t>(config->head_dim) / 2);
  for (const double f : rope.inv_freq) DUO_CHECK(std::isfinite(f) && f >= 0);
  DUO_CHECK(std::isfinite(rope.attention_factor) && rope.attention_factor > 0);
  DUO_CHECK(!Describe(config->quantization).empty());
  DUO_CHECK(!ConfigOf(config->quantization, "model.layers.0.mlp.up_proj").mixed());
  return 0;
}
