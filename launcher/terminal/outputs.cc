#include "launcher/terminal/outputs.h"

#include <sys/stat.h>
#include <unistd.h>

namespace duo {

bool OutputsMeet() {
  struct stat out = {}, err = {};
  return fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 && out.st_dev == err.st_dev &&
         out.st_ino == err.st_ino;
}

}  // namespace duo
