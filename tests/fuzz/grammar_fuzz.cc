// Schemas, regular expressions and GBNF: whatever is compiled is followed for some bytes, and a mask allows exactly the
// bytes that are then accepted.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/text/grammar/guide.h"
#include "runtime/text/grammar/matcher.h"

namespace {

std::shared_ptr<const duo::TokenTrie> AllBytes() {
  std::vector<std::string> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = std::string(1, static_cast<char>(i));
  return std::make_shared<duo::TokenTrie>(bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace duo;
  if (size == 0) return 0;
  constexpr Guide::Kind kKinds[] = {Guide::Kind::kJsonSchema, Guide::Kind::kRegex, Guide::Kind::kGrammar};
  // A seed's first byte is a letter: s, r or g.
  const Guide::Kind kind = kKinds[data[0] == 'r' ? 1 : data[0] == 'g' ? 2 : 0];
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto grammar = CompileGuide({kind, text}, {.bytes = 1 << 16, .expressions = 20'000, .seconds = 5});
  if (!grammar.ok()) return 0;
  GrammarMatcher matcher(*grammar, AllBytes(), {.steps = 20'000, .memory = 1 << 20, .readings = 200});
  for (int step = 0; step < 12 && !matcher.must_end(); ++step) {
    std::vector<uint32_t> mask;
    if (!matcher.Mask({}, &mask).ok()) break;
    std::vector<int32_t> allowed;
    for (int byte = 0; byte < 256; ++byte) {
      if ((mask[byte / 32] >> (byte % 32) & 1) != 0) allowed.push_back(byte);
    }
    DUO_CHECK(!allowed.empty() || matcher.may_end());
    if (allowed.empty()) break;
    const int32_t next = allowed[(step * 31 + data[size / 2]) % allowed.size()];
    const int32_t other = (next + 1 + data[0]) % 256;
    if ((mask[other / 32] >> (other % 32) & 1) == 0) DUO_CHECK(!GrammarMatcher(matcher).Accept(other).ok());
    const absl::Status accepted = matcher.Accept(next);
    DUO_CHECK(accepted.ok() || absl::IsResourceExhausted(accepted));
    if (!accepted.ok()) break;
  }
  return 0;
}
