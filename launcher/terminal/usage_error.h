// The sentence for a command line that the parser refused: names the word that it did not know and, where one is near,
// the command or flag that was probably meant. Free functions of plain values; any thread.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace duo {

// The candidate that `word` is the beginning of or a misspelling of; empty when none is near.
std::string Nearest(const std::string& word, const std::vector<std::string>& candidates);

// A refusal in the parser's words, "--kv: int9 not in {auto,int8}", said as all others are: "--kv: expected one of
// auto, int8, found int9". Others stay as they are.
std::string InOurWords(const std::string& refusal);

// What to print behind "error: ". arguments: the command line without the program's name. refusal: the parser's own
// sentence, taken where every word is known.
std::string UsageError(const CLI::App& app, const std::vector<std::string>& arguments, const std::string& refusal);

}  // namespace duo
