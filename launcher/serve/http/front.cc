#include "launcher/serve/http/front.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "launcher/serve/http/api/answers/answer_fields.h"
#include "launcher/serve/http/api/base/service.h"
#include "launcher/serve/http/api/duo/health.h"
#include "launcher/serve/http/api/duo/sessions.h"
#include "launcher/serve/http/api/duo/state.h"
#include "launcher/serve/http/api/openai/tokens.h"
#include "launcher/serve/http/page/page.h"
#include "launcher/serve/http/routes.h"
#include "launcher/serve/http/wire/listener.h"

namespace duo {

namespace {

// Bytes that the system takes of an answer which its client does not read: with the megabytes that it takes by itself
// an answer would never wait for its reader.
constexpr int kSendBuffer = 256 << 10;

// Without what stands behind the question mark, which is nobody's business.
void LogAccess(const Log& log, const http::Request& request, int status, double seconds) {
  const std::string path = "/" + absl::StrJoin(request.path, "/");
  for (const char* probe : {"/live", "/ready", "/health", "/metrics"}) {
    if (path == probe && status == 200) return;
  }
  log.Event("request", {{"method", request.method},
                        {"path", path},
                        {"status", status},
                        {"seconds", seconds},
                        {"request", request.request_id},
                        {"trace", request.traceparent}});
}

}  // namespace

struct HttpFront::State {
  http::Service service;
  bool generation_config = true;
  std::unique_ptr<http::Listener> listener;  // destroyed first
};

HttpFront::HttpFront() : state_(std::make_unique<State>()) {}
HttpFront::~HttpFront() = default;

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Listen(const HttpOptions& options) {
  std::unique_ptr<HttpFront> front(new HttpFront());
  http::Service& service = front->state_->service;
  service.model = options.model_name;
  service.comment_seconds = options.comment_seconds;
  front->state_->generation_config = options.generation_config;
  service.commit = options.commit;
  service.admin = options.admin;
  service.saves = options.saves;
  http::ListenerOptions wire;
  wire.address = options.address;
  wire.tls = options.tls;
  wire.origins = options.origins;
  wire.max_body = options.max_body;
  wire.send_buffer = kSendBuffer;
  const std::shared_ptr<UploadBudget> uploads =
      options.uploads != nullptr ? options.uploads : std::make_shared<UploadBudget>(int64_t{1} << 30);
  wire.take_body = [uploads](int64_t bytes) -> std::optional<http::Refusal> {
    if (uploads->Take(bytes)) return std::nullopt;
    return http::Refusal{503, std::string(uploads->Full().message()), "uploads_full"};
  };
  wire.give_body = [uploads](int64_t bytes) { uploads->Give(bytes); };
  wire.write_seconds = options.reader_seconds;
  wire.authenticate = [&service](const http::Request& request) { return service.Authenticate(request); };
  wire.error_body = [](const http::Refusal& refusal) { return http::ErrorBody(refusal); };
  if (options.access_log != nullptr) {
    wire.on_ended = [log = options.access_log](const http::Request& request, int status, double seconds) {
      LogAccess(*log, request, status, seconds);
    };
  }
  http::AddHealthRoutes(service, wire.router);
  http::AddOpenAiRoutes(service, wire.router);
  http::AddSessionRoutes(service, wire.router);
  http::AddStateRoutes(service, wire.router);
  http::AddPageRoutes(wire.router);
  absl::StatusOr<std::unique_ptr<http::Listener>> listener = http::Listener::Listen(std::move(wire));
  if (!listener.ok()) return listener.status();
  front->state_->listener = std::move(*listener);
  return front;
}

int HttpFront::port() const { return state_->listener->port(); }

absl::Status HttpFront::Open(Server& server) {
  http::Service& service = state_->service;
  CallContext& context = server.context();
  if (absl::Status s = context.sessions->ExpectPrompts(); !s.ok()) return s;
  service.limits.window = context.sessions->options().max_session_tokens;
  service.limits.queue = context.sessions->options().max_waiting;
  service.limits.kv_tokens = context.engine->memory_plan().kv_tokens;
  service.limits.new_tokens = context.limits.new_tokens;
  if (state_->generation_config) service.sampling = http::ReadSamplingDefaults(context.model);
  service.tokenizer_info = http::ReadTokenizerInfo(context.model);
  service.chat = ChatTemplateFor(context.model);
  if (service.chat.ok() && !service.chat->status().ok()) service.chat = service.chat->status();
  if (service.chat.ok()) {
    if (const std::optional<int32_t> token = service.chat->EndOfTurn(*context.tokenizer)) {
      service.end_of_turn = {*token};
    }
  }
  server.WhenReloading([listener = state_->listener.get()] { return listener->PrepareCertificates(); });
  service.created = http::UnixTime();
  service.calls = &context;
  return absl::OkStatus();
}

void HttpFront::Stop() { state_->listener->Stop(); }

}  // namespace duo
