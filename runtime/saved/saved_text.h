// A session's text behind its tokens (runtime/text/session_text.h) as fields of a manifest:
//   tail             a text; with bytes that are no UTF-8, as at half a character, tail_hex instead
//   tail_special     [[begin, end], ..]: the bytes of it in which special tokens' text becomes those tokens
//   tail_continues   it goes on with the tokens' text; otherwise it begins anew
//   chat             it is a conversation, and chat_state says where it stands: {system, in_turn, answered, said,
//                    newlines, opening_hex, turn}; turn: the last one, as text: {at, tail, tail_hex, tail_special,
//                    tail_continues, answer_hex}
// What is as in an empty text is left out. Private to this folder. Any thread.
#pragma once

#include "nlohmann/json.hpp"
#include "runtime/files/json_fields.h"
#include "runtime/text/session_text.h"

namespace duo {

inline constexpr const char* kSavedTextFields[] = {"tail",           "tail_hex", "tail_special",
                                                   "tail_continues", "chat",     "chat_state"};

void PutSavedText(const SessionText& text, nlohmann::json* object);
// file: as in `fields`, which are of the object, and get what is wrong.
SessionText ReadSavedText(const std::string& file, JsonFields& fields);

}  // namespace duo
