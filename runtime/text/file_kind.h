// What a file is that is given as a text, by its first bytes: a PDF or an archive read as text is hundreds of thousands
// of tokens of nothing. Pure function, thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace duo {

// "a PDF document", "text in UTF-16", ..; empty for what may well be text, in UTF-8 or nearly so.
std::string KindOfNoText(std::string_view bytes);

}  // namespace duo
