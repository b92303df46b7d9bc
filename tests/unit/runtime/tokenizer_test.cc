#include "runtime/text/tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/test_scale.h"
#include "tests/support/tokenizer_spec.h"

namespace duo {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

Tokenizer Make(const json& spec) {
  const auto tokenizer = Tokenizer::Parse(spec.dump(), "t.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

std::string Refusal(const json& spec) {
  const auto tokenizer = Tokenizer::Parse(spec.dump(), "t.json");
  return tokenizer.ok() ? "accepted" : std::string(tokenizer.status().message());
}

// Byte-level, GPT-2 words: letters a, b, c, the space (Ġ), e-acute's bytes (Ã ©), and merges that make "ab", "Ġab",
// "abc".
json ByteLevel() {
  return json::parse(R"({
    "added_tokens": [{"id": 10, "content": "<s>", "special": true, "normalized": false},
                     {"id": 11, "content": "<x>", "special": false, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                       "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "Ã": 4, "©": 5, "ab": 6, "Ġab": 7, "abc": 8, "ï": 12, "¿": 13, "½": 14,
              "<": 15, "s": 16, ">": 17},
              "merges": [["a", "b"], ["Ġ", "ab"], ["ab", "c"]]}})");
}

TEST(Tokenizer, MergesTheLowestRankFirstAndPutsBosWhereThePostProcessorSays) {
  const Tokenizer t = Make(ByteLevel());
  EXPECT_EQ(t.Encode("abc ab").value(), (Ids{10, 8, 7}));
  EXPECT_EQ(t.Encode("abc ab", {.add_special_tokens = false}).value(), (Ids{8, 7}));
  EXPECT_EQ(t.Encode("").value(), (Ids{10}));
  EXPECT_EQ(t.bos_id(), 10);
  EXPECT_EQ(t.vocab_size(), 18);
}

TEST(Tokenizer, SpecialTextIsPlainTextUnlessAskedButOtherAddedTokensAlwaysMatch) {
  const Tokenizer t = Make(ByteLevel());
  EXPECT_EQ(t.Encode("a<s>b", {.parse_special = true, .add_special_tokens = false}).value(), (Ids{0, 10, 1}));
  EXPECT_EQ(t.Encode("a<s>b", {.add_special_tokens = false}).value(), (Ids{0, 15, 16, 17, 1}));
  EXPECT_EQ(t.Encode("a<x>b", {.add_special_tokens = false}).value(), (Ids{0, 11, 1}));
}

TEST(Tokenizer, WholeWordLookUpNeverMakesASpecialTokenFromPlainText) {
  json spec = ByteLevel();
  spec["model"]["ignore_merges"] = true;
  spec["model"]["vocab"]["<s>"] = 10;
  spec["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(Make(spec).Encode("<s>", {.add_special_tokens = false}).value(), (Ids{15, 16, 17}));
}

TEST(Tokenizer, SegmentsAreOneTextAndParseSpecialTokensOnlyWhereAllowed) {
  const Tokenizer t = Make(ByteLevel());
  EXPECT_EQ(t.EncodeSegments({{{"<s>a", true}, {"b<s>c", false}, {"<s>", true}}}).value(),
            (Ids{10, 6, 15, 16, 17, 2, 10}));
  // A special token's text may not be completed by what a user wrote, at either side.
  EXPECT_EQ(t.EncodeSegments({{{"<", true}, {"s>", false}}}).value(), (Ids{15, 16, 17}));
  EXPECT_EQ(t.EncodeSegments({{{"<s", false}, {">", true}}}).value(), (Ids{15, 16, 17}));
  EXPECT_EQ(t.EncodeSegments({{{"<", true}, {"s>", true}}}).value(), (Ids{10}));
}

TEST(Tokenizer, ReadsBytesThatAreNotUtf8AsOneReplacementCharacterAPiece) {
  const Tokenizer t = Make(ByteLevel());
  const Ids replacement = {12, 13, 14};  // U+FFFD is EF BF BD
  for (const char* text : {"\xFF", "\xC3", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_EQ(t.Encode(text, {.add_special_tokens = false}).value(), replacement) << text;
  }
  // C0 80: two pieces, as Python's errors='replace' gives. A surrogate's three bytes: three.
  EXPECT_EQ(t.Encode("\xC0\x80", {.add_special_tokens = false}).value().size(), 6u);
  EXPECT_EQ(t.Encode("\xED\xA0\x80", {.add_special_tokens = false}).value().size(), 9u);
  EXPECT_EQ(t.Encode("\xE2\x82"
                     "a",
                     {.add_special_tokens = false})
                .value(),
            (Ids{12, 13, 14, 0}));
}

TEST(Tokenizer, FallsBackToBytesAndRestoresThem) {
  const Tokenizer t = Make(SentencePiece());
  EXPECT_EQ(t.Encode("a é").value(), (Ids{5, 2, 100 + 0xC3, 100 + 0xA9}));
  EXPECT_EQ(t.Decode(t.Encode(" a é\nab").value()), " a é\nab");
}

TEST(Tokenizer, FusesUnknownCharactersOnlyIfAsked) {
  json spec = SentencePiece();
  spec["model"]["byte_fallback"] = false;
  EXPECT_EQ(Make(spec).Encode("xyza").value(), (Ids{2, 0, 3}));
  spec["model"]["fuse_unk"] = false;
  EXPECT_EQ(Make(spec).Encode("xyza").value(), (Ids{2, 0, 0, 0, 3}));
}

TEST(Tokenizer, MetaspacePrependsEverywhereOrOnlyAtTheStart) {
  json spec = SentencePiece();
  spec["normalizer"] = nullptr;
  spec["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", true}};
  EXPECT_EQ(Make(spec).Encode("a<s>a", {.parse_special = true}).value(), (Ids{5, 1, 5}));
  spec["pre_tokenizer"]["prepend_scheme"] = "first";
  EXPECT_EQ(Make(spec).Encode("a<s>a", {.parse_special = true}).value(), (Ids{5, 1, 3}));
  spec["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(Make(spec).Encode("a<s>a", {.parse_special = true}).value(), (Ids{3, 1, 3}));
}

TEST(Tokenizer, AddedTokensTakeSpaceAroundThemOrStandAlone) {
  json spec = ByteLevel();
  spec["added_tokens"][1]["lstrip"] = true;
  spec["added_tokens"][1]["rstrip"] = true;
  const EncodeOptions plain{.add_special_tokens = false};
  EXPECT_EQ(Make(spec).Encode("a  <x> \n b", plain).value(), (Ids{0, 11, 1}));
  spec["added_tokens"][1] = {
      {"id", 11}, {"content", "ab"}, {"special", false}, {"normalized", false}, {"single_word", true}};
  spec["model"]["vocab"].erase("ab");
  spec["model"]["vocab"].erase("abc");
  spec["model"]["vocab"].erase("Ġab");
  spec["model"]["merges"] = json::array();
  EXPECT_EQ(Make(spec).Encode("ab cab ab<", plain).value(), (Ids{11, 3, 2, 0, 1, 3, 11, 15}));
}

TEST(Tokenizer, NormalizesTheTextAndTheTokensThatAskForIt) {
  json spec = ByteLevel();
  spec["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}};
  spec["added_tokens"][1] = {{"id", 11}, {"content", "CE\u0301"}, {"special", false}, {"normalized", true}};
  const Tokenizer t = Make(spec);
  EXPECT_EQ(t.Encode("AB", {.add_special_tokens = false}).value(), (Ids{6}));
  EXPECT_EQ(t.Encode("e\u0301", {.add_special_tokens = false}).value().size(), 2u);
  EXPECT_EQ(t.Encode("aC\u00C9", {.add_special_tokens = false}).value(), (Ids{0, 11}));
}

// As the `tokenizers` library has it: the pattern is the token's normalised self, which a prefix belongs to.
TEST(Tokenizer, SpecialTokensThatAreLookedForAfterNormalisationAreThoseOfTheirSegmentsOnly) {
  json spec = ByteLevel();
  spec["added_tokens"][0]["normalized"] = true;
  spec["normalizer"] = {{"type", "Lowercase"}};
  const Tokenizer lower = Make(spec);
  EXPECT_EQ(lower.EncodeSegments(std::vector<TextSegment>{{"A<S>", true}, {"<s>B", false}, {"<s>", true}}).value(),
            (Ids{0, 10, 15, 16, 17, 1, 10}));
  EXPECT_EQ(lower.EncodeSegments(std::vector<TextSegment>{{"<s", true}, {">", false}}).value(), (Ids{15, 16, 17}));
  spec = SentencePiece();
  spec["added_tokens"][1]["normalized"] = true;
  const Tokenizer prefixed = Make(spec);
  EXPECT_EQ(prefixed.EncodeSegments(std::vector<TextSegment>{{"<s>", true}, {"ab", false}}).value(), (Ids{1, 6}));
  EXPECT_EQ(prefixed.EncodeSegments(std::vector<TextSegment>{{"<s>", false}, {"ab", true}}).value().front(), 2);
}

// As the `tokenizers` library numbers them.
TEST(Tokenizer, AddedTokensBehindTheVocabularyHaveNoGaps) {
  json spec = SentencePiece();
  for (const auto& [id, text] : {std::pair(400, "<x>"), std::pair(900, "<y>")}) {
    spec["added_tokens"].push_back({{"id", id}, {"content", text}, {"special", false}, {"normalized", false}});
  }
  spec["model"]["vocab"].clear();
  spec["model"]["merges"] = json::array();
  for (const char* text : {"<unk>", "<s>", "\u2581", "a"}) spec["model"]["vocab"][text] = spec["model"]["vocab"].size();
  EXPECT_EQ(Make(spec).Encode("<y>a<x>").value(), (Ids{5, 2, 3, 4}));
  EXPECT_EQ(Make(spec).vocab_size(), 6);
}

// The marks after the a are a word of their own, and the acute goes before them, onto the a.
TEST(Tokenizer, MarksThatLaterMarksMoveAreNotCertain) {
  json spec = ByteLevel();
  spec["normalizer"] = {{"type", "NFC"}};
  const Tokenizer t = Make(spec);
  const std::string first = "b c a\u0334\u0315\u0361", later = "\u0301 b";
  const StableTokens stable = t.EncodeStable(first).value();
  EXPECT_EQ(stable.bytes, 3u);
  Ids ids = stable.ids;
  const Ids rest = t.Encode(first.substr(stable.bytes) + later, {.continued = true}).value();
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, t.Encode(first + later).value());
}

TEST(Tokenizer, ATextThatEndsWithAWholeWordIsCertainToItsEnd) {
  json spec = ByteLevel();
  spec["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "b|[^b]+"}}}, {"behavior", "Isolated"}};
  const Tokenizer t = Make(spec);
  EXPECT_EQ(t.EncodeStable("aab").value().bytes, 3u);
  EXPECT_EQ(t.EncodeStable("aaba").value().bytes, 3u);
  spec["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(Make(spec).EncodeStable("abb").value().bytes, 2u) << "a mark may join the last character";
}

// What goes on behind a boundary does not see what is before it.
TEST(Tokenizer, NothingIsCertainWhereWordsDependOnWhatIsBeforeThem) {
  json spec = ByteLevel();
  for (const char* regex : {"(?<=a)bc|.", "\\bb|.", "^b|.", "\\Ab|."}) {
    spec["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
    const Tokenizer t = Make(spec);
    EXPECT_EQ(t.EncodeStable("aab").value().bytes, 0u) << regex;
    EXPECT_FALSE(t.has_stable_places()) << regex;
  }
}

TEST(Tokenizer, SearchThatIsGivenUpIsAnError) {
  json spec = ByteLevel();
  spec["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(?:a+a+)+b"}}}, {"behavior", "Isolated"}};
  const Tokenizer t = Make(spec);
  EXPECT_TRUE(t.Encode("aab").ok());
  const std::string hostile(60, 'a');
  EXPECT_NE(std::string(t.Encode(hostile).status().message()).find("retry-limit-in-match over"), std::string::npos);
  EXPECT_FALSE(t.EncodeSegments(std::vector<TextSegment>{{hostile, false}}).ok());
  // What a decoder would fail on is refused with the file.
  spec = ByteLevel();
  spec["model"]["vocab"][hostile] = 18;
  spec["decoder"] = {{"type", "Replace"}, {"pattern", {{"Regex", "(?:a+a+)+b"}}}, {"content", ""}};
  EXPECT_NE(Refusal(spec).find("retry-limit-in-match over"), std::string::npos) << Refusal(spec);
}

TEST(Tokenizer, SplitsAsEachBehaviourSays) {
  json spec = ByteLevel();
  spec["model"]["ignore_merges"] = true;  // a piece that is a token shows as one
  for (const char* text : {"ba", "bab", "bb", "bba"}) spec["model"]["vocab"][text] = 20 + spec["model"]["vocab"].size();
  const auto pieces = [&](const char* behavior, bool invert) {
    spec["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"String", "b"}}}, {"behavior", behavior}, {"invert", invert}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    const Tokenizer t = Make(spec);
    std::string out;
    const Ids ids = t.Encode("abba", {.add_special_tokens = false}).value();
    for (const int32_t id : ids) out += std::string(t.TextOf(id)) + "|";
    return out;
  };
  EXPECT_EQ(pieces("Isolated", false), "a|b|b|a|");
  EXPECT_EQ(pieces("Removed", false), "a|a|");
  EXPECT_EQ(pieces("Removed", true), "b|b|");
  EXPECT_EQ(pieces("MergedWithPrevious", false), "ab|b|a|");
  EXPECT_EQ(pieces("MergedWithNext", false), "a|b|ba|");
  EXPECT_EQ(pieces("Contiguous", false), "a|bb|a|");
}

TEST(Tokenizer, ALongWordCostsAboutWhatManyShortOnesDo) {
  const Tokenizer t = Make(SentencePiece());
  const std::string word(1 << 20, 'a');  // quadratic merging would take hours
  const Ids ids = t.Encode(word).value();
  EXPECT_EQ(ids.size(), word.size());
  EXPECT_EQ(t.Decode(ids), word);
}

TEST(Tokenizer, LongRunsOfSpaceDoNotExhaustTheRegexEngine) {
  const Tokenizer t = Make(ByteLevel());
  EXPECT_EQ(t.Encode(std::string(1 << 20, ' ') + "ab", {.add_special_tokens = false}).value().size(), (1u << 20));
}

TEST(Tokenizer, StreamedPiecesJoinToTheWholeAndAreAlwaysUtf8) {
  const json bytes = ByteLevel(), pieces = SentencePiece();
  for (const json& spec : {bytes, pieces}) {
    const Tokenizer t = Make(spec);
    std::mt19937 random(3);
    for (int round = 0; round < Scaled(300); ++round) {
      Ids ids(random() % 12);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % (t.vocab_size() + 3)) - 1;  // unknown ids too
      StreamDecoder stream(t);
      std::string joined;
      for (const int32_t id : ids) {
        const std::string piece = stream.Push(id);
        EXPECT_TRUE(json(piece).dump(-1, ' ', false, json::error_handler_t::replace).find("\xEF\xBF\xBD") ==
                        std::string::npos ||
                    piece.find("\xEF\xBF\xBD") != std::string::npos);
        joined += piece;
      }
      joined += stream.Flush();
      EXPECT_EQ(joined, t.Decode(ids));
    }
  }
}

TEST(Tokenizer, StreamingHoldsBackOnlyAnUnfinishedCharacter) {
  const Tokenizer t = Make(ByteLevel());
  StreamDecoder stream(t);
  EXPECT_EQ(stream.Push(0), "a");
  EXPECT_EQ(stream.Push(4), "");  // the first byte of é
  EXPECT_EQ(stream.Push(5), "é");
  EXPECT_EQ(stream.Push(4), "");
  EXPECT_EQ(stream.Push(0), "\uFFFDa");  // it never came
  EXPECT_EQ(stream.Push(4), "");
  EXPECT_EQ(stream.Flush(), "\uFFFD");
  EXPECT_EQ(stream.Push(5), "\uFFFD");  // nothing is left over from before
}

TEST(Tokenizer, SkipsSpecialTokensWhenDecodingUnlessAsked) {
  const Tokenizer t = Make(ByteLevel());
  const Ids ids = {10, 0, 11, 10};
  EXPECT_EQ(t.Decode(ids), "a<x>");
  EXPECT_EQ(t.Decode(ids, false), "<s>a<x><s>");
  EXPECT_TRUE(t.is_special(10));
  EXPECT_FALSE(t.is_special(11));
  EXPECT_FALSE(t.is_special(-1));
  EXPECT_EQ(t.IdOf("Ġab"), 7);
  EXPECT_EQ(t.IdOf("none"), std::nullopt);
  EXPECT_EQ(t.TextOf(99), "");
}

TEST(Tokenizer, ThreadsMayShareOne) {
  const Tokenizer t = Make(ByteLevel());
  const std::string text = "ab abc <x> cab\n  ab";
  const Ids expected = t.Encode(text).value();
  const std::string decoded = t.Decode(expected);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += t.Encode(text).value() != expected || t.Decode(expected) != decoded;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(TokenizerFile, RefusesWhatItCannotHonourNamingTheFileAndTheKind) {
  const auto refusal = [](const char* pointer, const json& value) {
    json spec = ByteLevel();
    spec[json::json_pointer(pointer)] = value;
    return Refusal(spec);
  };
  EXPECT_EQ(refusal("/model/type", "Unigram"), "t.json: model of type \"Unigram\" is not supported, only BPE is");
  EXPECT_EQ(refusal("/model/dropout", 0.1), "t.json: model: dropout is not supported");
  EXPECT_EQ(refusal("/normalizer", {{"type", "Precompiled"}}), "t.json: normalizer Precompiled: is not supported");
  EXPECT_EQ(refusal("/pre_tokenizer", {{"type", "UnicodeScripts"}}),
            "t.json: pre_tokenizer UnicodeScripts: is not supported");
  EXPECT_EQ(refusal("/decoder", {{"type", "CTC"}}), "t.json: decoder CTC: is not supported");
  EXPECT_EQ(refusal("/post_processor", {{"type", "Odd"}}), "t.json: post_processor of type \"Odd\" is not supported");
}

TEST(TokenizerFile, RefusesDamage) {
  EXPECT_FALSE(Tokenizer::Parse("{\"model\": {", "t.json").ok());
  EXPECT_FALSE(Tokenizer::Load("/nonexistent/tokenizer.json").ok());
  const auto refused = [](const char* pointer, const json& value) {
    json spec = ByteLevel();
    spec[json::json_pointer(pointer)] = value;
    const std::string message = Refusal(spec);
    return message.starts_with("t.json: ") && message != "accepted";
  };
  EXPECT_TRUE(refused("/model/vocab/a", -1));
  EXPECT_TRUE(refused("/model/vocab/a", 1.5));
  EXPECT_TRUE(refused("/model/vocab/a", 4000000000u));
  EXPECT_TRUE(refused("/model/vocab/a", 18446744073709551615u));
  EXPECT_TRUE(refused("/model/vocab/a", 1));  // b's
  EXPECT_TRUE(refused("/model/vocab", nullptr));
  EXPECT_TRUE(refused("/model/merges/0", "a"));
  EXPECT_TRUE(refused("/model/merges/0", json::array({"a", "zz"})));
  EXPECT_TRUE(refused("/model/merges/0", json::array({"b", "a"})));  // "ba" is no token
  EXPECT_TRUE(refused("/model/unk_token", "zz"));
  EXPECT_TRUE(refused("/added_tokens/0/id", nullptr));
  EXPECT_TRUE(refused("/post_processor/special_tokens/<s>/ids", json::array({999})));
  EXPECT_TRUE(refused("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}));
  json nested = {{"type", "NFC"}};
  for (int i = 0; i < 40; ++i) nested = {{"type", "Sequence"}, {"normalizers", json::array({nested})}};
  EXPECT_TRUE(refused("/normalizer", nested));
  json bomb = {{"type", "Sequence"}, {"normalizers", json::array()}};
  for (int i = 0; i < 8; ++i) {
    bomb["normalizers"].push_back(
        {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaaaaaaaaaa"}});
  }
  EXPECT_TRUE(refused("/normalizer", bomb));
}

}  // namespace
}  // namespace duo
