// WorkerProbe: what benchmarks do to one rank's worker behind its back. Not thread-safe: the worker's thread.
#pragma once

#include <cstdint>

#include "runtime/model/worker.h"

namespace duo {

// What becomes of which experts rows choose.
enum class RouteWatch : uint8_t { kOff, kRecord, kReplay };  // kRecord: on a new tape

struct WorkerProbe {
  static void Watch(Worker& worker, RouteWatch watch);
  // The whole cache becomes random codes.
  static void FillCache(Worker& worker);
  // The fast decode kernels against the plain one (kernels/attention_plain.h) on the first `tokens` tokens of a table,
  // in the layer with the most whole heads, for a random query: relative L2 difference. 0 without whole heads.
  static double CompareWithPlainAttention(Worker& worker, int32_t table, int64_t tokens);
};

}  // namespace duo
