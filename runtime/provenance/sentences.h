// Where the sentences of a text begin: the unit in which sources are named. A sentence ends behind . ! ? (closing
// quotes and brackets included) before white space, behind their full-width kin, and at the end of a line, unless the
// line is wrapped prose: long, without such an end, and followed by a lower-case letter. None is longer than
// kLongestSentence: text without ends (tables, code, base64) is cut at white space, else anywhere between characters.
// Pure; any thread.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace duo {

constexpr int64_t kLongestSentence = 600;  // bytes

// Ascending; the first is 0. Empty for an empty text. Each is a character's beginning if the text is valid UTF-8.
std::vector<int64_t> SentenceStarts(std::string_view text);

}  // namespace duo
