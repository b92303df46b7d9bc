// Sources: the sentences of a document at which an answer's provenance heads looked while it was written, most first.
// Called attention provenance: where the model looked, which is no proof that the answer follows from it.
//
// A token's mass goes to the sentence that its bytes lie in (sentences.h). What is no part of the document (a question,
// the words of a chat template, the answer itself) counts for nothing, nor do the attention sinks, which all heads look
// at whatever is asked. A source's score is the share of attention that its sentence had, as the mean over the answer's
// tokens: 0 to 1, and the sources of an answer need not add up to 1. Values; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/model/row_mass.h"
#include "runtime/provenance/sent_text.h"
#include "runtime/provenance/token_offsets.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct Source {
  int64_t begin = 0, end = 0;  // bytes of the document as it was sent
  int64_t line = 1;            // of its beginning, from 1
  double score = 0;
  std::string text;  // these bytes
};

// What of a row counts: its tokens with at least kLeastMass, so that answers of any length can keep their rows.
struct LookedAt {
  int64_t position = 0;
  std::vector<std::pair<int32_t, float>> tokens;  // and their mass
};
constexpr float kLeastMass = 1e-4f;
LookedAt WhatCounts(const RowMass& row);

// A document and where its tokens lie in it.
class SourceMap {
 public:
  SourceMap() = default;
  // sent: the document as it was sent, any bytes. rendered: the text whose tokens `tokens` begin with, valid UTF-8: the
  // document as it is read (ill-formed bytes replaced) with what a chat template puts around it. tokens: of a sequence,
  // from its first on, as far as they belong to `rendered`.
  SourceMap(const Tokenizer& tokenizer, std::string sent, std::string_view rendered, std::span<const int32_t> tokens);

  // Of a session: tokens are its own, from its first on.
  SourceMap(const Tokenizer& tokenizer, const SentText& sent, std::span<const int32_t> tokens);

  // The document's bytes that token i stands for; empty where it stands for none of them.
  ByteRange RangeOf(int64_t token) const;
  int64_t tokens() const { return static_cast<int64_t>(ranges_.size()); }

  struct Options {
    int most = 3;        // sources
    int64_t sinks = 0;   // tokens at the sequence's beginning that count for nothing
    int64_t recent = 0;  // and so many before each row
  };
  // Of the rows that an answer's tokens were drawn from; for one token, of its row alone.
  std::vector<Source> Find(std::span<const LookedAt> rows, const Options& options) const;

 private:
  Source SourceAt(size_t sentence, double score) const;

  std::string sent_, read_;         // read: with ill-formed bytes replaced
  std::vector<ByteRange> ranges_;   // [tokens] of read_
  std::vector<int64_t> sentences_;  // where they begin in read_
};

}  // namespace duo
