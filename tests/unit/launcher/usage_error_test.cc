#include "launcher/terminal/usage_error.h"

#include <gtest/gtest.h>

#include "launcher/terminal/checks.h"
#include "launcher/terminal/help.h"

namespace duo {
namespace {

TEST(UsageError, NearestTakesBeginningsAndMisspellings) {
  const std::vector<std::string> words = {"generate", "identify", "info", "bench", "plan"};
  EXPECT_EQ(Nearest("inf", words), "info");
  EXPECT_EQ(Nearest("gen", words), "generate");
  EXPECT_EQ(Nearest("ifno", words), "info");         // two letters swapped
  EXPECT_EQ(Nearest("identfy", words), "identify");  // one left out
  EXPECT_EQ(Nearest("plans", words), "plan");
  EXPECT_EQ(Nearest("train", words), "");
  EXPECT_EQ(Nearest("x", words), "");
  EXPECT_EQ(Nearest("", words), "");
}

TEST(UsageError, NamesTheWordThatIsNotKnownAndWhatWasMeant) {
  CLI::App app("a program", "duo");
  std::string model;
  double temperature = 0;
  CLI::App* generate = app.add_subcommand("generate", "");
  generate->add_option("--model", model, "");
  generate->add_option("--temperature", temperature, "");
  CLI::App* bench = app.add_subcommand("bench", "");
  bench->add_subcommand("decode", "");
  const auto said = [&](const std::vector<std::string>& words) { return UsageError(app, words, "the parser's words"); };
  EXPECT_EQ(said({"generat", "--model", "x"}),
            "unknown command \"generat\"; did you mean \"generate\"? (see duo --help)");
  EXPECT_EQ(said({"zebra"}), "unknown command \"zebra\"; expected one of generate, bench (see duo --help)");
  EXPECT_EQ(said({"bench", "deco"}), "unknown command \"deco\"; did you mean \"decode\"? (see duo bench --help)");
  EXPECT_EQ(said({"generate", "--modle=x"}),
            "unknown flag \"--modle\"; did you mean \"--model\"? (see duo generate --help)");
  EXPECT_EQ(said({"generate", "--wings"}), "unknown flag \"--wings\" (see duo generate --help)");
  EXPECT_EQ(said({"generate", "--temperature", "-1"}), "the parser's words (see duo generate --help)");
  EXPECT_EQ(said({}), "the parser's words (see duo --help)");
}

TEST(UsageError, HelpStandsWhereverASubcommandCould) {
  CLI::App app("a program", "duo");
  app.add_subcommand("bench", "")->add_subcommand("decode", "");
  app.add_subcommand("plan", "");
  using Words = std::vector<std::string>;
  const auto meant = [&](const Words& words) { return HelpAsFlag(app, words).value_or(Words{"refused"}); };
  EXPECT_EQ(meant({"help"}), Words({"--help"}));
  EXPECT_EQ(meant({"help", "help"}), Words({"--help"}));
  EXPECT_EQ(meant({"help", "bench", "decode"}), Words({"bench", "decode", "--help"}));
  EXPECT_EQ(meant({"bench", "help", "decode"}), Words({"bench", "decode", "--help"}));
  EXPECT_EQ(meant({"bench", "help"}), Words({"bench", "--help"}));
  EXPECT_EQ(meant({"help", "zebra"}), Words({"zebra", "--help"}));
  EXPECT_EQ(meant({"help", "plan", "bogus"}), Words({"refused"}));
  EXPECT_EQ(meant({"plan", "help"}), Words({"plan", "help"}));
}

// In place of the parser's own words, which show how it is made.
TEST(UsageError, SaysWhatIsExpectedAndWhatWasFound) {
  CLI::App app("a program", "duo");
  app.require_subcommand(1);
  CLI::App* bench = app.add_subcommand("bench", "");
  std::vector<int> rows;
  std::string kind, file;
  uint64_t size = 0;
  bench->add_option("--size", size, "")->transform(SizeWithUnit())->type_name("SIZE");
  bench->add_option("--rows", rows, "")->delimiter(',')->check(CLI::Range(1, 64));
  bench->add_option("--kind", kind, "")->check(CLI::IsMember({"duo", "full"}));
  bench->add_option("--file", file, "")->type_name("FILE");
  const auto said = [&](std::vector<std::string> words) {
    try {
      RefuseEmptyParts(app, words);
      app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
    } catch (const CLI::ParseError& error) {
      return UsageError(app, words, InOurWords(error.what()));
    }
    return std::string();
  };
  EXPECT_EQ(said({"bench", "--rows"}), "--rows: expected a number from 1 to 64, found none (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--kind"}), "--kind: expected one of duo, full, found none (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--file"}), "--file: expected a value (FILE), found none (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--rows", ","}),
            "--rows: expected a value beside every comma, found , (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--rows="}),
            "--rows: expected a value, or several with commas between, found none (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--kind", "duo", "--kind", "full"}),
            "--kind: expected one value, found 2 (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--rows", "1,65"}),
            "--rows: expected a number from 1 to 64, found 65 (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--rows", "many"}),
            "--rows: expected a number from 1 to 64, found many (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--kind", "half"}), "--kind: expected one of duo, full, found half (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--size"}), "--size: expected a value (SIZE), found none (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--size", "fast"}),
            "--size: expected a number and a unit, as 50GB, found fast (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--size", "-1GB"}), "--size: expected a number above 0, found -1GB (see duo bench --help)");
  EXPECT_EQ(said({"bench", "--size", "1.5GB"}), "");
  EXPECT_EQ(size, 1'500'000'000);
  EXPECT_EQ(said({"bench", "--size", "50GB"}), "");
  EXPECT_EQ(said({"bench", "--rows", "1,2"}), "");
  EXPECT_EQ(said({}), "expected one of bench (see duo --help)");
}

TEST(Checks, AmountsWithUnits) {
  const auto taken = [](const CLI::Validator& amount, std::string word) {
    const std::string refusal = amount(word);
    return refusal.empty() ? word : refusal;
  };
  EXPECT_EQ(taken(SizeWithUnit(), "80"), "80");
  EXPECT_EQ(taken(SizeWithUnit(), "80gb"), "80000000000");
  EXPECT_EQ(taken(SizeWithUnit(), "0.5 KiB"), "512");
  EXPECT_EQ(taken(SizeWithUnit(), "2Mi"), "2097152");
  EXPECT_EQ(taken(SizeWithUnit(), "9eB"), "9000000000000000000");
  EXPECT_EQ(taken(TokensWithUnit(), "1.5M"), "1500000");
  EXPECT_EQ(taken(TokensWithUnit(), "100k"), "100000");
  // Negative ones were said to be 18446744073709551615, and a unit alone was one of it.
  EXPECT_EQ(taken(SizeWithUnit(), "-1GB"), "expected a number above 0, found -1GB");
  EXPECT_EQ(taken(SizeWithUnit(), "0GB"), "expected a number above 0, found 0GB");
  EXPECT_EQ(taken(SizeWithUnit(), "GB"), "expected a number and a unit, as 50GB, found GB");
  EXPECT_EQ(taken(SizeWithUnit(), ""), "expected a number and a unit, as 50GB, found nothing");
  EXPECT_EQ(taken(SizeWithUnit(), "nan"), "expected a number and a unit, as 50GB, found nan");
  EXPECT_EQ(taken(SizeWithUnit(), "1-2GB"), "expected a number and a unit, as 50GB, found 1-2GB");
  EXPECT_EQ(taken(SizeWithUnit(), "1TBB"), "expected a number and a unit, as 50GB, found the unit TBB");
  EXPECT_EQ(taken(SizeWithUnit(), "99999999999GB"), "expected at most 9e18 bytes, found 99999999999GB");
  EXPECT_EQ(taken(TokensWithUnit(), "1G"), "expected a number and a unit, as 100K, found the unit G");
  EXPECT_EQ(taken(TokensWithUnit(), "0"), "expected a number above 0, found 0");
  EXPECT_EQ(taken(TokensWithUnit(true), "0"), "0");
  EXPECT_EQ(taken(TokensWithUnit(true), "-1"), "expected a number of at least 0, found -1");
  EXPECT_EQ(taken(TokensWithUnit(), "0.5"), "expected a whole number of tokens, found 0.5");
}

TEST(Checks, AddressesAndNumbers) {
  const auto refusal = [](const CLI::Validator& check, std::string value) { return check(value); };
  for (const char* good : {"127.0.0.1:50051", "host.example:0", "[::1]:7070", "unix:/run/duo", "0.0.0.0:65535"}) {
    EXPECT_EQ(refusal(Address(), good), "") << good;
  }
  for (const char* bad :
       {"foo", "", ":7070", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "::1:70", "unix:", "a:b"}) {
    EXPECT_NE(refusal(Address(), bad), "") << bad;
  }
  EXPECT_EQ(refusal(AboveZero(), "0.5"), "");
  EXPECT_EQ(refusal(AboveZero(), "0"), "expected a number above 0, found 0");
  EXPECT_NE(refusal(AboveZero(), "nan"), "");
  EXPECT_NE(refusal(AboveZero(), "many"), "");
  EXPECT_EQ(refusal(ZeroOrMore(), "0"), "");
  EXPECT_EQ(refusal(ZeroOrMore(), "-1"), "expected a number of at least 0, found -1");
}

}  // namespace
}  // namespace duo
