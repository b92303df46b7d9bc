#include "runtime/engine/row_choice.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "parallel/prefill_split.h"

namespace duo {

std::string Describe(const RowChoice& choice, double gain, bool room) {
  const std::string time = absl::StrFormat("%.1f %% %s time", 100 * std::abs(gain), gain < 0 ? "more" : "less");
  std::string text;
  if (gain >= kLeastRowsGain && room) {
    text = absl::StrCat("ranks share out long prompts by rows: reading should take ", time, " than by heads");
  } else {
    text = absl::StrCat("ranks share out long prompts by heads: by rows reading should take ", time);
    absl::StrAppend(&text, gain >= kLeastRowsGain
                               ? ", but other ranks' weights would leave no room for the longest session"
                               : absl::StrFormat(", where %.0f %% less would be worth the memory that it takes",
                                                 100 * kLeastRowsGain));
  }
  absl::StrAppendFormat(
      &text,
      " (of a token: messages %.1f us by heads and %.1f us by rows, work about %.1f us; measured just "
      "now: sums at %.3g GB/s, blocks at %.3g GB/s",
      choice.by_heads * 1e6, choice.by_rows * 1e6, choice.work * 1e6, choice.sum_rate / 1e9, choice.block_rate / 1e9);
  if (choice.on_cores) {
    absl::StrAppend(&text, "; ranks of one host wait for its cores, so busy ones may lead to another choice next time");
  }
  return absl::StrCat(text, ")");
}

}  // namespace duo
