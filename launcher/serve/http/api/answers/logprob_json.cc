#include "launcher/serve/http/api/answers/logprob_json.h"

#include <algorithm>
#include <cmath>

#include "runtime/text/unicode/unicode.h"

namespace duo::http {
namespace {

std::string RawText(const Tokenizer& tokenizer, int32_t token) {
  std::string bytes = tokenizer.BytesOf(token);
  return bytes.empty() ? std::string(tokenizer.TextOf(token)) : bytes;
}

// JSON has no infinity: what has no chance at all gets a number that stands for it.
double Finite(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

Json One(const Tokenizer& tokenizer, const TokenLogprob& token) {
  Json bytes = Json::array();
  for (const char byte : RawText(tokenizer, token.token)) bytes.push_back(static_cast<uint8_t>(byte));
  return {{"token", TokenText(tokenizer, token.token)}, {"logprob", Finite(token.logprob)}, {"bytes", bytes}};
}

int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

}  // namespace

std::string TokenText(const Tokenizer& tokenizer, int32_t token) {
  return ReplaceInvalidUtf8(RawText(tokenizer, token));
}

Json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenScore>& scores) {
  Json content = Json::array();
  for (const TokenScore& score : scores) {
    Json one = One(tokenizer, score.chosen);
    one["top_logprobs"] = Json::array();
    for (const TokenLogprob& best : score.best) one["top_logprobs"].push_back(One(tokenizer, best));
    content.push_back(std::move(one));
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json CompletionLogprobs(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
                        const std::vector<TokenScore>& prompt_scores, const std::vector<TokenScore>& scores,
                        int64_t* offset) {
  Json tokens = Json::array(), logprobs = Json::array(), best = Json::array(), offsets = Json::array();
  const auto add = [&](int32_t token, const TokenScore* score) {
    const std::string text = TokenText(tokenizer, token);
    tokens.push_back(text);
    offsets.push_back(*offset);
    *offset += Characters(text);
    if (score == nullptr) {
      logprobs.push_back(nullptr);
      return best.push_back(nullptr);
    }
    logprobs.push_back(Finite(score->chosen.logprob));
    Json top = Json::object();
    for (const TokenLogprob& b : score->best) top.emplace(TokenText(tokenizer, b.token), Finite(b.logprob));
    top.emplace(text, Finite(score->chosen.logprob));  // the chosen one is always there
    best.push_back(std::move(top));
  };
  for (size_t i = 0; i < prompt.size(); ++i) {
    add(prompt[i], i > 0 && i <= prompt_scores.size() ? &prompt_scores[i - 1] : nullptr);
  }
  for (const TokenScore& score : scores) add(score.chosen.token, &score);
  return {{"tokens", tokens}, {"token_logprobs", logprobs}, {"top_logprobs", best}, {"text_offset", offsets}};
}

}  // namespace duo::http
