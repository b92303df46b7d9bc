#include "tests/equivalence/draft_script.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"

namespace duo {
namespace {

using Tokens = std::vector<int32_t>;

constexpr int64_t kRoom = 500;

class Script {
 public:
  Script(Engine& engine, uint64_t seed, int before)
      : engine_(engine), rng_(static_cast<unsigned>(seed)), before_(before), room_(before + kRoom) {
    const int words = 6 + static_cast<int>(rng_() % 40);
    for (int i = 0; i < words; ++i) words_.push_back(static_cast<int32_t>(rng_() % engine.config().vocab));
  }

  std::vector<ScriptAnswer> Run(int calls) {
    for (int call = 0; call < calls; ++call) Call();
    if (session_ != 0) DUO_CHECK(engine_.CloseSession(session_).ok());
    if (begun_ != 0) DUO_CHECK(engine_.CloseSession(begun_).ok());
    return std::move(answers_);
  }

 private:
  Tokens Words(int count) {
    Tokens tokens;
    while (static_cast<int>(tokens.size()) < count) {
      if (tokens.size() > 12 && rng_() % 8 == 0) {  // a piece of what is there
        const size_t from = rng_() % (tokens.size() - 10);
        const Tokens piece(tokens.begin() + from, tokens.begin() + from + 10);
        tokens.insert(tokens.end(), piece.begin(), piece.end());
      } else {
        tokens.push_back(words_[rng_() % words_.size()]);
      }
    }
    tokens.resize(count);
    return tokens;
  }
  int64_t Length() const { return engine_.Get(session_)->tokens; }
  void RunAll() {
    while (engine_.Step()) {
    }
  }
  void Append(int count) {
    RequestEvents events;
    events.on_done = [](const RequestResult& result) { DUO_CHECK(result.status.ok()); };
    DUO_CHECK(engine_.Append(session_, Words(count), std::move(events)).ok());
    RunAll();
  }
  void Open() {
    const absl::StatusOr<SessionId> session = begun_ != 0 ? engine_.Fork(begun_, room_) : engine_.CreateSession(room_);
    DUO_CHECK_MSG(session.ok(), std::string(session.status().message()));
    session_ = *session;
    if (before_ > 0 && begun_ == 0) {  // is read once
      Append(before_);
      begun_ = session_;
      return Open();
    }
    Append(60 + static_cast<int>(rng_() % 180));
  }
  Tokens Question(int most) {
    const int count = 1 + static_cast<int>(rng_() % most);
    const Tokens all = *engine_.Tokens(session_);
    if (rng_() % 4 == 0 || static_cast<int>(all.size()) <= count) return Words(count);
    const size_t from = rng_() % (all.size() - count);
    return {all.begin() + from, all.begin() + from + count};
  }

  GenerateParams Params() {
    GenerateParams params;
    params.max_new_tokens = 1 + static_cast<int64_t>(rng_() % 40);
    params.temperature = std::vector<float>{0, 0, 1, 8, 20}[rng_() % 5];
    params.top_p = rng_() % 3 == 0 ? 0.8f : 1.0f;
    params.seed = rng_();
    params.want_logits = true;
    if (rng_() % 3 == 0) params.end_tokens = {words_[rng_() % words_.size()]};
    SamplingRules& rules = params.rules;
    if (rng_() % 4 == 0) rules.stop_tokens = {words_[rng_() % words_.size()]};
    if (rng_() % 4 == 0) rules.min_new_tokens = static_cast<int64_t>(rng_() % 12);
    if (rng_() % 4 == 0) rules.scores = 2;
    if (rng_() % 5 == 0) rules.top_k = 5;
    if (rng_() % 5 == 0) rules.min_p = 0.05f;
    if (rng_() % 6 == 0) rules.logit_bias = {{words_[0], -2.0f}};
    if (rng_() % 8 == 0) rules.repetition_penalty = 1.1f;
    return params;
  }

  void Ask(SessionId session, Tokens question, const GenerateParams& params, int64_t stop_after) {
    const size_t place = answers_.size();
    ScriptAnswer& begun = answers_.emplace_back();
    begun.kept = params.keep;
    begun.asked = absl::StrFormat("answer %d (%d tokens asked behind %d, at most %d, temperature %g, top_p %g%s)",
                                  place, question.size(), engine_.Get(session)->tokens, params.max_new_tokens,
                                  params.temperature, params.top_p, params.keep ? ", kept" : "");
    RequestEvents events;
    events.on_token = [this, place, stop_after](int32_t token) {
      answers_[place].tokens.push_back(token);
      return static_cast<int64_t>(answers_[place].tokens.size()) != stop_after;
    };
    events.on_logits = [this, place](const std::vector<float>& logits) { answers_[place].logits.push_back(logits); };
    events.on_score = [this, place](const TokenScore& score) { answers_[place].scores.push_back(score); };
    events.on_done = [this, place](const RequestResult& result) { answers_[place].result = result; };
    const absl::StatusOr<RequestId> asked = engine_.Ask(session, std::move(question), params, std::move(events));
    DUO_CHECK_MSG(asked.ok(), std::string(asked.status().message()));
  }
  int64_t StopAfter() { return rng_() % 4 == 0 ? 1 + static_cast<int64_t>(rng_() % 20) : 0; }

  void Call() {
    if (session_ != 0 && Length() > room_ - 120) {
      DUO_CHECK(engine_.CloseSession(std::exchange(session_, 0)).ok());
    }
    if (session_ == 0) Open();
    const int kind = static_cast<int>(rng_() % 10);
    if (kind == 0) {
      DUO_CHECK(engine_.Rewind(session_, before_ + static_cast<int64_t>(rng_() % (Length() - before_ + 1))).ok());
    } else if (kind == 1) {
      Append(1 + static_cast<int>(rng_() % 40));
    } else if (kind <= 3) {
      GenerateParams params = Params();
      params.keep = true;
      Ask(session_, Question(20), params, StopAfter());
    } else if (kind == 4) {
      const absl::StatusOr<SessionId> fork = engine_.Fork(session_, room_);
      DUO_CHECK_MSG(fork.ok(), std::string(fork.status().message()));
      Ask(*fork, Question(20), Params(), StopAfter());
      RunAll();
      Ask(session_, Question(20), Params(), StopAfter());
      RunAll();
      DUO_CHECK(engine_.CloseSession(*fork).ok());
    } else if (kind <= 6) {
      for (int i = 0; i < 4; ++i) Ask(session_, Question(3), Params(), StopAfter());
    } else {
      Ask(session_, Question(50), Params(), StopAfter());
    }
    RunAll();
  }

  Engine& engine_;
  std::mt19937 rng_;
  int before_;
  int64_t room_;
  Tokens words_;
  SessionId session_ = 0, begun_ = 0;  // begun_: the first `before_` tokens, of which the others are forks
  std::vector<ScriptAnswer> answers_;
};

bool SameScores(const std::vector<TokenScore>& a, const std::vector<TokenScore>& b) {
  const auto same = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token == y.token && x.logprob == y.logprob;
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const TokenScore& x, const TokenScore& y) {
    return same(x.chosen, y.chosen) && std::equal(x.best.begin(), x.best.end(), y.best.begin(), y.best.end(), same);
  });
}

}  // namespace

std::vector<ScriptAnswer> RunDraftScript(Engine& engine, uint64_t seed, int calls, int before) {
  return Script(engine, seed, before).Run(calls);
}

std::string DifferenceOf(const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected) {
  if (found.size() != expected.size()) return absl::StrCat(found.size(), " answers, expected ", expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const ScriptAnswer &a = found[i], &b = expected[i];
    if (a.result.status != b.result.status) return absl::StrCat(a.asked, ": ", a.result.status.ToString());
    if (a.tokens != b.tokens) {
      const auto parts = std::mismatch(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end());
      return absl::StrFormat("%s: token %d of %d and %d is another one", a.asked, parts.first - a.tokens.begin(),
                             a.tokens.size(), b.tokens.size());
    }
    if (a.result.finish != b.result.finish) return absl::StrCat(a.asked, ": ended as ", Name(a.result.finish));
    for (size_t step = 0; step < std::max(a.logits.size(), b.logits.size()); ++step) {
      if (step < a.logits.size() && step < b.logits.size() && a.logits[step] == b.logits[step]) continue;
      return absl::StrCat(a.asked, ": other logits at token ", step);
    }
    if (!SameScores(a.scores, b.scores)) return absl::StrCat(a.asked, ": other scores");
  }
  return "";
}

std::string DifferenceWithin(const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected,
                             float tolerance, int64_t* compared, int* parted) {
  if (found.size() != expected.size()) return absl::StrCat(found.size(), " answers, expected ", expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    const ScriptAnswer &a = found[i], &b = expected[i];
    if (a.result.status != b.result.status) return absl::StrCat(a.asked, ": ", a.result.status.ToString());
    bool parts = a.tokens.size() != b.tokens.size();
    const size_t steps = std::min({a.tokens.size(), b.tokens.size(), a.logits.size(), b.logits.size()});
    for (size_t step = 0; step < steps; ++step) {
      for (size_t id = 0; id < b.logits[step].size(); ++id) {
        const float apart = std::abs(a.logits[step][id] - b.logits[step][id]);
        if (apart <= tolerance) continue;  // a NaN does not pass
        return absl::StrFormat("%s: token %d: logit %d is %g away, %g are allowed", a.asked, step, id, apart,
                               tolerance);
      }
      ++*compared;
      parts = parts || a.tokens[step] != b.tokens[step];
      if (a.tokens[step] != b.tokens[step]) break;
    }
    *parted += parts;
    if (parts && a.kept) break;
  }
  return "";
}

}  // namespace duo
