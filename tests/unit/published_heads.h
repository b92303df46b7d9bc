// The heads of the patterns released with the DuoAttention paper (tests/anchors/published_heads.tsv), for tests that
// place them. The patterns themselves are not part of the project. A file that is wrong or lacks the model is a bug: a
// CHECK.
#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "attn_patterns/head_plan.h"
#include "kernels/base/check.h"
#include "tests/support/source_dir.h"

namespace duo {

// sparsity: 0.5 or 0.75.
inline HeadPlan PublishedHeads(const std::string& model, double sparsity) {
  std::ifstream file(SourceDir() + "/tests/anchors/published_heads.tsv");
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string name;
    double at = 0;
    HeadPlan plan;
    plan.sink = 128;
    plan.recent = 256;
    line >> name >> at >> plan.kv_heads;
    if (name != model || at != sparsity) continue;
    for (uint64_t mask = 0; line >> std::hex >> mask; ++plan.layers) {
      for (int head = 0; head < plan.kv_heads; ++head) plan.retrieval.push_back(mask >> head & 1);
    }
    return plan;
  }
  DUO_CHECK_MSG(false, "published_heads.tsv has no such model: " + model);
  return {};
}

}  // namespace duo
