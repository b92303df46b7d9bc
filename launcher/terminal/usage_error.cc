#include "launcher/terminal/usage_error.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"

namespace duo {
namespace {

// Letters to insert, delete, replace or swap with their neighbour to get from one word to the other.
size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

std::vector<std::string> CommandNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

std::vector<std::string> FlagNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// "-1" and "-.5" are values.
bool LooksLikeFlag(const std::string& word) {
  return word.size() > 1 && word[0] == '-' && word != "--" && std::isdigit(static_cast<unsigned char>(word[1])) == 0 &&
         word[1] != '.';
}

// "{a,b}" as a, b.
std::string Listed(absl::string_view braced) {
  return absl::StrReplaceAll(braced.substr(1, braced.size() - 2), {{",", ", "}});
}

// What CLI11's words for a value's type and check say is wanted: "INT:INT in [1 - 64]", "TEXT:{a,b}", "FILE".
std::string Wanted(const std::string& type) {
  if (const size_t list = type.find(":{"); list != std::string::npos) {
    return absl::StrCat("one of ", Listed(type.substr(list + 1)));
  }
  if (const size_t range = type.find(" in ["); range != std::string::npos) {
    const std::string bounds = type.substr(range + 5, type.size() - range - 6);
    return absl::StrCat("a number from ", absl::StrReplaceAll(bounds, {{" - ", " to "}}));
  }
  return absl::StrCat("a value (", type, ")");
}

std::string DidYouMean(const std::string& nearest) {
  return nearest.empty() ? "" : absl::StrCat("; did you mean \"", nearest, "\"?");
}

}  // namespace

std::string Nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;  // one more than the misspelt letters that are forgiven
  for (const std::string& candidate : candidates) {
    const bool begins = word.size() > 1 && absl::StartsWith(candidate, word);
    const size_t distance = begins ? 0 : std::max<size_t>(1, EditDistance(word, candidate));
    if (distance < least) {
      nearest = candidate;
      least = distance;
    }
  }
  return nearest;
}

std::string InOurWords(const std::string& refusal) {
  const std::string no_value = "Could not convert: ";
  if (const size_t equals = refusal.find(" = "); absl::StartsWith(refusal, no_value) && equals != std::string::npos) {
    return absl::StrCat(refusal.substr(no_value.size(), equals - no_value.size()), ": expected a number, found ",
                        refusal.substr(equals + 3));
  }
  const size_t colon = refusal.find(": ");
  if (colon == std::string::npos) return refusal;
  const std::string name = refusal.substr(0, colon), rest = refusal.substr(colon + 2);
  const std::string many = "At Most 1 required but received ", few = "1 required ", missing = " missing",
                    value = "Value ", outside = " not in range ", unlisted = " not in {",
                    no_number = " could not be converted to ";
  const auto said = [&](const std::string& wanted, const std::string& found) {
    return absl::StrCat(name, ": expected ", wanted, ", found ", found);
  };
  if (absl::StartsWith(rest, many)) return said("one value", rest.substr(many.size()));
  if (absl::StartsWith(rest, few) && absl::EndsWith(rest, missing)) {
    return said(Wanted(rest.substr(few.size(), rest.size() - few.size() - missing.size())), "none");
  }
  if (const size_t at = rest.rfind(outside); absl::StartsWith(rest, value) && at != std::string::npos) {
    return said("a number from " + absl::StrReplaceAll(rest.substr(at + outside.size()), {{".000000", ""}}),
                rest.substr(value.size(), at - value.size()));
  }
  if (const size_t at = rest.rfind(unlisted); at != std::string::npos && rest.back() == '}') {
    return said("one of " + Listed(rest.substr(at + unlisted.size() - 1)), rest.substr(0, at));
  }
  if (const size_t at = rest.find(no_number);
      absl::StartsWith(rest, value) && at != std::string::npos && absl::EndsWith(rest, "INT")) {
    return said("a whole number", rest.substr(value.size(), at - value.size()));
  }
  return refusal;
}

std::string UsageError(const CLI::App& app, const std::vector<std::string>& arguments, const std::string& refusal) {
  const CLI::App* command = &app;
  std::string path = "duo", problem;
  for (const std::string& word : arguments) {
    if (const std::vector<std::string> names = CommandNames(*command); !names.empty()) {
      if (LooksLikeFlag(word)) break;
      if (std::find(names.begin(), names.end(), word) != names.end()) {
        command = command->get_subcommand(word);
        absl::StrAppend(&path, " ", word);
        continue;
      }
      const std::string nearest = Nearest(word, names);
      problem = absl::StrCat("unknown command \"", word, "\"",
                             nearest.empty() ? "; expected one of " + absl::StrJoin(names, ", ") : DidYouMean(nearest));
      break;
    }
    const std::string flag = word.substr(0, word.find('='));
    if (LooksLikeFlag(word) && command->get_option_no_throw(flag) == nullptr) {
      problem = absl::StrCat("unknown flag \"", flag, "\"", DidYouMean(Nearest(flag, FlagNames(*command))));
      break;
    }
  }
  if (const std::vector<std::string> names = CommandNames(*command);
      refusal == "A subcommand is required" && problem.empty()) {
    problem = absl::StrCat("expected one of ", absl::StrJoin(names, ", "));
  }
  return absl::StrCat(problem.empty() ? refusal : problem, " (see ", path, " --help)");
}

}  // namespace duo
