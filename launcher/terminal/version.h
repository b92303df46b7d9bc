// The program's version. Any thread.
#pragma once

namespace duo {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace duo
