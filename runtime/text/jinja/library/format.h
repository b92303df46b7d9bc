// Python's two ways to format: `"%s" % x` and `"{}".format(x)`, for texts and numbers. Failures go to the run.
#pragma once

#include <string>
#include <string_view>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

Value FormatPercent(Run& run, const Value& format, const Value& arguments);
Value FormatBraces(Run& run, const Value& format, const Arguments& arguments);

// How one value is to be written: [[fill]align][sign][#][0][width][,][.precision][type].
struct FormatSpec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int width = 0;
  int precision = -1;
  char type = 0;
};

// The number as `spec` asks, unpadded, its sign or prefix first; their size goes to `prefix`. False: the type does not
// fit.
bool FormatNumber(const FormatSpec& spec, const Value& number, std::string* out, size_t* prefix);
// The text within spec.width characters. prefix: how many bytes stay before a padding of align `=`.
Text Pad(const FormatSpec& spec, const Text& text, size_t prefix, char default_align);

}  // namespace duo::jinja
