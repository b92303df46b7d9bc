// Finds the pattern of a model when none was named on the command line. In this order:
//   1. MODEL/attn_pattern
//   2. attn_patterns beside the program
//   3. <prefix>/share/duo/attn_patterns, <prefix> being the folder above the program's bin
//   4. attn_patterns in the source tree that the program was built in, if it still runs from there: the first folder
//      above the program that holds attn_patterns and CMakeLists.txt
// In 2 to 4 a pattern belongs to a model when its folder has the name of the model's folder (letter case aside) or its
// config.json lists that name under `models`. A pattern folder may hold the two files itself or, as published, one
// subfolder a run that does; several runs are an error that asks for --pattern.
// Only reads the file system; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/pattern.h"

namespace duo {

struct FoundPattern {
  std::string dir;  // the folder with the two files
  Pattern pattern;
};

// The folders of steps 2 to 4 for a program at this path, existing ones only, nearest first.
std::vector<std::string> PatternRoots(const std::string& program_path);
// This process's own program, resolved through links; empty where the system does not tell.
std::string ProgramPath();

// `roots` as PatternRoots gives them. A pattern that is found but has another shape is refused, as is a model with no
// pattern, with how to get one.
absl::StatusOr<FoundPattern> FindPattern(const std::string& model_dir, int layers, int kv_heads,
                                         const std::vector<std::string>& roots);

// What --pattern DIR names: DIR itself or its only run subfolder, checked against the model's shape.
absl::StatusOr<FoundPattern> OpenPattern(const std::string& dir, int layers, int kv_heads);

}  // namespace duo
