// PasskeyData: synthetic long-context recall. A real text (the haystack) gets a few facts hidden in it at different
// depths, and questions that ask for every one of them follow: a model can only answer through heads that reach back to
// the facts. `duo identify` trains gates on such samples and measures patterns on held-out ones (arXiv 2410.10819
// section 2.3; multi-passkey retrieval).
//
// Two tasks. kPasskey: "the third passkey is kilo tango ..", words of the spelling alphabet, for any instruct model.
// kNeedle: "Note: the passcode for the amber falcon is 402113.", the sentence and question that the demo model
// needle-6m was trained on (launcher/demo/needle_document.py). With a chat template the document and the first question
// are one user turn, and questions and answers take turns; without one they are lines "Question: .." and "Answer: ..".
//
// Sample i of a seed follows from the two numbers alone, so that a run can resume and ranks need not talk. Training
// samples are cut from the first four fifths of the haystack, held-out documents from the last.
// Values; const calls are safe from any thread. Errors: Create refuses what no sample could be made of.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace duo {

enum class RecallTask { kPasskey, kNeedle };
const char* Name(RecallTask task);  // "passkey", "needle"

struct PasskeyOptions {
  RecallTask task = RecallTask::kPasskey;
  int facts = 10;                             // hidden in a document; at most 20
  int words = 32;                             // of a passkey (kPasskey)
  double min_depth = 0.05, max_depth = 0.95;  // of facts, as a share of the document
};

// A training sample: a document, then every question with its answer.
struct PasskeySample {
  struct Range {
    int64_t begin = 0, end = 0;
  };
  std::vector<int32_t> tokens;
  int64_t first_label = 0;     // what follows the document is learned: [first_label, tokens.size())
  std::vector<Range> answers;  // [facts]: the answers' own tokens, without the words that lead up to them
  std::vector<double> depths;  // [facts]: where the fact's sentence begins, as a share of the document
};

// The same for an engine: the document is read once, each question is put on a fork of it.
struct PasskeyDocument {
  struct Question {
    std::vector<int32_t> tokens;  // ends where the answer is to begin
    std::string answer;           // as a person writes it, without white space around it
    int answer_tokens = 0;
    double depth = 0;
    PasskeySample::Range fact;  // the document's tokens that say it
    // Of each token of the answer: the token of the fact that it copies; where they are not the same tokens, the fact.
    std::vector<PasskeySample::Range> copied;
  };
  std::vector<int32_t> tokens;
  std::vector<Question> questions;      // in the order of their facts
  std::vector<int32_t> empty_question;  // a question's frame that asks for nothing
};

class PasskeyData {
 public:
  static absl::StatusOr<PasskeyData> Create(const Tokenizer& tokenizer, const std::optional<ChatTemplate>& chat,
                                            std::string_view haystack, const PasskeyOptions& options);

  // document_tokens: facts included, everything before the first question.
  PasskeySample Sample(uint64_t seed, int64_t index, int64_t document_tokens) const;
  // Facts at evenly spread depths in text that no sample holds.
  PasskeyDocument HeldOut(uint64_t seed, int64_t index, int64_t document_tokens) const;

  // The shortest document that holds the facts and as much text around them; the most tokens that follow a document in
  // a sample.
  int64_t min_document_tokens() const { return 2 * facts_tokens_; }
  int64_t max_question_tokens() const { return questions_tokens_; }
  // Of the text that no sample holds, as one piece.
  std::vector<int32_t> HeldOutText() const { return {haystack_.begin() + held_out_, haystack_.end()}; }
  const PasskeyOptions& options() const { return options_; }

 private:
  // A fact in the words of the task. lead: the beginning of the answer, which is given to the model.
  struct Fact {
    std::string sentence, question, lead, answer;
  };
  struct Document {
    std::vector<int32_t> tokens;  // without what a chat puts before it
    std::vector<double> depths;
    std::vector<PasskeySample::Range> facts;
  };

  PasskeyData(const Tokenizer& tokenizer, const std::optional<ChatTemplate>& chat, const PasskeyOptions& options)
      : tokenizer_(tokenizer), chat_(chat), options_(options) {}
  std::vector<Fact> MakeFacts(uint64_t seed) const;
  Document Assemble(const std::vector<Fact>& facts, const std::vector<double>& depths, int64_t document_tokens,
                    bool held_out, uint64_t seed) const;
  // A question and how its answer begins, behind a document.
  std::vector<int32_t> AskTokens(const std::string& question, const std::string& lead) const;
  // What follows the document: text that is given, then an answer, and so on. The last piece has no answer.
  struct Piece {
    std::vector<TextSegment> given;
    std::string answer;
  };
  absl::StatusOr<std::vector<Piece>> Conversation(const std::vector<Fact>& facts) const;
  // What comes before it: BOS, or how a chat begins.
  std::vector<int32_t> Opening() const;

  Tokenizer tokenizer_;
  std::optional<ChatTemplate> chat_;
  PasskeyOptions options_;
  std::vector<int32_t> haystack_;
  std::vector<uint8_t> ends_line_;  // [haystack tokens]: the token ends with a newline
  int64_t held_out_ = 0;            // first token that samples leave alone
  int64_t facts_tokens_ = 0, questions_tokens_ = 0;
};

// The length of sample `index` of a run: `kLengths` lengths spread evenly from least to most, each once in every
// kLengths samples, in an order that follows from the seed.
constexpr int kLengths = 50;
int64_t SampleLength(uint64_t seed, int64_t index, int64_t least, int64_t most);

// Text that a Debian or Ubuntu system carries (licences, Perl's manual pages), at most `bytes`; empty if there is none.
std::string SystemText(size_t bytes);

}  // namespace duo
