// Mixtures of experts: expert by expert, in ascending order, the rows that chose it are gathered and go through Linear.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

namespace duo::cpu {
namespace {

// The rows that chose each expert of a bank.
struct Lists {
  int32_t* begin;  // [experts + 1]
  int32_t* slots;  // [rows * chosen]: row * chosen + place in the row, ascending within an expert
};

Lists SortSlots(const Routing& routing, int64_t rows, const ExpertBank& bank, Arena& scratch) {
  const int64_t slots = rows * routing.chosen;
  const int experts = bank.experts, all = bank.partial() ? bank.all : experts;
  Lists lists = {static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (experts + 1))),
                 static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * slots))};
  std::fill_n(lists.begin, experts + 1, 0);
  for (int64_t s = 0; s < slots; ++s) {
    DUO_CHECK(routing.experts[s] >= 0 && routing.experts[s] < all);
    if (bank.Has(routing.experts[s])) ++lists.begin[bank.Place(routing.experts[s]) + 1];
  }
  for (int e = 0; e < experts; ++e) lists.begin[e + 1] += lists.begin[e];
  // Filling moves each beginning to the next one's place; then all move back.
  for (int64_t s = 0; s < slots; ++s) {
    if (bank.Has(routing.experts[s]))
      lists.slots[lists.begin[bank.Place(routing.experts[s])]++] = static_cast<int32_t>(s);
  }
  for (int e = experts; e > 0; --e) lists.begin[e] = lists.begin[e - 1];
  lists.begin[0] = 0;
  return lists;
}

void Zero(Device& device, View v) {
  ForRows(device, v.rows, [&](int64_t r) { std::fill_n(v.as<float>() + r * v.stride, v.cols, 0.0f); });
}

// One expert's work on `rows` gathered rows.
struct Room {
  View x, gate_up, product, y;
  Room(Arena& scratch, int64_t rows, int64_t dim, int64_t columns)
      : x(scratch.Matrix(DType::kF32, rows, dim)),
        gate_up(scratch.Matrix(DType::kF32, rows, 2 * columns)),
        product(scratch.Matrix(DType::kF32, rows, columns)),
        y(scratch.Matrix(DType::kF32, rows, dim)) {}
};

// What experts without columns give: their biases, weighted.
void AddBiases(Device& device, View out, const ExpertBank& bank, const Routing& routing) {
  if (bank.down.bias == nullptr) return;
  ForRows(device, out.rows, [&](int64_t r) {
    float* to = out.as<float>() + r * out.stride;
    for (int64_t s = r * routing.chosen; s < (r + 1) * routing.chosen; ++s) {
      if (!bank.Has(routing.experts[s])) continue;
      const float* bias = bank.down.bias + bank.Place(routing.experts[s]) * out.cols;
      for (int64_t c = 0; c < out.cols; ++c) to[c] += routing.weights[s] * bias[c];
    }
  });
}

void ApplyClampedGate(Device& device, View out, View gate_up, const ExpertBank& bank) {
  ForRows(device, out.rows, [&](int64_t r) {
    const float* gate = gate_up.as<float>() + r * gate_up.stride;
    float* to = out.as<float>() + r * out.stride;
    for (int64_t c = 0; c < out.cols; ++c) to[c] = ClampedGate(gate[c], gate[out.cols + c], bank.limit, bank.alpha);
  });
}

}  // namespace

void RouteRows(Device& device, const Routing& out, View logits, int experts, bool normalised) {
  ForRows(device, logits.rows, [&](int64_t r) {
    const float* row = logits.as<float>() + r * logits.stride;
    int32_t* chosen = out.experts + r * out.chosen;
    float* weights = out.weights + r * out.chosen;
    const auto value = [&](int e) { return std::isnan(row[e]) ? -INFINITY : row[e]; };
    for (int j = 0; j < out.chosen; ++j) {
      int best = -1;
      for (int e = 0; e < experts; ++e) {
        if (std::find(chosen, chosen + j, e) != chosen + j) continue;
        if (best < 0 || value(e) > value(best)) best = e;
      }
      chosen[j] = best;
    }
    const float top = value(chosen[0]);
    double sum = 0;
    for (int e = 0; e < experts; ++e) {
      if (!normalised || std::find(chosen, chosen + out.chosen, e) != chosen + out.chosen)
        sum += std::exp(row[e] - top);
      if (std::isnan(row[e])) sum = NAN;
    }
    for (int j = 0; j < out.chosen; ++j) weights[j] = static_cast<float>(std::exp(row[chosen[j]] - top) / sum);
  });
}

size_t ExpertMlpScratchBytes(const Device& device, int64_t rows, const ExpertBank& bank, int chosen) {
  const int64_t dim = bank.gate_up.cols, columns = bank.down.cols;
  const Weight gate_up = ExpertRows(bank.gate_up, bank.experts, 0), down = ExpertRows(bank.down, bank.experts, 0);
  size_t bytes = Arena::Rounded(sizeof(int32_t) * (bank.experts + 1)) + Arena::Rounded(sizeof(int32_t) * rows * chosen);
  for (const int64_t cols : {dim, 2 * columns, columns, dim}) bytes += Arena::Rounded(sizeof(float) * rows * cols);
  if (columns == 0) return bytes;
  return bytes + std::max(cpu::LinearScratchBytes(device, rows, gate_up), cpu::LinearScratchBytes(device, rows, down));
}

void ExpertMlp(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  Zero(device, out);
  const int64_t columns = bank.down.cols;
  if (columns == 0) return AddBiases(device, out, bank, routing);
  const size_t mark = scratch.used();
  const Lists lists = SortSlots(routing, x.rows, bank, scratch);
  const Room room(scratch, x.rows, x.cols, columns);
  for (int e = 0; e < bank.experts; ++e) {
    const int64_t count = lists.begin[e + 1] - lists.begin[e];
    if (count == 0) continue;
    const int32_t* slots = lists.slots + lists.begin[e];
    const View mine = room.x.Rows(0, count), product = room.product.Rows(0, count), y = room.y.Rows(0, count);
    ForRows(device, count, [&](int64_t i) {
      std::memcpy(mine.as<float>() + i * mine.stride, x.as<float>() + slots[i] / routing.chosen * x.stride,
                  sizeof(float) * x.cols);
    });
    const View gate_up = room.gate_up.Rows(0, count);
    const Weight gate_up_weight = ExpertRows(bank.gate_up, bank.experts, e);
    if (bank.limit == 0) {
      cpu::LinearSwiGlu(device, product, gate_up, mine, gate_up_weight, scratch);
    } else {
      cpu::Linear(device, gate_up, mine, gate_up_weight, scratch);
      ApplyClampedGate(device, product, gate_up, bank);
    }
    cpu::Linear(device, y, product, ExpertRows(bank.down, bank.experts, e), scratch);
    ForRows(device, count, [&](int64_t i) {
      float* to = out.as<float>() + slots[i] / routing.chosen * out.stride;
      const float* from = y.as<float>() + i * y.stride;
      const float weight = routing.weights[slots[i]];
      for (int64_t c = 0; c < out.cols; ++c) to[c] += weight * from[c];
    });
  }
  scratch.Rewind(mark);
}

void AddGated(Device& device, View out, View add, View gates) {
  ForRows(device, out.rows, [&](int64_t r) {
    const float gate = 1.0f / (1.0f + std::exp(-gates.as<float>()[r * gates.stride]));
    float* to = out.as<float>() + r * out.stride;
    const float* from = add.as<float>() + r * add.stride;
    for (int64_t c = 0; c < out.cols; ++c) to[c] += gate * from[c];
  });
}

}  // namespace duo::cpu
