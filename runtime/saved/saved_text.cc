#include "runtime/saved/saved_text.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

using Json = nlohmann::json;
constexpr size_t kMostRanges = 1 << 16;

struct Range {
  size_t begin = 0, end = 0;
};

// Ranges in order, none of them empty, within `size` bytes; false where they are not.
bool ReadRanges(const Json& json, size_t size, std::vector<Range>* ranges) {
  if (!json.is_array() || json.size() > kMostRanges) return false;
  size_t last = 0;
  for (const Json& entry : json) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_number_unsigned() || !entry[1].is_number_unsigned()) {
      return false;
    }
    const Range range{entry[0].get<size_t>(), entry[1].get<size_t>()};
    if (range.begin < last || range.begin >= range.end || range.end > size) return false;
    last = range.end;
    ranges->push_back(range);
  }
  return true;
}

std::string ReadHex(const char* key, JsonFields& fields) {
  const std::string hex = fields.String(key, "");
  if (hex.size() % 2 == 0 && std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit))
    return absl::HexStringToBytes(hex);
  fields.Fail(absl::StrCat("\"", key, "\" is not hexadecimal"));
  return "";
}

// A text of two kinds of segments as {tail|tail_hex, tail_special}.
void PutSegments(const std::vector<TextSegment>& segments, Json* object) {
  std::string tail;
  Json special = Json::array();
  for (const TextSegment& segment : segments) {
    const size_t begin = tail.size();
    tail += segment.text;
    if (segment.parse_special) special.push_back({begin, tail.size()});
  }
  if (!tail.empty() && IsValidUtf8(tail)) (*object)["tail"] = tail;
  if (!IsValidUtf8(tail)) (*object)["tail_hex"] = absl::BytesToHexString(tail);
  if (!special.empty()) (*object)["tail_special"] = special;
}

std::vector<TextSegment> ReadSegments(JsonFields& fields) {
  std::string tail = fields.String("tail", "");
  if (fields.Has("tail_hex")) tail = ReadHex("tail_hex", fields);
  std::vector<Range> special;
  const Json* ranges = fields.Find("tail_special");
  if (ranges != nullptr && !ReadRanges(*ranges, tail.size(), &special)) {
    fields.Fail("\"tail_special\" is no list of ranges of its tail");
    return {};
  }
  SessionText text;
  size_t at = 0;
  for (const Range& range : special) {
    AddText(std::string_view(tail).substr(at, range.begin - at), false, &text);
    AddText(std::string_view(tail).substr(range.begin, range.end - range.begin), true, &text);
    at = range.end;
  }
  AddText(std::string_view(tail).substr(at), false, &text);
  return std::move(text.tail);
}

Json TurnJson(const PastTurn& turn) {
  Json json = {
      {"at", turn.at}, {"tail_continues", turn.continues}, {"answer_hex", absl::BytesToHexString(turn.answer)}};
  PutSegments(turn.said, &json);
  return json;
}

std::optional<PastTurn> ReadTurn(const std::string& file, JsonFields& fields) {
  const Json* json = fields.Find("turn");
  if (json == nullptr) return std::nullopt;
  if (!json->is_object()) {
    fields.Fail("\"turn\" is no object");
    return std::nullopt;
  }
  JsonFields inside(*json, file, "chat_state.turn.");
  PastTurn turn;
  turn.at = inside.Int("at", 0, int64_t{1} << 40);
  turn.continues = inside.Bool("tail_continues", false);
  turn.said = ReadSegments(inside);
  turn.answer = ReadHex("answer_hex", inside);
  fields.Adopt(inside.status());
  return turn;
}

void ReadChat(const std::string& file, JsonFields& fields, SessionText* text) {
  const Json* state = fields.Find("chat_state");
  if (state == nullptr) return;
  if (!state->is_object()) return fields.Fail("\"chat_state\" is no object");
  JsonFields inside(*state, file, "chat_state.");
  text->system = inside.String("system", "");
  text->in_turn = inside.Bool("in_turn", false);
  text->answered = inside.Bool("answered", false);
  text->said = inside.Bool("said", false);
  text->newlines = static_cast<int>(inside.Int("newlines", 0, 2, 0));
  text->opening = ReadHex("opening_hex", inside);
  text->turn = ReadTurn(file, inside);
  fields.Adopt(inside.status());
}

}  // namespace

void PutSavedText(const SessionText& text, Json* object) {
  PutSegments(text.tail, object);
  if (text.continues) (*object)["tail_continues"] = true;
  if (!text.chat) return;
  (*object)["chat"] = true;
  Json state = {{"system", text.system},     {"in_turn", text.in_turn},
                {"answered", text.answered}, {"said", text.said},
                {"newlines", text.newlines}, {"opening_hex", absl::BytesToHexString(text.opening)}};
  if (text.turn.has_value()) state["turn"] = TurnJson(*text.turn);
  (*object)["chat_state"] = std::move(state);
}

SessionText ReadSavedText(const std::string& file, JsonFields& fields) {
  SessionText text;
  text.tail = ReadSegments(fields);
  if (!fields.ok()) return text;
  text.continues = fields.Bool("tail_continues", false);
  text.chat = fields.Bool("chat", false);
  if (text.chat) ReadChat(file, fields, &text);
  return text;
}

}  // namespace duo
