#include "runtime/identify/identify_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "attn_patterns/head_plan.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "runtime/identify/experts_backward.h"
#include "runtime/model/rope.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/supported_quantization.h"
#include "runtime/weights/tied_head.h"

namespace duo {
namespace {

constexpr int64_t kMlpRows = Transformer::kMlpRows;

View FirstRows(const View& v, int64_t rows) { return v.Rows(0, rows); }

}  // namespace

IdentifyModel::IdentifyModel(const ModelConfig& config, const Sizes& sizes, Device& device)
    : config_(config), sizes_(sizes), device_(&device), comm_(MakeSelfCommunicator()) {
  shape_.head_dim = config.head_dim;
  shape_.group = config.heads / config.kv_heads;
  shape_.kv_heads = config.kv_heads;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Prepare(const ModelConfig& config, const Sizes& sizes, Device& device,
                                                     RankShard* shard) {
  IdentifyModel model(config, sizes, device);
  if (config.attention_sinks) {
    return absl::UnimplementedError(
        "training gates of a model with learned attention sinks is not supported; --quick measures its heads without "
        "training");
  }
  if (sizes.max_tokens > MaxPlainPositions(config)) {
    return absl::UnimplementedError(absl::StrCat("passes of ", sizes.max_tokens,
                                                 " tokens need dual chunk attention with "
                                                 "this model, which training has not; at most ",
                                                 MaxPlainPositions(config), " do without"));
  }
  if (absl::Status s = CheckBackward(device, config.head_dim, model.shape_.group); !s.ok()) return s;
  // One rank that holds every head whole: qkv columns are then in the model's order.
  PartitionRequest request;
  request.shape = ShapeOf(config);
  request.heads = FullPlan(config.layers, config.kv_heads);
  absl::StatusOr<Partition> partition = MakePartition(request);
  if (!partition.ok()) return partition.status();
  *shard = MakeShard(*partition, request.shape, 0, 1, 1);
  model.mlp_columns_ = MlpColumns(config, *shard);
  return model;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Load(const std::string& model_dir, const Sizes& sizes, Device& device,
                                                  const std::function<void(int64_t, int64_t)>& progress) {
  absl::StatusOr<ModelConfig> config = LoadConfig(model_dir);
  if (!config.ok()) return config.status();
  absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(model_dir);
  if (!files.ok()) return files.status();
  if (HasHeadOfItsOwn(*files, *config)) config->tie_embeddings = false;
  if (absl::Status s = CheckSupported(config->quantization, model_dir + "/config.json"); !s.ok()) return s;
  absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, device.is_cuda(), {});
  if (!formats.ok()) return formats.status();
  RankShard shard;
  absl::StatusOr<IdentifyModel> model = Prepare(*config, sizes, device, &shard);
  if (!model.ok()) return model;
  absl::StatusOr<ModelWeights> weights =
      LoadWeights(*files, {*config, shard, *formats}, device, *model->comm_, progress);
  if (!weights.ok()) return weights.status();
  model->weights_ = std::move(*weights);
  if (absl::Status s = model->Allocate(); !s.ok()) return s;
  return model;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Random(const ModelConfig& config, const Sizes& sizes, Device& device) {
  RankShard shard;
  absl::StatusOr<IdentifyModel> model = Prepare(config, sizes, device, &shard);
  if (!model.ok()) return model;
  absl::StatusOr<ModelWeights> weights = RandomWeights({config, shard, WeightFormats()}, device);
  if (!weights.ok()) return weights.status();
  model->weights_ = std::move(*weights);
  if (absl::Status s = model->Allocate(); !s.ok()) return s;
  return model;
}

IdentifyModel::Workspace IdentifyModel::LayOut(Arena& arena) const {
  const DType t = ActivationType(*device_);
  const int64_t n = sizes_.max_tokens, h = config_.hidden, q = shape_.q_cols(), qkv = shape_.qkv_cols();
  const int64_t block = std::min<int64_t>(n, kMlpRows), ffn = mlp_columns_;
  Workspace w;
  Activations& a = w.a;
  for (View* v : {&a.residual, &w.gradient, &w.teacher}) *v = arena.Matrix(DType::kF32, n, h);
  for (View* v : {&a.normed, &a.projected}) *v = arena.Matrix(t, n, h);
  a.mlp = a.projected;
  for (View* v : {&a.qkv, &w.dqkv}) *v = arena.Matrix(t, n, qkv);
  if (config_.qk_norm) w.before = arena.Matrix(t, n, qkv);
  for (View* v : {&w.streaming, &w.mixed}) *v = arena.Matrix(t, n, q);
  const bool own_full = sizes_.full_branch == FullBranch::kStudent;
  if (own_full) w.dfull = arena.Matrix(t, n, q);
  a.gate_up = arena.Matrix(t, block, 2 * ffn);
  a.product = arena.Matrix(t, block, ffn);
  a.cos_sin = arena.Matrix(DType::kF32, n, config_.head_dim);
  for (int l = 0; l < config_.layers; ++l) {
    w.inputs.push_back(arena.Matrix(DType::kF32, n, h));
    w.full.push_back(own_full && l > 0 ? w.full[0] : arena.Matrix(t, n, q));
  }
  auto floats = [&](int64_t count) { return static_cast<float*>(arena.Take(sizeof(float) * count)); };
  w.lse = floats(n * config_.heads);
  w.full_lse = floats(n * config_.heads);
  for (float** list : {&w.gates, &w.closed, &w.gate_gradient, &w.unused}) *list = floats(gates());
  w.losses = floats(n);
  w.row_weights = floats(n);
  w.tokens = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * n));
  w.positions = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * n));
  w.frequencies = static_cast<double*>(arena.Take(sizeof(double) * config_.head_dim / 2));
  return w;
}

size_t IdentifyModel::MeasureBytes() const {
  const std::unique_ptr<Device> measuring = Device::Measuring(*device_);
  IdentifyModel twin(config_, sizes_, *measuring);
  twin.mlp_columns_ = mlp_columns_;
  twin.weights_.layers = weights_.layers;
  twin.weights_.outer = weights_.outer;
  twin.arena_ = Arena::Measuring();
  twin.w_ = twin.LayOut(twin.arena_);
  const std::vector<int32_t> tokens(sizes_.max_tokens);
  twin.LossAndGradient(tokens, 0, std::vector<double>(gates()));
  twin.TeacherChoices(tokens, 0, sizes_.max_tokens);
  twin.MassOutside(tokens);
  return twin.arena_.peak() + 64 * Arena::kAlignment;  // an op may take its scratch in pieces, each rounded up
}

absl::Status IdentifyModel::Allocate() {
  // Of shorter sequences some ops may ask for other blocks, never for more.
  absl::StatusOr<Buffer> buffer =
      Buffer::Allocate(*device_, MeasureBytes(),
                       absl::StrCat("sequences of ", sizes_.max_tokens, " tokens (a smaller --max-length needs less)"));
  if (!buffer.ok()) return buffer.status();
  arena_ = Arena(std::move(*buffer));
  w_ = LayOut(arena_);
  const RopeFrequencies rope = ComputeRopeFrequencies(config_, sizes_.max_tokens);
  rope_factor_ = rope.attention_factor;
  device_->Upload(w_.frequencies, rope.inv_freq.data(), sizeof(double) * rope.inv_freq.size());
  std::vector<int32_t> positions(sizes_.max_tokens);
  std::iota(positions.begin(), positions.end(), 0);
  device_->Upload(w_.positions, positions.data(), sizeof(int32_t) * positions.size());
  RopeAngles(*device_, w_.a.cos_sin, w_.positions, w_.frequencies, rope_factor_);
  return absl::OkStatus();
}

int IdentifyModel::WindowOf(int layer) const {
  const bool windowed = config_.sliding_window > 0 && config_.window_layers[layer] != 0;
  return windowed ? static_cast<int>(config_.sliding_window) : 0;
}

WindowMask IdentifyModel::Window(int layer) const { return {sizes_.sink, sizes_.recent, WindowOf(layer)}; }

WindowMask IdentifyModel::Whole(int layer) const { return {0, static_cast<int>(sizes_.max_tokens), WindowOf(layer)}; }

void IdentifyModel::Start(const std::vector<int32_t>& tokens) {
  const auto n = static_cast<int64_t>(tokens.size());
  DUO_CHECK_LE(n, sizes_.max_tokens);
  device_->Upload(w_.tokens, tokens.data(), sizeof(int32_t) * n);
}

Activations IdentifyModel::First(int64_t rows) const {
  Activations a = w_.a;
  for (View* v : {&a.residual, &a.normed, &a.projected, &a.mlp, &a.qkv, &a.cos_sin}) *v = v->Rows(0, rows);
  return a;
}

void IdentifyModel::Run(int64_t rows, int64_t first_label, absl::FunctionRef<View(int layer)> attend) {
  const Activations a = First(rows);
  Transformer layers = Layers();
  const View add = layers.Run(a, w_.tokens, [&](int l, View from_below) {
    layers.Qkv(l, a, shape_, from_below);
    const int64_t first = FirstRow(l, first_label);
    return attend(l).Rows(first, rows - first);
  });
  layers.Finish(a, add, View());
}

void IdentifyModel::Mix(int l, int64_t rows) {
  const View streaming = FirstRows(w_.streaming, rows), full = FirstRows(w_.full[l], rows);
  const View qkv = FirstRows(w_.a.qkv, rows);
  AttendWindow(*device_, {streaming, w_.lse}, {qkv, shape_, Window(l)}, arena_);
  if (sizes_.full_branch == FullBranch::kStudent) {
    AttendWindow(*device_, {full, w_.full_lse}, {qkv, shape_, Whole(l)}, arena_);
  }
  MixHeads(*device_, FirstRows(w_.mixed, rows), {streaming, full, w_.gates + l * shape_.kv_heads, shape_});
}

void IdentifyModel::Teacher(int64_t rows, int64_t first_label) {
  Run(rows, first_label, [&](int l) {
    const View full = FirstRows(w_.full[l], rows);
    AttendCausal(*device_, full, FirstRows(w_.a.qkv, rows), shape_, WindowOf(l), arena_);
    return full;
  });
}

void IdentifyModel::Student(int64_t rows, int64_t first_label) {
  Run(rows, first_label, [&](int l) {
    device_->Copy(w_.inputs[l].data, w_.a.residual.data, sizeof(float) * rows * config_.hidden);
    Mix(l, rows);
    return FirstRows(w_.mixed, rows);
  });
}

double IdentifyModel::Compare(int64_t rows, int64_t first_label) {
  const int64_t labels = rows - first_label;
  std::vector<float> host(labels, 1.0f / static_cast<float>(labels));
  device_->Upload(w_.row_weights, host.data(), sizeof(float) * labels);
  DistillLoss(
      *device_, w_.losses, w_.gradient.Rows(first_label, labels),
      {w_.a.residual.Rows(first_label, labels), w_.teacher.Rows(first_label, labels),
       weights_.outer.vector(WeightRole::kFinalNorm), w_.row_weights, static_cast<float>(config_.rms_norm_eps)});
  device_->Download(host.data(), w_.losses, sizeof(float) * labels);
  return std::accumulate(host.begin(), host.end(), 0.0);
}

void IdentifyModel::MlpBackward(int l, int64_t rows, int64_t first) {
  const WeightSet& w = weights_.layers[l];
  for (int64_t at = first; at < rows; at += kMlpRows) {
    const int64_t count = std::min<int64_t>(kMlpRows, rows - at);
    const View normed = w_.a.normed.Rows(at, count), branch = FirstRows(w_.a.projected, count),
               gradient = w_.gradient.Rows(at, count);
    RoundToActivations(*device_, branch, gradient);
    if (config_.experts.in(l)) {
      ExpertsBackward(*device_, {config_.experts, w}, normed, branch, normed, arena_);
    } else {
      const View gate_up(w_.a.gate_up.data, w_.a.gate_up.dtype, count, w[WeightRole::kGateUp].rows),
          product(w_.a.product.data, w_.a.product.dtype, count, w[WeightRole::kDown].cols);
      Linear(*device_, gate_up, normed, w[WeightRole::kGateUp], arena_);
      LinearBackward(*device_, product, branch, w[WeightRole::kDown], arena_);
      SwiGluBackward(*device_, gate_up, product, gate_up);
      LinearBackward(*device_, normed, gate_up, w[WeightRole::kGateUp], arena_);
    }
    RmsNormBackward(*device_, gradient, normed, w_.a.residual.Rows(at, count), w.vector(WeightRole::kPostNorm),
                    static_cast<float>(config_.rms_norm_eps));
  }
}

void IdentifyModel::BranchBackward(int l, int64_t rows, View dout, const Partial& of, const WindowMask& mask) {
  const WeightSet& w = weights_.layers[l];
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const View dqkv = FirstRows(w_.dqkv, rows), dnormed = FirstRows(w_.a.normed, rows);
  AttendWindowBackward(*device_, dqkv, dout, of, {FirstRows(w_.a.qkv, rows), shape_, mask}, arena_);
  const View before = config_.qk_norm ? FirstRows(w_.before, rows) : View();
  RotateQkBackward(*device_, dqkv, before, shape_, FirstRows(w_.a.cos_sin, rows),
                   {w.vector(WeightRole::kQNorm), w.vector(WeightRole::kKNorm), eps});
  LinearBackward(*device_, dnormed, dqkv, w[WeightRole::kQkv], arena_);
  RmsNormBackward(*device_, FirstRows(w_.gradient, rows), dnormed, FirstRows(w_.inputs[l], rows),
                  w.vector(WeightRole::kInputNorm), eps);
}

void IdentifyModel::Backward(int64_t rows, int64_t first_label) {
  const Activations a = First(rows);
  Transformer layers = Layers();
  const View gradient = FirstRows(w_.gradient, rows), dmixed = FirstRows(w_.mixed, rows);
  for (int l = config_.layers - 1; l >= 0; --l) {
    const WeightSet& w = weights_.layers[l];
    const int64_t first = FirstRow(l, first_label);
    // The layer again, up to the MLP's input.
    device_->Copy(w_.a.residual.data, w_.inputs[l].data, sizeof(float) * rows * config_.hidden);
    layers.Qkv(l, a, shape_, View(), config_.qk_norm ? FirstRows(w_.before, rows) : View());
    Mix(l, rows);
    layers.MlpInput(l, a, layers.Output(l, a, w_.mixed.Rows(first, rows - first)));
    MlpBackward(l, rows, first);

    const View branch = FirstRows(w_.a.projected, rows), streaming = FirstRows(w_.streaming, rows),
               full = FirstRows(w_.full[l], rows);
    RoundToActivations(*device_, branch, gradient);
    LinearBackward(*device_, dmixed, branch, w[WeightRole::kO], arena_);
    const int64_t at = int64_t{l} * shape_.kv_heads;
    const bool own_full = sizes_.full_branch == FullBranch::kStudent && l > 0;
    if (own_full) {  // dfull = a * dmixed: the full branch is to 1 - a what the streaming branch is to a
      MixHeadsBackward(*device_, FirstRows(w_.dfull, rows), w_.unused + at, dmixed,
                       {full, streaming, w_.closed + at, shape_});
    }
    MixHeadsBackward(*device_, dmixed, w_.gate_gradient + at, dmixed, {streaming, full, w_.gates + at, shape_});
    if (l == 0) return;  // nothing before the first layer depends on a gate
    BranchBackward(l, rows, dmixed, {streaming, w_.lse}, Window(l));
    if (own_full) BranchBackward(l, rows, FirstRows(w_.dfull, rows), {full, w_.full_lse}, Whole(l));
  }
}

double IdentifyModel::Loss(const std::vector<int32_t>& tokens, int64_t first_label, const std::vector<double>& gates) {
  const auto rows = static_cast<int64_t>(tokens.size());
  DUO_CHECK_EQ(static_cast<int>(gates.size()), this->gates());
  DUO_CHECK_LT(first_label, rows);
  std::vector<float> host(gates.begin(), gates.end());
  device_->Upload(w_.gates, host.data(), sizeof(float) * host.size());
  for (float& gate : host) gate = 1 - gate;
  device_->Upload(w_.closed, host.data(), sizeof(float) * host.size());
  Start(tokens);
  Teacher(rows, first_label);
  device_->Copy(w_.teacher.data, w_.a.residual.data, sizeof(float) * rows * config_.hidden);
  Student(rows, first_label);
  return Compare(rows, first_label);
}

GateGradient IdentifyModel::LossAndGradient(const std::vector<int32_t>& tokens, int64_t first_label,
                                            const std::vector<double>& gates) {
  const auto rows = static_cast<int64_t>(tokens.size());
  GateGradient result;
  device_->Fill(w_.gradient.data, 0, sizeof(float) * rows * config_.hidden);  // rows without a label stay zero
  for (float* list : {w_.gate_gradient, w_.unused}) device_->Fill(list, 0, sizeof(float) * gates.size());
  result.loss = Loss(tokens, first_label, gates);
  Backward(rows, first_label);
  std::vector<float> host(gates.size());
  device_->Download(host.data(), w_.gate_gradient, sizeof(float) * host.size());
  result.gradient.assign(host.begin(), host.end());
  return result;
}

}  // namespace duo
