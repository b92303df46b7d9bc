// TextStream: an answer's tokens to the text that a reader may see at once, with stop texts.
//
// What: decodes tokens as they come and gives out text only when no later token can change it or turn it into part of a
// stop text. A stop text may begin and end anywhere inside tokens; nothing of it is ever given out. Where several stop
// texts occur, the one that is complete first counts (of those the longest), so that the result depends on the text
// alone, not on how it was cut into tokens.
// Why here: `duo generate` and the service answer with the same text for the same tokens.
// Ownership: a value; it keeps what it needs of the tokenizer. Threads: one at a time. Errors: none.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace duo {

class TextStream {
 public:
  // stops: UTF-8; empty ones are ignored. One that is a special token's text also stands for that token, whose text the
  // answer does not show.
  TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops);

  // The text that became certain; empty once stopped.
  std::string Push(int32_t token);
  // The answer ended (end token or length): what was held back. Afterwards only the accessors may be called.
  std::string Flush();

  bool stopped() const { return stopped_; }          // a stop text is complete
  const std::string& stop() const { return stop_; }  // which one; empty where none is
  const std::string& text() const { return text_; }  // everything given out so far
  // How many of the pushed tokens, from the first, lie wholly in text(): the answer's tokens without stop text.
  int64_t tokens() const;

 private:
  std::string Take(const std::string& piece);

  StreamDecoder decoder_;
  std::vector<std::string> stops_;
  std::vector<std::pair<int32_t, std::string>> stop_tokens_;  // and the stop texts that they are
  std::string text_;                                          // given out
  std::string held_;           // decoded after text_, perhaps the beginning of a stop text
  std::vector<int64_t> ends_;  // [tokens pushed]: bytes of decoded text up to and including the token
  int64_t no_text_ = 0;        // how many of the last entries belong to a character that is not complete
  bool stopped_ = false;
  std::string stop_;
};

}  // namespace duo
