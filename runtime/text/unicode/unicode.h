// Unicode for the tokenizer: UTF-8 in and out, character classes, normalisation forms.
// Why: prompts are bytes, tokenizers are defined on Unicode text. Only this file and jinja/values/characters.cc know
// ICU. Ownership: values only. Threads: every function is pure. Errors: none; text that is not UTF-8 is repaired by
// ReplaceInvalidUtf8 first, every other function expects valid UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace duo {

// Replaces every ill-formed piece (each "maximal subpart", Unicode 15 section 3.9, table 3-8) by one U+FFFD: the same
// text as Python's bytes.decode('utf-8', errors='replace') gives.
std::string ReplaceInvalidUtf8(std::string_view bytes);

// Where the place `repaired` of ReplaceInvalidUtf8(bytes) comes from: a byte's offset in `bytes`.
size_t RawOffset(std::string_view bytes, size_t repaired);

// The length of the longest prefix of `bytes` whose reading no later byte can change: all of it, unless it ends inside
// a character.
size_t CertainUtf8Prefix(std::string_view bytes);

bool IsValidUtf8(std::string_view bytes);

// Reads the code point at text[*pos] and moves *pos past it. text: valid UTF-8, *pos < text.size().
char32_t NextCodePoint(std::string_view text, size_t* pos);
// Reads the code point that ends at text[*pos] and moves *pos to its start. *pos > 0.
char32_t PreviousCodePoint(std::string_view text, size_t* pos);
void AppendUtf8(char32_t c, std::string* out);

// `text` without the code points at its left and at its right of which stripped(c) is true: a part of it.
template <typename Predicate>
std::string_view Stripped(std::string_view text, bool left, bool right, const Predicate& stripped) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!stripped(NextCodePoint(text, &next))) break;
    begin = next;
  }
  while (right && end > begin) {
    size_t previous = end;
    if (!stripped(PreviousCodePoint(text, &previous))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

bool IsWhiteSpace(char32_t c);     // property White_Space
bool IsWordCharacter(char32_t c);  // \w of UTS 18: alphabetic, marks, decimal digits, connectors, joiners

enum class NormalizationForm { kNfc, kNfd, kNfkc, kNfkd };
// Whether a character that begins a text never changes, or moves, when another text is put before it and both are
// normalised together.
bool HasNormalizationBoundaryBefore(char32_t c, NormalizationForm form);
std::string NormalizeUnicode(std::string_view text, NormalizationForm form);

std::string LowercaseUnicode(std::string_view text);  // character by character, without context
std::string RemoveMarks(std::string_view text);       // drops the combining marks, category M

}  // namespace duo
