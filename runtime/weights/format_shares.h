// Which formats a model's matrices have in memory, for people: `duo info`, `duo plan`, answers' statistics.
// Pure functions, any thread.
#pragma once

#include <string>
#include <vector>

#include "runtime/weights/weights.h"

namespace duo {

// "bf16"; "fp8", with a scale a row; "fp8:128x128", "int8:32", "int4:128", by what shares a scale; "int4:32/256", with
// two levels of scale; "mxfp4", "iq4:32", whose codes stand for a table's numbers.
std::string Name(const CodeFormat& format);

struct FormatShare {
  std::string format;
  int64_t parameters = 0;  // of matrices in it, on all ranks together
  double share = 0;        // of all matrices' parameters
};
// The largest first. Vectors, as norms' weights, are f32 always and are no part of it.
std::vector<FormatShare> FormatShares(const ModelConfig& config, const WeightFormats& formats);
// "int4:128 71.2 %, fp8 20.5 %, bf16 8.3 %"; of one format its name alone.
std::string Text(const std::vector<FormatShare>& shares);

}  // namespace duo
