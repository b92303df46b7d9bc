// ChatFrame: what a model's chat template writes around what is said, as text that does not depend on it. With it a
// conversation grows at its end, and neither its earlier turns nor a document in one of them is rendered again.
// A plain value; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/text/chat_template.h"

namespace duo {

struct ChatFrame {
  std::vector<TextSegment> before;   // the first user's text: the beginning, and the system turn
  std::vector<TextSegment> after;    // the user's text: the model's turn begins
  std::vector<TextSegment> between;  // from an answer's end to the next user's text
  absl::Status goes_on;              // why there is no next one, if there is none
  bool trims = false;                // white space before a user's text is dropped
};

// system: the system turn; empty: the template's own, if it has one. Errors: what Render refuses, and a template that
// changes what users write.
absl::StatusOr<ChatFrame> FrameOf(const ChatTemplate& chat, const std::string& system);

// What the template writes from the end of a user's text to the next user's, with this answer between, when more
// follows: as when the conversation is sent whole, where it may drop what was thought, or white space.
absl::StatusOr<std::vector<TextSegment>> PastAnswer(const ChatTemplate& chat, const std::string& system,
                                                    const std::string& answer);

}  // namespace duo
