// Where the sources are that a test was built from: for models, patterns and goldens that tests read in the tree.
#pragma once

#include <string>

namespace duo {

std::string SourceDir();  // without a slash at the end

}  // namespace duo
