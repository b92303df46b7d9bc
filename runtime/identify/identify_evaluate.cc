#include "runtime/identify/identify_evaluate.h"

#include <algorithm>
#include <cctype>

namespace duo {
namespace {

constexpr int kSlack = 4;  // tokens beyond an answer's own

std::vector<std::string> Words(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || byte >= 0x80) {
      words.back() += static_cast<char>(std::tolower(byte));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

RecallCount& RecallCount::operator+=(const RecallCount& other) {
  asked += other.asked;
  found += other.found;
  words += other.words;
  return *this;
}

RecallCount Sum(const std::vector<RecallCount>& counts) {
  RecallCount sum;
  for (const RecallCount& count : counts) sum += count;
  return sum;
}

RecallCount ScoreAnswer(const std::string& text, const std::string& hidden) {
  const std::vector<std::string> said = Words(text), expected = Words(hidden);
  int in_place = 0;
  for (size_t i = 0; i < std::min(said.size(), expected.size()); ++i) in_place += said[i] == expected[i];
  RecallCount count;
  count.asked = 1;
  count.found = in_place == static_cast<int>(expected.size());
  count.words = static_cast<double>(in_place) / static_cast<double>(std::max<size_t>(expected.size(), 1));
  return count;
}

RecallSuite MakeRecallSuite(const PasskeyData& data, uint64_t seed, const std::vector<int64_t>& lengths,
                            int documents) {
  RecallSuite suite;
  suite.lengths = lengths;
  for (size_t i = 0; i < lengths.size(); ++i) {
    std::vector<PasskeyDocument>& of_length = suite.documents.emplace_back();
    for (int d = 0; d < documents; ++d) {
      of_length.push_back(data.HeldOut(seed, static_cast<int64_t>(i) * documents + d, lengths[i]));
    }
  }
  return suite;
}

void MakeRoom(const RecallSuite& suite, EngineOptions* options) {
  options->sessions = 1;
  options->max_session_tokens = options->kv_tokens = 0;
  options->questions = 1;
  for (const std::vector<PasskeyDocument>& documents : suite.documents) {
    for (const PasskeyDocument& document : documents) {
      const int questions = std::min(static_cast<int>(document.questions.size()), 16);
      int64_t longest = 0;
      for (const PasskeyDocument::Question& q : document.questions) {
        longest = std::max(longest, static_cast<int64_t>(q.tokens.size()) + q.answer_tokens + kSlack);
      }
      const auto tokens = static_cast<int64_t>(document.tokens.size());
      options->questions = std::max(options->questions, questions);
      options->max_session_tokens = std::max(options->max_session_tokens, tokens + longest);
      options->kv_tokens = std::max(options->kv_tokens, tokens + questions * longest);
    }
  }
}

absl::StatusOr<std::vector<std::vector<RecallCount>>> MeasureRecall(
    Engine& engine, const Tokenizer& tokenizer, const RecallSuite& suite, const std::vector<int32_t>& end_tokens,
    const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<std::vector<RecallCount>> counts(suite.documents.size());
  int64_t total = 0, done = 0;
  for (const std::vector<PasskeyDocument>& documents : suite.documents) {
    for (const PasskeyDocument& document : documents) total += static_cast<int64_t>(document.questions.size());
  }
  for (size_t i = 0; i < suite.documents.size(); ++i) {
    for (const PasskeyDocument& document : suite.documents[i]) {
      absl::StatusOr<SessionId> session = engine.CreateSession(static_cast<int64_t>(document.tokens.size()));
      if (!session.ok()) return session.status();
      absl::Status status;
      auto watch = [&](const RequestResult& result) {
        if (status.ok()) status = result.status;
      };
      RequestEvents read;
      read.on_done = watch;
      auto append = engine.Append(*session, document.tokens, std::move(read));
      if (!append.ok()) return append.status();
      std::vector<std::vector<int32_t>> answers(document.questions.size());
      for (size_t q = 0; q < answers.size(); ++q) {
        GenerateParams params;
        params.max_new_tokens = document.questions[q].answer_tokens + kSlack;
        params.end_tokens = end_tokens;
        RequestEvents events;
        events.on_token = [&answers, q](int32_t token) {
          answers[q].push_back(token);
          return true;
        };
        events.on_done = [&, watch](const RequestResult& result) {
          watch(result);
          progress(++done, total);
        };
        auto ask = engine.Ask(*session, document.questions[q].tokens, params, std::move(events));
        if (!ask.ok()) return ask.status();
      }
      while (engine.Step()) {
      }
      if (!status.ok()) return status;
      if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
      counts[i].resize(std::max(counts[i].size(), answers.size()));
      for (size_t q = 0; q < answers.size(); ++q) {
        counts[i][q] += ScoreAnswer(tokenizer.Decode(answers[q]), document.questions[q].answer);
      }
    }
  }
  return counts;
}

}  // namespace duo
