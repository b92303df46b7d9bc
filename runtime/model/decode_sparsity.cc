#include "runtime/model/decode_sparsity.h"

#include "runtime/model/thousandths.h"

namespace duo {

std::string Name(const DecodeSparsity& s) { return s.on() ? ThousandthsName(s.target) : "off"; }

std::optional<DecodeSparsity> DecodeSparsityNamed(const std::string& name) {
  if (name == "off") return DecodeSparsity();
  if (name == "auto") return DecodeSparsity{980};
  const std::optional<int32_t> target = ThousandthsNamed(name);
  if (!target.has_value()) return std::nullopt;
  return DecodeSparsity{*target};
}

ListsFound FoundBy(const ListedHead* heads, int count, int kv_heads) {
  ListsFound found;
  double mass = 0;
  int measured = 0;
  for (int i = 0; i < count; ++i) {
    const ListedHead& head = heads[i];
    if (head.pages == 0) continue;
    ++found.heads;
    found.visited += head.length + head.pages - head.tail;
    found.pages += head.pages;
    found.left_out |= head.tail > 0;
    if (head.kept < 0) continue;
    ++measured;
    mass += head.kept;
    if (head.least >= found.least_mass) continue;
    found.least_mass = head.least;
    found.least_layer = i / kv_heads;
    found.least_head = i % kv_heads;
  }
  if (found.heads == 0) return found;
  found.visited /= found.heads;
  found.pages /= found.heads;
  found.measured = measured > 0;
  if (found.measured) found.mass = mass / measured;
  return found;
}

void DecodeReport::Add(const ListsFound& found) {
  if (found.heads == 0) return;
  const auto follow = [](double* mean, double value, int64_t count) {
    *mean = (*mean * static_cast<double>(count - 1) + value) / static_cast<double>(count);
  };
  follow(&density, found.visited / found.pages, ++choices);
  if (!found.measured) return;
  follow(&mass, found.mass, ++audits);
  if (found.least_mass >= least_mass) return;
  least_mass = found.least_mass;
  least_layer = found.least_layer;
  least_head = found.least_head;
}

}  // namespace duo
