// Texts become tokens when their turn has come, for they go on with what stayed text before them (session_text.h).
// That takes long for long texts and happens beside the engine's thread; meanwhile the turn is the call's, so that
// whatever comes later finds the session as this call leaves it.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/scheduler/busy.h"
#include "runtime/text/chat_frame.h"

namespace duo {
namespace {

// The words that a template put between what was left of the text before and `said`, which may have lost white space at
// its beginning.
std::string FrameBefore(const SessionText& text, size_t tail, std::string_view said) {
  std::string all;
  for (const TextSegment& segment : text.tail) all += segment.text;
  said.remove_prefix(std::min(said.find_first_not_of(" \t\r\n"), said.size()));
  const size_t at = said.empty() ? all.npos : all.rfind(said);
  if (!text.chat || at == all.npos || at < tail) return "";
  size_t end = at;  // white space that was kept is the text's own
  while (end > tail && std::string_view(" \t\r\n").find(all[end - 1]) != std::string_view::npos) --end;
  return all.substr(tail, end - tail);
}

struct Reader {
  const Tokenizer* tokenizer;
  const absl::StatusOr<ChatTemplate>* chat;  // only of a conversation

  absl::StatusOr<ChatFrame> Frame(const SessionText& text) const {
    if (!text.chat) return ChatFrame();
    if (!chat->ok()) return chat->status();
    return FrameOf(**chat, text.system);
  }
  // What the session has as text, to its end, and behind it what begins anew.
  absl::StatusOr<TextRead> BehindSeam(const SessionText& before, const std::vector<int32_t>& tokens,
                                      const std::string& text, bool special, bool answer) const {
    if (before.chat && !text.empty()) {
      return absl::InvalidArgumentError("a conversation's turns are one text: it takes no seam");
    }
    absl::StatusOr<std::vector<int32_t>> read = ReadAll(*tokenizer, before);
    if (!read.ok()) return read.status();
    absl::StatusOr<std::vector<int32_t>> more = tokens;
    if (!text.empty()) more = tokenizer->Encode(text, {.parse_special = special, .add_special_tokens = false});
    if (!more.ok()) return more.status();
    read->insert(read->end(), more->begin(), more->end());
    return TextRead{*std::move(read), BehindTokens(before, answer), 0};
  }
  absl::StatusOr<TextRead> Append(SessionText before, AppendInput& in) const {
    if (in.text.empty() || in.seam) return BehindSeam(before, in.tokens, in.text, in.special, false);
    const absl::StatusOr<ChatFrame> frame = Frame(before);
    if (!frame.ok()) return frame.status();
    const std::optional<int64_t> at = LastTurn(&before);
    const auto tail = at.has_value() ? 0 : static_cast<size_t>(before.tail_bytes());
    if (absl::Status s = AddDocument(&*frame, in.text, in.special, &before); !s.ok()) return s;
    if (!in.sent.empty()) in.frame = FrameBefore(before, tail, in.text);
    in.text = {};
    absl::StatusOr<TextRead> read = ReadStable(*tokenizer, std::move(before));
    if (read.ok()) read->at = at;
    return read;
  }
  std::optional<int64_t> LastTurn(SessionText* before) const {
    return before->chat ? TakeTurn(**chat, before) : std::nullopt;
  }
  absl::StatusOr<TextRead> Question(SessionText before, const QuestionInput& in) const {
    if (in.text.empty() || in.seam) return BehindSeam(before, in.tokens, in.text, in.special, true);
    const absl::StatusOr<ChatFrame> frame = Frame(before);
    if (!frame.ok()) return frame.status();
    const std::optional<int64_t> at = LastTurn(&before);
    if (absl::Status s = AddQuestion(&*frame, in.text, in.special, &before, in.turn); !s.ok()) return s;
    SessionText behind = BehindAnswer(before);
    if (before.chat) {
      absl::StatusOr<PastTurn> turn = TurnOf(*tokenizer, before);
      if (!turn.ok()) return turn.status();
      behind.turn = *std::move(turn);
    }
    BeginAnswer(*frame, &before);
    absl::StatusOr<std::vector<int32_t>> tokens = ReadAll(*tokenizer, before);
    if (!tokens.ok()) return tokens.status();
    return TextRead{*std::move(tokens), std::move(behind), 0, at};
  }
};

}  // namespace

void Sessions::Tokenise(NamedSession& session, const CallPtr& call, size_t bytes, MakeTokens make,
                        const TokensMade& then) {
  auto read = std::make_shared<absl::StatusOr<TextRead>>(absl::UnknownError("not read"));
  session.tokenising = ++next_tokenising_;
  const auto work = [make = std::move(make), read] { *read = make(); };
  const auto back = [this, id = session.id, own = session.tokenising, call, read, then] {
    NamedSession* still = Lookup(id);
    if (still == nullptr || still->tokenising != own) {
      return then(absl::CancelledError(absl::StrCat("session ", id, " was closed")));
    }
    still->tokenising = 0;
    if (call->cancelled) *read = absl::CancelledError("the call was cancelled");
    then(std::move(*read));
  };
  if (!options_.beside) {
    work();
    return back();
  }
  const bool begun = options_.beside(bytes, work, [this, back, id = session.id] {
    back();
    RunWaiting(id);
  });
  if (begun) return;
  session.tokenising = 0;
  then(Busy("too many texts wait to become tokens; try again later"));
}

absl::Status Sessions::CheckChat(const std::string& system) const {
  absl::Status why = options_.chat == nullptr ? absl::NotFoundError("the model has no chat template")
                     : options_.chat->ok()    ? FrameOf(**options_.chat, system).status()
                                              : options_.chat->status();
  if (why.ok()) return why;
  return absl::FailedPreconditionError(absl::StrCat("no conversation with this model: ", why.message()));
}

bool Sessions::IsChat(const std::string& id) const {
  const auto found = sessions_.find(id);
  return found != sessions_.end() && found->second.text.chat;
}

void Sessions::PrepareAppend(const CallPtr& call, AppendInput input, AppendEvents events) {
  const std::string id = input.session_id;
  NamedSession& session = *Lookup(id);
  if (IsAppend(session, input.append_id)) return TakeUpAppend(call, session, std::move(events));  // one came first
  SessionText before = session.text;
  if (input.chat && !before.chat) {
    absl::Status can = CheckChat("");
    if (can.ok() && (Tokens(session) > 0 || !before.empty())) {
      can = absl::FailedPreconditionError(
          absl::StrCat("session ", id, " has a text already: a conversation begins with its first append"));
    }
    if (!can.ok()) {
      DropUpload(session, input.append_id);
      return RefuseAppend(id, events, can);
    }
    before.chat = true;
  }
  if (input.text.empty() && before.tail.empty()) {
    if (options_.sources) input.sent = options_.tokenizer->Decode(input.tokens);
    input.rest = BehindTokens(before, false);
    return BeginAppend(call, std::move(input), std::move(events));
  }
  const size_t bytes = static_cast<size_t>(before.tail_bytes()) + input.text.size();
  if (options_.sources) input.sent = input.text.empty() ? options_.tokenizer->Decode(input.tokens) : input.text;
  const auto in = std::make_shared<AppendInput>(std::move(input));
  const Reader reader{options_.tokenizer, options_.chat};
  Tokenise(
      session, call, bytes, [reader, before = std::move(before), in] { return reader.Append(before, *in); },
      [this, call, id, in, events = std::move(events)](absl::StatusOr<TextRead> text) {
        MatchText(call, id, std::move(text), [this, call, id, in, events](absl::StatusOr<TextRead> read) {
          if (!read.ok()) {
            if (!absl::IsCancelled(read.status())) DropUpload(id, in->append_id);
            return RefuseAppend(id, events, read.status());
          }
          in->tokens = std::move(read->tokens);
          in->rest = std::move(read->rest);
          in->rest_tokens = read->rest_tokens;
          if (!in->frame.empty()) in->frame.erase(0, std::min(in->frame.size(), read->matched_bytes));
          BeginAppend(call, std::move(*in), events);
        });
      });
}

void Sessions::PrepareQuestion(const CallPtr& call, QuestionInput question, const Asked& asked) {
  NamedSession& session = *Lookup(asked.id);
  const SessionText& before = session.text;
  if (question.text.empty() && before.tail.empty()) {
    return AskNow(call, {std::move(question.tokens), BehindTokens(before, true), 0}, asked);
  }
  const size_t bytes = static_cast<size_t>(before.tail_bytes()) + question.text.size();
  const Reader reader{options_.tokenizer, options_.chat};
  Tokenise(
      session, call, bytes,
      [reader, before, question = std::move(question)] { return reader.Question(before, question); },
      [this, call, asked](absl::StatusOr<TextRead> text) {
        MatchText(call, asked.id, std::move(text), [this, call, asked](absl::StatusOr<TextRead> read) {
          if (read.ok()) return AskNow(call, *std::move(read), asked);
          RequestResult result;
          result.status = read.status();
          asked.events.on_done(result, 0);
        });
      });
}

// What was read from a place before the session's end on: tokens that are there already need not be fed again, and
// those that are other ones, of an answer mostly, are cut off. Then `then` has the turn still.
void Sessions::MatchText(const CallPtr& call, const std::string& id, absl::StatusOr<TextRead> text,
                         const TokensMade& then) {
  if (!text.ok()) return then(text.status());
  TextRead read = *std::move(text);
  NamedSession& session = *Lookup(id);
  const int64_t has = Tokens(session), at = read.at.value_or(has);
  if (read.rest.turn.has_value()) read.rest.turn->at += at;
  if (!read.at.has_value()) return then(std::move(read));
  const absl::StatusOr<std::vector<int32_t>> all = engine_.Tokens(session.session);
  if (!all.ok()) return then(all.status());
  if (at > has) return then(absl::InternalError(absl::StrCat("session ", id, " has lost tokens of its last turn")));
  const bool asks = read.rest.turn.has_value();  // a question needs a token to be fed
  const int64_t most = std::min<int64_t>(has - at, std::ssize(read.tokens) - (asks ? 1 : 0));
  const auto differs = std::mismatch(read.tokens.begin(), read.tokens.begin() + most, all->begin() + at).first;
  const int64_t end = at + (differs - read.tokens.begin());
  if (options_.sources) {
    read.matched_bytes = options_.tokenizer->Decode(std::span(read.tokens).first(end - at), false).size();
  }
  read.tokens.erase(read.tokens.begin(), differs);
  if (end == has) return then(std::move(read));
  CutLater(session, call, {end, Turn::kRewinds}, [read = std::move(read), then](const absl::Status& cut) {
    if (cut.ok()) return then(read);
    then(cut);
  });
}

}  // namespace duo
