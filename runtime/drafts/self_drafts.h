// SelfDrafts: how many of an answer's next tokens the model is to guess by itself, in rows that visit page lists
// (kernels/decode_lists.h) and so read little, before one step checks them all. Guesses are drafts like those from the
// text: they need not be right, and what they wrote into pages and rings is written again by the rows that check them.
// Whether they are worth it follows from how often they were right and from what guessing and checking were measured to
// take; where they are not, none are made for a while, so that the answer keeps its pace. Plain values; not
// thread-safe.
#pragma once

#include <cstdint>

#include "runtime/drafts/drafter.h"

namespace duo {

// What a step of guesses takes, in steps of one row that sees everything.
class GuessCost {
 public:
  double ratio() const { return ratio_; }
  // one: seconds of a step of one row; 0: not known.
  void Measured(double seconds, double one);

 private:
  double ratio_ = 0.5;  // a guess
};

class SelfDrafts {
 public:
  // Is it tried at all, as things are?
  bool on() const { return resting_ == 0; }
  // How many tokens to guess before they are checked, at most `most`; 0: none. costs: of the checking step.
  int Choose(int most, const StepCosts& costs, const GuessCost& guess);
  // Of so many guesses the first `right` were.
  void Learn(int guessed, int right);
  void Rest() { resting_ = rest_; }
  // So many tokens were drawn.
  void Drawn(int64_t tokens) { resting_ = resting_ > tokens ? resting_ - tokens : 0; }

 private:
  static constexpr int kTries = 3;                                  // rounds that do not pay before it rests
  static constexpr int64_t kRest = 256, kLongestRest = 16 * kRest;  // tokens; twice as many after each rest in vain
  double odds_ = 0.8;                                               // that a guess behind right ones is right
  int poor_ = 0;                                                    // rounds that did not pay, one after another
  int64_t rest_ = kRest;
  int64_t resting_ = 0;  // tokens that are to be drawn before it is tried again
};

}  // namespace duo
