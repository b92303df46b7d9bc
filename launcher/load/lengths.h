// Lengths: how many tokens a text has, as a number or a distribution. The draw follows from the seed alone.
// Plain value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace duo {

class Lengths {
 public:
  // "N": always N. "A-B": each as likely. "~M": exponential with mean M, at least 1. "@FILE": one of the file's
  // numbers. INVALID_ARGUMENT that names what was expected.
  static absl::StatusOr<Lengths> Parse(const std::string& text);

  Lengths() = default;
  explicit Lengths(int64_t always) : low_(always), high_(always) {}

  // random: uniform 64 bits.
  int64_t Draw(uint64_t random) const;
  int64_t most() const;  // that Draw gives; of an exponential one ten times its mean, where it is cut

 private:
  int64_t low_ = 1, high_ = 1;
  double mean_ = 0;                // above 0: exponential
  std::vector<int64_t> of_these_;  // not empty: one of them
};

}  // namespace duo
