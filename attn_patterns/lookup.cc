#include "attn_patterns/lookup.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace duo {
namespace {

namespace fs = std::filesystem;
constexpr char kGatesFile[] = "full_attention_heads.tsv";

bool HoldsGates(const fs::path& dir) {
  std::error_code error;
  return fs::is_regular_file(dir / kGatesFile, error);
}

// Subfolders, in the order of their names; none where dir cannot be read.
std::vector<fs::path> Subfolders(const fs::path& dir) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) folders.push_back(it->path());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

// The folders that hold gates: dir itself, else its run subfolders.
std::vector<fs::path> Runs(const fs::path& dir) {
  if (HoldsGates(dir)) return {dir};
  std::vector<fs::path> runs;
  for (const fs::path& folder : Subfolders(dir)) {
    if (HoldsGates(folder)) runs.push_back(folder);
  }
  return runs;
}

absl::StatusOr<FoundPattern> ReadChecked(const fs::path& dir, int layers, int kv_heads) {
  auto pattern = ReadPattern(dir.string());
  if (!pattern.ok()) return pattern.status();
  if (absl::Status status = CheckPatternShape(*pattern, layers, kv_heads, dir.string()); !status.ok()) return status;
  return FoundPattern{dir.string(), std::move(*pattern)};
}

absl::StatusOr<FoundPattern> ReadOnly(const fs::path& where, const std::vector<fs::path>& runs, int layers,
                                      int kv_heads) {
  if (runs.size() == 1) return ReadChecked(runs[0], layers, kv_heads);
  const std::string names =
      absl::StrJoin(runs, ", ", [](std::string* out, const fs::path& run) { out->append(run.filename().string()); });
  return absl::InvalidArgumentError(absl::StrCat(where.string(), ": expected one pattern, found ", runs.size(), " (",
                                                 names, "); choose with --pattern"));
}

std::string FolderName(const std::string& dir) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(dir, error);  // "." and a trailing slash have no name of their own
  if (error) path = dir;
  std::string name = path.filename().string();
  return name.empty() ? path.parent_path().filename().string() : name;
}

bool SameName(const std::string& a, const std::string& b) {
  return absl::AsciiStrToLower(a) == absl::AsciiStrToLower(b);
}

bool AnyName(const std::vector<std::string>& names, const std::string& name) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& n) { return SameName(n, name); });
}

// The pattern of a root that belongs to the model by its folder's name, or by a list of its config.json; null where
// none does. `fingerprint`: empty where only names count.
std::optional<absl::StatusOr<FoundPattern>> FindIn(const std::string& root, const std::vector<std::string>& names,
                                                   const std::string& fingerprint, int layers, int kv_heads) {
  const std::vector<fs::path> folders = Subfolders(root);
  for (const fs::path& folder : folders) {
    if (!AnyName(names, folder.filename().string())) continue;
    const std::vector<fs::path> runs = Runs(folder);
    if (!runs.empty()) return ReadOnly(folder, runs, layers, kv_heads);
  }
  for (const fs::path& folder : folders) {
    for (const fs::path& run : Runs(folder)) {
      auto pattern = ReadPattern(run.string());
      if (!pattern.ok()) continue;  // another model's damaged pattern is not this model's problem
      const std::vector<std::string>& prints = pattern->fingerprints;
      const bool listed =
          std::any_of(pattern->models.begin(), pattern->models.end(),
                      [&](const std::string& name) { return AnyName(names, name); }) ||
          (!fingerprint.empty() && std::find(prints.begin(), prints.end(), fingerprint) != prints.end());
      if (listed) return ReadChecked(run, layers, kv_heads);
    }
  }
  return std::nullopt;
}

}  // namespace

std::string ProgramPath() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : path.string();
}

std::vector<std::string> PatternRoots(const std::string& program_path) {
  std::vector<std::string> roots;
  if (program_path.empty()) return roots;
  const auto add = [&](const fs::path& root) {
    std::error_code error;
    const fs::path canonical = fs::canonical(root, error);
    if (error || !fs::is_directory(canonical, error)) return;
    if (std::find(roots.begin(), roots.end(), canonical.string()) == roots.end()) roots.push_back(canonical.string());
  };
  const fs::path folder = fs::path(program_path).parent_path();
  add(folder / "attn_patterns");
  add(folder.parent_path() / "share" / "duo" / "attn_patterns");
  for (fs::path above = folder; above.has_relative_path(); above = above.parent_path()) {
    std::error_code error;
    if (fs::exists(above / "CMakeLists.txt", error) && fs::is_directory(above / "attn_patterns", error)) {
      add(above / "attn_patterns");
      break;
    }
  }
  return roots;
}

absl::StatusOr<FoundPattern> OpenPattern(const std::string& dir, int layers, int kv_heads) {
  const std::vector<fs::path> runs = Runs(dir);
  if (!runs.empty()) return ReadOnly(dir, runs, layers, kv_heads);
  std::error_code error;
  if (!fs::is_directory(dir, error))
    return absl::NotFoundError(absl::StrCat(dir, ": expected a pattern folder, found none"));
  return absl::NotFoundError(
      absl::StrCat(dir, ": expected ", kGatesFile, " in it or in one of its folders, found none"));
}

std::string OwnPatternFolder(const std::string& model) {
  std::error_code error;
  const fs::path path(model);
  if (!fs::is_regular_file(path, error)) return (path / "attn_pattern").string();
  return (path.parent_path() / path.stem()).string() + ".attn_pattern";
}

std::vector<std::string> ModelNames(const std::string& dir, const std::string& name_or_path) {
  std::vector<std::string> names;
  auto add = [&](std::string name) {
    if (!name.empty() && !AnyName(names, name)) names.push_back(std::move(name));
  };
  add(FolderName(dir));
  std::error_code error;
  const fs::path canonical = fs::weakly_canonical(dir, error);
  for (const fs::path& path : {fs::path(dir), error ? fs::path() : canonical}) {
    for (const fs::path& part : path) {
      const std::vector<std::string> pieces = absl::StrSplit(part.string(), "--");
      if (pieces.size() == 3 && pieces[0] == "models") add(pieces[2]);
    }
  }
  if (!name_or_path.empty()) add(FolderName(name_or_path));
  return names;
}

absl::StatusOr<FoundPattern> FindPattern(const ModelIdentity& model, int layers, int kv_heads,
                                         const std::vector<std::string>& roots) {
  const fs::path own = OwnPatternFolder(model.dir);
  std::error_code error;
  if (fs::exists(own, error)) {
    absl::StatusOr<FoundPattern> found = OpenPattern(own.string(), layers, kv_heads);
    if (absl::IsNotFound(found.status())) return absl::InvalidArgumentError(found.status().message());
    return found;
  }
  for (const std::string& root : roots) {
    if (auto found = FindIn(root, model.names, "", layers, kv_heads); found.has_value()) return *found;
  }
  const std::string fingerprint = model.fingerprint == nullptr ? "" : model.fingerprint();
  for (const std::string& root : roots) {
    if (fingerprint.empty()) break;
    if (auto found = FindIn(root, {}, fingerprint, layers, kv_heads); found.has_value()) return *found;
  }
  return absl::NotFoundError(absl::StrCat(model.dir, ": found no attention pattern for the model ",
                                          absl::StrJoin(model.names, " or "),
                                          "; give one with --pattern DIR, make one with duo identify --model ",
                                          model.dir, " --out ", own.string(), ", or run with --attention full"));
}

}  // namespace duo
