// The load of `duo bench serve`: lengths, and what is said of what came.
#include <algorithm>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "kernels/base/splitmix64.h"
#include "launcher/load/lengths.h"
#include "launcher/load/load_report.h"
#include "launcher/made_up_model.h"

namespace duo {
namespace {

TEST(Lengths, FollowTheirDistribution) {
  int64_t sum = 0, least = 1 << 30, most = 0;
  const Lengths mean = *Lengths::Parse("~200"), between = *Lengths::Parse("10-13");
  for (uint64_t i = 0; i < 20000; ++i) {
    sum += mean.Draw(SplitMix64(i));
    const int64_t drawn = between.Draw(SplitMix64(i));
    least = std::min(least, drawn);
    most = std::max(most, drawn);
  }
  EXPECT_NEAR(static_cast<double>(sum) / 20000, 200, 5);
  EXPECT_EQ(mean.most(), 2000);
  EXPECT_EQ(least, 10);
  EXPECT_EQ(most, 13);
  EXPECT_EQ(Lengths::Parse("77")->Draw(5), 77);
}

TEST(Lengths, OfAFileAreItsNumbers) {
  const std::string path = testing::TempDir() + "/lengths";
  std::ofstream(path) << "3\n5\n\n900\n";
  const Lengths lengths = *Lengths::Parse("@" + path);
  for (uint64_t i = 0; i < 30; ++i) {
    const int64_t drawn = lengths.Draw(SplitMix64(i));
    EXPECT_TRUE(drawn == 3 || drawn == 5 || drawn == 900) << drawn;
  }
  EXPECT_EQ(lengths.most(), 900);
}

TEST(Lengths, SayWhatTheyExpected) {
  for (const char* text : {"", "0", "-3", "9-4", "4-", "~0", "~x", "@/no/such/file", "3.5", "9999999999"}) {
    const absl::Status status = Lengths::Parse(text).status();
    EXPECT_FALSE(status.ok()) << text;
    EXPECT_FALSE(status.message().empty());
  }
}

TEST(LoadReport, PercentilesAreValuesThatWereSeen) {
  std::vector<double> values;
  for (int i = 100; i > 0; --i) values.push_back(i);
  const Percentiles p = PercentilesOf(values);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p90, 90);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(p.worst, 100);
  EXPECT_EQ(PercentilesOf({}).worst, 0);
  EXPECT_EQ(PercentilesOf({7}).p50, 7);
}

LoadResult AResult() {
  LoadResult r;
  r.clients = 4;
  r.seconds = 10;
  r.log.first_tokens = {0.1, 0.2};
  r.log.gaps = {{1, 0.02}, {2, 0.04}, {9, 0.03}};
  r.log.requests = 2;
  r.log.tokens = 50;
  r.log.within_goal = 1;
  r.log.reads = 1;
  r.log.read_tokens = 900;
  r.log.read_seconds = 9;
  r.alone_rate = 200;
  r.steps = 20;
  r.busy_seconds = 8;
  r.log.errors = {{"INTERNAL: <b>", 3}};
  return r;
}

TEST(LoadReport, SaysRatesAndShares) {
  const nlohmann::ordered_json json = ToJson(AResult());
  EXPECT_DOUBLE_EQ(json["tokens_per_second"], 5);
  EXPECT_DOUBLE_EQ(json["within_goal"], 0.5);
  EXPECT_DOUBLE_EQ(json["gap_seconds"]["worst"], 0.04);
  EXPECT_DOUBLE_EQ(json["reads"]["share_of_alone"], 0.5);
  EXPECT_DOUBLE_EQ(json["engine"]["mean_step_seconds"], 0.4);
  const std::string table = TableOf({AResult()});
  EXPECT_NE(table.find("50 % of alone"), std::string::npos) << table;
  EXPECT_NE(table.find("3 times INTERNAL"), std::string::npos) << table;
  EXPECT_EQ(table.find("left behind"), std::string::npos) << table;
}

TEST(LoadReport, SaysWhatIsLeftBehind) {
  LoadResult lost = AResult();
  lost.left = LeftBehind{.rings = 2};
  EXPECT_EQ(ToJson(lost)["left_behind"]["rings"], 2);
  EXPECT_EQ(ToJson(lost)["left_behind"]["pages"], 0);
  EXPECT_NE(TableOf({lost}).find("left behind: 0 pages, 2 rings"), std::string::npos);
}

TEST(LoadReport, IsMergedOfAllClients) {
  LoadLog log = AResult().log;
  log.Merge(AResult().log);
  EXPECT_EQ(log.gaps.size(), 6);
  EXPECT_EQ(log.tokens, 100);
  EXPECT_EQ(log.errors.begin()->second, 6);
}

TEST(LoadReport, IsDrawn) {
  LoadResult more = AResult();
  more.clients = 16;
  const std::string svg = LoadSvg({AResult(), more}, "a < b");
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_TRUE(LoadSvg({}, "").ends_with("</svg>\n"));
}

// Every byte is a token, and every token has a text.
TEST(MadeUpModel, ItsTokenizerReadsBytesAndWritesEveryToken) {
  const absl::StatusOr<Tokenizer> tokenizer = MadeUpTokenizer(1000);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "Grüße,\n\t two  words\x7f";
  const absl::StatusOr<std::vector<int32_t>> ids = tokenizer->Encode(text);
  ASSERT_TRUE(ids.ok());
  ASSERT_EQ(ids->size(), text.size());
  for (size_t i = 0; i < text.size(); ++i) EXPECT_EQ((*ids)[i], static_cast<uint8_t>(text[i])) << i;
  EXPECT_EQ(tokenizer->Decode(*ids), text);
  for (const int32_t id : {256, 500, 999}) EXPECT_EQ(tokenizer->BytesOf(id), " w" + std::to_string(id));
  EXPECT_EQ(tokenizer->vocab_size(), 1000);
}

}  // namespace
}  // namespace duo
