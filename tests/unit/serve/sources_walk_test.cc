// Sessions that are edited at random: appends cut anywhere, with CRLF, characters of several bytes and none at all,
// chat turns, kept questions, forks, and rewinds to any token. Whatever became of a session, each of its tokens stands
// for its own bytes of what is left of what was sent, none of these is lost, and a source's text is what lies at its
// offsets.
#include <algorithm>
#include <random>

#include "runtime/provenance/sources.h"
#include "runtime/text/unicode/unicode.h"
#include "tests/support/test_scale.h"
#include "tests/unit/serve/tails_fixture.h"

namespace duo {
namespace {

bool IsWhite(std::string_view text) { return text.find_first_not_of(" \t\r\n") == text.npos; }

class SourcesWalk : public Tails {
 protected:
  SourcesWalk() { sources_ = true; }

  std::string Piece(bool ill_formed) {
    static const std::vector<std::string> parts = {
        "The cat",    " hats", " 1234", ".\r\n", "\r\n",           "\n\n", "caf\u00e9", "e\u0301", "\u4f60\u597d\u3002",
        "\U0001f600", ". ",    "!",     "  ",    "Note: it is 5.", "'s",   " are"};
    std::string piece;
    const int count = 1 + static_cast<int>(rng_() % 12);
    for (int i = 0; i < count; ++i) {
      piece += ill_formed && rng_() % 12 == 0 ? std::string(1, static_cast<char>(0x80 + rng_() % 128))
                                              : parts[rng_() % parts.size()];
    }
    if (ill_formed && rng_() % 3 == 0) piece.pop_back();  // perhaps inside a character
    return piece.empty() ? "a" : piece;
  }

  // The session as a question finds it.
  std::shared_ptr<const SentSession> Sent(const std::string& id) {
    std::shared_ptr<const SentSession> found;
    absl::Status status = absl::UnknownError("not done");
    AskEvents events;
    events.on_sent = [&](std::shared_ptr<const SentSession> sent) { found = std::move(sent); };
    events.on_token = [](int32_t) { return true; };
    events.on_mass = [](const RowMass&) {};
    events.on_done = [&](const RequestResult& result, int64_t) { status = result.status; };
    GenerateParams params;
    params.max_new_tokens = 1;
    params.mass = true;
    sessions_->AskText(std::make_shared<Call>(), id, {.text = " so?"}, params, events);
    Run();
    EXPECT_TRUE(status.ok()) << status;
    return found;
  }

  // left: what the session must have. Only white space of it may stand nowhere, where templates drop it. Where it is no
  // text, because it came so or was cut inside a character, tokens are found as nearly as can be. Returns the map.
  SourceMap Check(const SentSession& session, const std::string& left) {
    const bool well_formed = ReplaceInvalidUtf8(left) == left;
    SourceMap map(tokenizer_, session.sent, session.tokens);
    EXPECT_EQ(session.sent.text, left);
    int64_t at = 0;
    for (int64_t t = 0; t < map.tokens(); ++t) {
      const ByteRange range = map.RangeOf(t);
      if (range.begin == range.end) continue;
      EXPECT_LE(range.end, static_cast<int64_t>(left.size()));
      if (range.begin > at) ExpectDropped(left.substr(at, range.begin - at));
      const std::string own = left.substr(range.begin, range.end - range.begin),
                        said = tokenizer_.BytesOf(session.tokens[t]);
      if (well_formed && ReplaceInvalidUtf8(said) != said) {  // a part of a character has all of it
        EXPECT_NE(own.find(said), own.npos) << "token " << t;
      } else if (well_formed && !IsWhite(own)) {  // it may begin before the text or go on behind it
        EXPECT_GE(range.begin, at) << "token " << t;
        EXPECT_TRUE(said.starts_with(own) || said.ends_with(own)) << said << " of " << own;
      }
      at = std::max(at, range.end);
    }
    ExpectDropped(left.substr(std::min<size_t>(left.size(), at)));
    for (int i = 0; i < 4 && map.tokens() > 0; ++i) CheckSource(map, static_cast<int64_t>(rng_() % map.tokens()), left);
    return map;
  }
  // What was still text when a question was kept, the last words at most, is read again with a conversation's next
  // turn, as words of the template.
  void ExpectDropped(const std::string& text) const {
    EXPECT_TRUE(IsWhite(text) || (turns_ > 0 && text.size() <= 48)) << "no token stands for " << text;
  }

  // Of a row that looked at one token alone.
  static void CheckSource(const SourceMap& map, int64_t token, const std::string& left) {
    const ByteRange range = map.RangeOf(token);
    LookedAt looked;
    looked.position = map.tokens();
    looked.tokens = {{static_cast<int32_t>(token), 0.5f}};
    const std::vector<Source> sources = map.Find({&looked, 1}, {.most = 2});
    if (range.begin == range.end || IsWhite(left.substr(range.begin, range.end - range.begin))) return;
    ASSERT_EQ(sources.size(), 1u) << "token " << token;
    const Source& source = sources[0];
    EXPECT_EQ(source.text, left.substr(source.begin, source.end - source.begin));
    EXPECT_EQ(source.line, 1 + std::count(left.begin(), left.begin() + source.begin, '\n'));
    EXPECT_LT(source.begin, range.end);
    EXPECT_GT(source.end, range.begin);
  }

  // What is left of a text behind a rewind: what the tokens before it stood for, and no more than white space behind.
  void CheckCut(const std::string& cut, const std::string& before, const SourceMap& map, int64_t to) const {
    int64_t end = 0;
    for (int64_t t = 0; t < to; ++t) end = std::max(end, map.RangeOf(t).end);
    ASSERT_TRUE(before.starts_with(cut));
    ASSERT_GE(static_cast<int64_t>(cut.size()), end);
    ExpectDropped(cut.substr(end));
  }

  void Walk(bool chat, bool ill_formed, int trial) {
    SCOPED_TRACE(testing::Message() << "trial " << trial << (chat ? ", a chat" : ", plain")
                                    << (ill_formed ? ", bytes that are no text" : ""));
    std::string id = "walk" + std::to_string(trial), left;
    turns_ = 0;
    Create(id, false, chat, chat ? "Be brief." : "");
    for (int step = 0; step < 9; ++step) {
      const auto what = rng_() % 10;
      if (step == 0 || what < 5) {
        const std::string piece = Piece(ill_formed);
        ASSERT_NO_FATAL_FAILURE(AddWhole({.session_id = id, .text = piece}));
        left += piece;
      } else if (what < 7) {
        said_ = "Yes.";
        turns_ += chat ? 1 : 0;
        ASSERT_TRUE(Keep(id, {.text = " Is it?"}).ok());
      } else if (what < 8) {
        const std::string child = id + "f";
        sessions_->Fork(std::make_shared<Call>(), id, child, 0, [](const auto& view) { EXPECT_TRUE(view.ok()); });
        Run();
        ASSERT_TRUE(CloseNow(id).ok());
        id = child;
      } else {
        const auto sent = Sent(id);
        ASSERT_NE(sent, nullptr);
        const SourceMap before = Check(*sent, left);
        const auto to = static_cast<int64_t>(rng_() % (View(id).tokens + 1));
        Rewind(id, to);
        const auto cut = Sent(id);
        ASSERT_NE(cut, nullptr);
        CheckCut(cut->sent.text, left, before, to);
        left = cut->sent.text;
      }
      const auto sent = Sent(id);
      ASSERT_NE(sent, nullptr);
      Check(*sent, left);
      ASSERT_FALSE(HasFailure()) << "step " << step << ", " << what << ": " << left;
    }
    ASSERT_TRUE(CloseNow(id).ok());
  }

  int turns_ = 0;  // of a conversation, that ended with a question
  std::mt19937 rng_{static_cast<unsigned>(FirstSeed(30))};
};

TEST_F(SourcesWalk, APlainTextsTokensAreItsBytes) {
  for (int trial = 0; trial < Scaled(25) && !HasFailure(); ++trial) Walk(false, trial % 3 == 2, trial);
}

TEST_F(SourcesWalk, AConversationsTokensAreItsUsersBytes) {
  for (int trial = 0; trial < Scaled(25) && !HasFailure(); ++trial) Walk(true, trial % 3 == 2, trial);
}

}  // namespace
}  // namespace duo
