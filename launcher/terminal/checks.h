// What values flags accept beside the ranges and lists that CLI11 has itself. Each gives the parser a sentence that
// says what was expected and what was found; help shows nothing of them. Values; any thread.
#pragma once

#include <string>
#include <vector>

#include "CLI/CLI.hpp"

namespace duo {

CLI::Validator AboveZero();    // a number
CLI::Validator ZeroOrMore();   // a number
// Make a whole number above 0 of what has a unit, or none: sizes as 50GB (B, KB to EB by thousands, KIB to EIB by 1024,
// the B may be left out), tokens as 100K, 1.5M. Given to CLI::Option::transform.
CLI::Validator SizeWithUnit();
CLI::Validator TokensWithUnit(bool zero_too = false);
CLI::Validator Address();      // HOST:PORT, [V6]:PORT or unix:PATH
CLI::Validator HttpAddress();  // HOST:PORT, [V6]:PORT or none

// Refuses, as a usage error, NaN, infinity and whole numbers out of range among the values of the parsed command's
// options that take numbers, which CLI11 lets through.
void RefuseNoNumbers(const CLI::App& app);
// Likewise lists with nothing between two commas or at an end, of which CLI11 takes what is left, and empty ones, of
// which it says that so many values are missing. words: that are to be parsed.
void RefuseEmptyParts(const CLI::App& app, const std::vector<std::string>& words);

}  // namespace duo
