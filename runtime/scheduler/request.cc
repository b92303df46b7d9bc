#include "runtime/scheduler/request.h"

namespace duo {

const char* Name(Finish finish) {
  switch (finish) {
    case Finish::kStop:
      return "stop";
    case Finish::kEos:
      return "eos";
    case Finish::kLength:
      return "length";
  }
  return "?";
}

}  // namespace duo
