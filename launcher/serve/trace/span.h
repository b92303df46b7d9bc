// Span: what one call did and for how long, as traces show it: the call and, below it, its parts; and how OTLP/HTTP
// writes it as JSON (OpenTelemetry Protocol 1.x, ExportTraceServiceRequest: ids are hexadecimal, times and integers are
// strings). Plain values; any thread.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace duo {

struct SpanField {
  SpanField(std::string key, std::string value) : key(std::move(key)), value(std::move(value)) {}
  SpanField(std::string key, const char* value) : key(std::move(key)), value(std::string(value)) {}
  template <std::integral T>
  SpanField(std::string key, T number) : key(std::move(key)), value(static_cast<int64_t>(number)) {}
  SpanField(std::string key, double number) : key(std::move(key)), value(number) {}

  std::string key;
  std::variant<std::string, int64_t, double> value;
};

struct SpanPart {
  std::string name;               // "queue", "read", "decode", "save"
  double begin = 0, seconds = 0;  // begin: after the call's
};

struct Span {
  std::string name;         // the call's method
  std::string traceparent;  // the caller's, as it came; none: the span begins a trace of its own
  std::chrono::system_clock::time_point begin;
  double seconds = 0;
  std::vector<SpanField> fields;
  std::vector<SpanPart> parts;
  std::string error;  // why it failed; empty: it did not
};

// W3C Trace Context: 00-TRACE-PARENT-FLAGS in lower-case hexadecimal digits.
struct TraceParent {
  std::string trace, parent;  // 32 and 16 digits; empty: there is none
  bool sampled = true;        // whether the caller wants it to be kept
};
TraceParent ParseTraceParent(std::string_view text);

// The body of a request with all of them. resource: what they are of ("service.name", ..). random: 8 bytes, never 0.
std::string OtlpJson(const std::vector<Span>& spans, const std::vector<SpanField>& resource,
                     const std::function<uint64_t()>& random);

}  // namespace duo
