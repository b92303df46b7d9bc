// What the engine's thread has to say is said beside it, in order, and all of it.
#include "launcher/serve/calls/sender.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "launcher/serve/calls/call_stream.h"

namespace duo {
namespace {

TEST(Sender, DoesAllInOrderBesideWhoPosts) {
  std::vector<int> done;
  std::atomic<bool> elsewhere = false;
  const std::thread::id own = std::this_thread::get_id();
  {
    Sender sender;
    for (int i = 0; i < 1000; ++i) {
      sender.Post([&, i] {
        done.push_back(i);
        elsewhere = std::this_thread::get_id() != own;
      });
    }
  }  // what was posted is done
  ASSERT_EQ(done.size(), 1000);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(done[i], i);
  EXPECT_TRUE(elsewhere);
}

struct Text {
  std::string text;
  Text Take() { return {std::move(text)}; }
};

// Changes that come before the message has gone are one message.
TEST(Sender, SendsWhatWasPreparedMeanwhileAsOne) {
  std::vector<std::string> written;
  bool finished = false;
  CallStream<Text> stream({[&](const Text& message) { written.push_back(message.text); },
                           [&](const absl::Status& status) { finished = status.ok(); }});
  const auto add = [&](const char* what) {
    stream.Prepare([&](Text& next) {
      next.text += what;
      return true;
    });
  };
  add("a");
  add("b");
  EXPECT_TRUE(written.empty()) << "nothing is sent by whoever prepares it";
  stream.Send();
  add("c");
  stream.Send();  // the first is still on its way
  EXPECT_EQ(written, std::vector<std::string>{"ab"});
  add("d");
  stream.Written(true);
  EXPECT_EQ(written, (std::vector<std::string>{"ab", "cd"}));
  stream.Close(absl::OkStatus());
  EXPECT_FALSE(finished);
  stream.Written(true);
  EXPECT_TRUE(finished);
  add("e");
  stream.Send();
  EXPECT_EQ(written.size(), 2);
}

}  // namespace
}  // namespace duo
