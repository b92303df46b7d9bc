#include "runtime/text/text_stream.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

namespace duo {
namespace {

constexpr size_t kNone = std::string::npos;

// Bytes at the end of `text` that are the beginning, but not the whole, of `stop`.
size_t PrefixAtEnd(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.substr(text.size() - n) == stop.substr(0, n)) return n;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, std::vector<std::string> stops)
    : decoder_(tokenizer), stops_(std::move(stops)) {
  std::erase(stops_, "");
  for (const std::string& stop : stops_) {
    const std::optional<int32_t> id = tokenizer.IdOf(stop);
    if (id.has_value() && tokenizer.is_special(*id)) stop_tokens_.emplace_back(*id, stop);
  }
}

std::string TextStream::Push(int32_t token) {
  if (stopped_) return "";
  for (const auto& [id, stop] : stop_tokens_) {
    if (id != token) continue;
    std::string rest = Flush();
    if (!std::exchange(stopped_, true)) stop_ = stop;
    return rest;
  }
  const std::string piece = decoder_.Push(token);
  const int64_t before = text_.size() + held_.size(), after = before + piece.size();
  // A token that only began a character belongs where the character ends.
  if (!piece.empty()) {
    std::fill(ends_.end() - no_text_, ends_.end(), after);
    no_text_ = 0;
  } else {
    ++no_text_;
  }
  ends_.push_back(after);
  return Take(piece);
}

std::string TextStream::Flush() {
  if (stopped_) return "";
  const std::string piece = decoder_.Flush();
  const int64_t after = text_.size() + held_.size() + piece.size();
  std::fill(ends_.end() - no_text_, ends_.end(), after);
  no_text_ = 0;
  std::string out = Take(piece);
  if (!stopped_) {
    out += held_;
    text_ += held_;
    held_.clear();
  }
  return out;
}

int64_t TextStream::tokens() const {
  return std::upper_bound(ends_.begin(), ends_.end(), static_cast<int64_t>(text_.size())) - ends_.begin();
}

// Adds decoded text; returns, and moves to text_, what can no longer belong to a stop text.
std::string TextStream::Take(const std::string& piece) {
  held_ += piece;
  size_t cut = kNone, cut_end = kNone;
  const std::string* first = nullptr;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == kNone) continue;
    const size_t end = at + stop.size();
    if (cut == kNone || end < cut_end || (end == cut_end && at < cut)) {
      cut = at;
      cut_end = end;
      first = &stop;
    }
  }
  if (first != nullptr) {
    stopped_ = true;
    stop_ = *first;
  } else {
    size_t keep = 0;
    for (const std::string& stop : stops_) keep = std::max(keep, PrefixAtEnd(held_, stop));
    cut = held_.size() - keep;
  }
  std::string out = held_.substr(0, cut);
  text_ += out;
  held_.erase(0, cut);
  return out;
}

}  // namespace duo
