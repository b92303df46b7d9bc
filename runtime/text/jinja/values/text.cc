#include "runtime/text/jinja/values/text.h"

#include <algorithm>

namespace duo::jinja {

Text::Text(std::string bytes, Origin origin) : bytes_(std::move(bytes)) {
  if (origin == Origin::kGiven) Mark(0, bytes_.size());
}

Origin Text::OriginAt(size_t at) const {
  const auto after =
      std::upper_bound(given_.begin(), given_.end(), at, [](size_t a, const Range& r) { return a < r.end; });
  return after != given_.end() && after->begin <= at ? Origin::kGiven : Origin::kTemplate;
}

void Text::Mark(size_t begin, size_t end) {
  if (begin == end) return;
  if (!given_.empty() && given_.back().end == begin) {
    given_.back().end = end;
  } else {
    given_.push_back({begin, end});
  }
}

void Text::AppendPart(const Text& other, size_t begin, size_t end) {
  if (&other == this) return AppendPart(Text(other), begin, end);
  const size_t shift = bytes_.size();
  bytes_.append(other.bytes_, begin, end - begin);
  auto range = std::upper_bound(other.given_.begin(), other.given_.end(), begin,
                                [](size_t at, const Range& r) { return at < r.end; });
  for (; range != other.given_.end() && range->begin < end; ++range) {
    Mark(shift + std::max(range->begin, begin) - begin, shift + std::min(range->end, end) - begin);
  }
}

void Text::Append(std::string_view bytes, Origin origin) {
  const size_t begin = bytes_.size();
  bytes_.append(bytes);
  if (origin == Origin::kGiven) Mark(begin, bytes_.size());
}

Text Text::Part(size_t begin, size_t end) const {
  Text part;
  part.AppendPart(*this, begin, end);
  return part;
}

}  // namespace duo::jinja
