#include "launcher/bench/recall_cases.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/check.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

using Json = nlohmann::json;

std::string TaskOf(const Json& question) { return question.value("task", "fact"); }

// The byte of the text that each token begins at, and the text's end.
std::vector<int64_t> Places(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  std::vector<int64_t> places = {0};
  for (const int32_t token : tokens)
    places.push_back(places.back() + static_cast<int64_t>(tokenizer.BytesOf(token).size()));
  return places;
}

absl::Status FillDocument(const Json& file, const std::string& text, const Tokenizer& tokenizer, RecallDocument* to) {
  absl::StatusOr<StableTokens> stable = tokenizer.EncodeStable(text);
  if (!stable.ok()) return stable.status();
  to->tokens = std::move(stable->ids);
  to->rest = text.substr(stable->bytes);
  const std::vector<int64_t> places = Places(tokenizer, to->tokens);
  for (const Json& each : file.value("inside", Json::array())) {
    const auto at = each.at("at").get<int64_t>();
    const auto answer = each.at("answer").get<std::string>();
    // BOS has no bytes: the last token that begins at the byte is the answer's.
    const auto first = std::upper_bound(places.begin(), places.end(), at) - 1;
    const auto end = std::lower_bound(places.begin(), places.end(), at + static_cast<int64_t>(answer.size()));
    if (end == places.end() || *first != at || *end != at + static_cast<int64_t>(answer.size()) || first >= end ||
        text.compare(at, answer.size(), answer) != 0 || first == places.begin())
      return absl::InvalidArgumentError(absl::StrCat("at byte ", at, " there are no tokens of the answer ", answer));
    to->inside.push_back({TaskOf(each), first - places.begin(), end - first, each.value("any_order", false)});
  }
  for (const Json& each : file.value("questions", Json::array()))
    to->asked.push_back({TaskOf(each), each.at("ask"), each.at("answer"), each.value("any_order", false)});
  if (to->inside.empty() && to->asked.empty()) {
    return absl::InvalidArgumentError(
        "there are no questions in it; expected some under inside or questions, as tests/bench/recall_tasks.py writes "
        "them");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RecallDocument> ReadRecallDocument(const std::string& path, const Tokenizer& tokenizer) {
  absl::StatusOr<std::string> read = ReadFile(path);
  if (!read.ok()) return read.status();
  RecallDocument document;
  absl::Status filled;
  try {
    const Json file = Json::parse(*read);
    absl::StatusOr<std::string> text = ReadFile(file.at("document").get<std::string>());
    if (!text.ok()) {
      return absl::Status(text.status().code(), absl::StrCat(path, ": its document ", text.status().message(),
                                                             "; paths are from the folder that duo runs in"));
    }
    filled = FillDocument(file, *text, tokenizer, &document);
  } catch (const Json::exception& error) {
    filled = absl::InvalidArgumentError(absl::StrCat(
        error.what(),
        "; expected an object with document, inside and questions, as tests/bench/recall_tasks.py writes it"));
  }
  if (!filled.ok()) return absl::Status(filled.code(), absl::StrCat(path, ": ", filled.message()));
  return document;
}

std::vector<AskedQuestion> FirstOfEach(const std::vector<AskedQuestion>& questions, int64_t most) {
  std::map<std::string, int64_t> taken;
  std::vector<AskedQuestion> first;
  for (const AskedQuestion& each : questions) {
    if (taken[each.task]++ < most) first.push_back(each);
  }
  return first;
}

bool PredictedRight(const InsideQuestion& question, const std::vector<int32_t>& tokens,
                    const std::vector<int32_t>& predicted) {
  DUO_CHECK_EQ(static_cast<int64_t>(predicted.size()), question.count);
  const auto answer = tokens.begin() + question.first;
  for (int64_t i = 0; i < question.count; ++i) {
    const bool right = question.any_order
                           ? std::find(answer + i, answer + question.count, predicted[i]) != answer + question.count
                           : answer[i] == predicted[i];
    if (!right) return false;
  }
  return true;
}

bool AnsweredRight(const AskedQuestion& question, const std::string& written) {
  std::string told = written.substr(0, written.find('\n'));
  absl::StripAsciiWhitespace(&told);
  if (absl::EndsWith(told, ".")) told.pop_back();
  std::vector<std::string> wanted = absl::StrSplit(question.answer, ' ', absl::SkipEmpty());
  std::vector<std::string> found = absl::StrSplit(told, ' ', absl::SkipEmpty());
  if (question.any_order) {
    std::sort(wanted.begin(), wanted.end());
    std::sort(found.begin(), found.end());
  }
  return wanted == found;
}

PairedLoss LossOf(std::string_view first, std::string_view second) {
  DUO_CHECK_EQ(first.size(), second.size());
  PairedLoss loss;
  loss.questions = static_cast<int64_t>(first.size());
  for (size_t i = 0; i < first.size(); ++i) {
    loss.lost += first[i] == '1' && second[i] == '0';
    loss.gained += first[i] == '0' && second[i] == '1';
  }
  if (loss.questions == 0) return loss;
  loss.net = static_cast<double>(loss.lost - loss.gained) / static_cast<double>(loss.questions);
  constexpr double kMore = 0.5, kOneSided = 1.6448536;
  const double n = static_cast<double>(loss.questions) + 4 * kMore;
  const double lost = static_cast<double>(loss.lost) + kMore, gained = static_cast<double>(loss.gained) + kMore;
  const double mean = (lost - gained) / n;
  loss.bound = mean + kOneSided * std::sqrt((lost + gained) / n - mean * mean) / std::sqrt(n);
  return loss;
}

}  // namespace duo
