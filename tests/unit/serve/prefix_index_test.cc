// Which saved texts a prompt may begin like.
#include "launcher/serve/prefix/prefix_index.h"

#include <gtest/gtest.h>

#include "kernels/base/splitmix64.h"
#include "runtime/files/token_chain.h"

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

// Against looking at each of them.
TEST(PrefixIndex, FindsWhatLookingAtAllFinds) {
  uint64_t random = 5;
  const auto draw = [&](uint64_t below) {
    random = SplitMix64(random + 1);
    return random % below;
  };
  const auto chain = [&] {
    std::vector<uint32_t> links(draw(7));
    uint32_t last = 0;
    for (uint32_t& link : links) link = last = 2 * last + 1 + static_cast<uint32_t>(draw(2));  // of all before it
    return links;
  };
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<SavedText> texts(draw(20));
    for (size_t i = 0; i < texts.size(); ++i) {
      texts[i] = Saved(std::to_string(i), chain(), static_cast<int64_t>(draw(4)));
      texts[i].realm = draw(2) == 0 ? "me" : "you";
    }
    PrefixIndex index;
    index.Set(texts);
    if (!texts.empty() && draw(2) == 0) {
      index.Erase(texts.back().id);
      texts.pop_back();
    }
    const std::vector<uint32_t> wanted = chain();
    int64_t most = 0, bytes = 0;
    for (const SavedText& text : texts) {
      const int64_t common = text.realm == "me" ? CommonLinks(text.chain, wanted) : 0;
      if (common < most || common == 0) continue;
      bytes = common > most ? text.bytes : std::min(bytes, text.bytes);
      most = common;
    }
    int64_t links = 0;
    const SavedText* found = index.Find("me", wanted, &links);
    ASSERT_EQ(links, most) << "trial " << trial;
    ASSERT_EQ(found != nullptr, most > 0);
    if (found == nullptr) continue;
    EXPECT_EQ(found->realm, "me");
    EXPECT_EQ(CommonLinks(found->chain, wanted), most);
    EXPECT_EQ(found->bytes, bytes) << "trial " << trial;
  }
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
