// How a text was read and an answer written, where that was not exact, as every JSON of duo says it; the names are
// duo.proto's. Pure functions, any thread.
#pragma once

#include <nlohmann/json.hpp>

#include "runtime/model/decode_sparsity.h"
#include "runtime/scheduler/sparse_read.h"

namespace duo {

inline nlohmann::ordered_json ReadSparselyJson(const SparseReport& r) {
  return {{"setting", r.setting},       {"audits", r.audits},           {"mass", r.mass},
          {"least_mass", r.least_mass}, {"least_layer", r.least_layer}, {"least_head", r.least_head},
          {"error", r.error},           {"density", r.density}};
}

inline nlohmann::ordered_json WrittenSparselyJson(const DecodeReport& w) {
  return {{"setting", w.setting},
          {"listed_tokens", w.listed_tokens},
          {"choices", w.choices},
          {"audits", w.audits},
          {"mass", w.mass},
          {"least_mass", w.least_mass},
          {"least_layer", w.least_layer},
          {"least_head", w.least_head},
          {"density", w.density}};
}

}  // namespace duo
