#include "runtime/text/jinja/library/string_search.h"

#include <algorithm>
#include <limits>

#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

void SplitAtSpace(const Text& text, int64_t most, bool from_right, std::vector<Text>* parts) {
  const std::string& bytes = text.bytes();
  std::vector<std::pair<size_t, size_t>> words;
  for (size_t i = 0; i < bytes.size();) {
    const size_t begin = i;
    if (IsSpace(NextCodePoint(bytes, &i))) {
      continue;
    }
    while (i < bytes.size()) {
      size_t next = i;
      if (IsSpace(NextCodePoint(bytes, &next))) break;
      i = next;
    }
    words.emplace_back(begin, i);
  }
  const size_t limit = most < 0 ? words.size() : static_cast<size_t>(most);
  if (limit < words.size()) {  // what is left over stays one part
    if (from_right) {
      const size_t last = words.size() - limit - 1;
      words[last].first = 0;
      words.erase(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(last));
    } else {
      words[limit].second = bytes.size();
      words.resize(limit + 1);
    }
  }
  for (const auto& [begin, end] : words) parts->push_back(text.Part(begin, end));
}

}  // namespace

bool Split(Run& run, const Text& text, const std::string* separator, int64_t most, bool from_right,
           std::vector<Text>* parts) {
  if (!run.CanMake(text.size())) return false;
  if (separator == nullptr) {
    SplitAtSpace(text, most, from_right, parts);
    return run.Charge(static_cast<int64_t>(parts->size()));
  }
  if (separator->empty()) {
    run.Fail("split: the separator is empty");
    return false;
  }
  const std::string& bytes = text.bytes();
  size_t limit = most < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(most);
  if (from_right) {
    size_t end = bytes.size();
    while (limit-- > 0 && end >= separator->size()) {
      const size_t at = bytes.rfind(*separator, end - separator->size());
      if (at == std::string::npos) break;
      parts->push_back(text.Part(at + separator->size(), end));
      end = at;
    }
    parts->push_back(text.Part(0, end));
    std::reverse(parts->begin(), parts->end());
  } else {
    size_t begin = 0;
    while (limit-- > 0) {
      const size_t at = bytes.find(*separator, begin);
      if (at == std::string::npos) break;
      parts->push_back(text.Part(begin, at));
      begin = at + separator->size();
    }
    parts->push_back(text.Part(begin, bytes.size()));
  }
  return run.Charge(static_cast<int64_t>(parts->size()));
}

bool ReplaceAll(Run& run, const Text& text, const std::string& old, const Text& with, int64_t most, Text* out) {
  const std::string& bytes = text.bytes();
  size_t limit = most < 0 ? std::numeric_limits<size_t>::max() : static_cast<size_t>(most);
  if (!run.CanMake(bytes.size())) return false;
  size_t begin = 0;
  if (old.empty()) {  // between all characters, and at both ends
    while (limit-- > 0) {
      out->Append(with);
      if (begin == bytes.size() || !run.CanMake(out->size())) break;
      size_t next = begin;
      NextCodePoint(bytes, &next);
      out->AppendPart(text, begin, next);
      begin = next;
    }
  } else {
    while (limit-- > 0) {
      const size_t at = bytes.find(old, begin);
      if (at == std::string::npos) break;
      out->AppendPart(text, begin, at);
      out->Append(with);
      begin = at + old.size();
      if (out->size() > run.most_bytes()) break;
      if (!run.Charge(1 + static_cast<int64_t>(with.size() / 32))) return false;
    }
  }
  out->AppendPart(text, begin, bytes.size());
  return run.CanMake(out->size());
}

bool CutByBounds(std::string_view text, int64_t start, int64_t stop, size_t* begin, size_t* end) {
  const int64_t n = static_cast<int64_t>(CountCharacters(text));
  if (start < 0) start = std::max<int64_t>(start + n, 0);
  if (stop < 0) stop = std::max<int64_t>(stop + n, 0);
  stop = std::min(stop, n);
  if (start > n || start > stop) return false;
  *begin = ByteOfCharacter(text, static_cast<size_t>(start));
  *end = ByteOfCharacter(text, static_cast<size_t>(stop));
  return true;
}

}  // namespace duo::jinja
