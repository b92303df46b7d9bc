#include "launcher/serve/http/routes.h"

#include "absl/strings/str_join.h"
#include "launcher/serve/http/api/base/compute.h"
#include "launcher/serve/http/api/conversions/messages.h"
#include "launcher/serve/http/api/conversions/responses.h"
#include "launcher/serve/http/api/openai/chat.h"
#include "launcher/serve/http/api/openai/completions.h"
#include "launcher/serve/http/api/openai/tokens.h"

namespace duo::http {
namespace {

Json ModelJson(const Service& service) {
  return {{"id", service.model}, {"object", "model"},     {"created", service.created},
          {"owned_by", "duo"},   {"root", service.model}, {"max_model_len", service.limits.window}};
}

void ListModels(const Service& service, Exchange& exchange) {
  SendJson(exchange, 200, {{"object", "list"}, {"data", Json::array({ModelJson(service)})}});
}

// A model's name may have slashes.
void GetModel(const Service& service, Exchange& exchange) {
  const std::vector<std::string>& path = exchange.request.path;
  const std::string name = absl::StrJoin(path.begin() + 2, path.end(), "/");
  if (name == service.model) return SendJson(exchange, 200, ModelJson(service));
  Fail(exchange, {.status = 404,
                  .message = absl::StrCat("this server has one model, ", service.model),
                  .param = "model",
                  .code = "model_not_found"});
}

void NoEmbeddings(Exchange& exchange) {
  Fail(exchange,
       {.status = 404, .message = "this server answers; it makes no embeddings", .param = "", .code = "not_found"});
}

}  // namespace

void AddOpenAiRoutes(Service& service, Router& router) {
  router.Add({"GET", "/v1/models", [&](const ExchangePtr& e) { ListModels(service, *e); }});
  router.Add({"GET", "/v1/models/**", [&](const ExchangePtr& e) { GetModel(service, *e); }});
  router.Add({"POST", "/v1/completions", [&](const ExchangePtr& e) { Respond(service, e, PrepareCompletion); }});
  router.Add({"POST", "/v1/chat/completions", [&](const ExchangePtr& e) { Respond(service, e, PrepareChat); }});
  router.Add({"POST", "/v1/responses", [&](const ExchangePtr& e) { Respond(service, e, PrepareResponse); }});
  router.Add({"POST", "/v1/messages", [&](const ExchangePtr& e) { Respond(service, e, PrepareMessage); }});
  router.Add({"POST", "/v1/messages/count_tokens", [&](const ExchangePtr& e) { Compute(service, e, CountTokens); }});
  router.Add({"POST", "/tokenize", [&](const ExchangePtr& e) { Compute(service, e, TokenizeText); }});
  router.Add({"POST", "/detokenize", [&](const ExchangePtr& e) { Compute(service, e, DetokenizeTokens); }});
  router.Add({"GET", "/tokenizer_info", [&](const ExchangePtr& e) { SendJson(*e, 200, service.tokenizer_info); }});
  router.Add({"POST", "/v1/embeddings", [](const ExchangePtr& e) { NoEmbeddings(*e); }});
}

}  // namespace duo::http
