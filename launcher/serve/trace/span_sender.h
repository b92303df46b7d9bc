// SpanSender: sends spans to an OpenTelemetry collector, by OTLP/HTTP as JSON, so that a question is seen beside
// whatever asked it. No call waits for it: spans go to a thread of its own, which sends them about once a second. While
// the collector does not answer, the newest kMostWaiting are kept and tried again; what is lost, and why, is in the
// log, one line a minute at most.
//
// Owns a thread. Thread-safe. The log outlives it. The end tries once more, for a second at most.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/serve/trace/span.h"
#include "launcher/terminal/log.h"

namespace duo {

class SpanSender {
 public:
  static constexpr size_t kMostWaiting = 4096;  // spans

  // Whether `url` is http://HOST[:PORT][/PATH]; without a path it is /v1/traces.
  static absl::Status Check(const std::string& url);
  // resource: what the spans are of, beside "service.name", which is duo.
  static absl::StatusOr<std::unique_ptr<SpanSender>> Make(const std::string& url, std::vector<SpanField> resource,
                                                          const Log& log);
  ~SpanSender();

  // A span whose caller does not want its trace to be kept is not sent.
  void Send(Span span);

 private:
  class Queue;
  explicit SpanSender(std::unique_ptr<Queue> queue);
  std::unique_ptr<Queue> queue_;
};

}  // namespace duo
