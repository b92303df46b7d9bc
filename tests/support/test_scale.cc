#include "tests/support/test_scale.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"

namespace duo {
namespace {

int scale = 1;
int other_seed = 0;

void Read(const char* name, int least, int* value) {
  const char* const text = std::getenv(name);
  if (text == nullptr) return;
  if (!absl::SimpleAtoi(text, value) || *value < least || *value > 1000) {
    std::fprintf(stderr, "error: %s must be a whole number from %d to 1000, found \"%s\"\n", name, least, text);
    std::exit(2);
  }
}

}  // namespace

void InitTestScale() {
  Read("DUO_TEST_SCALE", 1, &scale);
  Read("DUO_TEST_SEED", 0, &other_seed);
}

int TestScale() { return scale; }
uint64_t FirstSeed(uint64_t seed) { return seed + uint64_t{1'000'000} * static_cast<uint64_t>(other_seed); }

}  // namespace duo
