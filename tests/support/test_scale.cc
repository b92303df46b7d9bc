#include "tests/support/test_scale.h"

#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"

namespace duo {
namespace {

int scale = 1;

}  // namespace

void InitTestScale() {
  const char* const text = std::getenv("DUO_TEST_SCALE");
  if (text == nullptr) return;
  if (!absl::SimpleAtoi(text, &scale) || scale < 1 || scale > 1000) {
    std::fprintf(stderr, "error: DUO_TEST_SCALE must be a whole number from 1 to 1000, found \"%s\"\n", text);
    std::exit(2);
  }
}

int TestScale() { return scale; }

}  // namespace duo
