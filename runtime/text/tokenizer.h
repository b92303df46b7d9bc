// Text to token ids and back, as a Hugging Face tokenizer.json defines it.
// What: byte-level BPE (GPT-2, Llama-3, Qwen) and SentencePiece-style BPE with byte fallback (Llama-2, Mistral), with
// added tokens, normalisers, pre-tokenizers and decoders; ids equal those of the `tokenizers` library. Whatever the
// file asks for that is not supported is refused at Load in one sentence that names the kind and the file. Bytes: a
// prompt is bytes. What is not UTF-8 is read as Python's bytes.decode('utf-8', errors='replace') reads it: each
// ill-formed piece becomes one U+FFFD. Nothing else is changed or stripped.
// Ownership: a Tokenizer is a cheap value; copies share one immutable table. Threads: all const calls are safe from any
// thread; a StreamDecoder belongs to one. Errors: Load and Parse return a Status; encoding fails where the search for
// the file's pattern is given up; decoding cannot fail.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/detokenizer.h"

namespace duo {

struct TokenizerParts;

struct EncodeOptions {
  // The text of special tokens (<s>, <|im_end|>, ...) becomes these tokens; otherwise it is plain text, so that a
  // document cannot forge a turn. Added tokens that are not special are always recognised.
  bool parse_special = false;
  // BOS and EOS as the file's post-processor puts them.
  bool add_special_tokens = true;
  // The text goes on behind one that was encoded before, at a place that EncodeStable gave: no BOS, no prefix.
  bool continued = false;
  // More text will follow: no EOS.
  bool unfinished = false;
};

// A part of a text whose parts come from different hands: a chat template's own words and what a user wrote.
struct TextSegment {
  std::string text;
  bool parse_special = false;
};

struct StableTokens {
  std::vector<int32_t> ids;
  size_t bytes = 0;  // of the text, that they stand for
};

class Tokenizer {
 public:
  static absl::StatusOr<Tokenizer> Load(const std::string& path);
  // json: the file's content; name: what errors call it.
  static absl::StatusOr<Tokenizer> Parse(std::string_view json, const std::string& name);

  // One call is one text: a text given in pieces must be joined first.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view bytes, EncodeOptions options = {}) const;

  // The joined segments as one text, in which special tokens are recognised only where they lie within segments that
  // ask for it. Those that the file wants looked for after normalisation
  // are, where the normaliser leaves no doubt which part came from which segment.
  absl::StatusOr<std::vector<int32_t>> EncodeSegments(std::span<const TextSegment> segments,
                                                      bool add_special_tokens = false, bool continued = false) const;

  // The tokens of the text's longest beginning that no later text can change (stable_text.h):
  //   s = EncodeStable(t, o);  Encode(t + u, o) == s.ids + Encode(the rest of t, and u; o continued).
  // Where nothing is certain both are empty, and what follows is not continued.
  absl::StatusOr<StableTokens> EncodeStable(std::string_view bytes, EncodeOptions options = {}) const;
  // The same for segments, of which only the last ends inside a character; bytes are of their joined text.
  absl::StatusOr<StableTokens> EncodeStable(std::span<const TextSegment> segments, bool continued = false) const;

  // Whether EncodeStable can find anything certain at all, but for what is before an added token. Otherwise a document
  // that a question follows is tokenised anew with it.
  bool has_stable_places() const;

  // Ids outside the vocabulary stand for nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = true) const;

  // One more than the greatest id.
  int32_t vocab_size() const;
  // The first token that the post-processor puts before a text, if it puts any.
  std::optional<int32_t> bos_id() const;
  // The token whose text, as the file spells it, is `text`: <|eot_id|>, </s>, ...
  std::optional<int32_t> IdOf(std::string_view text) const;
  // The file's spelling of the token (byte-level alphabet, word markers); empty for an unknown id.
  std::string_view TextOf(int32_t id) const;
  bool is_special(int32_t id) const;
  // What the token is inside a text, in bytes, which need not be whole characters; empty for special and unknown
  // tokens.
  std::string BytesOf(int32_t id) const;

 private:
  friend class StreamDecoder;
  // text: valid UTF-8; special: where special tokens are parsed.
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text, std::span<const TextRange> special,
                                                  const EncodeOptions& options) const;
  absl::StatusOr<StableTokens> EncodeStableText(std::string_view text, std::span<const TextRange> special,
                                                EncodeOptions options) const;
  std::shared_ptr<const TokenizerParts> parts_;
};

// Decodes tokens as they come. The texts of all Push calls and of Flush, joined, equal Decode of all tokens; each is
// valid UTF-8. Text is held back only while a later token could change it: inside a character, and, for byte-fallback
// tokenizers, inside a run of byte tokens.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);

  std::string Push(int32_t id);
  std::string Flush();  // afterwards the decoder is as new

 private:
  std::shared_ptr<const TokenizerParts> parts_;
  bool skip_special_;
  Detokenizer detokenizer_;
};

}  // namespace duo
