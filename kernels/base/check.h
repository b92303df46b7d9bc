// CHECK: the project's answer to bugs and to CUDA, NCCL and MPI failures. It prints the expression, both values and
// the place, then aborts. Bad input, bad files and lack of capacity are not bugs: they are absl::Status.
// Thread-safe. Costs one comparison; never compiled out.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace duo {

[[noreturn]] inline void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "CHECK failed at %s:%d: %s\n", file, line, what.c_str());
  std::fflush(stderr);
  std::abort();
}

template <typename A, typename B>
std::string CheckOpMessage(const char* expression, const A& a, const B& b) {
  std::ostringstream out;
  out << expression << " (" << a << " vs " << b << ")";
  return out.str();
}

}  // namespace duo

#define DUO_CHECK(condition)                                              \
  do {                                                                    \
    if (!(condition)) ::duo::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (0)

#define DUO_CHECK_MSG(condition, message)                                                               \
  do {                                                                                                  \
    if (!(condition)) ::duo::CheckFailed(__FILE__, __LINE__, std::string(#condition ": ") + (message)); \
  } while (0)

#define DUO_CHECK_OP(op, a, b)                                                                        \
  do {                                                                                                \
    const auto& duo_a = (a);                                                                          \
    const auto& duo_b = (b);                                                                          \
    if (!(duo_a op duo_b))                                                                            \
      ::duo::CheckFailed(__FILE__, __LINE__, ::duo::CheckOpMessage(#a " " #op " " #b, duo_a, duo_b)); \
  } while (0)

#define DUO_CHECK_EQ(a, b) DUO_CHECK_OP(==, a, b)
#define DUO_CHECK_LE(a, b) DUO_CHECK_OP(<=, a, b)
#define DUO_CHECK_LT(a, b) DUO_CHECK_OP(<, a, b)
#define DUO_CHECK_GE(a, b) DUO_CHECK_OP(>=, a, b)
#define DUO_CHECK_GT(a, b) DUO_CHECK_OP(>, a, b)
