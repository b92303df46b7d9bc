#include "runtime/model/step_plan.h"

#include <cstring>
#include <type_traits>

namespace duo {
namespace {

// A vector of plain values: its length as int64, then its bytes.
template <typename T>
void Put(std::string& out, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  const int64_t count = values.size();
  out.append(reinterpret_cast<const char*>(&count), sizeof count);
  if (count > 0) out.append(reinterpret_cast<const char*>(values.data()), count * sizeof(T));
}
template <typename T>
void Put(std::string& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
bool Take(std::string_view& in, T& value) {
  if (in.size() < sizeof value) return false;
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return true;
}
template <typename T>
bool Take(std::string_view& in, std::vector<T>& values) {
  int64_t count = 0;
  if (!Take(in, count) || count < 0 || static_cast<uint64_t>(count) > in.size() / sizeof(T)) return false;
  values.resize(count);
  if (count > 0) std::memcpy(values.data(), in.data(), count * sizeof(T));
  in.remove_prefix(count * sizeof(T));
  return true;
}

// The one list of fields, for both directions.
template <typename Plan, typename Visit>
bool EachField(Plan& p, Visit visit) {
  return visit(p.kind) && visit(p.table_writes) && visit(p.table_ids) && visit(p.page_copies) && visit(p.ring_copies) &&
         visit(p.tokens) && visit(p.positions) && visit(p.row_seq) && visit(p.spans) && visit(p.max_tokens) &&
         visit(p.sample_rows) && visit(p.samples) && visit(p.want_logits);
}

}  // namespace

std::string Serialize(const StepPlan& plan) {
  std::string out;
  EachField(plan, [&](const auto& field) {
    Put(out, field);
    return true;
  });
  return out;
}

absl::StatusOr<StepPlan> ParseStepPlan(std::string_view bytes) {
  StepPlan plan;
  const bool whole = EachField(plan, [&](auto& field) { return Take(bytes, field); });
  if (!whole || !bytes.empty()) return absl::DataLossError("a step plan arrived damaged");
  return plan;
}

}  // namespace duo
