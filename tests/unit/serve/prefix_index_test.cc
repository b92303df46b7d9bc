// Which saved texts a prompt may begin like.
#include "launcher/serve/prefix/prefix_index.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

SavedText Saved(const std::string& id, std::vector<uint32_t> chain, int64_t bytes, bool left = true) {
  const auto tokens = static_cast<int64_t>(1024 * chain.size());
  return {id, "me", std::move(chain), tokens, bytes, left};
}

TEST(PrefixIndex, FindsWhatAgreesForLongestInTheFewestBytes) {
  PrefixIndex index;
  index.Set({Saved("long", {1, 2, 3, 4, 5}, 50), Saved("short", {1, 2, 3}, 30), Saved("other", {1, 9}, 20)});
  int64_t links = 0;
  EXPECT_EQ(index.Find("me", {1, 2, 3, 7}, &links)->id, "short");
  EXPECT_EQ(links, 3);
  EXPECT_EQ(index.Find("me", {1, 2, 3, 4}, &links)->id, "long");
  EXPECT_EQ(links, 4);
  EXPECT_EQ(index.Find("me", {1, 9, 3}, &links)->id, "other");
  EXPECT_EQ(index.Find("me", {8}, &links), nullptr);
  EXPECT_EQ(links, 0);
  EXPECT_EQ(index.Find("you", {1, 2, 3}, &links), nullptr);
}

TEST(PrefixIndex, TheOldestOfWhatPromptsLeftGoesFirst) {
  PrefixIndex index;
  index.Set({Saved("a", {1}, 10), Saved("b", {2}, 20), Saved("session", {3}, 100, false)});
  EXPECT_EQ(index.LeftBytes(), 30);
  index.Used("a");
  EXPECT_EQ(index.Oldest()->id, "b");
  index.Used("b");
  EXPECT_EQ(index.Oldest()->id, "a");
  index.Set({Saved("a", {1}, 10), Saved("b", {2}, 20), Saved("c", {4}, 5)});  // looked again: what was used stays known
  EXPECT_EQ(index.Oldest()->id, "c");
  for (const char* id : {"c", "a", "b"}) {
    ASSERT_NE(index.Oldest(), nullptr);
    EXPECT_EQ(index.Oldest()->id, id);
    index.Erase(id);
  }
  EXPECT_EQ(index.Oldest(), nullptr);
}

}  // namespace
}  // namespace duo
