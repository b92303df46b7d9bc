// SelfDrafts: how many of an answer's next tokens the model is to guess by itself, in rows that visit page lists
// (kernels/decode_lists.h) and so read little, before one step checks them all. Guesses are drafts like those from the
// text: they need not be right, and what they wrote into pages and rings is written again by the rows that check them.
// Whether they are worth it follows from how often they were right and from what guessing and checking were measured to
// take; where they are not, none are made for a while, so that the answer keeps its pace. So does which kind of rows
// guesses (GuessKind): each is taken at first for right mostly, so that it is tried before another is preferred to it,
// and now and then again. Plain values; not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/drafts/drafter.h"

namespace duo {

// Which pages a guessing row visits: those that were chosen by where the answer looked, or, of every head, what a
// streaming head sees. The latter takes less and needs no row that chooses. Guesses of another model are of the first
// kind.
enum class GuessKind : uint8_t { kLists, kEnds };
constexpr int kGuessKinds = 2;

// What a step of guesses takes, in steps of one row that sees everything.
class GuessCost {
 public:
  double ratio() const { return ratio_; }
  // one: seconds of a step of one row; 0: not known.
  void Measured(double seconds, double one);

 private:
  double ratio_ = 0.5;  // a guess
};

// By kind.
using GuessCosts = std::array<GuessCost, kGuessKinds>;

class SelfDrafts {
 public:
  // What a round guesses before it is checked; no tokens: nothing.
  struct Round {
    GuessKind kind = GuessKind::kLists;
    int tokens = 0;
  };
  // Is it tried at all, as things are?
  bool on() const { return resting_ == 0; }
  // At most `most` tokens. may: the kinds that can guess here. costs: of the checking step.
  Round Choose(int most, const std::array<bool, kGuessKinds>& may, const StepCosts& costs, const GuessCosts& guess);
  Round Choose(int most, const StepCosts& costs, const GuessCosts& guess) {
    return Choose(most, {true, false}, costs, guess);
  }
  // Is there to be a list, as it is the kind that pays, or is to be tried again?
  bool WantsLists() const { return last_ == GuessKind::kLists || Waits(GuessKind::kLists); }
  // Of so many guesses of that kind the first `right` were.
  void Learn(GuessKind kind, int guessed, int right);
  void Rest() { resting_ = rest_; }
  // So many tokens were drawn.
  void Drawn(int64_t tokens) { resting_ = resting_ > tokens ? resting_ - tokens : 0; }

 private:
  static constexpr int kTries = 3;                                  // rounds that do not pay before it rests
  static constexpr int kTryAgain = 48;                              // rounds without a kind before it is tried again
  static constexpr int64_t kRest = 256, kLongestRest = 16 * kRest;  // tokens; twice as many after each rest in vain
  static constexpr int64_t kFirst = 16;
  static int At(GuessKind kind) { return static_cast<int>(kind); }
  bool Waits(GuessKind kind) const { return waited_[At(kind)] >= kTryAgain; }
  Round Take(GuessKind kind, int tokens);

  std::array<double, kGuessKinds> odds_ = {0.8, 0.8};  // that a guess behind right ones is right
  std::array<int, kGuessKinds> waited_ = {};           // rounds since one of the kind
  GuessKind last_ = GuessKind::kLists;
  int poor_ = 0;  // rounds that did not pay, one after another
  int64_t rest_ = kRest;
  // Tokens that are to be drawn before it is tried, or tried again: of a short answer the trial would be all there is.
  int64_t resting_ = kFirst;
};

}  // namespace duo
