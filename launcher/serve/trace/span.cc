#include "launcher/serve/trace/span.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {
namespace {

using Json = nlohmann::json;
using std::chrono::nanoseconds;

constexpr int kServer = 2, kInternal = 1;  // SpanKind
constexpr int kOk = 1, kError = 2;         // Status.StatusCode

bool IsHex(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == std::string_view::npos; }
bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

Json FieldsJson(const std::vector<SpanField>& fields) {
  Json list = Json::array();
  for (const SpanField& field : fields) {
    Json value;
    if (const auto* text = std::get_if<std::string>(&field.value)) {
      value = {{"stringValue", *text}};
    } else if (const auto* whole = std::get_if<int64_t>(&field.value)) {
      value = {{"intValue", absl::StrCat(*whole)}};
    } else {
      value = {{"doubleValue", std::get<double>(field.value)}};
    }
    list.push_back({{"key", field.key}, {"value", std::move(value)}});
  }
  return list;
}

std::string Nanoseconds(std::chrono::system_clock::time_point begin, double seconds) {
  const auto at = std::chrono::duration_cast<nanoseconds>(begin.time_since_epoch()).count();
  return absl::StrCat(at + static_cast<int64_t>(1e9 * seconds));
}

Json SpanJson(const std::string& trace, const std::string& id, const std::string& name, int kind,
              std::pair<std::string, std::string> times) {
  return {{"traceId", trace},
          {"spanId", id},
          {"name", name},
          {"kind", kind},
          {"startTimeUnixNano", std::move(times.first)},
          {"endTimeUnixNano", std::move(times.second)}};
}

}  // namespace

TraceParent ParseTraceParent(std::string_view text) {
  constexpr size_t kTrace = 3, kParent = 36, kFlags = 53, kLength = 55;
  if (text.size() != kLength || text.substr(0, kTrace) != "00-" || text[kParent - 1] != '-' || text[kFlags - 1] != '-')
    return {};
  const std::string_view trace = text.substr(kTrace, 32), parent = text.substr(kParent, 16),
                         flags = text.substr(kFlags);
  if (!IsHex(trace) || !IsHex(parent) || !IsHex(flags) || IsZero(trace) || IsZero(parent)) return {};
  const bool sampled = std::string_view("13579bdf").find(flags[1]) != std::string_view::npos;
  return {std::string(trace), std::string(parent), sampled};
}

std::string OtlpJson(const std::vector<Span>& spans, const std::vector<SpanField>& resource,
                     const std::function<uint64_t()>& random) {
  const auto id = [&random] { return absl::StrFormat("%016x", random()); };
  Json list = Json::array();
  for (const Span& span : spans) {
    const TraceParent from = ParseTraceParent(span.traceparent);
    const std::string trace = from.trace.empty() ? id() + id() : from.trace, own = id();
    Json root =
        SpanJson(trace, own, span.name, kServer, {Nanoseconds(span.begin, 0), Nanoseconds(span.begin, span.seconds)});
    if (!from.parent.empty()) root["parentSpanId"] = from.parent;
    root["attributes"] = FieldsJson(span.fields);
    root["status"] = {{"code", span.error.empty() ? kOk : kError}};
    if (!span.error.empty()) root["status"]["message"] = span.error;
    list.push_back(std::move(root));
    for (const SpanPart& part : span.parts) {
      Json child = SpanJson(trace, id(), part.name, kInternal,
                            {Nanoseconds(span.begin, part.begin), Nanoseconds(span.begin, part.begin + part.seconds)});
      child["parentSpanId"] = own;
      list.push_back(std::move(child));
    }
  }
  Json scope = {{"scope", {{"name", "duo"}}}, {"spans", std::move(list)}};
  Json of = {{"resource", {{"attributes", FieldsJson(resource)}}}, {"scopeSpans", Json::array({std::move(scope)})}};
  return Json{{"resourceSpans", Json::array({std::move(of)})}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace duo
