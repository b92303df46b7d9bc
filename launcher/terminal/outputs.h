// Where stdout and stderr go. Text for programs goes to stdout, notes for people to stderr; where both go to one place,
// a person reads them together and wants to see which is which. Any thread.
#pragma once

namespace duo {

// Both are the same terminal, file or pipe, as on a terminal without redirection and after 2>&1.
bool OutputsMeet();

}  // namespace duo
