#include "runtime/text/regex/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "tests/support/test_scale.h"

namespace duo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> Matches(const std::string& pattern, const std::string& text) {
  const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<TextRange> ranges;
  EXPECT_TRUE(Regex::Scanner(*regex).FindAll(text, &ranges).ok());
  std::vector<std::string> out;
  for (const TextRange& range : ranges) out.push_back(text.substr(range.begin, range.end - range.begin));
  return out;
}

TEST(RegexTest, ReadsRubysSyntax) {
  EXPECT_THAT(Matches("\\p{N}{1,3}+", "1234567"), ElementsAre("1234567"));  // a loop over the interval: not possessive
  EXPECT_THAT(Matches("a{,2}b", "aaab"), ElementsAre("aab"));               // from none on
  EXPECT_THAT(Matches("(?:ab){2}?c", "ababc c"), ElementsAre("ababc", "c"));   // all of it, or nothing
  EXPECT_THAT(Matches("\\pN", "1 pN"), ElementsAre("pN"));                     // no property without braces
  EXPECT_THAT(Matches("\\b\u0301", "a\u0301 \u0301"), ElementsAre("\u0301"));  // a mark is part of a word
  EXPECT_THAT(Matches("[[:punct:]]", "a$|_\u2603"), ElementsAre("$", "|", "_", "\u2603"));
  EXPECT_THAT(Matches("[[:^punct:]]", "a$|b"), ElementsAre("a", "b"));
  EXPECT_THAT(Matches("[[:space:]]", "a\u180e\u3000"), ElementsAre("\u3000"));
  EXPECT_THAT(Matches("[a-z&&[^m-p]]+", "almost"), ElementsAre("al", "st"));
}

TEST(RegexTest, SearchThatIsGivenUpIsAnError) {
  const absl::StatusOr<Regex> regex = Regex::Compile("(?:x+x+)+y");
  ASSERT_TRUE(regex.ok());
  std::vector<TextRange> ranges;
  const absl::Status status = Regex::Scanner(*regex).FindAll("xxy " + std::string(60, 'x'), &ranges);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("behind byte 3: retry-limit-in-match over"));
}

TEST(RegexTest, RefusesWhatCannotBeCompiled) {
  for (const char* pattern : {"(a", "[a", "a{2,1}(", "\\p{Nothing}", "*"}) {
    const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr("cannot be compiled: ")) << pattern;
  }
}

TEST(RegexTest, WhatARefusalShowsControlsNoTerminal) {
  const absl::Status refused = Regex::Compile("(слово\n\x1b[31m\xc2\x9b").status();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("\"(слово??[31m?\" cannot be compiled: "));
}

// Published tokenizers' patterns, and others that have all that certain_syntax.h reads.
const char* const kPatterns[] = {
    "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|"
    "\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|"
    "'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|"
    "'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "[\\w]+|[^\\w\\s]+",
    "\\b\\w{2,3}?|(?<=e)r|(?<!a)s\\B|(?>l+)a?|^[[:upper:]]|x*?y|(?=t)t{,2}|\\h{2}+$",
};

std::string RandomText(std::mt19937& draw) {
  const char* const parts[] = {"a",      "er",     "St",     "ll",         "'S", "'ll", " ",      "  ",     "\n",
                               "\r\n",   "12",     "3",      "x",          "xy", "!",   "$",      "\u00e9", "e\u0301",
                               "\u017f", "\u3000", "\u4e16", "\U0001f600", "'",  "tt",  "\u0b95", "/"};
  std::string text;
  for (unsigned n = draw() % 12; n > 0; --n) text += parts[draw() % std::size(parts)];
  return text;
}

// What a scanner calls certain stays, whatever follows; and its own matcher never differs from Oniguruma.
TEST(RegexTest, CertainMatchesStay) {
  std::mt19937 draw(7);
  for (const char* pattern : kPatterns) {
    const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    ASSERT_TRUE(regex.ok()) << regex.status();
    ASSERT_TRUE(regex->can_be_certain()) << pattern;
    Regex::Scanner scanner(*regex);
    int64_t certain = 0, matches = 0;
    for (int i = 0; i < Scaled(3000); ++i) {
      const std::string text = RandomText(draw);
      const std::string whole = text + RandomText(draw);
      std::vector<TextRange> of_text, of_whole;
      ASSERT_TRUE(scanner.FindAll(text, &of_text).ok() && scanner.FindAll(whole, &of_whole).ok());
      size_t from = 0;
      for (size_t k = 0; k < of_text.size(); from = of_text[k++].end) {
        ++matches;
        if (scanner.LooksAtEnd(text, from, nullptr, nullptr)) break;
        ASSERT_FALSE(scanner.LooksAtEnd(text, from, &of_text[k], nullptr))
            << pattern << " on " << text << " from " << from;
        ASSERT_LT(k, of_whole.size());
        ASSERT_EQ(of_whole[k], of_text[k]) << pattern << " on " << whole;
        ++certain;
      }
      size_t known = 0;
      if (scanner.LooksAtEnd(text, from, nullptr, &known)) {
        for (const TextRange& match : of_whole) {
          EXPECT_TRUE(match.begin < from || match.begin >= known) << pattern << " on " << whole;
        }
      }
    }
    EXPECT_GT(certain, matches / 3) << pattern;
  }
}

TEST(RegexTest, PatternsOfUnknownSyntaxAreNeverCertain) {
  for (const char* pattern : {"\\X", "(a)\\1", "(?<n>a)b", "[a&&b]", "(?i:stra)", "a**", "(?:a?)*b", "\\Ga"}) {
    const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    ASSERT_TRUE(regex.ok()) << pattern;
    EXPECT_FALSE(regex->can_be_certain()) << pattern;
    size_t known = 7;
    EXPECT_TRUE(Regex::Scanner(*regex).LooksAtEnd("aabb and more", 1, nullptr, &known));
    EXPECT_EQ(known, 1u);
  }
}

}  // namespace
}  // namespace duo
