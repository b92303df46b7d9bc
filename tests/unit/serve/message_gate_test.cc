// Messages on their way: how many at once, whose, and what becomes of those that find no place or do not come.
#include "launcher/serve/calls/message_gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/support/test_scale.h"

namespace duo {
namespace {

struct Caller {
  std::atomic<int> went{0};
  std::vector<absl::Status> refused;

  MessageGate::TicketPtr Enter(MessageGate& gate, const std::string& peer) {
    MessageGate::TicketPtr ticket = MessageGate::Make(
        peer, [this] { ++went; }, [this](const absl::Status& why) { refused.push_back(why); });
    gate.Enter(ticket);
    return ticket;
  }
};

TEST(MessageGate, SoManyAreReadAtOnceAndTheNextInTurn) {
  MessageGate gate({.message_bytes = 100, .at_once = 2, .of_connection = 2, .waiting = 2});
  Caller a, b, c, d, e;
  const auto first = a.Enter(gate, "1"), second = b.Enter(gate, "2"), third = c.Enter(gate, "3");
  const auto fourth = d.Enter(gate, "4");
  EXPECT_EQ(a.went + b.went, 2);
  EXPECT_EQ(c.went + d.went, 0);
  const auto fifth = e.Enter(gate, "5");  // two wait already
  ASSERT_EQ(e.refused.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(e.refused[0]));
  EXPECT_EQ(
      e.refused[0].message(),
      "2 messages of up to 100 bytes are on their way to this server, of at most 2, and of one connection at most "
      "2; try again later");
  gate.Leave(first);
  EXPECT_EQ(c.went, 1);
  EXPECT_EQ(d.went, 0);
  gate.Leave(fourth);  // its client is gone
  gate.Leave(second);
  gate.Leave(second);
  EXPECT_EQ(d.went, 0);
  gate.Leave(third);
  EXPECT_EQ(e.Enter(gate, "5") != nullptr, true);
  EXPECT_EQ(e.went, 1);
}

TEST(MessageGate, OneConnectionDoesNotTakeThemAll) {
  MessageGate gate({.at_once = 4, .of_connection = 2});
  Caller greedy, other;
  std::vector<MessageGate::TicketPtr> tickets;
  for (int i = 0; i < 10; ++i) tickets.push_back(greedy.Enter(gate, "1"));
  EXPECT_EQ(greedy.went, 2);
  const auto ticket = other.Enter(gate, "2");  // passes those who wait for their own connection
  EXPECT_EQ(other.went, 1);
  gate.Leave(tickets[0]);
  EXPECT_EQ(greedy.went, 3);
  gate.Leave(ticket);
  EXPECT_EQ(greedy.went, 3);
}

TEST(MessageGate, WhatIsLateIsRefusedOnceAndItsPlaceIsFreeWhenItLeaves) {
  MessageGate gate({.at_once = 1, .of_connection = 1, .wait_seconds = 0.2, .read_seconds = 0.05});
  Caller slow, waiting;
  const auto read = slow.Enter(gate, "1"), waits = waiting.Enter(gate, "2");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  gate.Sweep();
  gate.Sweep();
  ASSERT_EQ(slow.refused.size(), 1u);
  EXPECT_TRUE(absl::IsAborted(slow.refused[0])) << slow.refused[0];
  EXPECT_EQ(waiting.went, 0);  // what has come of the other is held until its transport lets go of it
  EXPECT_TRUE(waiting.refused.empty());
  gate.Leave(read);
  EXPECT_EQ(waiting.went, 1);
  gate.Leave(waits);
  const auto again = slow.Enter(gate, "1"), late = waiting.Enter(gate, "2");
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  gate.Sweep();
  ASSERT_EQ(waiting.refused.size(), 1u);
  EXPECT_TRUE(absl::IsResourceExhausted(waiting.refused[0])) << waiting.refused[0];
  gate.Leave(again);
  EXPECT_EQ(waiting.went, 1);
}

// Each caller is told one thing, nothing after it has left, and in the end all places are free.
TEST(MessageGate, ManyThreadsComeAndGo) {
  MessageGate gate({.at_once = 3, .of_connection = 2, .waiting = 4, .wait_seconds = 0.001, .read_seconds = 0.001});
  std::atomic<int> told{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < Scaled(500); ++i) {
        auto left = std::make_shared<std::atomic<bool>>(false);
        const auto tell = [&told, left] {
          EXPECT_FALSE(*left);
          ++told;
        };
        const auto ticket =
            MessageGate::Make(std::to_string((t + i) % 3), tell, [tell](const absl::Status&) { tell(); });
        gate.Enter(ticket);
        if (i % 3 == 0) std::this_thread::yield();
        gate.Leave(ticket);
        *left = true;
      }
    });
  }
  std::thread sweeper([&] {
    while (!over) gate.Sweep();
  });
  for (std::thread& thread : threads) thread.join();
  over = true;
  sweeper.join();
  EXPECT_GT(told, 0);
  Caller last[3];
  for (int i = 0; i < 3; ++i) last[i].Enter(gate, std::to_string(i));
  EXPECT_EQ(last[0].went + last[1].went + last[2].went, 3);
}

}  // namespace
}  // namespace duo
