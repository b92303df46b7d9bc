// What a reader of a streamed answer sees: certain text only, and nothing of a stop text, however tokens cut it.
#include "runtime/text/text_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

// Byte-level: "a" .. "z" and a space ("Ġ") are tokens 1 .. 27, then the two bytes of "é" ("Ã" and "©"), then pieces of
// several letters. 0 is an end token without text.
Tokenizer Letters() {
  std::string vocab = R"("<|end|>": 0)";
  int id = 1;
  for (char c = 'a'; c <= 'z'; ++c) absl::StrAppend(&vocab, ", \"", std::string(1, c), "\": ", id++);
  for (const char* piece : {"Ġ", "Ã", "©", "ab", "bc", "abc", "stop", "op"})
    absl::StrAppend(&vocab, ", \"", piece, "\": ", id++);
  const std::string json = absl::StrCat(
      R"({"version": "1.0", "added_tokens": [{"id": 0, "content": "<|end|>", "special": true, "normalized": false,
      "single_word": false, "lstrip": false, "rstrip": false}], "normalizer": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
      "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
      "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {)",
      vocab, R"(}, "merges": []}})");
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Parse(json, "letters.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  std::vector<int32_t> ids;
  for (const std::string& piece : pieces) ids.push_back(tokenizer.IdOf(piece).value());
  return ids;
}

struct Shown {
  std::vector<std::string> pieces;
  std::string text;
  bool stopped = false;
  std::string stop;
  int64_t tokens = 0;
};
Shown Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, std::vector<std::string> stops) {
  TextStream stream(tokenizer, std::move(stops));
  Shown shown;
  for (int32_t id : ids) {
    shown.pieces.push_back(stream.Push(id));
    if (stream.stopped()) break;
  }
  shown.pieces.push_back(stream.Flush());
  for (const std::string& piece : shown.pieces) shown.text += piece;
  EXPECT_EQ(shown.text, stream.text());
  shown.stopped = stream.stopped();
  shown.stop = stream.stop();
  shown.tokens = stream.tokens();
  return shown;
}

TEST(TextStream, GivesEachTokensTextAtOnceWithoutStops) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"ab", "Ġ", "c"}), {});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"ab", " ", "c", ""}));
  EXPECT_FALSE(shown.stopped);
  EXPECT_EQ(shown.tokens, 3);
}

TEST(TextStream, AStopThatNamesASpecialTokenIsThatToken) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"ab", "s", "<|end|>", "c"}), {"<|end|>", "stop"});
  EXPECT_EQ(shown.text, "abs");
  EXPECT_TRUE(shown.stopped);
  EXPECT_EQ(shown.stop, "<|end|>");
  EXPECT_EQ(shown.tokens, 2);
  EXPECT_FALSE(Stream(t, Ids(t, {"ab", "<|end|>", "c"}), {"<|other|>"}).stopped);
}

TEST(TextStream, WaitsForTheRestOfACharacter) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"a", "Ã", "©"}), {});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"a", "", "é", ""}));
  EXPECT_EQ(shown.tokens, 3);
}

TEST(TextStream, HoldsBackWhatMayBecomeAStopTextAndGivesItWhenItDoesNot) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"x", "s", "t", "o", "x"}), {"stop"});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"x", "", "", "", "stox", ""}));
  const Shown ended = Stream(t, Ids(t, {"x", "s", "t"}), {"stop"});
  EXPECT_EQ(ended.pieces, (std::vector<std::string>{"x", "", "", "st"}));
  EXPECT_EQ(ended.tokens, 3);
}

TEST(TextStream, EndsBeforeAStopTextThatSpansTokens) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"x", "s", "t", "op", "y"}), {"xy", "stop", "opy"});
  EXPECT_EQ(shown.text, "x");
  EXPECT_TRUE(shown.stopped);
  EXPECT_EQ(shown.stop, "stop");
  EXPECT_EQ(shown.tokens, 1);
}

TEST(TextStream, DoesNotCountATokenThatStopTextShares) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"x", "ab", "c"}), {"bc"});  // "ab" gives its a, but is not the answer's token
  EXPECT_EQ(shown.text, "xa");
  EXPECT_EQ(shown.tokens, 1);
}

TEST(TextStream, CountsTheTokensOfACharacterWithTheCharacter) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"x", "Ã", "©"}), {"é"});
  EXPECT_EQ(shown.text, "x");
  EXPECT_EQ(shown.tokens, 1);
}

TEST(TextStream, SpecialTokensHaveNoText) {
  const Tokenizer t = Letters();
  const Shown shown = Stream(t, Ids(t, {"a", "<|end|>", "b"}), {"end"});
  EXPECT_EQ(shown.text, "ab");
  EXPECT_EQ(shown.tokens, 3);
}

TEST(TextStream, TheStopTextThatIsCompleteFirstCounts) {
  const Tokenizer t = Letters();
  EXPECT_EQ(Stream(t, Ids(t, {"abc", "d"}), {"abcd", "bc"}).text, "a");
  EXPECT_EQ(Stream(t, Ids(t, {"abc"}), {"c", "bc"}).text, "a");  // of those that end together, the longest
}

// The definition, by brute force over all prefixes of the whole text.
std::string CutAtStop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && text.compare(end - stop.size(), stop.size(), stop) == 0)
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) return text.substr(0, end - longest);
  }
  return text;
}

TEST(TextStream, DependsOnTheTextAloneNotOnItsTokens) {
  const Tokenizer t = Letters();
  std::mt19937 random(7);
  const std::vector<std::string> pieces = {"a", "b", "c", "ab", "bc", "abc", "Ã", "©", "Ġ"};
  for (int trial = 0; trial < Scaled(2000); ++trial) {
    std::vector<std::string> stops;
    for (int i = random() % 4; i > 0; --i) {
      std::string stop;
      for (int n = 1 + random() % 5; n > 0; --n) stop += "abc"[random() % 3];
      stops.push_back(stop);
    }
    std::vector<std::string> chosen;
    for (int n = random() % 12; n > 0; --n) chosen.push_back(pieces[random() % pieces.size()]);
    const std::vector<int32_t> ids = Ids(t, chosen);
    const Shown shown = Stream(t, ids, stops);
    EXPECT_EQ(shown.text, CutAtStop(t.Decode(ids), stops));
    EXPECT_EQ(shown.stopped, shown.text != t.Decode(ids));
    // Its tokens' text is a beginning of the text given out.
    const std::string own = t.Decode(std::span(ids).first(shown.tokens));
    EXPECT_EQ(shown.text.compare(0, own.size(), own), 0) << own << " in " << shown.text;
  }
}

}  // namespace
}  // namespace duo
