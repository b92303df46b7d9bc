// How much work random tests do: their counts are said for tier `ci` and multiplied by the scale that a nightly run
// asks for (DUO_TEST_SCALE in the environment, 1 without it). Seeds stay, so what a small run does is the beginning of
// a large one. Set once by a test program's main before any test; read by any thread.
#pragma once

namespace duo {

// Reads the environment. Whatever is not a whole number from 1 to 1000 ends the program with a sentence.
void InitTestScale();

int TestScale();
inline int Scaled(int count) { return count * TestScale(); }

}  // namespace duo
