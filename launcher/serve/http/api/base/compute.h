// Routes with one answer: from a body that a worker's thread works on, or from a call of the service.
#pragma once

#include <functional>
#include <utility>

#include "launcher/serve/calls/unary_call.h"
#include "launcher/serve/http/api/base/body.h"
#include "launcher/serve/http/api/base/service.h"

namespace duo::http {

void SendJson(Exchange& exchange, int status, const Json& body);

// Runs `work` on a worker's thread and sends what it gives.
void Compute(Service& service, const ExchangePtr& exchange, std::function<absl::StatusOr<Json>(Service&, Body&)> work);

// Reads the body on a worker's thread, where `read` takes its fields, then goes on with `then` on the I/O thread. Where
// there is no body, it is an empty object.
template <typename Fields>
void WithFields(Service& service, const ExchangePtr& exchange, std::function<Fields(Body&)> read,
                std::function<void(Fields)> then);

// Starts a call by `start(finish)` and sends what `to_json` makes of its answer; a client that is gone cancels it.
template <typename Answer, typename Start, typename ToJson>
void SendCall(Service& service, const ExchangePtr& exchange, int status, Start start, ToJson to_json) {
  constexpr double kSilence = 30;  // seconds: some calls take minutes
  exchange->KeepAliveWith(
      {service.comment_seconds > 0 ? kSilence : 0, service.comment_seconds, "\n", "application/json"});
  const UnaryCallPtr call =
      start(Answered<Answer>([&service, exchange, status, to_json](const absl::StatusOr<Answer>& answer) {
        exchange->Post([&service, exchange, status, to_json, answer] {
          if (!answer.ok()) return Fail(*exchange, service.Error(answer.status()));
          SendJson(*exchange, status, to_json(*answer));
        });
      }));
  exchange->OnGone([call] { call->Cancel(); });
}

template <typename Fields>
void WithFields(Service& service, const ExchangePtr& exchange, std::function<Fields(Body&)> read,
                std::function<void(Fields)> then) {
  const auto work = [&service, exchange, read = std::move(read), then = std::move(then)] {
    const std::string text = std::move(exchange->request.body);
    const absl::StatusOr<Json> object = text.empty() ? absl::StatusOr<Json>(Json::object()) : ParseBody(text);
    absl::Status status = object.status();
    Fields fields;
    if (object.ok()) {
      Body body(*object);
      fields = read(body);
      status = body.status();
      if (status.ok()) service.LogUnknown(body.Unknown());
    }
    exchange->Post([&service, exchange, then, status, fields = std::move(fields)]() mutable {
      if (!status.ok()) return Fail(*exchange, service.Error(status));
      then(std::move(fields));
    });
  };
  if (!service.Work(exchange->request.body.size(), work)) Fail(*exchange, service.Error(QueueFull()));
}

}  // namespace duo::http
