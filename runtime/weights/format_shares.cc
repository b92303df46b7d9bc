#include "runtime/weights/format_shares.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/weights/weights_layout.h"

namespace duo {

std::string Name(const CodeFormat& format) {
  if (format.table == CodeTable::kE2M1) return "mxfp4";
  if (format.group == 0) return Name(format.type);
  if (format.scale_blocks()) return absl::StrCat(Name(format.type), ":", format.block, "x", format.group);
  const std::string kind = format.table == CodeTable::kIq4 ? "iq4" : Name(format.type);
  return format.block > 0 ? absl::StrCat(kind, ":", format.group, "/", format.block)
                          : absl::StrCat(kind, ":", format.group);
}

std::vector<FormatShare> FormatShares(const ModelConfig& config, const WeightFormats& formats) {
  std::map<std::string, int64_t> counts;
  int64_t all = 0;
  RankShard shard;  // of a rank that holds nothing: formats are those of all ranks
  shard.layers.resize(config.layers);
  shard.experts = {0, config.experts.count};
  for (const HeldWeight& held : HeldWeights(config, shard)) {
    if (held.is_vector()) continue;
    int64_t parameters = 0;
    for (const TensorSlice& slice : held.tensors) parameters += slice.rows * slice.cols;
    counts[Name(FormatOf(held, formats))] += parameters;
    all += parameters;
  }
  std::vector<FormatShare> shares;
  for (const auto& [format, parameters] : counts) {
    shares.push_back(
        {format, parameters, static_cast<double>(parameters) / static_cast<double>(std::max<int64_t>(all, 1))});
  }
  std::stable_sort(shares.begin(), shares.end(),
                   [](const FormatShare& a, const FormatShare& b) { return a.parameters > b.parameters; });
  return shares;
}

std::string Text(const std::vector<FormatShare>& shares) {
  if (shares.size() == 1) return shares[0].format;
  return absl::StrJoin(shares, ", ", [](std::string* out, const FormatShare& share) {
    absl::StrAppendFormat(out, "%s %.1f %%", share.format, 100 * share.share);
  });
}

}  // namespace duo
