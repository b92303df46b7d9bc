// Byte-pair encoding of one word: characters become tokens, then the pair of lowest rank is merged until none is left.
// Source: Sennrich, Haddow, Birch 2016; ties between equal ranks go to the leftmost pair, as in Hugging Face
// tokenizers. Ownership: BpeModel is a plain value, immutable after BpeFinish. Threads: EncodeWord is safe from any
// thread, a BpeScratch belongs to one call chain. Cost: O(n log n) for a word of n characters, so a whole SentencePiece
// document may be one word.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "runtime/text/text_map.h"

namespace duo {

struct BpeMerge {
  int32_t rank = 0;
  int32_t id = 0;  // of the merged token
};

struct BpeModel {
  TextMap<int32_t> vocab;
  absl::flat_hash_map<uint64_t, BpeMerge> merges;  // by BpePair(left id, right id)
  std::optional<int32_t> unk_id;
  bool fuse_unk = false;       // a run of unknown characters becomes one unk
  bool byte_fallback = false;  // an unknown character becomes its bytes' tokens <0x00>..<0xFF>
  bool ignore_merges = false;  // a word that is itself a token is that token
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  // Tokens that ignore_merges must not produce: special ones, which only an explicit request may make from text.
  absl::flat_hash_set<int32_t> never_whole_words;

  // Made by BpeFinish.
  absl::flat_hash_map<char32_t, int32_t> characters;
  std::array<int32_t, 256> byte_ids{};  // -1: no such token
  bool words_split_at_marker = false;   // no merge crosses from another character to U+2581
};

inline uint64_t BpePair(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Fills the derived tables. texts[id]: the token's text, for the merges' look at word boundaries.
void BpeFinish(const std::vector<std::string>& texts, BpeModel* model);

struct BpeScratch {
  struct Symbol {
    int32_t id = 0;  // -1: merged away
    int32_t previous = -1;
    int32_t next = -1;
  };
  struct Candidate {
    int32_t rank = 0;
    int32_t position = 0;
    int32_t id = 0;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

// Appends the tokens of word (valid UTF-8, at most 2^31 - 1 bytes) to out.
void EncodeWord(const BpeModel& model, std::string_view word, BpeScratch* scratch, std::vector<int32_t>* out);

// SentencePiece's word marker, U+2581 in UTF-8.
inline constexpr std::string_view kWordMarker = "\xE2\x96\x81";

}  // namespace duo
