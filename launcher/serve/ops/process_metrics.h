// ProcessMetrics: what Prometheus' clients usually tell of their process: CPU time, memory, open files, when it began.
// Read from /proc. Private to this folder. The registry outlives it; Update is thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <mutex>

namespace duo {

class ProcessMetrics {
 public:
  explicit ProcessMetrics(prometheus::Registry& registry);
  void Update();

 private:
  std::mutex mutex_;
  prometheus::Counter& cpu_;
  prometheus::Gauge &resident_, &virtual_, &open_files_, &most_files_, &threads_, &begun_;
};

}  // namespace duo
