#include "tests/support/source_dir.h"

namespace duo {

std::string SourceDir() { return DUO_SOURCE_DIR; }

}  // namespace duo
