#include "launcher/identify/held_out_recall.h"

#include <algorithm>
#include <vector>

namespace duo {

double Recall(IdentifyModel& model, const PasskeyData& data, uint64_t seed, int64_t length) {
  int64_t right = 0, all = 0;
  for (int64_t index = 0; index < 2; ++index) {
    const PasskeySample sample = data.Sample(seed ^ 0x5eed, index, length);
    const int64_t first = sample.first_label - 1;
    const auto rows = static_cast<int64_t>(sample.tokens.size());
    const std::vector<int32_t> choices = model.TeacherChoices(sample.tokens, first, rows - first);
    for (const PasskeySample::Range& answer : sample.answers) {
      for (int64_t at = answer.begin; at < answer.end; ++at) {
        right += choices[at - 1 - first] == sample.tokens[at];
        ++all;
      }
    }
  }
  return static_cast<double>(right) / static_cast<double>(std::max<int64_t>(all, 1));
}

}  // namespace duo
