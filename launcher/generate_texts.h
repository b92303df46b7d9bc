// What `duo generate` reads, as tokens: a prompt and the questions on it, plain or in the turns of the model's chat
// template. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct TextFlags {
  std::string prompt, prompt_file;  // one of them, or messages_file; file "-": standard input
  std::vector<std::string> asks;
  bool chat = false;
  std::string system;                           // with chat; empty: the template's own
  std::string messages_file;                    // a conversation as JSON, instead of a prompt; with chat
  std::vector<std::string> template_arguments;  // NAME=VALUE
  int64_t max_tokens = 0;                       // a longer prompt is cut; 0: none is
  bool special = false;                         // the text of special tokens is read as those tokens
};

// On rank 0 only: the others never see the text.
struct Texts {
  Tokenizer tokenizer;
  std::vector<int32_t> prompt;             // with questions: as far as none of them can change its tokens
  std::vector<std::vector<int32_t>> asks;  // each continues the prompt, with what is left of its text
  size_t cut_bytes = 0;                    // of the prompt, for --max-tokens
  std::string rendered;                    // the text whose tokens the prompt is, without questions
  std::string sent;                        // the prompt as it was given, without what --max-tokens cut
  std::string read;                        // the text that the prompt's tokens begin with: it, in its turn of a chat
  std::vector<int32_t> end_tokens;         // the model's, and with chat the end of its turn
};

// Errors: a file that cannot be read, an empty text, a model without a chat template, a tokenizer whose tokens the
// model at `model` does not have.
absl::StatusOr<Texts> EncodeTexts(const std::string& model, const TextFlags& flags);

// The same prompt with flags.asks instead of the questions that it has.
absl::Status AskOtherwise(const std::string& model, const TextFlags& flags, Texts* texts);

}  // namespace duo
