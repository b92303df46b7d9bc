#include "runtime/saved/session_names.h"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace duo {
namespace {

struct KindName {
  SavedKind kind;
  std::string_view name;
};
constexpr KindName kKinds[] = {{SavedKind::kPages, "pages"},
                               {SavedKind::kRings, "rings"},
                               {SavedKind::kTokens, "tokens"},
                               {SavedKind::kAppend, "append"},
                               {SavedKind::kSections, "sections"}};

// Takes digits, 1 to 10 of them, from the front.
bool TakeNumber(std::string_view* text, int64_t* number) {
  const auto end = std::find_if_not(text->begin(), text->end(), [](char c) { return absl::ascii_isdigit(c); });
  const size_t digits = end - text->begin();
  if (digits < 1 || digits > 10) return false;
  std::from_chars(text->data(), text->data() + digits, *number);
  text->remove_prefix(digits);
  return true;
}

}  // namespace

SavedName ParseSavedName(std::string_view name) {
  if (name == kManifestName) return {SavedKind::kManifest, 0};
  if (name == kNewManifestName) return {SavedKind::kNewManifest, 0};
  if (name == kMarkerName) return {SavedKind::kMarker, 0};
  SavedName parsed;
  if (!TakeNumber(&name, &parsed.generation)) return {};
  if (name == "-lock") {
    parsed.kind = SavedKind::kLock;
    return parsed;
  }
  for (const KindName& k : kKinds) {
    std::string_view rest = name;
    const size_t stem = k.name.size() + 2;
    if (rest.size() <= stem || rest[0] != '-' || rest.substr(1, k.name.size()) != k.name || rest[stem - 1] != '-') {
      continue;
    }
    rest.remove_prefix(stem);
    int64_t number = 0;
    if (!TakeNumber(&rest, &number) || !rest.empty()) continue;
    parsed.kind = k.kind;
    return parsed;
  }
  return {};
}

std::string SavedFileName(int64_t generation, SavedKind kind, int64_t number) {
  const auto found =
      std::find_if(std::begin(kKinds), std::end(kKinds), [&](const KindName& k) { return k.kind == kind; });
  return absl::StrCat(generation, "-", std::string(found->name), "-", number);
}

std::string LockName(int64_t generation) { return absl::StrCat(generation, "-lock"); }

bool ValidSessionId(std::string_view id) {
  if (id.empty() || id.size() > 64 || id[0] == '.') return false;
  return std::all_of(id.begin(), id.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; });
}

}  // namespace duo
