// Token ranges, sentences and sources: what is reported is what stands at these bytes of the document as it was sent.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/kv_layout.h"
#include "runtime/provenance/sentences.h"
#include "runtime/provenance/sources.h"
#include "runtime/text/unicode/unicode.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_scale.h"
#include "tests/support/tokenizer_spec.h"

namespace duo {
namespace {

using nlohmann::json;

Tokenizer Make(const json& spec) {
  const auto tokenizer = Tokenizer::Parse(spec.dump(), "t.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *tokenizer;
}

// Every byte is a token, as byte-level tokenizers spell it, with the normaliser that is asked for.
json Bytes(const json& normalizer) {
  json spec = json::parse(R"({"added_tokens": [{"id": 300, "content": "<s>", "special": true},
      {"id": 301, "content": "<x>", "special": false, "rstrip": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}, "post_processor": null,
    "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {}, "merges": []}})");
  spec["normalizer"] = normalizer;
  int other = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    std::string spelled;
    AppendUtf8(printable ? b : other++, &spelled);
    spec["model"]["vocab"][spelled] = b;
  }
  return spec;
}

// Words, ends of sentences, CRLF, marks that a normaliser joins, emoji, and bytes that are no text.
std::string RandomText(std::mt19937& rng, bool ill_formed) {
  static const std::vector<std::string> pieces = {"a",
                                                  "ab",
                                                  " ",
                                                  " a",
                                                  "b",
                                                  ". ",
                                                  ".\n",
                                                  "\r\n",
                                                  "\n\n",
                                                  "e\u0301",
                                                  "\u00e9",
                                                  "\U0001f600",
                                                  "\u4f60\u597d\u3002",
                                                  "<s>",
                                                  "<x>",
                                                  "  ",
                                                  "!",
                                                  "c."};
  std::string text;
  const int count = static_cast<int>(rng() % 40);
  for (int i = 0; i < count; ++i) {
    text += ill_formed && rng() % 10 == 0 ? std::string(1, static_cast<char>(0x80 + rng() % 128))
                                          : pieces[rng() % pieces.size()];
  }
  return text;
}

TEST(TokenRanges, AreTheTokensOwnBytesWhereTheTextHasThem) {
  std::mt19937 rng(5);
  for (const json& spec : {Bytes(nullptr), SentencePiece()}) {
    const Tokenizer tokenizer = Make(spec);
    for (int trial = 0; trial < Scaled(300); ++trial) {
      const std::string text = RandomText(rng, false);
      if (text.find("<x>") != text.npos) continue;
      const auto ids = tokenizer.Encode(text);
      ASSERT_TRUE(ids.ok());
      const std::vector<ByteRange> ranges = TokenRanges(tokenizer, *ids, text);
      int64_t at = 0;
      for (size_t i = 0; i < ids->size(); ++i) {
        ASSERT_EQ(ranges[i].begin, at) << text << " token " << i;
        const std::string said = tokenizer.BytesOf((*ids)[i]), found = text.substr(at, ranges[i].end - at);
        // The first word has the marker that the tokenizer put there.
        ASSERT_TRUE(found == said || (i == 0 && " " + found == said)) << text << " token " << i << ": " << found;
        at = ranges[i].end;
      }
      ASSERT_EQ(at, static_cast<int64_t>(text.size())) << text;
    }
  }
}

TEST(TokenRanges, AscendAndFindTheTextAgainBehindWhatANormaliserChanged) {
  int misses = 0;
  const Tokenizer tokenizer = Make(Bytes({{"type", "NFC"}}));
  std::mt19937 rng(6);
  for (int trial = 0; trial < Scaled(300); ++trial) {
    const std::string text = RandomText(rng, false) + "zxqv" + RandomText(rng, false);
    const auto ids = tokenizer.Encode(text);
    ASSERT_TRUE(ids.ok());
    const std::vector<ByteRange> ranges = TokenRanges(tokenizer, *ids, text);
    int64_t at = 0;
    bool found = false;
    for (size_t i = 0; i < ids->size(); ++i) {
      ASSERT_LE(ranges[i].begin, ranges[i].end);
      ASSERT_GE(ranges[i].end, at);
      at = ranges[i].end;
      found |= tokenizer.BytesOf((*ids)[i]) == "q" && text[ranges[i].begin] == 'q';
    }
    ASSERT_LE(at, static_cast<int64_t>(text.size()));
    misses += found ? 0 : 1;
  }
  // Where several places read alike it may take a wrong one for a while.
  EXPECT_LE(misses, Scaled(300) / 200);
}

TEST(SentenceStarts, CutsAtEndsOfSentencesAndLinesButNotInWrappedProse) {
  const auto sentences = [](const std::string& text) {
    const std::vector<int64_t> starts = SentenceStarts(text);
    std::vector<std::string> all;
    for (size_t i = 0; i < starts.size(); ++i) {
      all.push_back(text.substr(starts[i], (i + 1 < starts.size() ? starts[i + 1] : text.size()) - starts[i]));
    }
    return all;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(sentences(""), Texts());
  EXPECT_EQ(sentences("One. Two! \"Three?\" Four"), (Texts{"One. ", "Two! ", "\"Three?\" ", "Four"}));
  EXPECT_EQ(sentences("Version 1.5 of it.\r\nNext"), (Texts{"Version 1.5 of it.\r\n", "Next"}));
  EXPECT_EQ(sentences("\u4f60\u3002\u597d"), (Texts{"\u4f60\u3002", "\u597d"}));
  const std::string wrapped =
      "This is prose that somebody has wrapped at some column\nand it goes on here.\nNote: new.\n";
  EXPECT_EQ(sentences(wrapped), (Texts{wrapped.substr(0, 76), "Note: new.\n"}));
  for (const std::string& s : sentences(std::string(5000, 'x') + " " + std::string(700, 'y'))) {
    EXPECT_LE(static_cast<int64_t>(s.size()), kLongestSentence);
  }
}

// A row that looked at these tokens alone.
LookedAt Looked(int64_t tokens, const std::vector<int64_t>& at, float mass) {
  RowMass row;
  row.position = tokens - 1;
  row.pages.resize(tokens / kPageTokens + 1);
  for (size_t p = row.pages.size(); p > 0; --p) row.best.push_back(static_cast<int32_t>(p) - 1);
  row.keys.resize(row.best.size() * kPageTokens);
  for (const int64_t t : at) {
    row.keys[(row.pages.size() - 1 - t / kPageTokens) * kPageTokens + t % kPageTokens] = mass;
  }
  return WhatCounts(row);
}

TEST(Sources, AreTheBytesOfTheDocumentAsItWasSent) {
  std::mt19937 rng(7);
  int found = 0;
  for (const json& spec : {Bytes(nullptr), Bytes({{"type", "NFC"}}), SentencePiece()}) {
    const Tokenizer tokenizer = Make(spec);
    for (int trial = 0; trial < Scaled(200); ++trial) {
      const std::string fact = "The zq is b.";
      const std::string sent = RandomText(rng, true) + "\n" + fact + "\r\n" + RandomText(rng, true);
      const std::string before = trial % 2 == 0 ? "" : "<user>", after = trial % 2 == 0 ? "" : "</user>\nb?";
      const std::string rendered = absl::StrCat(before, ReplaceInvalidUtf8(sent), after);
      const auto ids = tokenizer.Encode(rendered);
      ASSERT_TRUE(ids.ok());
      const SourceMap map(tokenizer, sent, rendered, *ids);
      std::vector<int64_t> looked;
      for (int64_t t = 0; t < map.tokens(); ++t) {
        const ByteRange range = map.RangeOf(t);
        ASSERT_LE(range.end, static_cast<int64_t>(sent.size()));
        if (tokenizer.BytesOf((*ids)[t]) == "q" && sent.substr(range.begin, range.end - range.begin) == "q") {
          looked.push_back(t);
        }
      }
      if (spec.contains("model") && spec["model"].contains("byte_fallback")) {  // bytes are tokens there, too
        looked.clear();
        for (int64_t t = 0; t < map.tokens(); ++t) {
          const ByteRange range = map.RangeOf(t);
          if (range.begin < range.end && sent.substr(range.begin, range.end - range.begin) == "q") looked.push_back(t);
        }
      }
      ASSERT_FALSE(looked.empty()) << sent;
      const LookedAt row = Looked(static_cast<int64_t>(ids->size()), looked, 0.25f);
      const std::vector<Source> sources = map.Find({&row, 1}, {.most = 3});
      ASSERT_EQ(sources.size(), 1u) << sent;
      EXPECT_EQ(sources[0].text, sent.substr(sources[0].begin, sources[0].end - sources[0].begin));
      EXPECT_NE(sources[0].text.find(fact), std::string::npos) << sources[0].text;
      EXPECT_EQ(sources[0].line, 1 + std::count(sent.begin(), sent.begin() + sources[0].begin, '\n'));
      EXPECT_NEAR(sources[0].score, 0.25 * static_cast<double>(looked.size()), 1e-6);
      ++found;
    }
  }
  EXPECT_GE(found, 600);
}

// Pieces of a session, questions kept between them, a template's words before the first: what is reported is what was
// sent.
TEST(Sources, OfASessionAreTheBytesOfItsAppends) {
  std::mt19937 rng(8);
  const Tokenizer tokenizer = Make(Bytes(nullptr));
  for (int trial = 0; trial < Scaled(400); ++trial) {
    SentText sent;
    std::vector<int32_t> tokens;
    std::string all, tail;
    const std::string frame = trial % 3 == 0 ? "<system> You are a machine.<user>\n" : "";
    const int pieces = 1 + static_cast<int>(rng() % 4);
    for (int p = 0; p < pieces; ++p) {
      const std::string piece = RandomText(rng, trial % 2 == 0) + "\nFact " + std::to_string(p) + ": q.\n";
      const std::string own = p == 0 ? frame : "";
      const auto first = static_cast<int64_t>(tokens.size());
      // Some bytes stay behind, as an unfinished word does.
      const std::string rendered = absl::StrCat(tail, own, piece);
      const size_t left = p + 1 < pieces ? rng() % 3 : 0;
      const auto ids = tokenizer.Encode(ReplaceInvalidUtf8(rendered.substr(0, rendered.size() - left)));
      ASSERT_TRUE(ids.ok());
      tokens.insert(tokens.end(), ids->begin(), ids->end());
      sent.Add(piece, own, first, static_cast<int64_t>(tokens.size()), static_cast<int64_t>(left));
      all += piece;
      tail = rendered.substr(rendered.size() - left);
      if (left == 0 && rng() % 2 == 0) {  // a question that was kept
        const auto asked = tokenizer.Encode("Fact of q? q q q");
        tokens.insert(tokens.end(), asked->begin(), asked->end());
      }
    }
    ASSERT_EQ(sent.text, all);
    if (all.find("<x>") != all.npos) continue;  // the white space that it swallows has no tokens of its own
    const SourceMap map(tokenizer, sent, tokens);
    for (int64_t t = 0; t < map.tokens(); ++t) {
      const ByteRange range = map.RangeOf(t);
      if (tokenizer.BytesOf(tokens[t]) != "q" || range.begin == range.end) continue;
      const LookedAt row = Looked(static_cast<int64_t>(tokens.size()), {t}, 0.5f);
      const std::vector<Source> sources = map.Find({&row, 1}, {.most = 1});
      ASSERT_EQ(sources.size(), 1u);
      EXPECT_EQ(sources[0].text, all.substr(sources[0].begin, sources[0].end - sources[0].begin));
      EXPECT_TRUE(sources[0].text.starts_with("Fact ") && sources[0].text.ends_with(": q."))
          << sources[0].text << "\nof token " << t << " in\n"
          << all;
    }
    // A cut leaves the text of the tokens that are left.
    const auto to = static_cast<int64_t>(rng() % (tokens.size() + 1));
    sent.Cut(tokenizer, tokens, to);
    EXPECT_TRUE(all.starts_with(sent.text));
    EXPECT_LE(sent.tokens, std::max<int64_t>(to, sent.tokens));
    const SourceMap cut(tokenizer, sent, std::span(tokens).first(to));
    for (int64_t t = 0; t < cut.tokens(); ++t) EXPECT_EQ(cut.RangeOf(t), map.RangeOf(t)) << "token " << t;
  }
}

TEST(Sources, AreMeansOverRowsMostFirstWithoutSinksAndTheRecentWindow) {
  const Tokenizer tokenizer = Make(Bytes(nullptr));
  const std::string text = "Aaaa. Bbbb. Cccc. Dddd.";
  const auto ids = tokenizer.Encode(text);
  ASSERT_TRUE(ids.ok());
  const SourceMap map(tokenizer, text, text, *ids);
  const std::vector<LookedAt> rows = {Looked(23, {1, 7, 13}, 0.2f), Looked(24, {7, 19}, 0.3f)};
  const auto texts = [&](const SourceMap::Options& options) {
    std::string all;
    for (const Source& s : map.Find(rows, options)) all += s.text;
    return all;
  };
  EXPECT_EQ(texts({.most = 9}), "Bbbb.Dddd.Aaaa.Cccc.");
  EXPECT_NEAR(map.Find(rows, {.most = 1})[0].score, 0.25, 1e-6);
  EXPECT_EQ(texts({.most = 2}), "Bbbb.Dddd.");
  EXPECT_EQ(texts({.most = 9, .sinks = 6}), "Bbbb.Dddd.Cccc.");
  EXPECT_EQ(texts({.most = 9, .recent = 8}), "Bbbb.Aaaa.Cccc.");
  EXPECT_TRUE(map.Find({}, {.most = 3}).empty());
}

}  // namespace
}  // namespace duo
