#include "launcher/terminal/settings.h"

#include <gtest/gtest.h>

#include <fstream>

namespace duo {
namespace {

TEST(SettingsFile, ReadsValuesAsTomlAndIniHaveThem) {
  const absl::StatusOr<std::vector<FileSetting>> read = ParseSettings(
      "# a comment\n; another\n\n[serve]\nkv = int4\nmodel = \"/a b/#1 \\\"x\\\"\"  # behind\n"
      "save-dir='/c\\d'\ncors-origin = [ \"http://a\", http://b ]  # two\nempty =\nnone = []\n",
      "serve");
  ASSERT_TRUE(read.ok()) << read.status();
  const auto values = [&](size_t i) { return (*read)[i].values; };
  using Values = std::vector<std::string>;
  ASSERT_EQ(read->size(), 6u);
  EXPECT_EQ(values(0), Values{"int4"});
  EXPECT_EQ((*read)[0].line, 5);
  EXPECT_EQ(values(1), Values{"/a b/#1 \"x\""});
  EXPECT_EQ(values(2), Values{"/c\\d"});
  EXPECT_EQ(values(3), (Values{"http://a", "http://b"}));
  EXPECT_EQ(values(4), Values{""});
  EXPECT_EQ(values(5), Values{});
}

TEST(SettingsFile, SaysWhichLineIsWrong) {
  const auto said = [](const char* text) { return std::string(ParseSettings(text, "serve").status().message()); };
  EXPECT_EQ(said("\nkv int4"), "line 2: expected flag = value, found kv int4");
  EXPECT_EQ(said("[plan]"), "line 1: the only header may be [serve], found [plan]");
  EXPECT_EQ(said("kv = int4\nkv = int8"), "line 2: kv is given a second time");
  for (const char* bad : {"a = \"x", "a = [1, 2", "a = \"x\" y", "a = [1] 2", "a = ['x' 'y']"}) {
    EXPECT_NE(said(bad).find("expected a value"), std::string::npos) << bad;
  }
}

// A program with a few flags, and what its subcommand has after parsing.
struct Program {
  CLI::App app{"a program", "duo"};
  CLI::App* serve = app.add_subcommand("serve", "");
  std::string kv = "auto", model, config;
  std::vector<std::string> origins;
  std::vector<double> shares;
  bool open = false, print = false;
  double a = 0, b = 0;
  Settings settings;

  Program() {
    serve->add_option("--model", model, "")->required();
    serve->add_option("--kv", kv, "")->check(CLI::IsMember({"auto", "int4", "int8", "bf16"}))->capture_default_str();
    serve->add_option("--cors-origin", origins, "");
    serve->add_option("--shares", shares, "")->delimiter(',');
    serve->add_flag("--insecure", open, "");
    CLI::Option* threshold = serve->add_option("--threshold", a, "");
    serve->add_option("--sparsity", b, "")->excludes(threshold);
    serve->add_option("--config", config, "");
    serve->add_flag("--print-config", print, "");
  }
  std::string Run(std::vector<std::string> words, const Environment& environment) {
    words.insert(words.begin(), "serve");
    absl::StatusOr<Settings> gathered = Settings::Gather(app, words, environment);
    if (!gathered.ok()) return std::string(gathered.status().message());
    settings = *gathered;
    words = settings.Expanded();
    std::reverse(words.begin(), words.end());
    try {
      app.parse(words);
    } catch (const CLI::ParseError& error) {
      return settings.Explained(error.what());
    }
    return "";
  }
};

std::string FileOf(const char* name, const std::string& text) {
  std::string file = testing::TempDir() + name;
  std::ofstream(file) << text;
  return file;
}

TEST(Settings, FlagsStandAboveTheEnvironmentAndThatAboveTheFile) {
  const std::string file = FileOf("three.toml", "model = /file\nkv = int4\ninsecure = true\n");
  Program one, two, three;
  EXPECT_EQ(one.Run({"--config", file}, {}), "");
  EXPECT_EQ(one.kv + one.model, "int4/file");
  EXPECT_TRUE(one.open);
  EXPECT_EQ(two.Run({}, {{"DUO_CONFIG", file}, {"DUO_KV", "int8"}, {"DUO_INSECURE", "false"}, {"DUO_MODEL", ""}}), "");
  EXPECT_EQ(two.kv + two.model, "int8/file");
  EXPECT_FALSE(two.open);
  EXPECT_EQ(three.Run({"--config=" + file, "--kv", "bf16"}, {{"DUO_KV", "int8"}, {"DUO_MODEL", "/variable"}}), "");
  EXPECT_EQ(three.kv + three.model, "bf16/variable");
}

TEST(Settings, AFlagIsReadAgainFromTheFileAlone) {
  const std::string file = FileOf("later.toml", "model = /file\nkv = int4\n");
  const auto write = [&](const char* text) { std::ofstream(file) << text; };
  Program free, given, variable, none;
  ASSERT_EQ(free.Run({"--config", file}, {}), "");
  ASSERT_EQ(given.Run({"--config", file, "--kv=bf16"}, {}), "");
  ASSERT_EQ(variable.Run({}, {{"DUO_CONFIG", file}, {"DUO_KV", "int8"}}), "");
  ASSERT_EQ(none.Run({"--model", "x"}, {}), "");
  write("[serve]\nkv = int8  # from now on\n");
  EXPECT_EQ(**free.settings.InFileNow("kv"), "int8");
  EXPECT_EQ(**free.settings.InFileNow("cors-origin"), "") << "the file says nothing of it";
  for (const Program* program : {&given, &variable, &none})
    EXPECT_FALSE(program->settings.InFileNow("kv")->has_value());
  write("kv int8\n");
  EXPECT_NE(free.settings.InFileNow("kv").status().message().find("line 1"), std::string::npos);
  std::remove(file.c_str());
  EXPECT_FALSE(free.settings.InFileNow("kv").ok());
}

TEST(Settings, ListsAndFlagsThatExcludeOneAnother) {
  const std::string file = FileOf("lists.toml", "cors-origin = [a, b]\nshares = \"2,1\"\nsparsity = 0.5\nmodel = x\n");
  Program one, two;
  EXPECT_EQ(one.Run({"--config", file}, {{"DUO_THRESHOLD", "0.25"}}), "");
  EXPECT_EQ(one.origins, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(one.shares, (std::vector<double>{2, 1}));
  EXPECT_EQ(one.a, 0.25);  // stands above the file's --sparsity, which it excludes
  EXPECT_EQ(one.b, 0);
  EXPECT_EQ(two.Run({"--model", "x"}, {{"DUO_CORS_ORIGIN", "c,d"}, {"DUO_SHARES", "3,2,1"}}), "");
  EXPECT_EQ(two.origins, (std::vector<std::string>{"c", "d"}));
  EXPECT_EQ(two.shares, (std::vector<double>{3, 2, 1}));
}

TEST(Settings, RefusalsNameTheirSource) {
  Program one, two, three;
  EXPECT_NE(one.Run({"--model", "x"}, {{"DUO_KV", "int5"}}).find("; --kv is from DUO_KV"), std::string::npos);
  const std::string file = FileOf("wrong.toml", "model = x\nkw = int4\n");
  EXPECT_EQ(two.Run({"--config", file}, {}), file + ":2: duo serve has no flag --kw; did you mean kv?");
  EXPECT_NE(three.Run({"--config", "/none/there"}, {}).find("/none/there"), std::string::npos);
}

TEST(Settings, PrintedTheySayWhereTheyAreFromAndCanBeFedBack) {
  const Environment environment = {{"DUO_KV", "int8"}, {"DUO_CORS_ORIGIN", "a,b"}, {"DUO_KVV", "1"}};
  Program one, two, none;
  ASSERT_EQ(one.Run({"--model", "a \"b\"", "--shares", "2,1", "--insecure"}, environment), "");
  const std::string printed = one.settings.Printed(*one.serve);
  for (const char* line : {"model = \"a \\\"b\\\"\"  # from the command line\n", "kv = \"int8\"  # from DUO_KV\n",
                           "cors-origin = [\"a\", \"b\"]  # from DUO_CORS_ORIGIN\n", "#threshold = ",
                           "# NOTE: DUO_KVV is set and is no flag of duo serve; did you mean DUO_KV?\n"}) {
    EXPECT_NE(printed.find(line), std::string::npos) << line << printed;
  }
  ASSERT_EQ(two.Run({"--config", FileOf("again.toml", printed)}, {}), "");
  EXPECT_EQ(two.model, one.model);
  EXPECT_EQ(two.kv, one.kv);
  EXPECT_EQ(two.origins, one.origins);
  EXPECT_EQ(two.shares, one.shares);
  EXPECT_TRUE(two.open);
  EXPECT_EQ(none.Run({"--print-config"}, {}), "");  // a file to begin with: nothing is required
}

}  // namespace
}  // namespace duo
