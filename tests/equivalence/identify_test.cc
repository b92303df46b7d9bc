// Identification on tiny random models, f32 on the CPU: the gradient of every gate against finite differences of the
// loss, a student that is its teacher, and runs that are interrupted.
#include "runtime/identify/identify.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "kernels/base/splitmix64.h"
#include "parallel/communicator.h"
#include "runtime/identify/identify_model.h"
#include "tests/golden/golden_model.h"
#include "tests/support/source_dir.h"

namespace duo {
namespace {

class IdentifyTest : public testing::Test {
 protected:
  void SetUp() override {
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_identify_" + std::to_string(getpid()));
    std::filesystem::create_directories(scratch_);
  }
  void TearDown() override { std::filesystem::remove_all(scratch_); }

  // A window much shorter than the text, so that streaming and full attention differ everywhere.
  IdentifyModel Open(const std::string& model_dir, int64_t max_tokens, FullBranch full = FullBranch::kTeacher) {
    IdentifyModel::Sizes sizes;
    sizes.sink = 3;
    sizes.recent = 12;
    sizes.max_tokens = max_tokens;
    sizes.full_branch = full;
    auto model = IdentifyModel::Load(model_dir, sizes, *device_, [](int64_t, int64_t) {});
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(*model);
  }
  static std::vector<double> RandomGates(int count) {
    std::vector<double> gates(count);
    for (int i = 0; i < count; ++i) gates[i] = 0.2 + 0.6 * static_cast<double>(SplitMix64(i) >> 40) / (1 << 24);
    return gates;
  }

  std::filesystem::path scratch_;
  std::unique_ptr<Device> device_ = Device::Cpu(2);
};

// The loss is smooth in the gates, so Richardson's extrapolation of two central differences, (4 D(h) - D(2h)) / 3, has
// an error of h^4. What remains is rounding. A hidden state of size 1 carries an error of about 2^-22 (some dozen f32
// operations a layer); through (s - t)^2 it moves the loss by at most 2 sqrt(loss) 2^-22, and a difference over 2h by
// that over h. 16 of these, for sums that do not all cancel, is the tolerance; a wrong gradient is off by its own size.
class IdentifyGradientTest : public IdentifyTest, public testing::WithParamInterface<FullBranch> {};

TEST_P(IdentifyGradientTest, IsThatOfFiniteDifferences) {
  for (const char* name :
       {"llama_gqa_tied_biases_sharded", "qwen3_norms", "mistral_window", "mixtral_sharded", "qwen2_moe_shared"}) {
    SCOPED_TRACE(name);
    const Golden golden = LoadGolden(name, scratch_.string());
    ChooseAllExperts(golden);  // a loss that jumps where another expert is chosen has no differences to compare with
    IdentifyModel model = Open(golden.model_dir, 200, GetParam());
    std::vector<int32_t> tokens = golden.prompt;
    tokens.resize(std::min<size_t>(tokens.size(), 150));
    const int64_t first_label = 90;
    const std::vector<double> gates = RandomGates(model.gates());
    const GateGradient result = model.LossAndGradient(tokens, first_label, gates);
    EXPECT_EQ(result.loss, model.Loss(tokens, first_label, gates));
    EXPECT_GT(result.loss, 1e-6);
    constexpr double kStep = 0.04;
    const double tolerance = 16 * 2 * std::sqrt(result.loss) * std::ldexp(1.0, -22) / kStep;
    double largest = 0;
    for (int g = 0; g < model.gates(); ++g) {
      auto difference = [&](double h) {
        std::vector<double> up = gates, down = gates;
        up[g] += h;
        down[g] -= h;
        // As the model rounds them.
        const double width = double{static_cast<float>(up[g])} - static_cast<float>(down[g]);
        return (model.Loss(tokens, first_label, up) - model.Loss(tokens, first_label, down)) / width;
      };
      const double expected = (4 * difference(kStep) - difference(2 * kStep)) / 3;
      EXPECT_NEAR(result.gradient[g], expected, tolerance) << "gate " << g;
      largest = std::max(largest, std::abs(expected));
    }
    EXPECT_GT(largest, 20 * tolerance) << "the differences say nothing";
    RecordProperty("tolerance_over_largest_gradient", std::to_string(tolerance / largest));
  }
}

INSTANTIATE_TEST_SUITE_P(FullBranch, IdentifyGradientTest, testing::Values(FullBranch::kTeacher, FullBranch::kStudent),
                         [](const auto& info) { return info.param == FullBranch::kTeacher ? "Teacher" : "Student"; });

// What the pattern will be used with: closed gates are streaming heads, open ones are retrieval heads of the student's
// own states. The two branches differ where something was closed before: with the first layer's gates closed the
// teacher's branch hides what that does to the attention of the others.
TEST_F(IdentifyTest, OnlyTheStudentsOwnFullBranchFeelsWhatEarlierLayersLost) {
  const Golden golden = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
  IdentifyModel teacher = Open(golden.model_dir, 256), student = Open(golden.model_dir, 256, FullBranch::kStudent);
  std::vector<double> gates(teacher.gates(), 1.0);
  // Both take full attention, by other kernels: of hidden states of size 1 only rounding differs, about 2^-22 squared.
  EXPECT_LT(student.Loss(golden.prompt, 100, gates), std::ldexp(1.0, -40));
  for (int head = 0; head < teacher.config().kv_heads; ++head) gates[head] = 0;
  const double own = student.Loss(golden.prompt, 100, gates), borrowed = teacher.Loss(golden.prompt, 100, gates);
  EXPECT_GT(std::abs(own - borrowed), 1e-3 * borrowed);
  // With every gate closed there is no full branch, and the two are one.
  std::fill(gates.begin(), gates.end(), 0.0);
  EXPECT_EQ(student.Loss(golden.prompt, 100, gates), teacher.Loss(golden.prompt, 100, gates));
}

TEST_F(IdentifyTest, AStudentOfOpenGatesIsItsTeacher) {
  const Golden golden = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
  IdentifyModel model = Open(golden.model_dir, 256);
  const GateGradient result = model.LossAndGradient(golden.prompt, 100, std::vector<double>(model.gates(), 1.0));
  EXPECT_EQ(result.loss, 0);
  for (const double g : result.gradient) EXPECT_EQ(g, 0);
}

// The last token's logits of the golden are transformers' own.
TEST_F(IdentifyTest, TheTeacherIsTheModel) {
  for (const char* name : {"qwen3_norms", "mistral_window", "llama_yarn", "qwen2_moe_shared"}) {
    SCOPED_TRACE(name);
    const Golden golden = LoadGolden(name, scratch_.string());
    IdentifyModel model = Open(golden.model_dir, static_cast<int64_t>(golden.prompt.size()) + 16);
    const auto last = static_cast<int64_t>(golden.prompt.size()) - 1;
    EXPECT_EQ(model.TeacherChoices(golden.prompt, last, 1), std::vector<int32_t>{golden.full.greedy[0]});
  }
}

TEST_F(IdentifyTest, MassOutsideIsNothingForAWindowThatSeesAll) {
  const Golden golden = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
  IdentifyModel narrow = Open(golden.model_dir, 256);
  for (const double mass : narrow.MassOutside(golden.prompt)) {
    EXPECT_GT(mass, 0.3);  // random heads look everywhere: of 211 tokens a window of 16 has few
    EXPECT_LT(mass, 1);
  }
  IdentifyModel::Sizes sizes;
  sizes.sink = 3;
  sizes.recent = 300;
  sizes.max_tokens = 256;
  auto wide = IdentifyModel::Load(golden.model_dir, sizes, *device_, [](int64_t, int64_t) {});
  ASSERT_TRUE(wide.ok()) << wide.status();
  for (const double mass : wide->MassOutside(golden.prompt)) EXPECT_NEAR(mass, 0, 1e-6);
}

// The demo model on short documents.
class IdentifyRunTest : public IdentifyTest {
 protected:
  static constexpr int kSteps = 6;
  const std::string model_dir_ = SourceDir() + "/launcher/demo/needle-6m";

  PasskeyData Data() {
    auto tokenizer = Tokenizer::Load(model_dir_ + "/tokenizer.json");
    EXPECT_TRUE(tokenizer.ok());
    std::string text;
    for (int i = 0; i < 3000; ++i) text += "Line " + std::to_string(i) + " says nothing of note.\n";
    PasskeyOptions options;
    options.task = RecallTask::kNeedle;
    options.facts = 2;
    auto data = PasskeyData::Create(*tokenizer, std::nullopt, text, options);
    EXPECT_TRUE(data.ok()) << data.status();
    return std::move(*data);
  }
  IdentifyOptions Options() const {
    IdentifyOptions options;
    options.steps = kSteps;
    options.min_length = 120;
    options.max_length = 200;
    options.fingerprint = "test";
    return options;
  }
  // Stops after `stop` steps.
  absl::StatusOr<Identified> Run(const IdentifyOptions& options, int stop) {
    IdentifyModel model = Open(model_dir_, 400);
    const auto comm = MakeSelfCommunicator();
    return IdentifyGates(model, Data(), options, *comm, [&](const IdentifyProgress& p) { return p.step < stop; });
  }
};

TEST_F(IdentifyRunTest, AResumedRunGivesTheSameGates) {
  const absl::StatusOr<Identified> whole = Run(Options(), kSteps + 1);
  ASSERT_TRUE(whole.ok()) << whole.status();
  IdentifyOptions resumed = Options();
  resumed.state_file = (scratch_ / "state.json").string();
  EXPECT_EQ(Run(resumed, 2).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Run(resumed, 5).status().code(), absl::StatusCode::kCancelled);
  const absl::StatusOr<Identified> rest = Run(resumed, kSteps + 1);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(rest->gates, whole->gates);
  EXPECT_EQ(rest->distillation, whole->distillation);
  // A finished run is not run again.
  int steps = 0;
  IdentifyModel model = Open(model_dir_, 400);
  const auto comm = MakeSelfCommunicator();
  const auto again = IdentifyGates(model, Data(), resumed, *comm, [&](const IdentifyProgress&) { return ++steps > 0; });
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(steps, 0);
  EXPECT_EQ(again->gates, whole->gates);
}

TEST_F(IdentifyRunTest, AStateOfOtherSettingsIsRefused) {
  IdentifyOptions options = Options();
  options.state_file = (scratch_ / "state.json").string();
  EXPECT_EQ(Run(options, 1).status().code(), absl::StatusCode::kCancelled);
  options.seed = 1;
  const absl::Status status = Run(options, kSteps + 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("choose another --out"), std::string::npos) << status;
}

}  // namespace
}  // namespace duo
