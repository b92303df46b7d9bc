// What `duo bench recall` asks and how it judges: documents with questions as JSON files, what a model predicts inside
// a document, answers as text, and how much worse a setting is than another on the same questions. Plain values and
// pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// A question that stands in the document with its answer: the answer's tokens are those at [first, first + count).
struct InsideQuestion {
  std::string task;
  int64_t first = 0, count = 0;
  bool any_order = false;  // a prediction is right if it is any of the answer's tokens that have not been there yet
};

struct AskedQuestion {
  std::string task, ask, answer;
  bool any_order = false;  // of the answer's words
};

struct RecallDocument {
  std::vector<int32_t> tokens;
  std::string rest;  // of its text, behind the tokens: read with each question
  std::vector<InsideQuestion> inside;
  std::vector<AskedQuestion> asked;
};

// {"document": a file, "inside": [{"task", "at": byte, "answer", "any_order"}], "questions": [{"task", "ask", "answer",
// "any_order"}]}, as tests/bench/recall_tasks.py and launcher/demo/needle_document.py write it; a question without a
// task is of task "fact". Fails with the file's name where it is none of these, or an answer is not at its place.
absl::StatusOr<RecallDocument> ReadRecallDocument(const std::string& path, const Tokenizer& tokenizer);

// Of each task the first `most` questions, in their order.
std::vector<AskedQuestion> FirstOfEach(const std::vector<AskedQuestion>& questions, int64_t most);

// predicted: the first choice for the tokens that the question's answer has, in order.
bool PredictedRight(const InsideQuestion& question, const std::vector<int32_t>& tokens,
                    const std::vector<int32_t>& predicted);
// written: what a model wrote behind the question. Its first line counts, without blanks and a full stop at its ends.
bool AnsweredRight(const AskedQuestion& question, const std::string& written);

// Of the same questions under two settings: '1' and '0', right and wrong.
struct PairedLoss {
  int64_t questions = 0, lost = 0, gained = 0;
  double net = 0;    // share of the questions that the second lost more than it gained
  double bound = 0;  // above which that is not, with 95 % confidence (one side)
};
// The bound is that of Agresti and Min for paired shares: half an observation more in each of the four cells, then the
// normal approximation. Questions count as independent.
PairedLoss LossOf(std::string_view first, std::string_view second);

}  // namespace duo
