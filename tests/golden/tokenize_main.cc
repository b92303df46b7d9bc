// Test driver: the tokenizer as a filter, so that a script can compare it with another implementation.
//   tokenize TOKENIZER.json encode [--parse-special] [--no-special]   stdin: texts, stdout: token ids
//   tokenize TOKENIZER.json decode [--keep-special]                   stdin: token ids, stdout: texts
//   tokenize TOKENIZER.json time                                      stdin: one text; stdout: its bytes, tokens,
//   seconds
// A text is a uint32 byte count and its bytes; token ids are a uint32 count and int32 each; little endian, one after
// another until the end of the input. decode pushes token by token and checks that this equals decoding the whole.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/tokenizer.h"

namespace {

bool HasFlag(int argc, char** argv, const char* flag) {
  for (int i = 3; i < argc; ++i) {
    if (std::strcmp(argv[i], flag) == 0) return true;
  }
  return false;
}

bool ReadCount(uint32_t* count) {
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(count), sizeof(*count)));
}

template <typename Items>
void WriteItems(const Items& items) {
  const uint32_t count = static_cast<uint32_t>(items.size());
  std::cout.write(reinterpret_cast<const char*>(&count), sizeof(count));
  std::cout.write(reinterpret_cast<const char*>(items.data()), count * sizeof(items[0]));
}

void EncodeAll(const duo::Tokenizer& tokenizer, duo::EncodeOptions options) {
  uint32_t size = 0;
  std::string text;
  while (ReadCount(&size)) {
    text.resize(size);
    std::cin.read(text.data(), size);
    WriteItems(tokenizer.Encode(text, options));
  }
}

void DecodeAll(const duo::Tokenizer& tokenizer, bool skip_special) {
  uint32_t size = 0;
  std::vector<int32_t> ids;
  while (ReadCount(&size)) {
    ids.resize(size);
    std::cin.read(reinterpret_cast<char*>(ids.data()), size * sizeof(int32_t));
    const std::string whole = tokenizer.Decode(ids, skip_special);
    duo::StreamDecoder stream(tokenizer, skip_special);
    std::string pieces;
    for (const int32_t id : ids) pieces += stream.Push(id);
    pieces += stream.Flush();
    DUO_CHECK_EQ(pieces, whole);
    WriteItems(whole);
  }
}

void Time(const duo::Tokenizer& tokenizer) {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  const auto start = std::chrono::steady_clock::now();
  const size_t tokens = tokenizer.Encode(text).size();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%zu bytes %zu tokens %.3f s\n", text.size(), tokens, seconds.count());
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  if (argc < 3) {
    std::cerr << "usage: tokenize TOKENIZER.json encode|decode|time [flags]\n";
    return 2;
  }
  const auto tokenizer = duo::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << "error: " << tokenizer.status().message() << "\n";
    return 1;
  }
  const std::string mode = argv[2];
  if (mode == "encode") {
    EncodeAll(*tokenizer, {HasFlag(argc, argv, "--parse-special"), !HasFlag(argc, argv, "--no-special")});
  } else if (mode == "decode") {
    DecodeAll(*tokenizer, !HasFlag(argc, argv, "--keep-special"));
  } else if (mode == "time") {
    Time(*tokenizer);
  } else {
    std::cerr << "unknown mode " << mode << "\n";
    return 2;
  }
  return std::cout.flush() ? 0 : 1;
}
