// The main of every GoogleTest program here.
#include <gtest/gtest.h>

#include "tests/support/test_scale.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  duo::InitTestScale();
  return RUN_ALL_TESTS();
}
