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

std::vector<int32_t> IdentifyModel::TeacherChoices(const std::vector<int32_t>& tokens, int64_t first, int64_t count) {
  constexpr int64_t kBlock = 64;  // rows whose logits are on the host at once
  const auto rows = static_cast<int64_t>(tokens.size());
  Start(tokens);
  Teacher(rows, first);
  const Weight& head = weights_.outer[WeightRole::kHead];
  AddRmsNorm(*device_, w_.a.normed.Rows(first, rows - first), w_.a.residual.Rows(first, rows - first), View(),
             weights_.outer.vector(WeightRole::kFinalNorm), static_cast<float>(config_.rms_norm_eps));
  std::vector<int32_t> choices;
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(*device_, sizeof(float) * kBlock * head.rows, "logits");
  DUO_CHECK_MSG(buffer.ok(), std::string(buffer.status().message()));
  std::vector<float> logits(kBlock * head.rows);
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t block = std::min(kBlock, count - at);
    const View out(buffer->data(), DType::kF32, block, head.rows);
    Linear(*device_, out, w_.a.normed.Rows(first + at, block), head, arena_);
    device_->Download(logits.data(), out.data, sizeof(float) * block * out.cols);
    for (int64_t r = 0; r < block; ++r) {
      const auto begin = logits.begin() + r * out.cols;
      choices.push_back(static_cast<int32_t>(std::max_element(begin, begin + out.cols) - begin));
    }
  }
  return choices;
}

std::vector<double> IdentifyModel::MassOutside(const std::vector<int32_t>& tokens) {
  const auto rows = static_cast<int64_t>(tokens.size());
  Start(tokens);
  std::vector<double> mass(gates(), 0.0);
  std::vector<float> part(rows * config_.heads), whole(part.size());
  Run(rows, 0, [&](int l) {
    const View qkv = FirstRows(w_.a.qkv, rows), full = FirstRows(w_.streaming, rows);
    AttendWindow(*device_, {FirstRows(w_.mixed, rows), w_.lse}, {qkv, shape_, Window(l)}, arena_);
    AttendWindow(*device_, {full, w_.full_lse}, {qkv, shape_, Whole(l)}, arena_);
    device_->Download(part.data(), w_.lse, sizeof(float) * part.size());
    device_->Download(whole.data(), w_.full_lse, sizeof(float) * whole.size());
    for (int64_t head = 0; head < config_.heads; ++head) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += 1 - std::exp(double{part[head * rows + r]} - whole[head * rows + r]);
      mass[l * config_.kv_heads + head / shape_.group] += std::max(0.0, sum / static_cast<double>(rows)) / shape_.group;
    }
    return full;
  });
  return mass;
}

std::vector<double> IdentifyModel::KeySums(const std::vector<int32_t>& tokens) {
  const auto rows = static_cast<int64_t>(tokens.size());
  const int64_t d = shape_.head_dim, half = d / 2, cols = shape_.qkv_cols();
  Start(tokens);
  std::vector<float> turns(rows * d);  // each row's cosines, then its sines
  const View cos_sin = FirstRows(w_.a.cos_sin, rows);
  DUO_CHECK_EQ(cos_sin.stride, d);
  device_->Download(turns.data(), cos_sin.data, sizeof(float) * turns.size());
  std::vector<double> sums(gates() * d, 0.0);
  std::vector<float> values(rows * cols);
  std::vector<bf16> halves(device_->is_cuda() ? rows * cols : 0);
  Run(rows, rows - 1, [&](int l) {
    const View qkv(w_.a.qkv.data, w_.a.qkv.dtype, rows, cols), attended = FirstRows(w_.mixed, rows);
    if (device_->is_cuda()) {
      device_->Download(halves.data(), qkv.data, sizeof(bf16) * halves.size());
      std::transform(halves.begin(), halves.end(), values.begin(), [](bf16 x) { return ToFloat(x); });
    } else {
      device_->Download(values.data(), qkv.data, sizeof(float) * values.size());
    }
    for (int64_t r = 1; r < rows; ++r) {
      const float *cosines = turns.data() + r * d, *sines = cosines + half;
      for (int head = 0; head < shape_.kv_heads; ++head) {
        const float* k = values.data() + r * cols + shape_.q_cols() + head * d;
        double* sum = sums.data() + (int64_t{l} * shape_.kv_heads + head) * d;
        for (int64_t i = 0; i < half; ++i) {  // turned back; the factor is in both cosine and sine
          sum[i] += (double{k[i]} * cosines[i] + double{k[half + i]} * sines[i]) / (rope_factor_ * rope_factor_);
          sum[half + i] += (double{k[half + i]} * cosines[i] - double{k[i]} * sines[i]) / (rope_factor_ * rope_factor_);
        }
      }
    }
    AttendCausal(*device_, attended, FirstRows(w_.a.qkv, rows), shape_, WindowOf(l), arena_);
    return attended;
  });
  return sums;
}

}  // namespace duo
