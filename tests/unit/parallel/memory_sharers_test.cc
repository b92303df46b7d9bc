#include "parallel/memory_sharers.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <vector>

namespace duo {
namespace {

// Of made-up cards, by a byte each.
std::vector<int> SharersOf(std::initializer_list<uint8_t> ranks) {
  std::vector<CardId> cards;
  for (const uint8_t card : ranks) cards.push_back({0xa0, 0x01, card});
  std::vector<int> sharers(cards.size());
  for (size_t r = 0; r < cards.size(); ++r) sharers[r] = RanksOnCard(cards, static_cast<int>(r));
  return sharers;
}

TEST(MemorySharers, AreTheRanksOnOneCard) {
  EXPECT_EQ(SharersOf({1}), (std::vector<int>{1}));
  EXPECT_EQ(SharersOf({1, 2, 3, 4}), (std::vector<int>{1, 1, 1, 1}));
  EXPECT_EQ(SharersOf({1, 1, 1, 1}), (std::vector<int>{4, 4, 4, 4}));
  EXPECT_EQ(SharersOf({1, 2, 1, 2, 1}), (std::vector<int>{3, 2, 3, 2, 3}));
  EXPECT_EQ(SharersOf({7, 7, 9, 7}), (std::vector<int>{3, 3, 1, 3}));
}

// Cards that differ in their last byte only, as those of one batch may.
TEST(MemorySharers, LookAtAllOfACardsName) {
  std::vector<CardId> cards(2);
  cards[1].back() = 1;
  EXPECT_EQ(RanksOnCard(cards, 0), 1);
  EXPECT_EQ(RanksOnCard(cards, 1), 1);
}

// What a rank plans with. Others use the machine meanwhile, so what is free is compared coarsely.
TEST(MemorySharers, HaveAnEqualPartEach) {
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const int64_t alone = device->FreeMemory();
  device->ShareMemory(64);
  EXPECT_LT(device->FreeMemory(), alone / 16);
  EXPECT_GT(device->FreeMemory(), alone / 256);
  EXPECT_LT(Device::Measuring(*device)->FreeMemory(), alone / 16) << "what sizes a step by it";
}

}  // namespace
}  // namespace duo
