#include "runtime/files/crc32c.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace duo {
namespace {

TEST(Crc32c, GivesTheValuesOfRfc3720) {
  std::vector<uint8_t> bytes(32, 0);
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x8a9136aau);
  bytes.assign(32, 0xff);
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x62a8ab43u);
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<uint8_t>(i);
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x46dd794eu);
  EXPECT_EQ(Crc32c("123456789", 9), 0xe3069283u);
  EXPECT_EQ(Crc32c(nullptr, 0), 0u);
}

TEST(Crc32c, IsTheSameOnEveryPathAndContinues) {
  std::vector<uint8_t> bytes(20011);
  uint32_t state = 1;
  for (uint8_t& b : bytes) b = static_cast<uint8_t>((state = state * 1664525u + 1013904223u) >> 24);
  for (size_t size : {0, 1, 7, 8, 9, 1023, 3071, 3072, 3073, 6145, 20011}) {
    EXPECT_EQ(Crc32c(bytes.data(), size, 77), Crc32cPortable(bytes.data(), size, 77)) << size;
    const size_t half = size / 3;
    EXPECT_EQ(Crc32c(bytes.data() + half, size - half, Crc32c(bytes.data(), half)), Crc32c(bytes.data(), size));
  }
}

}  // namespace
}  // namespace duo
