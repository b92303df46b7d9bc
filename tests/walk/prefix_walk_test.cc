// A random walk over prompts at the service's sessions: texts that begin alike and part inside words, characters and
// turns, edits, three callers and a salt, named sessions beside them that are moved out, closed and deleted, memory for
// a tenth of the texts, a budget on disk, kills and power cuts. Each answer must be the one of an empty server, nothing
// of another caller may be met, memory and disk stay within their bounds, and no page may be lost. The calls follow
// from the seed; what is found on disk when, from the clock, too.
#include <cstdio>
#include <cstdlib>
#include <set>

#include "absl/strings/str_join.h"
#include "kernels/base/splitmix64.h"
#include "tests/support/test_scale.h"
#include "tests/walk/prefix_server.h"

namespace duo {
namespace {

constexpr size_t kTexts = 75, kMostRunning = 5, kMostSaved = 4;  // kTexts: ten times what there is memory for

// Bytes as a user wrote them, and tokens behind them: the turns of a conversation so far.
struct Text {
  std::string bytes;
  std::string owner = {};  // who sends it mostly
  std::vector<int32_t> behind = {};
};

struct Asked {
  CallPtr call = std::make_shared<Call>();
  Text text;
  std::vector<int32_t> prompt;
  std::string realm;
  std::shared_ptr<PromptAnswer> answer = std::make_shared<PromptAnswer>();
  bool cancelled = false;
};

class PrefixWalk : public PrefixServer {
 protected:
  uint64_t Draw(uint64_t below) {
    random_ = SplitMix64(random_ + 1);
    return random_ % below;
  }
  bool Chance(int percent) { return Draw(100) < static_cast<uint64_t>(percent); }

  std::string Words(uint64_t count) {
    static const char* const kWords[] = {"the",   "tower",  "passcode", "for",  "rapid",   "is",    "river", "under",
                                         "Würde", "déjà",   "雪",       "日本", "42",      "7",     "and",   "of",
                                         "a",     "hidden", "\n",       "—",    "answer:", "<user>"};
    std::string text;
    for (; count > 0; --count) absl::StrAppend(&text, kWords[Draw(std::size(kWords))], Draw(6) == 0 ? "" : " ");
    return text;
  }
  // The model knows fewer tokens than the tokenizer: which of them stand for one is of no matter here.
  std::vector<int32_t> Tokens(const Text& text) const {
    auto ids = tokenizer_->Encode(text.bytes);
    EXPECT_TRUE(ids.ok()) << ids.status();
    for (int32_t& id : *ids) id %= vocab();
    ids->insert(ids->end(), text.behind.begin(), text.behind.end());
    if (std::ssize(*ids) > kLongest) ids->resize(kLongest);
    return *std::move(ids);
  }
  // One of the texts so far: as it is, cut at any byte, edited, or as a conversation that goes on; or a new one.
  Text NextText() {
    Text text;
    if (!shelf_.empty() && Chance(64)) {
      text = std::next(shelf_.begin(), static_cast<std::ptrdiff_t>(Draw(shelf_.size())))->second;
    } else if (!texts_.empty() && !Chance(12)) {
      text = texts_[Draw(texts_.size())];
    }
    const uint64_t what = Draw(10);
    if (text.bytes.empty()) {
      text.owner = kOwners[Draw(8) % 3];
      text.bytes = Words(Chance(80) ? 480 + Draw(250) : 20 + Draw(200));
    } else if (what < 3) {  // sent again
      return text;
    } else if (what < 6 && text.bytes.size() > 400) {
      text.behind.clear();
      text.bytes.resize(Chance(70) ? text.bytes.size() - Draw(200) : 200 + Draw(text.bytes.size() - 200));
      text.bytes += Words(1 + Draw(12));
    } else if (what == 6) {
      text.behind.clear();
      text.bytes[text.bytes.size() - 1 - Draw(text.bytes.size() / 3)] = static_cast<char>('a' + Draw(26));
    } else {
      const Text more = {.bytes = Words(1 + Draw(10))};
      for (int32_t id : Tokens(more)) text.behind.push_back(id);
    }
    return text;
  }
  void Remember(const Text& text) {
    if (texts_.size() < kTexts) {
      texts_.push_back(text);
    } else {
      texts_[Draw(texts_.size())] = text;
    }
  }

  // Tokens as bytes, so that the longest text that anybody of a realm sent is found beside where this one would be.
  static std::string Key(const std::vector<int32_t>& tokens) { return {tokens.begin(), tokens.end()}; }
  int64_t MostShared(const std::string& realm, const std::vector<int32_t>& prompt) {
    const std::string key = Key(prompt);
    const std::set<std::string>& sent = sent_[realm];
    const auto behind = sent.lower_bound(key);
    int64_t most = 0;
    const auto look = [&](const std::string& other) {
      most = std::max<int64_t>(most,
                               std::mismatch(key.begin(), key.end(), other.begin(), other.end()).first - key.begin());
    };
    if (behind != sent.end()) look(*behind);
    if (behind != sent.begin()) look(*std::prev(behind));
    return most;
  }

  void Ask(const Text& text, const std::string& owner, const std::string& salt) {
    auto asked = std::make_shared<Asked>();
    asked->text = text;
    asked->prompt = Tokens(text);
    GenerateParams params = Params();
    params.whose.caller = owner;
    params.prefix = sessions_->PrefixOf(owner, salt);
    asked->realm = params.prefix.realm;
    running_.push_back(asked);
    ++asked_;
    sessions_->AskAlone(asked->call, asked->prompt, params, {Events(asked->answer)});
  }
  void AskSome() {
    const Text text = NextText();
    Remember(text);
    const std::string owner = Chance(15) ? kOwners[Draw(3)] : text.owner, salt = Chance(6) ? "pepper" : "";
    Ask(text, owner, salt);
    if (!Chance(85)) return;
    Text other = text;  // another one with it
    other.behind.clear();
    if (other.bytes.size() > 300) other.bytes.resize(other.bytes.size() - Draw(100));
    other.bytes += Words(1 + Draw(8));
    Ask(other, owner, salt);
  }
  void Check(Asked& asked) {
    const RequestResult& result = asked.answer->result;
    const CachedText& cached = asked.answer->cached;
    std::vector<int32_t> whole = asked.prompt;
    whole.insert(whole.end(), asked.answer->tokens.begin(), asked.answer->tokens.end());
    const int64_t shared = MostShared(asked.realm, asked.prompt);
    sent_[asked.realm].insert(Key(whole));
    if (asked.cancelled) return;
    if (absl::IsResourceExhausted(result.status)) {  // sessions are in its way
      ++refused_;
      return;
    }
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.cached.tokens, cached.tokens);
    EXPECT_EQ(result.cached.tokens + result.prompt_tokens, std::ssize(asked.prompt));
    // Others' prompts that ran beside it count as sent when they end.
    int64_t beside = 0;
    for (const auto& other : running_) {
      if (other.get() == &asked || other->realm != asked.realm) continue;
      const auto end =
          std::mismatch(asked.prompt.begin(), asked.prompt.end(), other->prompt.begin(), other->prompt.end()).first;
      beside = std::max<int64_t>(beside, end - asked.prompt.begin());
    }
    EXPECT_LE(cached.tokens, std::max(shared, beside)) << "nobody of its realm sent that";
    ExpectSame(*asked.answer, Fresh(asked.prompt));
    ++answers_;
    if (cached.tokens > 0) ++hits_[cached.source];
    refed_ += cached.refed_tokens > 0;
    exact_ += cached.tokens > 0 && cached.refed_tokens == 0;
    ASSERT_FALSE(HasFailure()) << "answer " << answers_ << " of " << asked.prompt.size() << " tokens, " << cached.tokens
                               << " of them " << cached.source << ", " << cached.refed_tokens
                               << " fed again; DUO_WALK_SEED replays the calls";
    if (std::ssize(whole) > kLongest - 100 || !Chance(25)) return;
    Text talk = asked.text;  // a conversation
    talk.behind.insert(talk.behind.end(), asked.answer->tokens.begin(), asked.answer->tokens.end());
    Remember(talk);
  }
  void CheckAnswers() {
    for (const auto& asked : running_) {
      if (asked->answer->done) Check(*asked);
      if (HasFatalFailure()) return;
    }
    std::erase_if(running_, [](const auto& asked) { return asked->answer->done; });
  }

  // A named session of a new text, which is moved out soon, and closed or deleted later.
  void OneSession() {
    if (std::ssize(named_) < kMostSessions) {
      const Text text = {.bytes = Words(480 + Draw(250)), .owner = kOwners[Draw(3)]};
      const std::vector<int32_t> tokens = Tokens(text);
      const std::string id = absl::StrCat("book", next_++), owner = text.owner;
      const auto made = sessions_->Create({.id = id, .max_tokens = kLongest, .owner = owner});
      if (!made.ok()) return;
      const auto call = std::make_shared<Call>();
      ASSERT_TRUE(sessions_->OpenAppend(id, "").ok());
      sent_[sessions_->PrefixOf(owner, "").realm].insert(Key(tokens));
      sessions_->ReadAppend(call, {.session_id = id, .tokens = tokens, .received_bytes = 4 * std::ssize(tokens)},
                            {.on_progress = {}, .on_done = [](const AppendDone&) {}});
      named_.push_back(id);
      shelf_[id] = text;
    } else if (!named_.empty()) {
      const std::string id = named_[0];
      named_.erase(named_.begin());
      shelf_.erase(id);
      const bool deleted = Chance(30);
      if (!deleted) saved_.push_back(id);
      sessions_->Close(id, deleted);
      if (saved_.size() <= kMostSaved) return;
      sessions_->Close(saved_[0], true);
      saved_.erase(saved_.begin());
    }
  }
  void SomeSteps() {
    for (uint64_t n = 1 + Draw(6); n > 0; --n) {
      sessions_->Tick();
      engine_->Step();
    }
  }
  void Kill() {
    const int way = static_cast<int>(Draw(Cuts()));
    ++kills_;
    for (const auto& asked : running_) {  // what was read of it may be on disk
      std::vector<int32_t> whole = asked->prompt;
      whole.insert(whole.end(), asked->answer->tokens.begin(), asked->answer->tokens.end());
      sent_[asked->realm].insert(Key(whole));
    }
    running_.clear();
    PrefixServer::Kill(way);
    if (HasFatalFailure()) return;
    named_.clear();
    saved_.clear();
    for (const SessionView& view : sessions_->List()) {
      (view.residence == Residence::kSaved ? saved_ : named_).push_back(view.id);
    }
    std::erase_if(shelf_, [this](const auto& one) { return std::count(named_.begin(), named_.end(), one.first) == 0; });
  }
  // On an empty disk.
  void Begin(uint64_t seed) {
    Stop();
    disk_.state = FaultDisk().state;
    random_ = SplitMix64(seed);
    texts_.clear();
    shelf_.clear();
    named_.clear();
    saved_.clear();
    sent_.clear();
    next_ = 0;
    Start();
  }
  // move_out: idle sessions are moved out more often, prefixes dropped less.
  void Go(int64_t requests, bool move_out = false) {
    const int64_t end = asked_ + requests;
    while (asked_ < end && !HasFailure()) {
      const uint64_t what = Draw(1000);
      if (what < 300 && running_.size() < kMostRunning) {
        AskSome();
      } else if (what < 320 && !running_.empty()) {
        Asked& one = *running_[Draw(running_.size())];
        one.cancelled = true;
        ++cancelled_;
        sessions_->Cancel(one.call);
      } else if (what < 375) {
        OneSession();
      } else if (what < (move_out ? 510 : 445)) {
        sessions_->MoveOutIdle(0);
      } else if (what < 530) {
        engine_->DropPrefixes();
      } else if (what < 538) {
        Finish();
        CheckAnswers();
        CheckBounds();
        if (Chance(60)) Kill();
      } else if (what == 538) {
        Kill();  // in the middle of everything
      } else {
        SomeSteps();
      }
      if (HasFatalFailure()) return;
      CheckAnswers();
    }
    Finish();
    CheckAnswers();
    CheckBounds();
    EXPECT_TRUE(running_.empty());
  }
  bool EachSourceHasItsShare() {
    for (const char* source : kSources) {
      if (20 * hits_[source] < answers_) return false;
    }
    return 20 * refed_ >= answers_ && 20 * exact_ >= answers_ && 200 * kills_ >= asked_;
  }
  static constexpr const char* kOwners[] = {"ann", "bob", "cy"};
  static constexpr const char* kSources[] = {"open", "read", "moved_out", "saved"};
  uint64_t random_ = 0;
  std::vector<Text> texts_;
  std::map<std::string, Text> shelf_;  // of named sessions
  std::vector<std::shared_ptr<Asked>> running_;
  std::vector<std::string> named_, saved_;             // sessions: open or moved out; closed
  std::map<std::string, std::set<std::string>> sent_;  // by realm
  std::map<std::string, int64_t> hits_;                // by source
  int64_t asked_ = 0, answers_ = 0, refused_ = 0, cancelled_ = 0, refed_ = 0, exact_ = 0, kills_ = 0;
  int next_ = 0;
};

// Walks of 1,000 requests, each with a seed of its own; DUO_WALK_SEED in the environment replays one.
TEST_F(PrefixWalk, EachAnswerIsThatOfAnEmptyServer) {
  const char* only = std::getenv("DUO_WALK_SEED");
  const int walks = only != nullptr || TestScale() == 1 ? 1 : 2 * TestScale();
  for (int i = 0; i < walks && !HasFailure(); ++i) {
    const uint64_t seed = only != nullptr ? std::strtoull(only, nullptr, 10) : FirstSeed(24) + i;
    SCOPED_TRACE("DUO_WALK_SEED=" + std::to_string(seed) + " replays the calls");
    Begin(seed);
    Go(1000);
    // What serves a prompt is chosen by measured times, so shares vary with what else the machine does: a walk that
    // lacks one goes on for a while, with more of the rarest.
    for (int more = 0; more < 15 && !HasFailure() && !EachSourceHasItsShare(); ++more) {
      Go(100, 20 * hits_["moved_out"] < answers_);
    }
    if (!HasFailure()) ExpectAllBack();
  }
  std::vector<std::string> sources;
  for (const auto& [source, count] : hits_) sources.push_back(absl::StrCat(count, " ", source));
  std::printf(
      "%lld requests, %lld answers compared, %s; %lld rebuilt rings, %lld had them; %lld refused, %lld cancelled, "
      "%lld kills; %lld bytes on disk\n",
      static_cast<long long>(asked_), static_cast<long long>(answers_), absl::StrJoin(sources, ", ").c_str(),
      static_cast<long long>(refed_), static_cast<long long>(exact_), static_cast<long long>(refused_),
      static_cast<long long>(cancelled_), static_cast<long long>(kills_), static_cast<long long>(most_disk_));
  for (const char* source : kSources) EXPECT_GE(20 * hits_[source], answers_) << source;
  EXPECT_GE(20 * refed_, answers_);
  EXPECT_GE(20 * exact_, answers_);
  EXPECT_LE(20 * refused_, answers_);
  EXPECT_GE(200 * kills_, asked_);
}

// What is saved is brought back where that is predicted to be faster than reading it, and left where it is not.
TEST_F(PrefixWalk, WhatIsReadFasterThanBroughtBackStaysOnDisk) {
  Stop();
  disk_rate_ = 0;
  Start();
  const Text text = {.bytes = Words(900)};
  const auto again = [&] {  // with another last word each time
    Text asked = text;
    asked.behind = {static_cast<int32_t>(next_++ % vocab())};
    Ask(asked, "ann", "");
    Finish();
    const Answer answer = *running_.back()->answer;
    Check(*running_.back());
    running_.clear();
    engine_->DropPrefixes();
    return answer.cached;
  };
  EXPECT_EQ(again().tokens, 0);
  Finish();  // it is saved
  ASSERT_GT(PrefixBytesOnDisk(), 1 << 20);
  EXPECT_EQ(again().source, "saved");
  EXPECT_EQ(again().source, "saved");
  slow_ = true;
  EXPECT_EQ(again().source, "saved");  // nobody knew
  for (int i = 0; i < 3; ++i) EXPECT_EQ(again().tokens, 0) << "on a slow disk";
  slow_ = false;
  int tries = 0;
  while (!HasFatalFailure() && again().tokens == 0) ASSERT_LT(++tries, 500) << "it is never tried again";
  EXPECT_GT(tries, 3);
}

}  // namespace
}  // namespace duo
