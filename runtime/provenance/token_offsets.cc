#include "runtime/provenance/token_offsets.h"

#include <algorithm>
#include <string>

namespace duo {
namespace {

constexpr size_t kPassed = 200;  // tokens passed over at once at most
// How far on the text is looked at for the next token: so far, and further with each that was passed over.
constexpr size_t kLeastReach = 256, kBytesEach = 24;
constexpr int kConfirmed = 8;        // tokens behind a place that should go on there
constexpr double kPassCost = 0.5;    // of a token, in bytes that text and tokens are apart
constexpr double kUnsureCost = 0.5;  // of one that does not go on

class Alignment {
 public:
  Alignment(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text)
      : text_(text), ranges_(tokens.size()) {
    for (const int32_t id : tokens) {
      said_.push_back(tokenizer.BytesOf(id));
      special_.push_back(said_.back().empty() ? tokenizer.TextOf(id) : std::string_view());
    }
  }

  std::vector<ByteRange> Run() {
    DropPrefix();
    for (size_t i = 0; i < said_.size();) {
      if (at_ == text_.size()) {
        Take(i++, 0);  // behind the text
      } else if (const size_t bytes = Match(i, at_); bytes != kNone) {
        Take(i++, bytes);
      } else {
        i = PassOver(i);
      }
    }
    return std::move(ranges_);
  }

 private:
  static constexpr size_t kNone = static_cast<size_t>(-1);

  // The bytes that token i stands for if it begins at `at`, or kNone.
  size_t Match(size_t i, size_t at) const {
    const std::string_view rest = text_.substr(at);
    if (said_[i].empty()) return !special_[i].empty() && rest.starts_with(special_[i]) ? special_[i].size() : 0;
    if (rest.starts_with(said_[i])) return said_[i].size();
    const bool ends_inside = !rest.empty() && rest.size() < said_[i].size() && said_[i].starts_with(rest);
    return ends_inside ? rest.size() : kNone;
  }

  // How many of the `most` tokens from i on go on at `at`.
  int Confirmed(size_t i, size_t at, int most) const {
    for (int n = 0; n < most; ++n, ++i) {
      if (i == said_.size()) return most;
      const size_t bytes = Match(i, at);
      if (bytes == kNone) return n;
      at += bytes;
    }
    return most;
  }

  // The space that some tokenizers put before a text is none of it: taken off where the tokens then go on for longer.
  void DropPrefix() {
    constexpr int kLook = 16;
    size_t first = 0;
    while (first < said_.size() && said_[first].empty()) ++first;
    if (first == said_.size() || said_[first][0] != ' ') return;
    const int as_it_is = Confirmed(first, 0, kLook);
    const std::string whole = said_[first];
    said_[first].erase(0, 1);
    if (Confirmed(first, 0, kLook) <= as_it_is) said_[first] = whole;
  }

  void Take(size_t i, size_t bytes) {
    ranges_[i] = {static_cast<int64_t>(at_), static_cast<int64_t>(at_ + bytes)};
    at_ += bytes;
  }

  // From a token that the text does not have here; returns the next token that it has. Of the places where a later
  // token goes on the one is taken that passes over the least of text and tokens.
  size_t PassOver(size_t i) {
    double best = 1e9;
    size_t best_passed = 0, best_at = kNone, said = 0;
    for (size_t passed = 0; passed <= kPassed && i + passed < said_.size(); ++passed) {
      const double least = kPassCost * static_cast<double>(passed);
      if (least >= best) break;
      const std::string& token = said_[i + passed];
      const size_t end = std::min(text_.size(), at_ + kLeastReach + kBytesEach * passed + token.size());
      const std::string_view near = text_.substr(0, end);
      for (size_t at = token.empty() ? kNone : near.find(token, at_); at != kNone; at = near.find(token, at + 1)) {
        const auto apart = static_cast<double>(std::max(at - at_, said));
        const int confirmed = Confirmed(i + passed + 1, at + token.size(), kConfirmed);
        const double cost = least + apart + kUnsureCost * (kConfirmed - confirmed);
        if (cost >= best) continue;
        best = cost;
        best_passed = passed;
        best_at = at;
      }
      said += token.size();
    }
    if (best_at == kNone) {  // lost: it stands for as much as it says, at the least to go on from near where it is
      Take(i, std::min(said_[i].size(), text_.size() - at_));
      return i + 1;
    }
    for (size_t k = i; k < i + best_passed; ++k) {
      ranges_[k] = {static_cast<int64_t>(at_), static_cast<int64_t>(best_at)};
    }
    at_ = best_at;
    return i + best_passed;
  }

  std::vector<std::string> said_;          // [tokens]: their bytes
  std::vector<std::string_view> special_;  // how those without bytes are spelled
  std::string_view text_;
  std::vector<ByteRange> ranges_;
  size_t at_ = 0;
};

}  // namespace

std::vector<ByteRange> TokenRanges(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text) {
  return Alignment(tokenizer, tokens, text).Run();
}

}  // namespace duo
