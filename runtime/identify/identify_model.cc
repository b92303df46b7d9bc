#include "runtime/identify/identify_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "attn_patterns/head_plan.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "runtime/model/rope.h"
#include "runtime/weights/safetensors.h"

namespace duo {
namespace {

constexpr int kMlpRows = 2048;  // of a block of the MLP, so that its activations stay small

View First(const View& v, int64_t rows) { return v.Rows(0, rows); }

}  // namespace

IdentifyModel::IdentifyModel(const ModelConfig& config, const Sizes& sizes, Device& device)
    : config_(config), sizes_(sizes), device_(&device) {
  shape_.head_dim = config.head_dim;
  shape_.group = config.heads / config.kv_heads;
  shape_.kv_heads = config.kv_heads;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Prepare(const ModelConfig& config, const Sizes& sizes, Device& device,
                                                     RankShard* shard) {
  IdentifyModel model(config, sizes, device);
  if (absl::Status s = CheckBackward(device, config.head_dim, model.shape_.group); !s.ok()) return s;
  // One rank that holds every head whole: qkv columns are then in the model's order.
  PartitionRequest request;
  request.shape = {config.layers,
                   static_cast<int>(config.hidden),
                   static_cast<int>(config.intermediate),
                   config.heads,
                   config.kv_heads,
                   config.head_dim,
                   static_cast<int>(config.vocab)};
  request.heads = FullPlan(config.layers, config.kv_heads);
  absl::StatusOr<Partition> partition = MakePartition(request);
  if (!partition.ok()) return partition.status();
  *shard = MakeShard(*partition, request.shape, 0, 1, 1);
  return model;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Load(const std::string& model_dir, const Sizes& sizes, Device& device,
                                                  const std::function<void(int64_t, int64_t)>& progress) {
  absl::StatusOr<ModelConfig> config = LoadConfig(model_dir);
  if (!config.ok()) return config.status();
  absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(model_dir);
  if (!files.ok()) return files.status();
  if (absl::Status s = CheckSupported(config->quantization, model_dir + "/config.json"); !s.ok()) return s;
  absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, device, std::nullopt, std::nullopt);
  if (!formats.ok()) return formats.status();
  RankShard shard;
  absl::StatusOr<IdentifyModel> model = Prepare(*config, sizes, device, &shard);
  if (!model.ok()) return model;
  const std::unique_ptr<Communicator> self = MakeSelfCommunicator();
  absl::StatusOr<ModelWeights> weights = LoadWeights(*files, *config, shard, *formats, device, *self, progress);
  if (!weights.ok()) return weights.status();
  model->weights_ = std::move(*weights);
  if (absl::Status s = model->Allocate(); !s.ok()) return s;
  return model;
}

absl::StatusOr<IdentifyModel> IdentifyModel::Random(const ModelConfig& config, const Sizes& sizes, Device& device) {
  RankShard shard;
  absl::StatusOr<IdentifyModel> model = Prepare(config, sizes, device, &shard);
  if (!model.ok()) return model;
  absl::StatusOr<ModelWeights> weights = RandomWeights(config, shard, WeightFormats(), device);
  if (!weights.ok()) return weights.status();
  model->weights_ = std::move(*weights);
  if (absl::Status s = model->Allocate(); !s.ok()) return s;
  return model;
}

IdentifyModel::Workspace IdentifyModel::LayOut(Arena& arena) const {
  const DType t = ActivationType(*device_);
  const int64_t n = sizes_.max_tokens, h = config_.hidden, q = shape_.q_cols(), qkv = shape_.qkv_cols();
  const int64_t block = std::min<int64_t>(n, kMlpRows), ffn = config_.intermediate;
  Workspace w;
  for (View* v : {&w.residual, &w.gradient, &w.teacher}) *v = arena.Matrix(DType::kF32, n, h);
  for (View* v : {&w.normed, &w.branch}) *v = arena.Matrix(t, n, h);
  for (View* v : {&w.qkv, &w.dqkv}) *v = arena.Matrix(t, n, qkv);
  if (config_.qk_norm) w.before = arena.Matrix(t, n, qkv);
  for (View* v : {&w.streaming, &w.mixed}) *v = arena.Matrix(t, n, q);
  const bool own_full = sizes_.full_branch == FullBranch::kStudent;
  if (own_full) w.dfull = arena.Matrix(t, n, q);
  w.gate_up = arena.Matrix(t, block, 2 * ffn);
  w.product = arena.Matrix(t, block, ffn);
  w.cos_sin = arena.Matrix(DType::kF32, n, config_.head_dim);
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

size_t IdentifyModel::ScratchBytes() const {
  const int64_t n = sizes_.max_tokens, block = std::min<int64_t>(n, kMlpRows);
  size_t most = LinearScratchBytes(*device_, n, weights_.head);
  auto linear = [&](int64_t rows, const Weight& w) {
    most = std::max({most, LinearScratchBytes(*device_, rows, w), LinearBackwardScratchBytes(*device_, rows, w)});
  };
  for (const LayerWeights& layer : weights_.layers) {
    linear(n, layer.qkv);
    linear(n, layer.o);
    linear(block, layer.gate_up);
    linear(block, layer.down);
  }
  most = std::max(most, AttendCausalScratchBytes(*device_, n, shape_));
  most = std::max(most, AttendWindowScratchBytes(*device_, n, shape_));
  most = std::max(most, AttendWindowBackwardScratchBytes(*device_, n, shape_, Window(0)));
  if (sizes_.full_branch == FullBranch::kStudent) {
    most = std::max(most, AttendWindowBackwardScratchBytes(*device_, n, shape_, Whole(0)));
  }
  return most + 64 * Arena::kAlignment;  // several pieces are taken, each rounded up
}

absl::Status IdentifyModel::Allocate() {
  Arena measure = Arena::Measuring();
  LayOut(measure);
  // Of shorter sequences some ops may ask for other blocks, never for more.
  absl::StatusOr<Buffer> buffer =
      Buffer::Allocate(*device_, measure.used() + ScratchBytes(),
                       absl::StrCat("sequences of ", sizes_.max_tokens, " tokens (a smaller --max-length needs less)"));
  if (!buffer.ok()) return buffer.status();
  arena_ = Arena(std::move(*buffer));
  w_ = LayOut(arena_);
  scratch_ = arena_.used();
  const RopeFrequencies rope = ComputeRopeFrequencies(config_, sizes_.max_tokens);
  rope_factor_ = rope.attention_factor;
  device_->Upload(w_.frequencies, rope.inv_freq.data(), sizeof(double) * rope.inv_freq.size());
  std::vector<int32_t> positions(sizes_.max_tokens);
  std::iota(positions.begin(), positions.end(), 0);
  device_->Upload(w_.positions, positions.data(), sizeof(int32_t) * positions.size());
  RopeAngles(*device_, w_.cos_sin, w_.positions, w_.frequencies, rope_factor_);
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

void IdentifyModel::Project(int l, int64_t rows, View add) {
  const LayerWeights& w = weights_.layers[l];
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const View qkv = First(w_.qkv, rows);
  AddRmsNorm(*device_, First(w_.normed, rows), First(w_.residual, rows), add, w.input_norm, eps);
  Linear(*device_, qkv, First(w_.normed, rows), w.qkv, arena_);
  arena_.Rewind(scratch_);
  if (config_.qk_norm) device_->Copy(w_.before.data, qkv.data, Bytes(qkv.dtype, qkv.rows * qkv.cols));
  RotateQk(*device_, qkv, shape_, First(w_.cos_sin, rows), w.q_norm, w.k_norm, eps);
}

void IdentifyModel::Mix(int l, int64_t rows) {
  const View streaming = First(w_.streaming, rows);
  const View full = First(w_.full[l], rows);
  AttendWindow(*device_, streaming, w_.lse, First(w_.qkv, rows), shape_, Window(l), arena_);
  arena_.Rewind(scratch_);
  if (sizes_.full_branch == FullBranch::kStudent) {
    AttendWindow(*device_, full, w_.full_lse, First(w_.qkv, rows), shape_, Whole(l), arena_);
    arena_.Rewind(scratch_);
  }
  MixHeads(*device_, First(w_.mixed, rows), streaming, full, w_.gates + l * shape_.kv_heads, shape_);
}

View IdentifyModel::OutputOf(int l, View attention) {
  const View out = First(w_.branch, attention.rows);
  Linear(*device_, out, attention, weights_.layers[l].o, arena_);
  arena_.Rewind(scratch_);
  return out;
}

View IdentifyModel::Mlp(int l, int64_t rows, int64_t first, View add) {
  const LayerWeights& w = weights_.layers[l];
  const View normed = w_.normed.Rows(first, rows - first), out = First(w_.branch, rows - first);
  AddRmsNorm(*device_, normed, w_.residual.Rows(first, rows - first), add, w.post_norm,
             static_cast<float>(config_.rms_norm_eps));
  for (int64_t at = 0; at < normed.rows; at += kMlpRows) {
    const int64_t count = std::min<int64_t>(kMlpRows, normed.rows - at);
    const View gate_up = First(w_.gate_up, count), product = First(w_.product, count);
    Linear(*device_, gate_up, normed.Rows(at, count), w.gate_up, arena_);
    arena_.Rewind(scratch_);
    SwiGlu(*device_, product, gate_up);
    Linear(*device_, out.Rows(at, count), product, w.down, arena_);
    arena_.Rewind(scratch_);
  }
  return out;
}

void IdentifyModel::Teacher(int64_t rows, int64_t first_label) {
  Embed(*device_, First(w_.residual, rows), w_.tokens, weights_.embedding, weights_.first_id);
  View add;
  int64_t first = 0;
  for (int l = 0; l < config_.layers; ++l) {
    Project(l, rows, add);
    AttendCausal(*device_, First(w_.full[l], rows), First(w_.qkv, rows), shape_, WindowOf(l), arena_);
    arena_.Rewind(scratch_);
    first = FirstRow(l, first_label);
    add = Mlp(l, rows, first, OutputOf(l, w_.full[l].Rows(first, rows - first)));
  }
  AddRmsNorm(*device_, View(), w_.residual.Rows(first, rows - first), add, nullptr, 0);
}

void IdentifyModel::Student(int64_t rows, int64_t first_label) {
  Embed(*device_, First(w_.residual, rows), w_.tokens, weights_.embedding, weights_.first_id);
  View add;
  int64_t first = 0;
  for (int l = 0; l < config_.layers; ++l) {
    Project(l, rows, add);
    device_->Copy(w_.inputs[l].data, w_.residual.data, sizeof(float) * rows * config_.hidden);
    Mix(l, rows);
    first = FirstRow(l, first_label);
    add = Mlp(l, rows, first, OutputOf(l, w_.mixed.Rows(first, rows - first)));
  }
  AddRmsNorm(*device_, View(), w_.residual.Rows(first, rows - first), add, nullptr, 0);
}

double IdentifyModel::Compare(int64_t rows, int64_t first_label) {
  const int64_t labels = rows - first_label;
  std::vector<float> host(labels, 1.0f / static_cast<float>(labels));
  device_->Upload(w_.row_weights, host.data(), sizeof(float) * labels);
  DistillLoss(*device_, w_.losses, w_.gradient.Rows(first_label, labels), w_.residual.Rows(first_label, labels),
              w_.teacher.Rows(first_label, labels), weights_.final_norm, static_cast<float>(config_.rms_norm_eps),
              w_.row_weights);
  device_->Download(host.data(), w_.losses, sizeof(float) * labels);
  return std::accumulate(host.begin(), host.end(), 0.0);
}

void IdentifyModel::MlpBackward(int l, int64_t rows, int64_t first) {
  const LayerWeights& w = weights_.layers[l];
  for (int64_t at = first; at < rows; at += kMlpRows) {
    const int64_t count = std::min<int64_t>(kMlpRows, rows - at);
    const View gate_up = First(w_.gate_up, count), product = First(w_.product, count),
               normed = w_.normed.Rows(at, count), branch = First(w_.branch, count),
               gradient = w_.gradient.Rows(at, count);
    Linear(*device_, gate_up, normed, w.gate_up, arena_);
    arena_.Rewind(scratch_);
    RoundToActivations(*device_, branch, gradient);
    LinearBackward(*device_, product, branch, w.down, arena_);
    arena_.Rewind(scratch_);
    SwiGluBackward(*device_, gate_up, product, gate_up);
    LinearBackward(*device_, normed, gate_up, w.gate_up, arena_);
    arena_.Rewind(scratch_);
    RmsNormBackward(*device_, gradient, normed, w_.residual.Rows(at, count), w.post_norm,
                    static_cast<float>(config_.rms_norm_eps));
  }
}

void IdentifyModel::BranchBackward(int l, int64_t rows, View dout, View out, const float* lse, const WindowMask& mask) {
  const LayerWeights& w = weights_.layers[l];
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const View dqkv = First(w_.dqkv, rows), dnormed = First(w_.normed, rows);
  AttendWindowBackward(*device_, dqkv, dout, out, lse, First(w_.qkv, rows), shape_, mask, arena_);
  arena_.Rewind(scratch_);
  const View before = config_.qk_norm ? First(w_.before, rows) : View();
  RotateQkBackward(*device_, dqkv, before, shape_, First(w_.cos_sin, rows), w.q_norm, w.k_norm, eps);
  LinearBackward(*device_, dnormed, dqkv, w.qkv, arena_);
  arena_.Rewind(scratch_);
  RmsNormBackward(*device_, First(w_.gradient, rows), dnormed, First(w_.inputs[l], rows), w.input_norm, eps);
}

void IdentifyModel::Backward(int64_t rows, int64_t first_label) {
  const float eps = static_cast<float>(config_.rms_norm_eps);
  const View gradient = First(w_.gradient, rows), dmixed = First(w_.mixed, rows);
  for (int l = config_.layers - 1; l >= 0; --l) {
    const LayerWeights& w = weights_.layers[l];
    const int64_t first = FirstRow(l, first_label);
    // The layer again, up to the MLP's input.
    device_->Copy(w_.residual.data, w_.inputs[l].data, sizeof(float) * rows * config_.hidden);
    Project(l, rows, View());
    Mix(l, rows);
    const View rest = w_.residual.Rows(first, rows - first);
    AddRmsNorm(*device_, w_.normed.Rows(first, rows - first), rest, OutputOf(l, w_.mixed.Rows(first, rows - first)),
               w.post_norm, eps);
    MlpBackward(l, rows, first);

    const View branch = First(w_.branch, rows), streaming = First(w_.streaming, rows), full = First(w_.full[l], rows);
    RoundToActivations(*device_, branch, gradient);
    LinearBackward(*device_, dmixed, branch, w.o, arena_);
    arena_.Rewind(scratch_);
    const int64_t at = int64_t{l} * shape_.kv_heads;
    const bool own_full = sizes_.full_branch == FullBranch::kStudent && l > 0;
    if (own_full) {  // dfull = a * dmixed: the full branch is to 1 - a what the streaming branch is to a
      MixHeadsBackward(*device_, First(w_.dfull, rows), w_.unused + at, dmixed, full, streaming, w_.closed + at,
                       shape_);
    }
    MixHeadsBackward(*device_, dmixed, w_.gate_gradient + at, dmixed, streaming, full, w_.gates + at, shape_);
    if (l == 0) return;  // nothing before the first layer depends on a gate
    BranchBackward(l, rows, dmixed, streaming, w_.lse, Window(l));
    if (own_full) BranchBackward(l, rows, First(w_.dfull, rows), full, w_.full_lse, Whole(l));
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
  device_->Copy(w_.teacher.data, w_.residual.data, sizeof(float) * rows * config_.hidden);
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
  AddRmsNorm(*device_, w_.normed.Rows(first, rows - first), w_.residual.Rows(first, rows - first), View(),
             weights_.final_norm, static_cast<float>(config_.rms_norm_eps));
  std::vector<int32_t> choices;
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(*device_, sizeof(float) * kBlock * weights_.head.rows, "logits");
  DUO_CHECK_MSG(buffer.ok(), std::string(buffer.status().message()));
  std::vector<float> logits(kBlock * weights_.head.rows);
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t block = std::min(kBlock, count - at);
    const View out(buffer->data(), DType::kF32, block, weights_.head.rows);
    Linear(*device_, out, w_.normed.Rows(first + at, block), weights_.head, arena_);
    arena_.Rewind(scratch_);
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
  Embed(*device_, First(w_.residual, rows), w_.tokens, weights_.embedding, weights_.first_id);
  std::vector<double> mass(gates(), 0.0);
  std::vector<float> part(rows * config_.heads), whole(part.size());
  View add;
  for (int l = 0; l < config_.layers; ++l) {
    Project(l, rows, add);
    AttendWindow(*device_, First(w_.mixed, rows), w_.lse, First(w_.qkv, rows), shape_, Window(l), arena_);
    arena_.Rewind(scratch_);
    AttendWindow(*device_, First(w_.streaming, rows), w_.full_lse, First(w_.qkv, rows), shape_, Whole(l), arena_);
    arena_.Rewind(scratch_);
    device_->Download(part.data(), w_.lse, sizeof(float) * part.size());
    device_->Download(whole.data(), w_.full_lse, sizeof(float) * whole.size());
    for (int64_t head = 0; head < config_.heads; ++head) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += 1 - std::exp(double{part[head * rows + r]} - whole[head * rows + r]);
      mass[l * config_.kv_heads + head / shape_.group] += std::max(0.0, sum / static_cast<double>(rows)) / shape_.group;
    }
    add = Mlp(l, rows, 0, OutputOf(l, First(w_.streaming, rows)));
  }
  return mass;
}

}  // namespace duo
