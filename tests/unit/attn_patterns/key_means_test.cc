#include "attn_patterns/key_means.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace duo {
namespace {

KeyMeans Small() {
  KeyMeans means;
  means.layers = 2;
  means.kv_heads = 2;
  means.head_dim = 3;
  means.tokens = 1000;
  for (int i = 0; i < 12; ++i) means.values.push_back((i - 5) * 0.123456);
  return means;
}

TEST(KeyMeans, ReadingThenWritingGivesTheSameBytes) {
  const std::string text = FormatKeyMeans(Small());
  EXPECT_EQ(text.substr(0, text.find('\n')), "duo key means 1\t2\t2\t3\t1000");
  const absl::StatusOr<KeyMeans> read = ParseKeyMeans(text, "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(FormatKeyMeans(*read), text);
  EXPECT_EQ(read->layers, 2);
  EXPECT_EQ(read->kv_heads, 2);
  EXPECT_EQ(read->head_dim, 3);
  EXPECT_EQ(read->tokens, 1000);
  ASSERT_EQ(read->values.size(), 12u);
  EXPECT_NEAR(read->values[11], 6 * 0.123456, 1e-5);
}

TEST(KeyMeans, FilesThatAreNoneAreRefusedWithTheirLine) {
  const std::string good = FormatKeyMeans(Small());
  const auto line = [&](int n) {  // where line n begins, from 1 on
    size_t at = 0;
    for (int i = 1; i < n; ++i) at = good.find('\n', at) + 1;
    return at;
  };
  const auto refusal = [](const std::string& text) {
    const absl::Status status = ParseKeyMeans(text, "the file").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message().find("the file: "), 0u) << status;
    return std::string(status.message());
  };
  EXPECT_NE(refusal("").find("duo key means 1"), std::string::npos);
  EXPECT_NE(refusal("0.5\t0.5\n").find("duo key means 1"), std::string::npos);
  EXPECT_NE(refusal("duo key means 1\t2\t2\t-3\t1\n").find("line 1"), std::string::npos);
  EXPECT_NE(refusal("duo key means 1\t2\t2\n").find("line 1"), std::string::npos);
  EXPECT_NE(refusal("duo key means 1\t4096\t4096\t1024\t5\n").find("found 0"), std::string::npos);
  EXPECT_NE(refusal(good.substr(0, line(5))).find("expected 4 lines"), std::string::npos);
  EXPECT_NE(refusal(good + "1\t2\t3\n").find("found more"), std::string::npos);
  std::string text = good;
  EXPECT_NE(refusal(text.insert(line(3), "1\t")).find("line 3"), std::string::npos);
  text = good;
  EXPECT_NE(refusal(text.insert(line(4), "x")).find("line 4"), std::string::npos);
  text = good;
  EXPECT_NE(refusal(text.replace(line(2), good.find('\t', line(2)) - line(2), "nan")).find("line 2"),
            std::string::npos);
}

TEST(KeyMeans, AFolderHasThemOrTheErrorSaysHowToMakeThem) {
  const std::string dir = std::filesystem::path(testing::TempDir()) / ("duo_key_means_" + std::to_string(getpid()));
  const absl::Status none = ReadKeyMeans(dir).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(none.message().find("duo identify --model DIR --key-means TEXT"), absl::string_view::npos) << none;
  ASSERT_TRUE(WriteKeyMeans(Small(), dir).ok());
  const absl::StatusOr<KeyMeans> read = ReadKeyMeans(dir);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(FormatKeyMeans(*read), FormatKeyMeans(Small()));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace duo
