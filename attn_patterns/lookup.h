// Finds the pattern of a model when none was named on the command line. In this order:
//   1. MODEL/attn_pattern; of a model that is a file, MODEL.attn_pattern beside it ("x.attn_pattern" of "x.gguf")
//   2. attn_patterns beside the program
//   3. <prefix>/share/duo/attn_patterns, <prefix> being the folder above the program's bin
//   4. attn_patterns in the source tree that the program was built in, if it still runs from there: the first folder
//      above the program that holds attn_patterns and CMakeLists.txt
// In 2 to 4 a pattern belongs to a model when its folder has one of the model's names (letter case aside), or its
// config.json lists one of them under `models`, or the weights' fingerprint under `fingerprints`. A pattern folder may
// hold the two files itself or, as published, one subfolder a run that does; several runs are an error that asks for
// --pattern. Only reads the file system; any thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/pattern.h"

namespace duo {

// What a model may be known by.
struct ModelIdentity {
  std::string dir;
  // The folder's name; of a folder in the Hugging Face cache, models--ORG--NAME/snapshots/HASH, NAME too; and what
  // config.json calls it (`_name_or_path`), without its organisation. Most telling first.
  std::vector<std::string> names;
  // Of the weights (runtime/weights/fingerprint.h), worked out only when no name is known; may be null or give "".
  std::function<std::string()> fingerprint;
};
// The names that a folder and config.json's `_name_or_path` (may be empty) give.
std::vector<std::string> ModelNames(const std::string& dir, const std::string& name_or_path);

// Where a model's own pattern lies (1. above), whether or not it does.
std::string OwnPatternFolder(const std::string& model);

struct FoundPattern {
  std::string dir;  // the folder with the two files
  Pattern pattern;
};

// The folders of steps 2 to 4 for a program at this path, existing ones only, nearest first.
std::vector<std::string> PatternRoots(const std::string& program_path);
// This process's own program, resolved through links; empty where the system does not tell.
std::string ProgramPath();

// `roots` as PatternRoots gives them. NOT_FOUND, with how to get one, where the model has no pattern; a pattern that is
// found but has another shape is refused.
absl::StatusOr<FoundPattern> FindPattern(const ModelIdentity& model, int layers, int kv_heads,
                                         const std::vector<std::string>& roots);

// What --pattern DIR names: DIR itself or its only run subfolder, checked against the model's shape.
absl::StatusOr<FoundPattern> OpenPattern(const std::string& dir, int layers, int kv_heads);

}  // namespace duo
