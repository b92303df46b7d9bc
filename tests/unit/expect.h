// Two assertions that GoogleTest alone lacks, for EXPECT_TRUE: they print what they found.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gtest/gtest.h"

namespace duo {

inline testing::AssertionResult Contains(absl::string_view text, absl::string_view part) {
  if (text.find(part) != absl::string_view::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in \"" << text << "\"";
}

// The container's elements are exactly these, in this order.
template <typename Container, typename... Items>
testing::AssertionResult Holds(const Container& container, const Items&... items) {
  auto it = container.begin();
  const auto next = [&](const auto& item) { return it != container.end() && *it++ == item; };
  if ((next(items) && ... && true) && it == container.end()) return testing::AssertionSuccess();
  std::ostringstream found;
  for (const auto& element : container) found << +element << " ";
  return testing::AssertionFailure() << "found " << found.str();
}
template <typename... Items>
testing::AssertionResult Holds(const std::vector<std::string>& container, const Items&... items) {
  const std::vector<std::string> expected = {items...};
  if (container == expected) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "found " << testing::PrintToString(container);
}

}  // namespace duo
