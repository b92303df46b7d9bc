#include "kernels/experts.h"

#include "kernels/backend.h"
#include "kernels/scale_blocks.h"

namespace duo {
namespace {

void CheckBank(const ExpertBank& bank, const Routing& routing, int64_t dim) {
  const int all = bank.partial() ? bank.all : bank.experts;
  DUO_CHECK(all >= 1 && all <= kMostExperts && bank.experts >= 0);
  DUO_CHECK(bank.first >= 0 && bank.first + bank.experts <= all);
  DUO_CHECK(routing.chosen >= 1 && routing.chosen <= all && routing.chosen <= kMostChosenExperts);
  if (bank.experts == 0) return;
  DUO_CHECK_EQ(bank.gate_up.rows % (2 * bank.experts), 0);
  DUO_CHECK_EQ(bank.gate_up.cols, dim);
  DUO_CHECK_EQ(bank.down.rows, bank.experts * dim);
  DUO_CHECK_EQ(2 * bank.down.cols * bank.experts, bank.gate_up.rows);
  for (const Weight* w : {&bank.gate_up, &bank.down}) {  // an expert's groups end with its rows
    if (w->groups != nullptr || w->exponents != nullptr) DUO_CHECK_EQ(w->cols % w->group, 0);
    if (w->groups != nullptr) DUO_CHECK_EQ(w->cols % w->pair_cols(), 0);
    if (HasScaleBlocks(*w) && bank.experts > 1) DUO_CHECK_EQ(w->rows / bank.experts % w->block, 0);
  }
}

}  // namespace

Weight ExpertRows(const Weight& bank, int experts, int expert) {
  const int64_t rows = bank.rows / experts, first = rows * expert;
  Weight part = bank;
  part.rows = rows;
  part.data = static_cast<const uint8_t*>(bank.data) + Bytes(bank.dtype, first * bank.cols);
  if (bank.scales != nullptr) part.scales = HasScaleBlocks(bank) ? ScalesOfRow(bank, first) : bank.scales + first;
  if (bank.groups != nullptr) part.groups = bank.groups + first * (bank.cols / bank.pair_cols()) * 2;
  if (bank.exponents != nullptr) part.exponents = bank.exponents + first * (bank.cols / bank.group);
  if (bank.subs != nullptr) part.subs = bank.subs + first * (bank.cols / bank.group) * 2;
  if (bank.bias != nullptr) part.bias = bank.bias + first;
  return part;
}

void RouteRows(Device& device, const Routing& out, View logits, int experts, bool normalised) {
  DUO_CHECK(logits.dtype == DType::kF32);
  DUO_CHECK(experts >= 1 && experts <= kMostExperts);
  DUO_CHECK_LE(experts, logits.cols);
  DUO_CHECK(out.chosen >= 1 && out.chosen <= experts && out.chosen <= kMostChosenExperts);
  if (logits.rows == 0) return;
  BackendOf(device).RouteRows(device, out, logits, experts, normalised);
}

size_t ExpertMlpScratchBytes(const Device& device, int64_t rows, const ExpertBank& bank, int chosen) {
  return bank.experts == 0 ? 0 : BackendOf(device).ExpertMlpScratchBytes(device, rows, bank, chosen);
}

void ExpertMlp(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  DUO_CHECK(out.dtype == ActivationType(device) && x.dtype == ActivationType(device));
  DUO_CHECK_EQ(out.rows, x.rows);
  DUO_CHECK_EQ(out.cols, x.cols);
  CheckBank(bank, routing, x.cols);
  if (x.empty()) return;
  if (bank.experts == 0) {
    DUO_CHECK_EQ(out.stride, out.cols);
    return device.Fill(out.data, 0, Bytes(out.dtype, out.rows * out.cols));
  }
  BackendOf(device).ExpertMlp(device, out, x, bank, routing, scratch);
}

void AddGated(Device& device, View out, View add, View gates) {
  DUO_CHECK(out.dtype == ActivationType(device) && add.dtype == ActivationType(device));
  DUO_CHECK(gates.dtype == DType::kF32);
  DUO_CHECK_EQ(out.rows, add.rows);
  DUO_CHECK_EQ(out.cols, add.cols);
  DUO_CHECK_EQ(out.rows, gates.rows);
  if (out.empty()) return;
  BackendOf(device).AddGated(device, out, add, gates);
}

}  // namespace duo
