// Runs a fuzz target without a fuzzer: every file of a corpus folder, then mutations of them from a fixed seed, so that
// each build's tests take the same short run; DUO_TEST_SCALE multiplies them, DUO_TEST_SEED makes others.
//   NAME_fuzz CORPUS_DIR [--mutations N]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/support/test_scale.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

std::vector<Bytes> ReadCorpus(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());  // a folder has no order of its own
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// A few of the changes that fuzzers make: flipped and random bytes, cuts, copies, joins with another seed, and numbers
// replaced by extreme ones.
Bytes Mutate(const std::vector<Bytes>& corpus, std::mt19937_64& random) {
  const auto below = [&](size_t n) { return n == 0 ? 0 : static_cast<size_t>(random() % n); };
  Bytes data = corpus[below(corpus.size())];
  const size_t changes = 1 + below(4);
  for (size_t i = 0; i < changes; ++i) {
    const size_t at = below(data.size() + 1);
    const auto here = data.begin() + static_cast<std::ptrdiff_t>(at);
    const auto until = here + static_cast<std::ptrdiff_t>(below(std::min<size_t>(data.size() - at, 64) + 1));
    switch (below(7)) {
      case 0:
        if (at < data.size()) data[at] ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        if (at < data.size()) data[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        data.erase(here, until);
        break;
      case 3: {
        const Bytes copy(here, until);
        const size_t to = below(data.size() + 1);
        data.insert(data.begin() + static_cast<std::ptrdiff_t>(to), copy.begin(), copy.end());
        break;
      }
      case 4:
        data.resize(at);
        break;
      case 5: {
        const Bytes& other = corpus[below(corpus.size())];
        const size_t from = below(other.size() + 1);
        data.resize(at);
        data.insert(data.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        break;
      }
      default: {
        static constexpr const char* kNumbers[] = {"-1",    "0",    "2147483648", "18446744073709551615",
                                                   "1e308", "null", "\"\"",       "[]"};
        const std::string number = kNumbers[below(std::size(kNumbers))];
        const auto digit = std::find_if(here, data.end(), [](uint8_t c) { return c >= '0' && c <= '9'; });
        if (digit == data.end()) break;
        const auto place = data.erase(digit);
        data.insert(place, number.begin(), number.end());
        break;
      }
    }
  }
  return data;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || !std::filesystem::is_directory(argv[1])) {
    std::fprintf(stderr, "usage: %s CORPUS_DIR [--mutations N]\n", argv[0]);
    return 2;
  }
  const size_t mutations =
      argc >= 4 && std::strcmp(argv[2], "--mutations") == 0 ? std::strtoull(argv[3], nullptr, 10) : 0;
  const std::vector<Bytes> corpus = ReadCorpus(argv[1]);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s holds no seeds\n", argv[1]);
    return 1;
  }
  for (const Bytes& seed : corpus) LLVMFuzzerTestOneInput(seed.data(), seed.size());
  duo::InitTestScale();
  std::mt19937_64 random(duo::FirstSeed(1));
  for (size_t i = 0; i < mutations * duo::TestScale(); ++i) {
    const Bytes data = Mutate(corpus, random);
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("%zu seeds and %zu mutations\n", corpus.size(), mutations * duo::TestScale());
  return 0;
}
