#include "launcher/serve/http/api/duo/health.h"

#include <nlohmann/json.hpp>

#include "launcher/terminal/version.h"

namespace duo::http {
namespace {

// Behind it the engine's thread is taken for stuck: the longest chunk of a slow machine is shorter.
constexpr double kLongestStep = 300;

void Send(Exchange& exchange, int status, const nlohmann::ordered_json& body, const Fields& more = {}) {
  exchange.Answer(status, "application/json", body.dump(), more);
}

// The process answers, and its engine's thread goes round.
void Live(const Service& service, Exchange& exchange) {
  const CallContext* context = service.calls;
  const double silent = context == nullptr ? 0 : context->state.SecondsSinceBeat();
  if (silent > kLongestStep) {
    return Fail(exchange, {.status = 503, .message = "the engine's thread is stuck", .param = "", .code = "stuck"});
  }
  Send(exchange, 200, {{"status", "ok"}});
}

// New work is taken.
void Ready(const Service& service, Exchange& exchange) {
  if (const std::optional<Refusal> why = NotReady(service)) {
    return Fail(exchange, NotReadyError(*why));
  }
  Live(service, exchange);
}

}  // namespace

void AddHealthRoutes(const Service& service, Router& router) {
  router.Add({"GET", "/live", [&](const ExchangePtr& e) { Live(service, *e); }, /*open=*/true});
  router.Add({"GET", "/health", [&](const ExchangePtr& e) { Ready(service, *e); }, /*open=*/true});
  router.Add({"GET", "/ready", [&](const ExchangePtr& e) { Ready(service, *e); }, /*open=*/true});
  router.Add({"GET", "/version", [&](const ExchangePtr& e) {
                Send(*e, 200, {{"version", kVersion}, {"commit", service.commit}});
              }});
  router.Add({"GET", "/metrics", [&](const ExchangePtr& e) {
                e->Answer(200, "text/plain; version=0.0.4; charset=utf-8", service.calls.load()->metrics->Page());
              }});
}

}  // namespace duo::http
