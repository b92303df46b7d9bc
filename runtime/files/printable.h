// Names out of files that nobody vouches for, fit for one line of a terminal. Pure, any thread.
#pragma once

#include <string>
#include <string_view>

namespace duo {

// What is not printable ASCII becomes '?'; at most 100 characters.
std::string Printable(std::string_view name);

}  // namespace duo
