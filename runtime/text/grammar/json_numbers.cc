// Numbers within bounds, by their digits.
#include <algorithm>

#include "runtime/text/grammar/json_values.h"

namespace duo {
namespace {

class Digits {
 public:
  explicit Digits(GrammarBuilder& b) : b_(b) {}

  // x >= 0 with low <= x <= high; no high: no end.
  ExprId Between(const DecimalBound& low, const DecimalBound* high, bool integer) {
    if (high != nullptr && high->whole == low.whole) {
      return b_.Sequence({b_.Literal(low.whole), integer ? WithinInteger(low, high) : Fraction(&low, high)});
    }
    std::vector<ExprId> choices;
    const auto fraction = [&](const DecimalBound* from, const DecimalBound* to) {
      return integer ? WithinInteger(from != nullptr ? *from : DecimalBound{}, to) : Fraction(from, to);
    };
    choices.push_back(b_.Sequence({b_.Literal(low.whole), fraction(&low, nullptr)}));
    choices.push_back(b_.Sequence({Above(low.whole, high != nullptr ? &high->whole : nullptr),
                                   integer ? b_.Empty() : Fraction(nullptr, nullptr)}));
    if (high != nullptr) {
      if (Less(low.whole, high->whole)) {
        choices.push_back(b_.Sequence({b_.Literal(high->whole), fraction(nullptr, high)}));
      } else {
        return b_.Nothing();
      }
    }
    return b_.Choice(std::move(choices));
  }

 private:
  static bool Less(const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  }
  ExprId Digit(int from, int to) {
    if (from > to) return b_.Nothing();
    return b_.Range(static_cast<uint8_t>('0' + from), static_cast<uint8_t>('0' + to));
  }
  ExprId AnyDigits(int64_t count) { return b_.Repeat(Digit(0, 9), count, count); }

  // Whether the whole number itself, whose digits are written, is within: the empty rest, or none.
  ExprId WithinInteger(const DecimalBound& low, const DecimalBound* high) {
    const bool above = low.fraction.empty() && !low.exclusive;
    const bool below = high == nullptr || !high->fraction.empty() || !high->exclusive;
    return above && below ? b_.Empty() : b_.Nothing();
  }

  // Whole numbers strictly between two of them.
  ExprId Above(const std::string& low, const std::string* high) {
    std::vector<ExprId> choices;
    const bool same = high != nullptr && high->size() == low.size();
    choices.push_back(Tail(low, same ? high : nullptr, 0, true, same, low == "0"));
    if (high == nullptr) {
      choices.push_back(b_.Sequence({Digit(1, 9), b_.Repeat(Digit(0, 9), static_cast<int64_t>(low.size()), -1)}));
    } else if (!same) {
      for (size_t size = low.size() + 1; size < high->size(); ++size) {
        choices.push_back(b_.Sequence({Digit(1, 9), AnyDigits(static_cast<int64_t>(size) - 1)}));
      }
      std::string least(high->size(), '0');
      least[0] = '1';
      choices.push_back(
          b_.Choice({*high == least ? b_.Nothing() : b_.Literal(least), Tail(least, high, 0, true, true, false)}));
    }
    return b_.Choice(std::move(choices));
  }

  // The digits from `at` on of numbers as long as low, strictly above it and, where there is a high, strictly below.
  // on_low, on_high: the digits so far are theirs.
  ExprId Tail(const std::string& low, const std::string* high, size_t at, bool on_low, bool on_high, bool no_zero) {
    const auto size = static_cast<int64_t>(low.size());
    if (at == low.size()) return on_low || on_high ? b_.Nothing() : b_.Empty();
    const int64_t rest = size - static_cast<int64_t>(at) - 1;
    const int from = on_low ? low[at] - '0' : 0, to = on_high ? (*high)[at] - '0' : 9;
    if (!on_low && !on_high) return AnyDigits(rest + 1);
    if (from > to) return b_.Nothing();
    std::vector<ExprId> choices;
    if (on_low && on_high && from == to) {
      return b_.Sequence({Digit(from, from), Tail(low, high, at + 1, true, true, no_zero)});
    }
    if (on_low) choices.push_back(b_.Sequence({Digit(from, from), Tail(low, high, at + 1, true, false, no_zero)}));
    if (on_high) choices.push_back(b_.Sequence({Digit(to, to), Tail(low, high, at + 1, false, true, no_zero)}));
    choices.push_back(b_.Sequence({Digit(on_low ? from + 1 : from, on_high ? to - 1 : to), AnyDigits(rest)}));
    return b_.Choice(std::move(choices));
  }

  // What may stand behind the point, and the point: nothing, or digits. Bounds are of the fractions alone.
  ExprId Fraction(const DecimalBound* low, const DecimalBound* high) {
    const std::string from = low != nullptr ? low->fraction : "", to = high != nullptr ? high->fraction : "";
    const bool above_zero = low == nullptr || (from.empty() && !low->exclusive);
    const bool below = high == nullptr || !to.empty() || !high->exclusive;
    std::vector<ExprId> choices;
    if (above_zero && below) choices.push_back(b_.Empty());
    choices.push_back(b_.Sequence({b_.Literal("."), Places(low, from, high, to, 0, true)}));
    return b_.Choice(std::move(choices));
  }

  // Digits from place `at` on; those before are low's and high's, where there are such. first: there must be one.
  ExprId Places(const DecimalBound* low, const std::string& from, const DecimalBound* high, const std::string& to,
                size_t at, bool first) {
    if (low != nullptr && at >= from.size() && !low->exclusive) low = nullptr;  // whatever follows is enough
    const ExprId any = b_.Repeat(Digit(0, 9), first ? 1 : 0, -1);
    if (low == nullptr && high == nullptr) return any;
    const int least = low != nullptr && at < from.size() ? from[at] - '0' : 0;
    const int most = high == nullptr ? 9 : at < to.size() ? to[at] - '0' : 0;
    if (least > most) return b_.Nothing();
    const bool low_ends = low != nullptr && at >= from.size(), high_ends = high != nullptr && at >= to.size();
    // Behind both bounds' digits: only zeros keep to high, and only something else is above low.
    if (high_ends) {
      if (low != nullptr || high->exclusive) return b_.Nothing();
      return b_.Repeat(Digit(0, 0), first ? 1 : 0, -1);
    }
    if (low_ends && high == nullptr) {  // zeros, and then something above
      return b_.Sequence({b_.Repeat(Digit(0, 0), 0, -1), Digit(1, 9), b_.Repeat(Digit(0, 9), 0, -1)});
    }
    std::vector<ExprId> choices;
    if (!first && low == nullptr) choices.push_back(b_.Empty());  // shorter than high's digits, which end in none of 0
    if (least == most && low != nullptr && high != nullptr) {
      choices.push_back(b_.Sequence({Digit(least, least), Places(low, from, high, to, at + 1, false)}));
      return b_.Choice(std::move(choices));
    }
    if (low != nullptr) {
      choices.push_back(b_.Sequence({Digit(least, least), Places(low, from, nullptr, to, at + 1, false)}));
    }
    if (high != nullptr) {
      choices.push_back(b_.Sequence({Digit(most, most), Places(nullptr, from, high, to, at + 1, false)}));
    }
    choices.push_back(b_.Sequence(
        {Digit(low != nullptr ? least + 1 : least, high != nullptr ? most - 1 : most), b_.Repeat(Digit(0, 9), 0, -1)}));
    return b_.Choice(std::move(choices));
  }

  GrammarBuilder& b_;
};

// Its mirror at 0.
DecimalBound Negated(DecimalBound bound) {
  bound.negative = !bound.negative && !bound.zero();
  return bound;
}

}  // namespace

ExprId JsonValues::Number(const std::optional<DecimalBound>& low, const std::optional<DecimalBound>& high,
                          bool integer) {
  if (!low.has_value() && !high.has_value()) return integer ? AnyInteger() : AnyNumber();
  Digits digits(b_);
  const DecimalBound zero;
  std::vector<ExprId> choices;
  if (!high.has_value() || !high->negative) {  // 0 and above
    const DecimalBound from = low.has_value() && !low->negative ? *low : zero;
    choices.push_back(digits.Between(from, high.has_value() ? &*high : nullptr, integer));
  }
  if (!low.has_value() || low->negative) {  // behind a minus, mirrored
    DecimalBound from = high.has_value() && high->negative ? Negated(*high) : zero;
    if (from.zero()) from.exclusive = true;
    const DecimalBound to = low.has_value() ? Negated(*low) : zero;
    choices.push_back(b_.Sequence({b_.Literal("-"), digits.Between(from, low.has_value() ? &to : nullptr, integer)}));
  }
  return b_.Choice(std::move(choices));
}

}  // namespace duo
