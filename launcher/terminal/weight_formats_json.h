// The weights' formats and their shares as --json and the service's state have them. Pure, any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/weights/format_shares.h"

namespace duo {

inline nlohmann::ordered_json WeightFormatsJson(const std::vector<FormatShare>& shares) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const FormatShare& one : shares) {
    list.push_back({{"format", one.format}, {"parameters", one.parameters}, {"share", one.share}});
  }
  return list;
}

}  // namespace duo
