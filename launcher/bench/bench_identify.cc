// `duo bench identify`: seconds a training step and memory of `duo identify` for a shape with random weights, and what
// they come to over the paper's run. A step's time is quadratic in its tokens (attention) with a linear part
// (matrices): three lengths give the curve, and the curve the paper's 2,000 steps, whose documents have 50 lengths
// spread evenly from 1,000 to 32,000 tokens.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"
#include "runtime/identify/identify_model.h"
#include "runtime/identify/passkey_data.h"

namespace duo {
namespace {

constexpr int kPaperSteps = 2000;
constexpr int64_t kPaperLeast = 1000, kPaperMost = 32000;
constexpr int64_t kLabels =
    1280;  // tokens of questions and answers, as ten passkeys of 32 words have in Llama-3's tokens

struct Point {
  int64_t tokens = 0;
  double seconds = 0;
};

// Median of `steps` steps after one that warms up.
absl::StatusOr<Point> TimeStep(IdentifyModel& model, Device& device, int64_t tokens, int steps, bool quiet) {
  std::vector<int32_t> text(tokens);
  for (int64_t i = 0; i < tokens; ++i) text[i] = static_cast<int32_t>((i * 2654435761u + 12345) % model.config().vocab);
  const std::vector<double> gates(model.gates(), 0.5);
  std::vector<double> seconds;
  Progress progress(absl::StrCat("timing documents of ", tokens, " tokens"), "steps", quiet);
  for (int step = 0; step <= steps; ++step) {
    progress.Update(step, steps + 1);
    const Clock::time_point start = Clock::now();
    const GateGradient result = model.LossAndGradient(text, std::max<int64_t>(1, tokens - kLabels), gates);
    device.Synchronize();
    if (step > 0) seconds.push_back(SecondsSince(start));
    const bool finite = std::isfinite(result.loss) && std::all_of(result.gradient.begin(), result.gradient.end(),
                                                                  [](double g) { return std::isfinite(g); });
    if (!finite || result.loss <= 0) {
      return absl::InternalError(
          absl::StrFormat("verification failed: a step of %d tokens has loss %g", tokens, result.loss));
    }
  }
  return Point{tokens, Median(seconds)};
}

// The parabola through three points, at n tokens.
double Interpolate(const std::vector<Point>& p, double n) {
  double seconds = 0;
  for (int i = 0; i < 3; ++i) {
    double weight = 1;
    for (int j = 0; j < 3; ++j) {
      if (j != i) weight *= (n - p[j].tokens) / static_cast<double>(p[i].tokens - p[j].tokens);
    }
    seconds += weight * p[i].seconds;
  }
  return seconds;
}

}  // namespace

absl::Status BenchIdentify(const BenchFlags& flags, Runtime& runtime) {
  absl::StatusOr<ModelConfig> shape = ShapeNamed(flags.shape);
  if (!shape.ok()) return shape.status();
  Device& device = *runtime.device;
  const int64_t context = flags.length;
  IdentifyModel::Sizes sizes;
  sizes.sink = flags.runtime.sink.value_or(sizes.sink);
  sizes.recent = flags.runtime.recent.value_or(sizes.recent);
  sizes.max_tokens = context;
  const int64_t free_before = device.FreeMemory();
  absl::StatusOr<IdentifyModel> model = IdentifyModel::Random(*shape, sizes, device);
  if (!model.ok()) return model.status();
  std::vector<Point> points;
  for (const int64_t tokens : {context / 4, context / 2, context}) {
    absl::StatusOr<Point> point = TimeStep(*model, device, tokens, flags.repeat, !runtime.leader());
    if (!point.ok()) return point.status();
    points.push_back(*point);
    if (runtime.leader() && !flags.json) {
      std::printf("%9s tokens: %8.3f s a step\n", Grouped(tokens).c_str(), point->seconds);
      std::fflush(stdout);
    }
  }
  const int64_t planned = model->weight_bytes() + model->workspace_bytes();
  const int64_t taken = free_before - device.FreeMemory();  // with what libraries took for themselves
  double paper = 0;
  for (int i = 0; i < kLengths; ++i) {
    const double document = kPaperLeast + static_cast<double>(kPaperMost - kPaperLeast) * i / (kLengths - 1);
    paper += Interpolate(points, document + kLabels) * kPaperSteps / kLengths;
  }
  if (!runtime.leader()) return absl::OkStatus();
  if (flags.json) {
    nlohmann::ordered_json out = {
        {"bench", "identify"},
        {"shape", flags.shape},
        {"device", device.info().name},
        {"steps_timed", flags.repeat},
        {"label_tokens", kLabels},
        {"points", nlohmann::ordered_json::array()},
        {"weight_bytes", model->weight_bytes()},
        {"workspace_bytes", model->workspace_bytes()},
        {"device_bytes_taken", taken},
        {"extrapolated_paper_run_seconds", paper},
        {"extrapolated_paper_run", "2000 steps, documents of 1000 to 32000 tokens, one a step"}};
    for (const Point& p : points) out["points"].push_back({{"tokens", p.tokens}, {"seconds", p.seconds}});
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf("%s on %s: weights %s, workspace %s, taken on the device %s\n", flags.shape.c_str(),
              device.info().name.c_str(), ByteCount(static_cast<double>(model->weight_bytes())).c_str(),
              ByteCount(static_cast<double>(planned - model->weight_bytes())).c_str(),
              ByteCount(static_cast<double>(taken)).c_str());
  std::printf("extrapolated, not measured: the paper's %s steps (documents of %s to %s tokens, one a step) take %s\n",
              Grouped(kPaperSteps).c_str(), Grouped(kPaperLeast).c_str(), Grouped(kPaperMost).c_str(),
              Duration(paper).c_str());
  return absl::OkStatus();
}

}  // namespace duo
