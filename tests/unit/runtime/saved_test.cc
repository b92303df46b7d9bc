// Which section each saved page is read from, and which names are the store's.
#include <map>
#include <tuple>

#include "gtest/gtest.h"
#include "kernels/base/splitmix64.h"
#include "runtime/saved/section_cover.h"
#include "runtime/saved/session_names.h"

namespace duo {
namespace {

TEST(CoverPages, EveryPageIsReadOnceFromItsLastSection) {
  uint64_t random = 1;
  auto draw = [&](uint64_t n) { return static_cast<int32_t>(SplitMix64(random++) % n); };
  for (int round = 0; round < 300; ++round) {
    SessionManifest m;
    m.layers = m.kv_heads = 2;
    m.retrieval = "1011";
    m.tokens = 1 + draw(1400 * 128);
    const int64_t pages = (m.tokens + kPageTokens - 1) / kPageTokens;
    std::map<std::tuple<int, int, int64_t>, int64_t> expected;  // the section's offset, which is its own
    auto add = [&](int layer, int head, int32_t first, int32_t step) {
      KvSection s;
      s.layer = layer;
      s.head = head;
      s.first = first;
      s.step = step;
      s.count = static_cast<int32_t>((kRangePages - first % kRangePages + step - 1) / step);
      if (round % 3 == 0) s.count = 1 + draw(s.count);
      s.offset = static_cast<int64_t>(m.sections.size());
      m.sections.push_back(s);
      for (int k = 0; k < s.count; ++k) {
        const int64_t p = s.first + int64_t{k} * step;
        if (p < pages && m.retrieval[layer * 2 + head] == '1') expected[{layer, head, p}] = s.offset;
      }
    };
    for (int h = 0; h < 4; ++h) {
      const int steps = 1 + draw(4);
      for (int64_t range = 0; range * kRangePages < pages; ++range) {
        for (int slot = 0; slot < steps; ++slot)
          add(h / 2, h % 2, static_cast<int32_t>(range * kRangePages) + slot, steps);
      }
    }
    for (int i = draw(20); i > 0; --i) add(draw(2), draw(2), draw(pages), 1 + draw(5));
    const auto cover = CoverPages(m, "dir");
    const bool whole = static_cast<int64_t>(expected.size()) == 3 * pages;
    ASSERT_EQ(cover.ok(), whole) << cover.status();
    if (!whole) continue;
    std::map<std::tuple<int, int, int64_t>, int64_t> found;
    for (const KvSection& s : *cover) {
      for (int k = s.from; k < s.to; ++k) {
        ASSERT_TRUE(found.insert({{s.layer, s.head, s.first + int64_t{k} * s.step}, s.offset}).second) << "twice";
      }
    }
    ASSERT_EQ(found, expected);
  }
}

TEST(SavedNames, OnlyTheStoresOwnForm) {
  for (const char* own : {"manifest", "manifest.new", ".duo-session", "1-lock", "12-pages-00003", "3-rings-0",
                          "2-tokens-15", "2-append-1", "9-sections-4"}) {
    EXPECT_NE(ParseSavedName(own).kind, SavedKind::kForeign) << own;
  }
  for (const char* foreign :
       {"", "thesis.txt", "1-pages", "1-pages-", "-pages-1", "1-pages-x", "1-pages-1.bak", "1-lock-1", "x1-lock",
        "+1-lock", "1--tokens-1", "12345678901-lock", "manifest~", ".manifest"}) {
    EXPECT_EQ(ParseSavedName(foreign).kind, SavedKind::kForeign) << foreign;
  }
  EXPECT_EQ(ParseSavedName("7-pages-00003").generation, 7);
}

}  // namespace
}  // namespace duo
