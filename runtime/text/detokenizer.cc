#include "runtime/text/detokenizer.h"

#include <cstdlib>
#include <utility>

#include "runtime/text/text_steps.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte that <0xNN> names, or -1.
int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const int high = HexDigit(token[3]), low = HexDigit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace

std::string TokenBytes(const std::vector<DetokenizerStep>& steps, std::string_view token) {
  using Kind = DetokenizerStep::Kind;
  std::vector<DetokenizerStep> own;
  for (const DetokenizerStep& step : steps) {
    if (step.kind == Kind::kByteLevel) {
      std::string bytes;
      AppendByteLevelDecoded(token, &bytes);
      return bytes;
    }
    if (step.kind == Kind::kByteFallback && ByteOfToken(token) >= 0) {
      return std::string(1, static_cast<char>(ByteOfToken(token)));
    }
    if (step.kind != Kind::kMetaspace && step.kind != Kind::kReplace) continue;
    own.push_back(step);
    own.back().drop_first = false;
  }
  Detokenizer detokenizer(own);
  std::string bytes;
  detokenizer.Push(token, &bytes);
  detokenizer.Flush(&bytes);
  return bytes;
}

Detokenizer::Detokenizer(const std::vector<DetokenizerStep>& steps) : steps_(&steps), states_(steps.size()) {}

void Detokenizer::Push(std::string_view token, std::string* out) { Feed(0, token, true, out); }

void Detokenizer::Flush(std::string* out) {
  for (size_t i = 0; i < states_.size(); ++i) FlushStep(i, out);
  states_.assign(steps_->size(), State{});
}

void Detokenizer::EmitByteRun(size_t step, std::string* out) {
  const std::string bytes = std::exchange(states_[step].held, {});
  states_[step].byte_run = false;
  if (IsValidUtf8(bytes)) {
    Feed(step + 1, bytes, true, out);
  } else {
    for (size_t i = 0; i < bytes.size(); ++i) Feed(step + 1, kReplacement, true, out);
  }
}

// Trailing strip characters are held back until something else follows: only the token's end decides about them.
void Detokenizer::FeedStrip(size_t step, std::string_view fragment, bool ends, std::string* out) {
  const DetokenizerStep& how = (*steps_)[step];
  State& state = states_[step];
  while (state.leading && state.stripped < how.left && fragment.starts_with(how.text)) {
    fragment.remove_prefix(how.text.size());
    ++state.stripped;
  }
  if (!fragment.empty()) state.leading = false;
  state.held.append(fragment);
  size_t keep = state.held.size();  // how much is certain
  size_t trailing = 0;
  while (trailing < how.right && std::string_view(state.held).substr(0, keep).ends_with(how.text)) {
    keep -= how.text.size();
    ++trailing;
  }
  const std::string certain = state.held.substr(0, keep);
  state.held.erase(0, keep);
  if (ends) {
    state = State{};
    Feed(step + 1, certain, true, out);
  } else if (!certain.empty()) {
    Feed(step + 1, certain, false, out);
  }
}

void Detokenizer::Feed(size_t step, std::string_view fragment, bool ends, std::string* out) {
  if (step == steps_->size()) {
    out->append(fragment);
    return;
  }
  using Kind = DetokenizerStep::Kind;
  const DetokenizerStep& how = (*steps_)[step];
  State& state = states_[step];
  switch (how.kind) {
    case Kind::kFuse:
      state.open = true;
      Feed(step + 1, fragment, false, out);
      return;
    case Kind::kStrip:
      state.open = true;
      FeedStrip(step, fragment, ends, out);
      return;
    case Kind::kSpaces: {
      std::string text(state.tokens > 0 && !state.open ? " " : "");
      text.append(fragment);
      state.open = !ends;
      state.tokens += ends;
      Feed(step + 1, text, ends, out);
      return;
    }
    case Kind::kMetaspace: {
      std::string text;
      for (size_t i = 0; i < fragment.size();) {
        if (fragment.substr(i).starts_with(how.text)) {
          if (state.tokens > 0 || !how.drop_first) text += ' ';
          i += how.text.size();
        } else {
          text += fragment[i++];
        }
      }
      state.tokens += ends;
      Feed(step + 1, text, ends, out);
      return;
    }
    case Kind::kByteLevel: {
      // A token is one unit here: where it spells no bytes it stands for itself.
      if (!ends) {
        state.held.append(fragment);
        state.byte_run = true;
        return;
      }
      State& bytes = state;
      if (bytes.byte_run) {  // only after a step that fuses: the whole text is one token
        bytes.held.append(fragment);
        std::string decoded;
        AppendByteLevelDecoded(bytes.held, &decoded);
        bytes.held = std::move(decoded);
        bytes.byte_run = false;
      } else {
        AppendByteLevelDecoded(fragment, &bytes.held);
      }
      bytes.open = true;
      const size_t certain = CertainUtf8Prefix(bytes.held);
      const std::string text = ReplaceInvalidUtf8(std::string_view(bytes.held).substr(0, certain));
      bytes.held.erase(0, certain);
      Feed(step + 1, text, false, out);
      return;
    }
    case Kind::kReplace:
      state.held.append(fragment);
      if (!ends) return;
      Feed(step + 1, ReplaceAll(how.pattern, how.text, std::exchange(state.held, {})).value(), true, out);
      return;
    case Kind::kByteFallback: {
      const int byte = ends && !state.open ? ByteOfToken(fragment) : -1;
      if (byte >= 0) {
        state.held.push_back(static_cast<char>(byte));
        state.byte_run = true;
        return;
      }
      if (state.byte_run) EmitByteRun(step, out);
      states_[step].open = !ends;
      Feed(step + 1, fragment, ends, out);
      return;
    }
  }
}

void Detokenizer::FlushStep(size_t step, std::string* out) {
  using Kind = DetokenizerStep::Kind;
  State& state = states_[step];
  switch ((*steps_)[step].kind) {
    case Kind::kFuse:
      if (state.open) Feed(step + 1, "", true, out);
      return;
    case Kind::kByteLevel:
      if (state.open) Feed(step + 1, ReplaceInvalidUtf8(std::exchange(state.held, {})), true, out);
      return;
    case Kind::kByteFallback:
      if (state.byte_run) EmitByteRun(step, out);
      return;
    default:
      return;  // the other steps hold nothing once a token has ended
  }
}

}  // namespace duo
