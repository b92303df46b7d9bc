#include "runtime/provenance/sentences.h"

#include <algorithm>

namespace duo {
namespace {

constexpr size_t kWrappedLine = 40;  // bytes that a line of wrapped prose has at least

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
bool Continues(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }
bool Ends(char c) { return c == '.' || c == '!' || c == '?'; }

// The bytes of a full-width end at `at`: 。！？
size_t WideEnd(std::string_view text, size_t at) {
  for (const std::string_view end : {"\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F"}) {
    if (text.substr(at).starts_with(end)) return end.size();
  }
  return 0;
}

// Does the line that ends before the newline at `at` go on in the next one?
bool IsWrapped(std::string_view text, size_t line, size_t at) {
  if (at + 1 >= text.size() || text[at + 1] < 'a' || text[at + 1] > 'z') return false;
  size_t last = at;
  while (last > line && IsSpace(text[last - 1])) --last;
  if (last - line < kWrappedLine) return false;
  const char c = text[last - 1];
  return !Ends(c) && c != ':' && c != ';';
}

// Cuts [begin, end) into pieces of at most kLongestSentence.
void AddCut(std::string_view text, size_t begin, size_t end, std::vector<int64_t>* starts) {
  while (begin < end) {
    starts->push_back(static_cast<int64_t>(begin));
    if (end - begin <= kLongestSentence) return;
    size_t cut = begin + kLongestSentence;
    const size_t least = begin + kLongestSentence / 2;
    size_t space = cut;
    while (space > least && !IsSpace(text[space - 1])) --space;
    if (space > least) {
      cut = space;
    } else {
      while (cut > least && Continues(text[cut])) --cut;
    }
    begin = cut;
  }
}

}  // namespace

std::vector<int64_t> SentenceStarts(std::string_view text) {
  std::vector<int64_t> starts;
  size_t begin = 0, line = 0;
  const auto cut_at = [&](size_t at) {
    AddCut(text, begin, at, &starts);
    begin = at;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\n') {
      if (!IsWrapped(text, line, i)) cut_at(i + 1);
      line = i + 1;
    } else if (Ends(text[i])) {
      size_t behind = i + 1;
      while (behind < text.size() && (Ends(text[behind]) || text[behind] == '"' || text[behind] == '\'' ||
                                      text[behind] == ')' || text[behind] == ']')) {
        ++behind;
      }
      // What separates sentences on one line belongs to the one before; a newline is looked at by itself.
      if (behind < text.size() && (text[behind] == ' ' || text[behind] == '\t')) {
        while (behind < text.size() && (text[behind] == ' ' || text[behind] == '\t')) ++behind;
        if (behind < text.size() && text[behind] != '\n' && text[behind] != '\r') cut_at(behind);
        i = behind - 1;
      }
    } else if (const size_t wide = WideEnd(text, i); wide > 0) {
      cut_at(i + wide);
      i += wide - 1;
    }
  }
  cut_at(text.size());
  return starts;
}

}  // namespace duo
