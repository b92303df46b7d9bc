// Characters and words as Python's str sees them: what strip() takes away, what lower() makes of a letter, where a
// string may be cut. Texts are valid UTF-8; positions in them are bytes. Pure functions, safe from any thread. Errors:
// none. Only this file and runtime/text/unicode know ICU.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/jinja/values/text.h"

namespace duo::jinja {

bool IsSpace(char32_t c);  // str.isspace: white space and the four ASCII separators
bool IsLineEnd(char32_t c);
bool IsPrintable(char32_t c);
bool IsAlphabetic(char32_t c);
bool IsDecimal(char32_t c);
bool IsDigit(char32_t c);    // decimals and the like of superscript two
bool IsNumeric(char32_t c);  // those and the like of one half
bool IsUpper(char32_t c);
bool IsLower(char32_t c);
bool IsTitle(char32_t c);
bool IsNameStart(char32_t c);
bool IsNamePart(char32_t c);

size_t CountCharacters(std::string_view text);
// The byte where character `index` begins; the text's size for every index from the end on.
size_t ByteOfCharacter(std::string_view text, size_t index);

// Each keeps where the text came from, character by character.
enum class Case { kUpper, kLower, kTitle, kCapitalized, kSwapped, kFolded };
Text ChangeCase(const Text& text, Case to);

// Without the characters of `chars` at the ends asked for; without white space if chars is null.
Text Strip(const Text& text, const std::string* chars, bool left, bool right);

// str.splitlines.
std::vector<Text> SplitLines(const Text& text, bool keep_ends);

// The character that Unicode calls `name`, if there is one.
bool CharacterByName(const std::string& name, char32_t* found);

}  // namespace duo::jinja
