// `duo bench gradients`: the ops that carry gradients to the gates in `duo identify`, at a model's shape, each verified
// against an f64 reference.

#include "launcher/bench/bench.h"
#include "launcher/bench/gradient_bench.h"
#include "launcher/terminal/progress.h"

namespace duo {

absl::Status BenchGradients(const BenchFlags& flags, Runtime& runtime) {
  absl::StatusOr<ModelConfig> config = ShapeNamed(flags.shape);
  if (!config.ok()) return config.status();
  Device& device = *runtime.device;
  GradientBench bench;
  bench.heads = {config->head_dim, config->heads / config->kv_heads, config->kv_heads};
  bench.hidden = config->hidden;
  bench.intermediate = config->intermediate;
  if (flags.tokens > 0) bench.tokens = flags.tokens;
  if (absl::Status s = CheckBackward(device, bench.heads.head_dim, bench.heads.group); !s.ok()) return s;
  const Rates rates = RatesOf(device);
  Progress progress("timing", "kinds of ops", !runtime.leader());
  absl::StatusOr<std::vector<BenchRow>> rows =
      BenchGradientOps(device, bench, {rates.copy, rates.gemm, rates.attention},
                       [&](int done, int total) { progress.Update(done, total); });
  progress.Done();
  if (!rows.ok()) return rows.status();
  return PrintKernelRows(flags, runtime, rates, *rows, "gradients");
}

}  // namespace duo
