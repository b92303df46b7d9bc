// What grammars accept and refuse, what bounds their compilation and their masks, and that a mask is exactly the tokens
// that may follow.
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "runtime/text/grammar/guide.h"
#include "runtime/text/grammar/matcher.h"

namespace duo {
namespace {

std::shared_ptr<const TokenTrie> Bytes() {
  std::vector<std::string> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = std::string(1, static_cast<char>(i));
  return std::make_shared<TokenTrie>(bytes);
}

std::shared_ptr<const Grammar> Compiled(Guide::Kind kind, const std::string& text) {
  const auto grammar = CompileGuide({kind, text});
  EXPECT_TRUE(grammar.ok()) << text << ": " << grammar.status();
  return grammar.ok() ? *grammar : nullptr;
}

enum class Read { kWhole, kBegun, kNot };
void PrintTo(Read read, std::ostream* out) {
  *out << (read == Read::kWhole ? "whole" : read == Read::kBegun ? "begun" : "not");
}

Read Reads(Guide::Kind kind, const std::string& grammar, const std::string& text) {
  GrammarMatcher matcher(Compiled(kind, grammar), Bytes());
  if (!matcher.AcceptBytes(text).ok()) return Read::kNot;
  return matcher.may_end() ? Read::kWhole : Read::kBegun;
}

TEST(Grammar, RegularExpressionsMatchAsAWhole) {
  const auto reads = [](const std::string& pattern, const std::string& text) {
    return Reads(Guide::Kind::kRegex, pattern, text);
  };
  EXPECT_EQ(reads("(a{1,1000}){1,1000}b?(c|d)+\\d{3}", "aaaabcd123"), Read::kWhole);
  EXPECT_EQ(reads("(a{1,1000}){1,1000}b?(c|d)+\\d{3}", "aab"), Read::kBegun);
  EXPECT_EQ(reads("^[^a-c\\]]+$", "xyz"), Read::kWhole);
  EXPECT_EQ(reads("[^a-c\\]]+", "xb"), Read::kNot);
  EXPECT_EQ(reads("[ä-ü]{2}", "äü"), Read::kWhole);
  EXPECT_EQ(reads("[ä-ü]{2}", "äz"), Read::kNot);
  EXPECT_EQ(reads(".", "\xE2\x82"), Read::kBegun);  // inside a character
  EXPECT_EQ(reads(".", "\xff"), Read::kNot);        // no UTF-8
  EXPECT_EQ(reads("((a?)?b?){2,3}", "abab"), Read::kWhole);
  EXPECT_EQ(reads("((a?)?b?){2,3}", ""), Read::kWhole);
  EXPECT_EQ(reads("((a?)?b?){2,3}", "abababa"), Read::kNot);
  EXPECT_EQ(reads("a{0}|x{2,}", "xxxxx"), Read::kWhole);
  EXPECT_EQ(reads("a{b}", "a{b}"), Read::kWhole);
}

TEST(Grammar, GbnfRulesMayReferToEachOther) {
  const std::string sums =
      "# sums\nroot ::= expr \"\\n\"\nexpr ::= term ((\"+\" | \"-\") term)*\nterm ::= [0-9]+ |\n  \"(\" expr \")\"\n";
  EXPECT_EQ(Reads(Guide::Kind::kGrammar, sums, "1+(2-(30))\n"), Read::kWhole);
  EXPECT_EQ(Reads(Guide::Kind::kGrammar, sums, "1+(2"), Read::kBegun);
  EXPECT_EQ(Reads(Guide::Kind::kGrammar, sums, "1)"), Read::kNot);
}

TEST(Grammar, ObjectsTakeTheirMembersInAnyOrderAndOnce) {
  const std::string schema =
      R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"boolean"},"c":{"const":"x"}},)"
      R"("required":["a","c"],"additionalProperties":false})";
  const auto reads = [&](const std::string& text) { return Reads(Guide::Kind::kJsonSchema, schema, text); };
  EXPECT_EQ(reads(R"({"a": 1, "c": "x"})"), Read::kWhole);
  EXPECT_EQ(reads(R"({"c":"x","b":true,"a":-10})"), Read::kWhole);
  EXPECT_EQ(reads(R"({"a":1})"), Read::kNot);
  EXPECT_EQ(reads(R"({"a":1,"a")"), Read::kNot);
  EXPECT_EQ(reads(R"({"a":1,"d")"), Read::kNot);
  EXPECT_EQ(reads(R"({"a":1,"c":"x",)"), Read::kBegun);
  EXPECT_EQ(reads(R"({"a":1,"c":"x",})"), Read::kNot);
}

TEST(Grammar, AKeyThatIsDeclaredIsNoAdditionalOneHoweverItIsWritten) {
  const std::string schema =
      R"({"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"boolean"}})";
  const auto reads = [&](const std::string& text) { return Reads(Guide::Kind::kJsonSchema, schema, text); };
  EXPECT_EQ(reads(R"({"ab":null,"a":true,"abc":false,"x\n":true})"), Read::kWhole);
  EXPECT_EQ(reads(R"({"ab":true)"), Read::kNot);
  EXPECT_EQ(reads(R"({"\u0061b":true)"), Read::kNot);
}

TEST(Grammar, NumbersKeepTheirBounds) {
  std::mt19937 rng(1);
  for (int round = 0; round < 40; ++round) {
    const int low = static_cast<int>(rng() % 400) - 200, high = low + static_cast<int>(rng() % 250);
    const bool open_low = rng() % 2 == 0, open_high = rng() % 2 == 0, integer = rng() % 2 == 0;
    // Quarters, so that bounds have places behind the point.
    const auto text = [&](int quarters) {
      if (integer) return absl::StrCat(quarters);
      const int whole = std::abs(quarters) / 4;
      const char* places[] = {"", ".25", ".5", ".75"};
      return absl::StrCat(quarters < 0 ? "-" : "", whole, places[std::abs(quarters) % 4]);
    };
    const std::string schema = absl::StrCat(R"({"type":")", integer ? "integer" : "number", "\",",
                                            open_low ? "\"exclusiveMinimum\":" : "\"minimum\":", text(low), ",",
                                            open_high ? "\"exclusiveMaximum\":" : "\"maximum\":", text(high), "}");
    const auto compiled = CompileGuide({Guide::Kind::kJsonSchema, schema});
    const std::shared_ptr<const TokenTrie> bytes = Bytes();
    for (int x = low - 30; x <= high + 30; ++x) {
      const bool inside = (open_low ? x > low : x >= low) && (open_high ? x < high : x <= high);
      if (!compiled.ok()) {
        ASSERT_FALSE(inside) << schema;
        continue;
      }
      GrammarMatcher matcher(*compiled, bytes);
      ASSERT_EQ(matcher.AcceptBytes(text(x)).ok() && matcher.may_end(), inside) << text(x) << " " << schema;
    }
  }
}

TEST(Grammar, WhatIsNotSupportedIsRefusedByName) {
  const std::pair<const char*, const char*> schemas[] = {
      {R"({"not":{}})", "not"},
      {R"({"type":"object","patternProperties":{"a":true}})", "patternProperties"},
      {R"({"type":"array","uniqueItems":true})", "uniqueItems"},
      {R"({"type":"integer","multipleOf":3})", "multipleOf"},
      {R"({"oneOf":[{"type":"integer"},{"minimum":3}]})", "oneOf"},
      {R"({"$ref":"#/nowhere"})", "#/nowhere"},
      {R"({"$ref":"http://x/y"})", "http://x/y"},
      {R"x({"type":"string","pattern":"(?=a)"})x", "look-around"},
      {R"({"type":"integer","minimum":5,"maximum":4})", "no text"},
      {R"({"$ref":"#"})", "no text"},
      {R"([1])", "object or a boolean"},
      {R"({)", "not JSON"},
  };
  for (const auto& [schema, named] : schemas) {
    const auto refused = CompileGuide({Guide::Kind::kJsonSchema, schema});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << schema;
    EXPECT_NE(refused.status().message().find(named), std::string::npos) << refused.status();
  }
  for (const char* pattern :
       {"(", ")", "a**b|*", "[a", "[z-a]", "\\", "a\\1", "\\bx", "(?!a)", "a{3,2}", "x^y", "\\p{L}"}) {
    EXPECT_FALSE(CompileGuide({Guide::Kind::kRegex, pattern}).ok()) << pattern;
  }
  for (const char* grammar :
       {"", "root", "root ::= x", "x ::= \"a\"", "root ::= \"a", "root ::= (\"a\"", "root ::= root \"a\" | \"b\"",
        "root ::= a\na ::= b?\nb ::= a", "root ::= \"a\"\nroot ::= \"b\""}) {
    EXPECT_FALSE(CompileGuide({Guide::Kind::kGrammar, grammar}).ok()) << grammar;
  }
}

TEST(Grammar, CompilationIsBounded) {
  std::string deep, nested = "1";
  for (int i = 0; i < 3000; ++i) deep += "(";
  EXPECT_FALSE(CompileGuide({Guide::Kind::kRegex, deep + "a"}).ok());
  for (int i = 0; i < 3000; ++i) nested = absl::StrCat("[", nested, "]");
  EXPECT_FALSE(CompileGuide({Guide::Kind::kJsonSchema, R"({"const":)" + nested + "}"}).ok());
  EXPECT_FALSE(CompileGuide({Guide::Kind::kJsonSchema, R"({"title":")" + std::string(1 << 19, 'x') + "\"}"}).ok());
  // Sharing what is referred to keeps this small; written out it would be 2^60 parts.
  std::string doubling = R"({"$ref":"#/$defs/d60","$defs":{"d0":{"type":"null"})";
  for (int i = 1; i <= 60; ++i) {
    absl::StrAppend(&doubling, ",\"d", i, R"(":{"type":"array","prefixItems":[{"$ref":"#/$defs/d)", i - 1,
                    R"("},{"$ref":"#/$defs/d)", i - 1, R"("}]})");
  }
  const auto refused = CompileGuide({Guide::Kind::kJsonSchema, doubling + "}}"});
  EXPECT_TRUE(refused.ok() || refused.status().code() == absl::StatusCode::kInvalidArgument);
  std::string many = "a";
  for (int i = 0; i < 40; ++i) many = absl::StrCat("(", many, "|", many.substr(0, 2000), "b)");
  const auto large = CompileGuide({Guide::Kind::kRegex, many});
  EXPECT_TRUE(large.ok() || large.status().code() == absl::StatusCode::kInvalidArgument);
}

TEST(Grammar, CountsOfAnySizeCostNothing) {
  const std::string schema =
      R"({"type":"array","items":{"type":"array","maxItems":1000000000},"minItems":1,"maxItems":1000000000})";
  const auto grammar = Compiled(Guide::Kind::kJsonSchema, schema);
  ASSERT_NE(grammar, nullptr);
  EXPECT_LT(grammar->nodes.size(), 5000u);
  GrammarMatcher matcher(grammar, Bytes());
  std::vector<uint32_t> mask;
  ASSERT_TRUE(matcher.AcceptBytes("[[1,2,3],[]").ok());
  ASSERT_TRUE(matcher.Mask({}, &mask).ok());
}

// A grammar that can be read in more and more ways ends the answer, and nothing else.
TEST(Grammar, AMaskIsBounded) {
  const auto grammar = Compiled(Guide::Kind::kRegex, "((a{2,900}b?){3,800}c?){2,700}");
  GrammarMatcher matcher(grammar, Bytes(), {.steps = 20'000, .readings = 500});
  absl::Status status;
  for (int i = 0; i < 5000 && status.ok(); ++i) status = matcher.AcceptBytes("a");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(Grammar, AMaskIsTheTokensThatMayFollow) {
  std::mt19937 rng(5);
  std::vector<std::string> tokens = {"",   "\"",   "{\"",   "\":", " ",    "\n",  "}",
                                     "],", "true", "\\u00", "ä",   "\xC3", "\xA4"};
  const std::string letters = "{}[]\":, 0123456789.eE-+truefalsn\\abxy\n";
  while (tokens.size() < 700) {
    std::string token;
    for (size_t i = 1 + rng() % 4; i > 0; --i) token += letters[rng() % letters.size()];
    tokens.push_back(token);
  }
  const auto trie = std::make_shared<TokenTrie>(tokens);
  const std::string schemas[] = {
      "{}",
      R"({"type":"object","properties":{"ab":{"type":"string","maxLength":3},"x":{"type":"number","minimum":-2.5}},"required":["x"]})",
      R"({"type":"array","items":{"anyOf":[{"type":"integer"},{"type":"null"},{"type":"array","items":{"$ref":"#"}}]}})"};
  for (const std::string& schema : schemas) {
    const auto grammar = Compiled(Guide::Kind::kJsonSchema, schema);
    for (int answer = 0; answer < 3; ++answer) {
      // With little memory what is kept is forgotten again and again, and nothing else changes.
      GrammarMatcher matcher(grammar, trie, {.memory = answer % 2 == 0 ? 10'000 : 1 << 26});
      for (int step = 0; step < 15 && !matcher.must_end(); ++step) {
        std::vector<uint32_t> mask;
        ASSERT_TRUE(matcher.Mask({0}, &mask).ok());
        std::vector<int32_t> allowed;
        for (int32_t id = 1; id < static_cast<int32_t>(tokens.size()); ++id) {
          const bool follows = (mask[id / 32] >> (id % 32) & 1) != 0;
          if (follows) allowed.push_back(id);
          if (id >= 13 && rng() % 16 != 0) continue;  // a copy is not cheap
          ASSERT_EQ(GrammarMatcher(matcher).AcceptBytes(tokens[id]).ok(), follows) << schema << " token " << tokens[id];
        }
        EXPECT_EQ((mask[0] & 1) != 0, matcher.may_end());
        if (allowed.empty()) break;
        ASSERT_TRUE(matcher.Accept(allowed[rng() % allowed.size()]).ok());
      }
    }
  }
}

}  // namespace
}  // namespace duo
