// SessionText: what of a session's text is behind its tokens, and how text goes on there.
//
// A text that comes in pieces is read up to the last place before which no later text can change a token
// (stable_text.h); the rest, its tail, stays text and is tokenised with what comes next. So the tokens are those of the
// text in one piece, however it was cut. A conversation is such a text too: the words of the model's chat template
// stand between what its user says, and one turn is one turn.
//
// Plain values and pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/text/chat_frame.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// A conversation's last turn as text, for the next one: its answer's tokens need not be those that the same text has
// when the conversation is sent whole, nor need a template leave that text as it is.
struct PastTurn {
  int64_t at = 0;                 // the tokens before it
  bool continues = false;         // text goes on there
  std::vector<TextSegment> said;  // from there to the end of the user's text
  std::string answer;             // as its asker was told it
};

struct SessionText {
  std::vector<TextSegment> tail;  // bytes, which may end inside a character; no two neighbours are of one kind
  // The tokens end at a place where text may go on as if it were one with theirs: one that EncodeStable gave, or the
  // end of an answer. Otherwise text begins anew there.
  bool continues = false;

  // Of a conversation.
  bool chat = false;
  std::string system;            // the system turn; empty: the template's own
  bool in_turn = false;          // the text ends in a user's turn
  bool answered = false;         // it ends with an answer
  bool said = false;             // the turn has a user's text
  int newlines = 0;              // which ends with so many, of two
  std::optional<PastTurn> turn;  // with `answered`: that turn, where it is known
  std::string opening;  // a character that the turn's text may begin with, unless it becomes white space to be dropped

  int64_t tail_bytes() const;
  std::string tail_text() const;  // these bytes
  // A text that is nothing yet: no token, no tail.
  bool empty() const { return tail.empty() && !continues; }
};

// Adds to the tail. special: special tokens' text becomes those tokens.
void AddText(std::string_view text, bool special, SessionText* to);

// What an append adds: the text itself, and in a conversation what begins its user's turn.
absl::Status AddDocument(const ChatFrame* frame, std::string_view text, bool special, SessionText* to);
// A conversation's last turn becomes text again, as the template writes it once more follows; what is added now stands
// behind it. Returns the tokens before that text; nothing where the tokens stay: there is no such turn, or the template
// cannot say it.
std::optional<int64_t> TakeTurn(const ChatTemplate& chat, SessionText* text);
// What a question adds. In a conversation it ends the user's turn: a blank line is between it and what the turn has
// already, and white space around it is dropped; as_is: only where the template does so. INVALID_ARGUMENT if nothing is
// left of it.
absl::Status AddQuestion(const ChatFrame* frame, std::string_view text, bool special, SessionText* to,
                         bool as_is = false);
// In a conversation the model's turn begins behind it.
void BeginAnswer(const ChatFrame& frame, SessionText* to);

// The tokens of the tail's longest beginning that no later text can change, and what is left.
struct TextRead {
  std::vector<int32_t> tokens;
  SessionText rest;
  int64_t rest_tokens = 0;         // that the tail left would have, if nothing followed
  std::optional<int64_t> at = {};  // the session's tokens before these, where some behind may be other ones; else all
  size_t matched_bytes = 0;        // of the text, those whose tokens turned out to be there
};
absl::StatusOr<TextRead> ReadStable(const Tokenizer& tokenizer, SessionText text);
// All of it: nothing follows, or what follows begins anew.
absl::StatusOr<std::vector<int32_t>> ReadAll(const Tokenizer& tokenizer, const SessionText& text);

// The turn that a question ends, without its answer; text: all of it to the end of the user's text. at: behind the
// tokens that are before `text`.
absl::StatusOr<PastTurn> TurnOf(const Tokenizer& tokenizer, const SessionText& text);

// What is behind an answer that became part of the session, behind tokens that a caller gave (answer: they end with
// one), and behind a cut to `tokens` tokens.
SessionText BehindAnswer(const SessionText& before);
SessionText BehindTokens(const SessionText& before, bool answer);
SessionText BehindCut(const SessionText& before, int64_t tokens);

}  // namespace duo
