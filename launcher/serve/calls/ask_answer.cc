#include "launcher/serve/calls/ask_answer.h"

#include <algorithm>
#include <utility>

namespace duo {
namespace {

constexpr size_t kMostUnread = 64;  // tokens behind a message that is on its way

}  // namespace

void AskAnswer::Expect(std::unique_ptr<TextStream> text, std::unique_ptr<GrammarMatcher> matcher,
                       std::vector<int32_t> ends) {
  text_ = std::move(text);
  matcher_ = std::move(matcher);
  ends_ = std::move(ends);
}

bool AskAnswer::OnToken(int32_t token, double seconds) {
  if (drawn_.empty()) first_token_ = seconds;
  drawn_.push_back(token);
  const std::string text = text_->Push(token);
  due_ = false;
  stream_.Prepare([&](AskUpdate& update) {
    update.text += text;
    AddTokens(update);
    due_ = !update.text.empty() || !update.tokens.empty();
    return due_;
  });
  if (matcher_ != nullptr) {
    broken_ = matcher_->Accept(token);
    if (!broken_.ok() || matcher_->must_end()) return false;
  }
  return !text_->stopped();
}

void AskAnswer::OnPromptScore(const TokenScore& score) {
  stream_.Update([&](AskUpdate& update) {
    update.prompt_scores.push_back(score);
    return false;
  });
}

void AskAnswer::ExpectSources(const Tokenizer* tokenizer, const SourceMap::Options& options, bool of_tokens) {
  tokenizer_ = tokenizer;
  source_options_ = options;
  of_tokens_ = of_tokens;
}

void AskAnswer::OnMass(const RowMass& mass) {
  masses_.push_back(WhatCounts(mass));
  if (!mass.ranges.empty()) looked_ = mass.ranges;
}

void AskAnswer::FindSources() {
  const SourceMap map(*tokenizer_, session_->sent, session_->tokens);
  const std::span<const LookedAt> all(masses_);
  // Of the text that is reported: what is drawn last may belong to a stop text.
  const auto rows = all.first(std::min<size_t>(all.size(), std::max(sent_, text_->tokens())));
  sources_ = map.Find(rows, source_options_);
  for (size_t i = 0; of_tokens_ && i < rows.size(); ++i) {
    token_sources_.push_back(map.Find(rows.subspan(i, 1), source_options_));
  }
  session_.reset();
  masses_.clear();
}

std::string AskAnswer::Said() {
  if (!last_text_.has_value()) last_text_ = text_->Flush();
  return text_->text();
}

absl::Status AskAnswer::OnDone(const RequestResult& result, int64_t history) {
  if (!result.status.ok()) return result.status;
  if (!broken_.ok()) return broken_;
  if (!last_text_.has_value()) last_text_ = text_->Flush();
  finish_ = text_->stopped() ? "stop" : Name(result.finish);
  stream_.Update([&](AskUpdate& update) {
    update.text += *last_text_;
    AddTokens(update);
    update.done = true;
    update.finish = finish_;
    update.stop = text_->stop();
    update.sources = std::move(sources_);
    update.token_sources = std::move(token_sources_);
    update.stats = {history,
                    result.prompt_tokens,
                    sent_,
                    result.queue_seconds,
                    result.prefill_seconds,
                    first_token_,
                    result.decode_seconds,
                    result.draw_steps,
                    result.drafted_tokens,
                    result.accepted_tokens,
                    result.decode};
    return true;
  });
  return absl::OkStatus();
}

// The tokens of which no later one can make a stop text.
void AskAnswer::AddTokens(AskUpdate& update) {
  update.cached = cached_;
  const int64_t certain = std::max(sent_, text_->tokens());
  update.tokens.insert(update.tokens.end(), drawn_.begin() + sent_, drawn_.begin() + certain);
  if (!scores_.empty()) {
    update.scores.insert(update.scores.end(), scores_.begin() + sent_, scores_.begin() + certain);
  }
  sent_ = certain;
}

bool AskAnswer::Unread() {
  const auto large = [](const AskUpdate& next) { return next.tokens.size() >= kMostUnread; };
  if (!stream_.Waits(large)) return false;
  waits_ = true;
  // It may have been taken just now, by a Written that saw nobody wait.
  return stream_.Waits(large);
}

bool AskAnswer::Written(bool ok) {
  stream_.Written(ok);
  return waits_.exchange(false);
}

}  // namespace duo
