#include "runtime/text/token_bytes.h"

#include <string>
#include <vector>

namespace duo {

std::shared_ptr<const TokenTrie> MakeTokenTrie(const Tokenizer& tokenizer, int64_t vocab) {
  std::vector<std::string> bytes(vocab);
  for (int64_t id = 0; id < vocab; ++id) bytes[id] = tokenizer.BytesOf(static_cast<int32_t>(id));
  return std::make_shared<TokenTrie>(bytes);
}

}  // namespace duo
