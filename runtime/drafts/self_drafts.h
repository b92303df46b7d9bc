// SelfDrafts: how many of an answer's next tokens the model is to guess by itself, in rows that visit page lists
// (kernels/decode_lists.h) and so read little, before one step checks them all. Guesses are drafts like those from the
// text: they need not be right, and what they wrote into pages and rings is written again by the rows that check them.
// Whether they are worth it follows from how often they were right and from what guessing and checking were measured to
// take; where they are not, none are made for a while, so that the answer keeps its pace. So does which kind of rows
// guesses (GuessKind). A kind that was never tried, or not for long, is tried whatever is known of it. Lists grow old,
// and others are made by a row that sees everything: where none serve, and they are the kind that pays or it is their
// turn, such a row comes first, so that a kind that needs nothing takes nobody's place. Plain values; not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "runtime/drafts/drafter.h"

namespace duo {

// Which pages a guessing row visits: those that were chosen by where the answer looked; of every head, what a streaming
// head sees, which takes less and needs no row that chooses; or all, which is worth it by a copy of the weights alone.
// Guesses of another model are of the first kind.
enum class GuessKind : uint8_t { kLists, kEnds, kAll };
constexpr int kGuessKinds = 3;

// May the answer's next row guess by a kind? kAfterRow: once a row that sees everything has made lists.
enum class MayGuessBy : uint8_t { kNo, kAfterRow, kNow };
using MayGuessByKind = std::array<MayGuessBy, kGuessKinds>;

// What a step of guesses takes, in steps of one row that sees everything.
class GuessCost {
 public:
  double ratio() const { return ratio_; }
  // one: seconds of a step of one row; 0: not known.
  void Measured(double seconds, double one);
  // What a step takes more that makes the lists which guesses visit.
  double making() const { return making_; }
  // plain: seconds of such a step without; 0: not known.
  void MadeLists(double seconds, double plain, double one);

 private:
  double making_ = 0;
  double ratio_ = 0.5;  // a guess
  double follow_ = 1;
};

// By kind.
using GuessCosts = std::array<GuessCost, kGuessKinds>;

class SelfDrafts {
 public:
  // So many tokens behind the row that made them lists serve.
  static constexpr int kListsServe = 16;
  // What a round guesses before it is checked; no tokens: nothing.
  struct Round {
    GuessKind kind = GuessKind::kLists;
    int tokens = 0;
  };
  // Is it tried at all, as things are?
  bool on() const { return resting_ == 0; }
  // At most `most` tokens. costs: of the checking step.
  Round Choose(int most, const MayGuessByKind& may, const StepCosts& costs, const GuessCosts& guess);
  // Of another model.
  Round Choose(int most, const StepCosts& costs, const GuessCosts& guess) {
    return Choose(most, {MayGuessBy::kNow, MayGuessBy::kNo, MayGuessBy::kNo}, costs, guess);
  }
  // Are there to be lists, as they are the kind that pays, or are to be tried soon?
  bool WantsLists() const { return lists_pay_ || awaits_lists_ || waited_[At(GuessKind::kLists)] >= kTryAgain - 1; }
  // Rows of that kind see everything as things are: it is not tried for as long as one that was.
  void LeftNothingOut(GuessKind kind);
  // Of so many guesses of that kind the first `right` were. Only rounds of which this is known count as tried.
  void Learn(GuessKind kind, int guessed, int right);
  void Rest() { resting_ = rest_; }
  // So many tokens were drawn.
  void Drawn(int64_t tokens) { resting_ = resting_ > tokens ? resting_ - tokens : 0; }

 private:
  static constexpr int kTries = 3;                                  // rounds that do not pay before it rests
  static constexpr int kTryAgain = 48;                              // rounds without a kind before it is tried again
  static constexpr int kTrySoon = 6;                                // likewise, where all of its last trial was right
  static constexpr int64_t kRest = 256, kLongestRest = 16 * kRest;  // tokens; twice as many after each rest in vain
  static constexpr int64_t kFirst = 16;
  static int At(GuessKind kind) { return static_cast<int>(kind); }
  bool Waits(GuessKind kind) const { return waited_[At(kind)] >= kTryAgain; }
  bool Can(GuessKind kind, MayGuessBy may) const;

  std::array<double, kGuessKinds> odds_ = {0.8, 0.8, 0.8};                   // that a guess behind right ones is right
  std::array<double, kGuessKinds> counted_ = {3, 3, 3};                      // guesses that these odds are of
  std::array<int, kGuessKinds> waited_ = {kTryAgain, kTryAgain, kTryAgain};  // rounds since one of the kind
  std::array<bool, kGuessKinds> leaves_out_ = {true, true, true};            // as far as is known
  bool lists_pay_ = false;            // as far as was known when a round was chosen last
  bool awaits_lists_ = false;         // the row that was chosen last is to make some
  bool trial_ = false, pays_ = true;  // the round that was chosen last: does it only show how its kind is; any kind
  int poor_ = 0;                      // rounds that did not pay, one after another
  int64_t rest_ = kRest;
  // Tokens that are to be drawn before it is tried, or tried again: of a short answer the trial would be all there is.
  int64_t resting_ = kFirst;
};

}  // namespace duo
