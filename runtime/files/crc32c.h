// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78, as in RFC 3720 appendix B.4): of saved sections. Uses the
// processor's instruction where there is one. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo {

// Continues `crc` (0 at the beginning) over `size` bytes.
uint32_t Crc32c(const void* data, size_t size, uint32_t crc = 0);
// The same without special instructions; for tests and other processors.
uint32_t Crc32cPortable(const void* data, size_t size, uint32_t crc = 0);

}  // namespace duo
