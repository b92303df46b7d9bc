#include "launcher/serve/http/api/base/compute.h"

namespace duo::http {

void SendJson(Exchange& exchange, int status, const Json& body) {
  exchange.Answer(status, "application/json", Text(body));
}

void Compute(Service& service, const ExchangePtr& exchange, std::function<absl::StatusOr<Json>(Service&, Body&)> work) {
  const size_t bytes = exchange->request.body.size();
  const bool posted = service.Work(bytes, [&service, exchange, work = std::move(work)] {
    const std::string text = std::move(exchange->request.body);
    absl::StatusOr<Json> answer = ParseBody(text);
    if (answer.ok()) {
      const Json object = *std::move(answer);
      Body body(object);
      answer = work(service, body);
      if (answer.ok() && !body.status().ok()) answer = body.status();
      if (answer.ok()) service.LogUnknown(body.Unknown());
    }
    exchange->Post([&service, exchange, answer = std::move(answer)] {
      if (!answer.ok()) return Fail(*exchange, service.Error(answer.status()));
      SendJson(*exchange, 200, *answer);
    });
  });
  if (!posted) Fail(*exchange, service.Error(QueueFull()));
}

}  // namespace duo::http
