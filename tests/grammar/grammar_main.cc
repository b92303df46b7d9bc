// grammar: grammars for other programs' tests, a JSON object a line on stdin and one on stdout.
//   {"kind": "json_schema"|"json_object"|"regex"|"grammar", "text": .., "tries": [texts]}
//     -> {"error": ..} or {"accepted": [bool ..]}: whether each text is one of the grammar's, whole
//   with --bench TOKENIZER.json: {.., "tries"} -> {"microseconds": [..]}, of the mask before each of the texts' tokens
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/base/seconds.h"
#include "runtime/text/grammar/guide.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/token_bytes.h"

namespace duo {
namespace {

Guide GuideOf(const nlohmann::json& line) {
  const std::string kind = line.at("kind");
  Guide guide;
  guide.text = line.value("text", "");
  guide.kind = kind == "json_schema"   ? Guide::Kind::kJsonSchema
               : kind == "json_object" ? Guide::Kind::kJsonObject
               : kind == "regex"       ? Guide::Kind::kRegex
                                       : Guide::Kind::kGrammar;
  return guide;
}

nlohmann::json Accepted(const std::shared_ptr<const Grammar>& grammar, const std::shared_ptr<const TokenTrie>& trie,
                        const nlohmann::json& tries) {
  nlohmann::json accepted = nlohmann::json::array();
  for (const std::string text : tries) {
    GrammarMatcher matcher(grammar, trie);
    accepted.push_back(matcher.AcceptBytes(text).ok() && matcher.may_end());
  }
  return {{"accepted", accepted}};
}

nlohmann::json Timed(const std::shared_ptr<const Grammar>& grammar, const std::shared_ptr<const TokenTrie>& trie,
                     const Tokenizer& tokenizer, const nlohmann::json& tries) {
  nlohmann::json times = nlohmann::json::array();
  for (const std::string text : tries) {
    GrammarMatcher matcher(grammar, trie);
    std::vector<uint32_t> mask;
    const absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(text, {.add_special_tokens = false});
    if (!tokens.ok()) continue;
    for (const int32_t token : *tokens) {
      const Clock::time_point start = Clock::now();
      if (!matcher.Mask({}, &mask).ok()) break;
      times.push_back(1e6 * SecondsSince(start));
      if (!matcher.Accept(token).ok()) break;
    }
  }
  return {{"microseconds", times}};
}

int Run(const char* tokenizer_file) {
  Tokenizer tokenizer;
  std::shared_ptr<const TokenTrie> trie;
  if (tokenizer_file != nullptr) {
    absl::StatusOr<Tokenizer> loaded = Tokenizer::Load(tokenizer_file);
    if (!loaded.ok()) return 1;
    tokenizer = std::move(*loaded);
    trie = MakeTokenTrie(tokenizer, tokenizer.vocab_size());
  } else {
    trie = std::make_shared<TokenTrie>(std::vector<std::string>{"a"});
  }
  for (std::string text; std::getline(std::cin, text);) {
    const nlohmann::json line = nlohmann::json::parse(text);
    const absl::StatusOr<std::shared_ptr<const Grammar>> grammar = CompileGuide(GuideOf(line));
    nlohmann::json answer = {{"error", std::string(grammar.status().message())}};
    if (grammar.ok()) {
      answer = tokenizer_file == nullptr ? Accepted(*grammar, trie, line.at("tries"))
                                         : Timed(*grammar, trie, tokenizer, line.at("tries"));
    }
    std::printf("%s\n", answer.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  if (argc == 1) return duo::Run(nullptr);
  if (argc == 3 && std::string(argv[1]) == "--bench") return duo::Run(argv[2]);
  std::fprintf(stderr, "usage: grammar [--bench TOKENIZER.json]\n");
  return 2;
}
