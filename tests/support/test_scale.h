// How much work random tests do: their counts are said for tier `ci` and multiplied by the scale that a nightly run
// asks for (DUO_TEST_SCALE in the environment, 1 without it). Seeds stay, so what a small run does is the beginning of
// a large one; those of walks and drafts start elsewhere with DUO_TEST_SEED, so that many processes can share a large
// count. Set once by a test program's main before any test; read by any thread.
#pragma once

#include <cstdint>

namespace duo {

// Reads the environment. A scale that is not a whole number from 1 to 1000, or a seed from 0 to 1000, ends the program
// with a sentence.
void InitTestScale();

int TestScale();
inline int Scaled(int count) { return count * TestScale(); }

// The first seed of a random test: `seed`, and a million further for each 1 of DUO_TEST_SEED.
uint64_t FirstSeed(uint64_t seed);

}  // namespace duo
