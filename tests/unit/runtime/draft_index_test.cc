// The index against a search of the whole text, over random texts of few words that are read on, cut and forked.
#include "runtime/drafts/draft_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/support/test_scale.h"

namespace duo {
namespace {

using Tokens = std::vector<int32_t>;

int MatchedAt(const Tokens& text, size_t next, const Tokens& context) {
  int matched = 0;
  while (matched < DraftIndex::kLongestMatch && static_cast<size_t>(matched) < std::min(next, context.size()) &&
         text[next - 1 - matched] == context[context.size() - 1 - matched]) {
    ++matched;
  }
  return matched;
}

DraftMatch Naive(const Tokens& text, const Tokens& context) {
  DraftMatch best;
  for (size_t next = 1; next < text.size(); ++next) {
    const int matched = MatchedAt(text, next, context);
    if (matched >= DraftIndex::kGram && matched >= best.matched) best = {static_cast<int64_t>(next), matched};
  }
  return best;
}

Tokens Words(std::mt19937& rng, int count, int words) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % words);
  return tokens;
}

TEST(DraftIndex, FindsWhatASearchOfTheTextFinds) {
  std::mt19937 rng(1);
  for (int trial = 0; trial < Scaled(30); ++trial) {
    Tokens text;
    DraftIndex index;
    std::vector<std::pair<Tokens, DraftIndex>> parents;
    const int words = 8 + static_cast<int>(rng() % 10);
    for (int call = 0; call < 40; ++call) {
      switch (rng() % 6) {
        case 0:
          text.resize(rng() % (text.size() + 1));
          index.Cut(static_cast<int64_t>(text.size()));
          break;
        case 1:
          parents.emplace_back(text, index.Fork());
          break;
        case 2:
          parents.emplace_back(text, index);
          std::tie(text, index) = parents[rng() % parents.size()];
          break;
        default: {
          const Tokens more = Words(rng, static_cast<int>(rng() % 60), words);
          text.insert(text.end(), more.begin(), more.end());
        }
      }
      while (!index.Extend(text, 1 + static_cast<int64_t>(rng() % 50))) {
      }
      ASSERT_EQ(index.size(), static_cast<int64_t>(text.size()));
      Tokens context = Words(rng, 5, words);
      if (text.size() > 8) {
        const size_t from = rng() % (text.size() - 6);
        context.insert(context.end(), text.begin() + from, text.begin() + from + 6);
      }
      const DraftMatch expected = Naive(text, context), found = index.Find(text, context);
      ASSERT_EQ(found.matched, expected.matched) << "trial " << trial << " call " << call;
      if (found.matched == 0) continue;
      ASSERT_EQ(MatchedAt(text, static_cast<size_t>(found.next), context), found.matched);
    }
  }
}

TEST(DraftIndex, AnIndexBehindItsTextOrAheadOfItFindsOnlyWhatIsThere) {
  std::mt19937 rng(2);
  const Tokens text = Words(rng, 4000, 50);
  DraftIndex index;
  index.Extend(text, 3000);
  const Tokens late(text.begin() + 3500, text.begin() + 3510);
  EXPECT_LT(index.Find(text, late).matched, 10);
  index.Extend(text, 4000);
  EXPECT_EQ(index.Find(text, late).next, 3510);
  const Tokens cut(text.begin(), text.begin() + 3505);
  EXPECT_LT(index.Find(cut, late).next, 3505);
}

TEST(DraftIndex, TextOfOneWordOnlyIsSearchedQuickly) {
  const Tokens text(200000, 1), context(40, 1);
  DraftIndex index;
  index.Extend(text, 200000);
  const DraftMatch found = index.Find(text, context);
  EXPECT_EQ(found.matched, DraftIndex::kLongestMatch);
}

}  // namespace
}  // namespace duo
