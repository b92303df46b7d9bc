// SentText: what was sent of a session's text, piece by piece, and which of its tokens each piece became. With it
// sources are named by bytes of what was sent, whatever the tokenizer, a chat template or questions that were kept put
// between.
//
// Offsets count bytes of all pieces one after the other, what a rewind cut away left out. A plain value; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace duo {

struct SentPiece {
  int64_t token = 0;     // the first that this piece became
  int64_t byte = 0;      // of the text: where these tokens begin, in the tail of the piece before
  int64_t frame_at = 0;  // so many bytes behind that the words of a chat template follow
  std::string frame;     // these words
};

struct SentText {
  std::string text;
  std::vector<SentPiece> pieces;  // ascending
  int64_t tokens = 0;             // up to here pieces became tokens; what is behind belongs to no piece
  int64_t tail = 0;               // bytes of the text's end that are no tokens yet
  bool known = false;             // a piece was once here: what is missing was cut away

  // A piece was read. first: tokens of the session before it; after: behind it. tail: bytes that were left over. frame:
  // what a template put before it.
  void Add(std::string_view piece, std::string frame, int64_t first, int64_t after, int64_t tail);
  // The session was cut to so many tokens; all: those that it had, at least up to the cut.
  void Cut(const Tokenizer& tokenizer, std::span<const int32_t> all, int64_t to);
};

}  // namespace duo
