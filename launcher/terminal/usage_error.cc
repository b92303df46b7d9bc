#include "launcher/terminal/usage_error.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

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

// The parser's words about a flag with too few or too many values, said as other refusals are. CLI11 says "--rows: 1
// required INT:INT in [1 - 64] missing", of a list of values "TEXT:{a,b}" in place of INT, and "--kv: At Most 1
// required but received 2".
std::string SaidOfCounts(const std::string& refusal) {
  const std::string many = ": At Most 1 required but received ", few = ": 1 required ", missing = " missing";
  if (const size_t at = refusal.find(many); at != std::string::npos) {
    return absl::StrCat(refusal.substr(0, at), ": expected one value, found ", refusal.substr(at + many.size()));
  }
  const size_t at = refusal.find(few);
  if (at == std::string::npos || !absl::EndsWith(refusal, missing)) return refusal;
  const size_t begin = at + few.size();
  std::string wanted = refusal.substr(begin, refusal.size() - missing.size() - begin);
  if (const size_t list = wanted.find(":{"); list != std::string::npos) {
    wanted = "one of " + absl::StrReplaceAll(wanted.substr(list + 2, wanted.size() - list - 3), {{",", ", "}});
  } else if (const size_t range = wanted.find(" in ["); range != std::string::npos) {
    wanted =
        "a number from " + absl::StrReplaceAll(wanted.substr(range + 5, wanted.size() - range - 6), {{" - ", " to "}});
  } else {
    wanted = absl::StrCat("a value (", wanted, ")");
  }
  return absl::StrCat(refusal.substr(0, at), ": expected ", wanted, ", found none");
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
  return absl::StrCat(problem.empty() ? SaidOfCounts(refusal) : problem, " (see ", path, " --help)");
}

}  // namespace duo
