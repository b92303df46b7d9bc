#include "runtime/files/printable.h"

namespace duo {

std::string Printable(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 100)) text += c >= 0x20 && c < 0x7f ? c : '?';
  if (name.size() > 100) text += "...";
  return text;
}

}  // namespace duo
