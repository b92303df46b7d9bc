// Log-probabilities as OpenAI's two routes give them. Pure; any thread.
#pragma once

#include <string>
#include <vector>

#include "launcher/serve/http/api/base/body.h"
#include "runtime/model/token_score.h"
#include "runtime/text/tokenizer.h"

namespace duo::http {

// The token's text; what is no whole character becomes U+FFFD, and special tokens are spelled.
std::string TokenText(const Tokenizer& tokenizer, int32_t token);

// Of a chat: {"content": [{token, logprob, bytes, top_logprobs}]}.
Json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<TokenScore>& scores);

// Of a completion: tokens, token_logprobs, top_logprobs, text_offset. prompt: its tokens, before the answer's, with the
// scores of all but the first; text_offset counts characters from *offset on, which moves behind them.
Json CompletionLogprobs(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt,
                        const std::vector<TokenScore>& prompt_scores, const std::vector<TokenScore>& scores,
                        int64_t* offset);

}  // namespace duo::http
