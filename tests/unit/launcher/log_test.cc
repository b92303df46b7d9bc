// The log: nobody waits for whoever reads it.
#include "launcher/terminal/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <string>

namespace duo {
namespace {

class LogTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pipe(ends_), 0); }
  void TearDown() override { close(ends_[0]); }
  // What is in the pipe until its writer is closed.
  std::string ReadAll() {
    std::string all;
    char part[4096];
    for (ssize_t n; (n = read(ends_[0], part, sizeof part)) > 0;) all.append(part, n);
    return all;
  }
  int ends_[2] = {};
};

TEST_F(LogTest, WritesLinesInOrder) {
  {
    const Log log(true, ends_[1]);
    for (int i = 0; i < 100; ++i) log.Event("something", {{"number", i}});
  }
  close(ends_[1]);
  const std::string all = ReadAll();
  size_t at = 0;
  for (int i = 0; i < 100; ++i) {
    at = all.find("\"number\":" + std::to_string(i) + "}", at);
    ASSERT_NE(at, std::string::npos) << i;
  }
}

TEST_F(LogTest, LeavesOutWhatIsBelowItsLevel) {
  {
    Log log(true, ends_[1], LogLevel::kWarning);
    log.Debug("a");
    log.Event("b");
    log.Warn("c");
    log.Error("d");
    log.Answer("e");
    log.SetLevel(LogLevel::kDebug);
    log.Debug("f");
    log.SetLevel(LogLevel::kError);
    log.Warn("g");
  }
  close(ends_[1]);
  const std::string all = ReadAll();
  std::string written;
  for (size_t at = 0; (at = all.find("\"event\":\"", at)) != std::string::npos; at += 9) written += all[at + 9];
  EXPECT_EQ(written, "cdef");
  EXPECT_NE(all.find("\"level\":\"warning\",\"event\":\"c\""), std::string::npos) << all;
  for (const char* name : {"debug", "info", "warning", "error"}) EXPECT_STREQ(Name(*LogLevelNamed(name)), name);
  EXPECT_FALSE(LogLevelNamed("loud").has_value());
}

TEST_F(LogTest, ALogThatNobodyReadsStopsNobodyAndSaysWhatItDropped) {
  std::optional<Log> log(std::in_place, true, ends_[1]);
  const std::string text(1000, 'x');
  constexpr int kEvents = 5000;  // more than pipe and log hold together
  for (int i = 0; i < kEvents; ++i) log->Event(text, {{"number", i}});
  std::string all;  // read until the line that says so
  char part[4096];
  while (all.find("dropped") == std::string::npos) {
    const ssize_t n = read(ends_[0], part, sizeof part);
    ASSERT_GT(n, 0);
    all.append(part, n);
  }
  log->Event("afterwards");
  log.reset();
  close(ends_[1]);
  all += ReadAll();
  int written = 0;
  for (size_t at = 0; (at = all.find("\"number\":", at)) != std::string::npos; ++at) ++written;
  EXPECT_GE(written, Log::kMostWaiting / 1100);
  EXPECT_LT(written, kEvents);
  EXPECT_NE(all.find("\"lines\":" + std::to_string(kEvents - written) + "}"), std::string::npos);
  EXPECT_NE(all.find("afterwards"), std::string::npos);
}

TEST_F(LogTest, EndsThoughNobodyReads) {
  {
    const Log log(false, ends_[1]);
    for (int i = 0; i < 3000; ++i) log.Event(std::string(1000, 'x'));
  }
  close(ends_[1]);
}

}  // namespace
}  // namespace duo
