// Fuzz target: any bytes as a tokenizer.json. Either Parse refuses them, or the tokenizer must encode and decode
// without a crash, with ids inside the vocabulary.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer = duo::Tokenizer::Parse(std::string_view(reinterpret_cast<const char*>(data), size), "input");
  if (!tokenizer.ok()) return 0;
  constexpr std::string_view kText =
      "<s>It's 12 \xC3\xA9t\xC3\xA9s,\r\n\n  \xE4\xBD\xA0\xE5\xA5\xBD \xFF\xE2\x82 <|im_end|> aaaa";
  for (const bool special : {false, true}) {
    const auto ids = tokenizer->Encode(kText, {special, special});
    if (!ids.ok()) continue;  // a pattern that takes too long
    for (const int32_t id : *ids) DUO_CHECK(id >= 0 && id < tokenizer->vocab_size());
    tokenizer->Decode(*ids, !special);
  }
  return 0;
}
