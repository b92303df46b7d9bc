#include "launcher/serve/http/api/duo/state.h"

#include "kernels/base/seconds.h"
#include "launcher/serve/calls/server_view.h"
#include "launcher/serve/http/api/base/compute.h"
#include "launcher/serve/http/api/duo/session_json.h"
#include "launcher/terminal/sparse_json.h"
#include "launcher/terminal/version.h"
#include "launcher/terminal/weight_formats_json.h"

namespace duo::http {
namespace {

constexpr double kEventSeconds = 1;

Json PlanJson(const ServerView& view) {
  const ClusterPlan& plan = view.plan;
  Json ranks = Json::array();
  for (size_t i = 0; i < plan.ranks.size(); ++i) {
    ranks.push_back({{"retrieval_heads", plan.ranks[i].retrieval()},
                     {"streaming_heads", plan.ranks[i].streaming},
                     {"kv_bytes", view.rank_kv_bytes[i]}});
  }
  Json json = {{"world", plan.world},
               {"layers", plan.layers},
               {"kv_heads", plan.kv_heads},
               {"retrieval_heads", plan.retrieval_heads},
               {"streaming_heads", plan.streaming_heads},
               {"sink", plan.sink},
               {"recent", plan.recent},
               {"kv_format", plan.kv_format},
               {"weight_formats", WeightFormatsJson(plan.weight_formats)},
               {"strategy", plan.strategy},
               {"balance", {{"time", plan.balance_time}, {"memory", plan.balance_memory}}},
               {"memory", plan.memory},
               {"max_session_tokens", plan.max_session_tokens},
               {"kv_tokens", plan.kv_tokens},
               {"ranks", std::move(ranks)}};
  if (!plan.experts.empty()) json["experts"] = plan.experts;
  if (!plan.prefill_split.empty()) json["prefill_split"] = plan.prefill_split;
  return json;
}

Json EngineJson(const ClusterStats& stats) {
  const EngineStats& engine = stats.engine;
  Json json = {{"running", engine.running},
               {"waiting", engine.waiting},
               {"calls", stats.sessions.calls},
               {"steps", engine.steps},
               {"prefill_tokens", engine.prefill_tokens},
               {"decode_tokens", engine.decode_tokens},
               {"draw_steps", engine.draw_steps},
               {"drafted_tokens", engine.drafted_tokens},
               {"accepted_tokens", engine.accepted_tokens},
               {"busy_seconds", engine.busy_seconds},
               {"wait_seconds", engine.predicted_wait},
               {"pages", engine.pages},
               {"pages_free", engine.pages_free},
               {"pages_available", engine.pages_available}};
  if (engine.decode.sparse()) json["sparse"] = WrittenSparselyJson(engine.decode);
  return json;
}

// Of prompts without a session: what they did not have to read, by where it was.
Json CacheJson(const ClusterStats& stats) {
  const PrefixCounts& prefix = stats.engine.prefix;
  const int64_t moved_out = stats.sessions.moved_out_hit_tokens, saved = stats.sessions.saved_hit_tokens;
  return {{"prompts", prefix.queries},
          {"hits", prefix.hits},
          {"places", stats.engine.prefixes},
          {"evictions", prefix.evictions},
          {"refed_tokens", prefix.refed_tokens},
          {"hit_tokens",
           {{"open", prefix.open_tokens - moved_out - saved},
            {"read", prefix.read_tokens},
            {"moved_out", moved_out},
            {"saved", saved}}}};
}

Json HeadsJson(const std::vector<std::vector<HeadPlace>>& heads) {
  Json layers = Json::array();
  for (const std::vector<HeadPlace>& layer : heads) {
    Json row = Json::array();
    for (const HeadPlace& place : layer) row.push_back({{"retrieval", place.retrieval}, {"ranks", place.ranks}});
    layers.push_back(std::move(row));
  }
  return layers;
}

// What is not known is left out.
Json AttentionJson(const std::vector<HeadAttention>& heads) {
  Json list = Json::array();
  for (const HeadAttention& head : heads) {
    Json json = {{"layer", head.layer}, {"head", head.head}};
    if (head.weight.has_value()) json["weight"] = *head.weight;
    if (head.text.has_value()) json["text"] = *head.text;
    if (head.kept.has_value()) json["kept"] = *head.kept;
    list.push_back(std::move(json));
  }
  return list;
}

Json MemoryJson(const std::vector<MemoryClass>& classes) {
  Json list = Json::array();
  for (const MemoryClass& one : classes) list.push_back({{"class", one.name}, {"used", one.used}, {"room", one.room}});
  return list;
}

Json CallsJson(const std::vector<CallNow>& calls) {
  Json list = Json::array();
  for (const CallNow& call : calls) {
    list.push_back({{"number", call.number},
                    {"method", call.method},
                    {"session", call.session},
                    {"owner", call.owner},
                    {"age_seconds", call.age_seconds}});
  }
  return list;
}

Json RefusedJson(const std::vector<RefusedCall>& calls) {
  Json list = Json::array();
  for (const RefusedCall& call : calls) {
    list.push_back({{"number", call.number},
                    {"method", call.method},
                    {"code", call.code},
                    {"message", call.message},
                    {"owner", call.owner},
                    {"age_seconds", call.age_seconds}});
  }
  return list;
}

Json StateJson(const Service& service, const ServerView& view) {
  const ClusterStats& stats = view.stats;
  Json sessions = Json::array(), answers = Json::array();
  for (const SessionView& session : view.sessions) {
    Json json = SessionJson(session);
    json["owner"] = session.owner;
    sessions.push_back(std::move(json));
  }
  for (const AnswerTimes& times : view.answered) {
    answers.push_back({{"first_token_seconds", times.first_token}, {"token_seconds", times.token}});
  }
  Json json = {{"server",
                {{"version", kVersion},
                 {"commit", service.commit},
                 {"state", stats.draining ? "draining" : "serving"},
                 {"model", service.model},
                 {"device", view.plan.device},
                 {"uptime_seconds", stats.uptime_seconds},
                 {"tokens", service.calls.load()->bearer_tokens->on()},
                 {"sources", service.calls.load()->sources.known},
                 {"admin", service.admin},
                 {"saves", service.saves}}},
               {"caller", {{"owner", view.who.owner}, {"role", Name(view.who.role)}, {"everybody", view.everybody}}},
               {"plan", PlanJson(view)},
               {"memory", MemoryJson(view.memory)},
               {"engine", EngineJson(stats)},
               {"cache", CacheJson(stats)},
               {"totals",
                {{"answered", stats.calls},
                 {"refused", stats.refused},
                 {"checkpoints", stats.sessions.checkpoints},
                 {"saved_bytes", stats.sessions.saved_bytes},
                 {"restored_bytes", stats.sessions.restored_bytes}}},
               {"sessions", std::move(sessions)},
               {"calls", CallsJson(view.calls)},
               {"refused", RefusedJson(view.refused)},
               {"answers", std::move(answers)},
               {"attention", AttentionJson(view.attention)}};
  if (!view.heads.empty()) json["heads"] = HeadsJson(view.heads);
  return json;
}

void State(Service& service, const ExchangePtr& e) {
  SendCall<ServerView>(
      service, e, 200,
      [&](auto finish) { return StartView(*service.calls, CallerOf(e->request), /*with_heads=*/true, finish); },
      [&service](const ServerView& view) { return StateJson(service, view); });
}

// A view every second, as long as the client takes them. The caller's token is looked at each time.
class EventStream : public std::enable_shared_from_this<EventStream> {
 public:
  EventStream(Service& service, ExchangePtr exchange) : service_(service), exchange_(std::move(exchange)) {}

  void Start() {
    exchange_->Begin(200, "text/event-stream");
    exchange_->OnTick([self = shared_from_this()](auto now) {
      if (!self->asked_ && SecondsBetween(self->last_, now) >= kEventSeconds) self->Ask(now);
    });
    Ask(std::chrono::steady_clock::now());
  }

 private:
  void Ask(std::chrono::steady_clock::time_point now) {
    last_ = now;
    asked_ = true;
    StartView(*service_.calls, CallerOf(exchange_->request), /*with_heads=*/false,
              [self = shared_from_this()](const absl::StatusOr<ServerView>& view) {
                self->exchange_->Post([self, view] { self->OnView(view); });
              });
  }
  void OnView(const absl::StatusOr<ServerView>& view) {
    if (exchange_->complete() || exchange_->gone()) return;
    if (!view.ok()) {  // its token is not known any more
      exchange_->Write("data: " + ErrorBody(service_.Error(view.status())) + "\n\n");
      return exchange_->End();
    }
    exchange_->Write("data: " + Text(StateJson(service_, *view)) + "\n\n",
                     [self = shared_from_this()](bool) { self->asked_ = false; });
  }

  Service& service_;
  const ExchangePtr exchange_;
  std::chrono::steady_clock::time_point last_;
  bool asked_ = false;  // a view is being made or written
};

void Events(Service& service, const ExchangePtr& e) { std::make_shared<EventStream>(service, e)->Start(); }

void Drain(Service& service, const ExchangePtr& e) {
  WithFields<DrainRequest>(
      service, e, [](Body& body) { return DrainRequest{body.Number("grace_seconds", 0, 86400).value_or(0)}; },
      [&service, e](DrainRequest request) {
        SendCall<DrainResult>(
            service, e, 200,
            [&](auto finish) { return StartDrain(*service.calls, CallerOf(e->request), request, finish); },
            [](const DrainResult& done) {
              return Json{{"saved", done.saved},
                          {"cancelled", done.cancelled},
                          {"dropped", done.dropped.size()},
                          {"seconds", done.seconds}};
            });
      });
}

}  // namespace

void AddStateRoutes(Service& service, Router& router) {
  router.Add({"GET", "/duo/v1/state", [&service](const ExchangePtr& e) { State(service, e); }});
  router.Add({"GET", "/duo/v1/events", [&service](const ExchangePtr& e) { Events(service, e); }});
  router.Add({"POST", "/duo/v1/drain", [&service](const ExchangePtr& e) { Drain(service, e); }});
}

}  // namespace duo::http
