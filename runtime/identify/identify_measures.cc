// What IdentifyModel measures in forward passes alone, without gates and gradients: the tokens that the teacher would
// say, the attention that streaming heads would lose, and sums of keys.
#include <algorithm>
#include <cmath>

#include "kernels/ops.h"
#include "runtime/identify/identify_model.h"

namespace duo {

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
    const View qkv = w_.a.qkv.Rows(0, rows), full = w_.streaming.Rows(0, rows);
    AttendWindow(*device_, {w_.mixed.Rows(0, rows), w_.lse}, {qkv, shape_, Window(l)}, arena_);
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
  const View cos_sin = w_.a.cos_sin.Rows(0, rows);
  DUO_CHECK_EQ(cos_sin.stride, d);
  device_->Download(turns.data(), cos_sin.data, sizeof(float) * turns.size());
  std::vector<double> sums(gates() * d, 0.0);
  std::vector<float> values(rows * cols);
  std::vector<bf16> halves(device_->is_cuda() ? rows * cols : 0);
  Run(rows, rows - 1, [&](int l) {
    const View qkv(w_.a.qkv.data, w_.a.qkv.dtype, rows, cols), attended = w_.mixed.Rows(0, rows);
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
    AttendCausal(*device_, attended, w_.a.qkv.Rows(0, rows), shape_, WindowOf(l), arena_);
    return attended;
  });
  return sums;
}

}  // namespace duo
