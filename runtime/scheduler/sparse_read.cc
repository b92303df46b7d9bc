#include "runtime/scheduler/sparse_read.h"

#include <algorithm>

namespace duo {
namespace {

constexpr int kAuditsThatCount = 2;  // a head's density is the largest that the last of them needed

}  // namespace

std::vector<int32_t> SparseRead::Densities(const PrefillSparsity& setting, int64_t position, size_t heads) const {
  if (setting.mode == PrefillSparsity::Mode::kFixed) return std::vector<int32_t>(heads, setting.density);
  int count = 0;
  std::vector<int32_t> densities(heads, 0);
  for (auto audit = audits_.rbegin(); audit != audits_.rend() && count < kAuditsThatCount; ++audit) {
    if ((*audit)->from > position) continue;
    ++count;
    for (size_t h = 0; h < heads; ++h) densities[h] = std::max(densities[h], (*audit)->heads[h].needed);
  }
  if (count > 0) return densities;
  const bool kept = kept_ != nullptr && kept_->densities.size() == heads && position >= kept_->length;
  return kept ? kept_->densities : std::vector<int32_t>(heads, kDense);
}

void SparseRead::Found(int64_t position, const std::vector<int32_t>& densities, const PageAudit* heads) {
  const AuditRungs rungs = RungsOf(setting_);
  const auto before = static_cast<int32_t>(position / kBlockTokens);
  auto audit = std::make_shared<Audit>();
  audit->position = position;
  // Near a text's beginning lists are longer than their density asks for: what they hold there says nothing of it.
  const auto had = [&](int rung) {
    return kListRule.Length(rungs.density[rung], before) <= rungs.density[rung] * int64_t{before} / 1000 + 1;
  };
  audit->from = had(rungs.count - 1) ? WindowAt(position).end : INT64_MAX;
  for (size_t h = 0; h < densities.size(); ++h) {
    Head head;
    head.density = densities[h];
    if (heads[h].mass[0] > 0) {
      head.mass = 1;
      head.error = static_cast<float>(heads[h].error);
    }
    for (int r = rungs.count - 1; r >= 0; --r) {
      if (had(r) && heads[h].mass[r] * 1000 >= setting_.target) head.needed = rungs.density[r];
      if (rungs.density[r] == densities[h]) head.mass = static_cast<float>(heads[h].mass[r]);
    }
    audit->heads.push_back(head);
  }
  audits_.push_back(std::move(audit));
}

void SparseRead::Cut(int64_t length) {
  if (length == 0) {
    *this = SparseRead();
    return;
  }
  std::erase_if(audits_, [&](const auto& audit) { return audit->position + kBlockTokens > length; });
}

SparseReport SparseRead::Report(int kv_heads) const {
  SparseReport report;
  if (kept_ != nullptr) report = kept_->report;
  report.setting = Name(setting());
  if (audits_.empty()) return report;
  struct Sum {
    double mass = 0, error = 0;
    int count = 0;
  };
  std::vector<Sum> heads(audits_[0]->heads.size());
  Sum all;
  for (const auto& audit : audits_) {
    for (size_t h = 0; h < heads.size(); ++h) {
      const Head& head = audit->heads[h];
      if (head.mass == 0) continue;
      for (Sum* sum : {&heads[h], &all}) {
        sum->mass += head.mass;
        sum->error += head.error;
        ++sum->count;
      }
    }
  }
  if (all.count == 0) return report;
  const double before = static_cast<double>(report.audits), now = static_cast<double>(audits_.size());
  report.mass = (before * report.mass + now * all.mass / all.count) / (before + now);
  report.error = (before * report.error + now * all.error / all.count) / (before + now);
  report.audits += static_cast<int64_t>(audits_.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    if (heads[h].count == 0 || heads[h].mass / heads[h].count >= report.least_mass) continue;
    report.least_mass = heads[h].mass / heads[h].count;
    report.least_layer = static_cast<int>(h) / kv_heads;
    report.least_head = static_cast<int>(h) % kv_heads;
  }
  double density = 0;
  int count = 0;
  const std::vector<int32_t> now_on = Densities(setting_, INT64_MAX - 1, heads.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    if (heads[h].count == 0) continue;
    density += now_on[h] / 1000.0;
    ++count;
  }
  report.density = density / count;
  return report;
}

SparseRead::Kept SparseRead::Keep(int kv_heads, int64_t length) const {
  Kept kept = {setting(), Report(kv_heads), length, {}};
  if (setting_.mode == PrefillSparsity::Mode::kAuto) {
    if (!audits_.empty()) kept.densities = Densities(setting_, length, audits_[0]->heads.size());
    if (audits_.empty() && kept_ != nullptr) kept.densities = kept_->densities;
  }
  return kept;
}

SparseRead SparseRead::Restore(const Kept& kept) {
  SparseRead read;
  read.setting_ = kept.setting;
  read.left_out_ = kept.setting.on();
  read.kept_ = std::make_shared<Kept>(kept);
  return read;
}

}  // namespace duo
