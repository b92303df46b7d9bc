// Both files of a pattern folder. Whatever is accepted must survive writing and reading and give a plan.
#include <cstdint>
#include <string>

#include "attn_patterns/head_plan.h"
#include "attn_patterns/pattern.h"
#include "kernels/base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace duo;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Pattern pattern;
  if (ParsePatternGates(text, "full_attention_heads.tsv", &pattern).ok()) {
    Pattern back;
    DUO_CHECK(ParsePatternGates(FormatPatternGates(pattern), "again", &back).ok());
    DUO_CHECK(back == pattern);
    const auto plan = PlanBySparsity(pattern, 0.5);
    DUO_CHECK(plan.ok());
    DUO_CHECK_EQ(plan->retrieval_heads(), (pattern.layers * pattern.kv_heads + 1) / 2);
  }
  Pattern settings;
  if (ParsePatternConfig(text, "config.json", &settings).ok()) {
    Pattern back;
    DUO_CHECK(ParsePatternConfig(PatternConfigJson(settings), "again", &back).ok());
    DUO_CHECK(back == settings);
  }
  return 0;
}
