#include "launcher/serve/calls/call_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace duo {
namespace {

struct Text {
  std::string text;
  Text Take() { return std::exchange(*this, {}); }
};

struct Client {
  std::vector<std::string> got;
  std::vector<absl::Status> ends;
  int reads = 0;
  CallTransport<Text> Transport() {
    return {[this](const Text& message) { got.push_back(message.text); },
            [this](const absl::Status& s) { ends.push_back(s); }, [this] { ++reads; }};
  }
};

void Say(CallStream<Text>& stream, const std::string& text, bool now = true) {
  stream.Update([&](Text& next) {
    next.text += text;
    return now;
  });
}

using Strings = std::vector<std::string>;

TEST(CallStream, WhatComesWhileAMessageIsOnItsWayGoesWithTheNext) {
  Client client;
  CallStream<Text> stream(client.Transport());
  for (const char* text : {"a", "b", "c"}) Say(stream, text);
  EXPECT_EQ(client.got, Strings({"a"}));
  stream.Written(true);
  EXPECT_EQ(client.got, Strings({"a", "bc"}));
  stream.Written(true);
  EXPECT_EQ(client.got.size(), 2u);
  Say(stream, "later", false);
  EXPECT_EQ(client.got.size(), 2u);
  Say(stream, "!");
  EXPECT_EQ(client.got.back(), "later!");
}

TEST(CallStream, AGoodEndComesAfterWhatIsStillToBeWritten) {
  Client client;
  CallStream<Text> stream(client.Transport());
  Say(stream, "a");
  Say(stream, "b");
  EXPECT_TRUE(stream.Close(absl::OkStatus()));
  EXPECT_FALSE(stream.Close(absl::CancelledError("too late")));
  EXPECT_TRUE(client.ends.empty());
  stream.Written(true);
  EXPECT_TRUE(client.ends.empty());
  stream.Written(true);
  EXPECT_EQ(client.got, Strings({"a", "b"}));
  ASSERT_EQ(client.ends.size(), 1u);
  EXPECT_TRUE(client.ends[0].ok());
  Say(stream, "c");
  stream.Read();
  EXPECT_EQ(client.got.size(), 2u);
  EXPECT_EQ(client.reads, 0);
}

TEST(CallStream, ABadEndDropsWhatWaits) {
  Client client;
  CallStream<Text> stream(client.Transport());
  Say(stream, "a");
  Say(stream, "b");
  stream.Close(absl::InternalError("broken"));
  EXPECT_TRUE(client.ends.empty());  // "a" is on its way
  stream.Written(true);
  EXPECT_EQ(client.got, Strings({"a"}));
  ASSERT_EQ(client.ends.size(), 1u);
  EXPECT_EQ(client.ends[0].message(), "broken");
}

TEST(CallStream, NothingIsWrittenToAClientWhoIsGone) {
  for (bool told : {true, false}) {
    Client client;
    CallStream<Text> stream(client.Transport());
    Say(stream, "a");
    if (told) stream.Gone();
    stream.Written(!told ? false : true);
    Say(stream, "b");
    EXPECT_EQ(client.got, Strings({"a"}));
    stream.Close(absl::OkStatus());
    EXPECT_EQ(client.ends.size(), 1u);
  }
}

TEST(CallStream, ATransportMayCallBack) {
  Client client;
  CallStream<Text>* own = nullptr;
  CallTransport<Text> transport = client.Transport();
  transport.write = [&](const Text& message) {
    client.got.push_back(message.text);
    if (client.got.size() < 1000) Say(*own, "x");
    own->Written(true);
  };
  transport.read = [&] {
    if (++client.reads < 1000) own->Read();
  };
  CallStream<Text> stream(transport);
  own = &stream;
  Say(stream, "x");
  EXPECT_EQ(client.got, Strings(1000, "x"));
  stream.Read();
  EXPECT_EQ(client.reads, 1000);
}

TEST(CallStream, ManyThreadsGiveOneMessageAtATimeAndLoseNothing) {
  std::atomic<int> inside{0};
  size_t length = 0;
  int ends = 0;
  CallStream<Text>* own = nullptr;
  CallStream<Text> stream({[&](const Text& message) {
                             EXPECT_EQ(++inside, 1);
                             length += message.text.size();
                             --inside;
                             own->Written(true);
                           },
                           [&](const absl::Status&) {
                             EXPECT_EQ(++inside, 1);
                             ++ends;
                             --inside;
                           }});
  own = &stream;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) Say(stream, "x");
    });
  }
  for (std::thread& thread : threads) thread.join();
  stream.Close(absl::OkStatus());
  EXPECT_EQ(length, 8000u);
  EXPECT_EQ(ends, 1);
}

}  // namespace
}  // namespace duo
