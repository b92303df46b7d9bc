#include "launcher/serve/calls/call_span.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"

namespace duo {

void SendSpan(const CallContext& context, const CallSpan& call, const absl::Status& status, std::vector<SpanPart> parts,
              std::vector<SpanField> fields) {
  if (context.spans == nullptr) return;
  Span span;
  span.name = call.method;
  span.traceparent = call.caller.trace;
  span.seconds = SecondsSince(call.begun);
  span.begin = std::chrono::system_clock::now() - std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                                      std::chrono::duration<double>(span.seconds));
  double end = span.seconds;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    part->begin = std::max(0.0, end - part->seconds);
    part->seconds = end - part->begin;
    end = part->begin;
  }
  if (!parts.empty()) {
    parts.front().seconds += parts.front().begin;
    parts.front().begin = 0;
  }
  span.parts = std::move(parts);
  span.fields = std::move(fields);
  for (const auto& [key, text] : {std::pair("duo.session", &call.session), std::pair("duo.owner", &call.owner),
                                  std::pair("duo.request", &call.caller.request_id)}) {
    if (!text->empty()) span.fields.emplace_back(key, *text);
  }
  if (!status.ok()) span.error = absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
  context.spans->Send(std::move(span));
}

}  // namespace duo
