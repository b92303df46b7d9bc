#include "launcher/serve/http/api/duo/sessions.h"

#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/http/api/answers/answer.h"
#include "launcher/serve/http/api/base/compute.h"
#include "launcher/serve/http/api/duo/session_json.h"
#include "launcher/terminal/sparse_json.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::http {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;
constexpr int64_t kMostSources = 1000;
constexpr size_t kMostStops = 16, kIdAt = 3;  // /duo/v1/sessions/ID: where the id is in the path

const std::string& IdOf(const Exchange& exchange) { return exchange.request.path[kIdAt]; }

Json SavedJson(const SaveDone& done) {
  return {{"session", SessionJson(done.session)},
          {"bytes_moved", done.bytes_moved},
          {"bytes_total", done.bytes_total},
          {"seconds", done.seconds}};
}

void Create(Service& service, const ExchangePtr& e) {
  WithFields<CreateRequest>(
      service, e,
      [](Body& body) {
        return CreateRequest{.id = body.String("id").value_or(""),
                             .max_tokens = body.Int("max_tokens", 0, kMostTokens).value_or(0),
                             .durable = body.Bool("durable", false),
                             .chat = body.Bool("chat", false),
                             .system = body.String("system").value_or("")};
      },
      [&service, e](CreateRequest request) {
        SendCall<SessionView>(
            service, e, 201,
            [&](auto finish) { return StartCreate(*service.calls, CallerOf(e->request), request, finish); },
            SessionJson);
      });
}

void List(Service& service, const ExchangePtr& e) {
  using Views = std::vector<SessionView>;
  SendCall<Views>(
      service, e, 200, [&](auto finish) { return StartList(*service.calls, CallerOf(e->request), finish); },
      [](const Views& views) {
        Json list = Json::array();
        Json prefixes = Json::array();
        for (const SessionView& view : views) {
          if (!view.prefix) list.push_back(SessionJson(view));
          if (view.prefix) prefixes.push_back(PrefixJson(view));
        }
        return Json{{"sessions", std::move(list)}, {"prefixes", std::move(prefixes)}};
      });
}

void Get(Service& service, const ExchangePtr& e) {
  SendCall<SessionView>(
      service, e, 200, [&](auto finish) { return StartGet(*service.calls, CallerOf(e->request), {IdOf(*e)}, finish); },
      SessionJson);
}

void Close(Service& service, const ExchangePtr& e) {
  const auto found = e->request.query.find("delete_saved");
  const bool delete_saved = found != e->request.query.end() && found->second == "true";
  SendCall<CloseAnswer>(
      service, e, 200,
      [&](auto finish) {
        return StartClose(*service.calls, CallerOf(e->request), {IdOf(*e), delete_saved}, finish);
      },
      [](const CloseAnswer&) { return Json::object(); });
}

void Fork(Service& service, const ExchangePtr& e) {
  WithFields<ForkRequest>(
      service, e,
      [e](Body& body) {
        return ForkRequest{IdOf(*e), body.String("new_id").value_or(""),
                           body.Int("max_tokens", 0, kMostTokens).value_or(0)};
      },
      [&service, e](ForkRequest request) {
        SendCall<SessionView>(
            service, e, 201,
            [&](auto finish) { return StartFork(*service.calls, CallerOf(e->request), request, finish); }, SessionJson);
      });
}

void Rewind(Service& service, const ExchangePtr& e) {
  WithFields<RewindRequest>(
      service, e,
      [e](Body& body) {
        if (!body.Has("tokens")) body.Fail("tokens", "tokens is missing");
        return RewindRequest{IdOf(*e), body.Int("tokens", 0, kMostTokens).value_or(0)};
      },
      [&service, e](RewindRequest request) {
        SendCall<SessionView>(
            service, e, 200,
            [&](auto finish) { return StartRewind(*service.calls, CallerOf(e->request), request, finish); },
            SessionJson);
      });
}

void Pin(Service& service, const ExchangePtr& e) {
  WithFields<PinRequest>(
      service, e,
      [e](Body& body) {
        if (!body.Has("pinned")) body.Fail("pinned", "pinned is missing");
        return PinRequest{IdOf(*e), body.Bool("pinned", false)};
      },
      [&service, e](PinRequest request) {
        SendCall<SessionView>(
            service, e, 200,
            [&](auto finish) { return StartPin(*service.calls, CallerOf(e->request), request, finish); }, SessionJson);
      });
}

void Save(Service& service, const ExchangePtr& e) {
  SendCall<SaveDone>(
      service, e, 200, [&](auto finish) { return StartSave(*service.calls, CallerOf(e->request), {IdOf(*e)}, finish); },
      SavedJson);
}

void Restore(Service& service, const ExchangePtr& e) {
  WithFields<RestoreRequest>(
      service, e,
      [e](Body& body) {
        return RestoreRequest{IdOf(*e), body.String("new_id").value_or(""),
                              body.Int("max_tokens", 0, kMostTokens).value_or(0), body.Bool("reread", false)};
      },
      [&service, e](RestoreRequest request) {
        SendCall<SaveDone>(
            service, e, 200,
            [&](auto finish) { return StartRestore(*service.calls, CallerOf(e->request), request, finish); },
            SavedJson);
      });
}

Json StatsJson(const AskStats& stats) {
  Json json = {{"history_tokens", stats.history_tokens},   {"prompt_tokens", stats.prompt_tokens},
               {"new_tokens", stats.new_tokens},           {"queue_seconds", stats.queue_seconds},
               {"prefill_seconds", stats.prefill_seconds}, {"first_token_seconds", stats.first_token_seconds},
               {"decode_seconds", stats.decode_seconds},   {"draw_steps", stats.draw_steps},
               {"drafted_tokens", stats.drafted_tokens},   {"accepted_tokens", stats.accepted_tokens}};
  if (stats.decode.sparse()) json["sparse"] = WrittenSparselyJson(stats.decode);
  return json;
}

Json SourcesJson(const std::vector<Source>& sources) {
  Json all = Json::array();
  for (const Source& s : sources) {
    all.push_back({{"start", s.begin},
                   {"end", s.end},
                   {"line", s.line},
                   {"score", s.score},
                   {"text", ReplaceInvalidUtf8(s.text)}});
  }
  return all;
}

// The last message, or the whole answer.
Json EndJson(const Choice& choice, const std::string& text, const std::vector<int32_t>& tokens, const AskRequest& ask) {
  Json json = {{"text", text},
               {"tokens", tokens},
               {"done", true},
               {"finish", choice.ended_by},
               {"stats", StatsJson(choice.stats)}};
  if (ask.sources > 0) json["provenance"] = SourcesJson(choice.sources);
  for (size_t i = 0; ask.token_sources && i < choice.token_sources.size(); ++i) {
    json["token_provenance"].push_back(SourcesJson(choice.token_sources[i]));
  }
  return json;
}

// The events are AskResponse's messages.
AnswerShape AskShape(const AskRequest& ask) {
  AnswerShape shape;
  shape.piece = [](const Choice&, const AskUpdate& grown, bool) {
    return Event({{"text", grown.text}, {"tokens", grown.tokens}});
  };
  shape.finish = [ask](const Choice& choice, const AskUpdate& rest, bool) {
    return Event(EndJson(choice, "", rest.tokens, ask));
  };
  shape.end = [](const std::vector<Choice>&) { return std::string(); };
  shape.error = [](const ErrorAnswer& error) { return "data: " + ErrorBody(error) + "\n\n"; };
  shape.whole = [ask](const std::vector<Choice>& choices) {
    return EndJson(choices[0], choices[0].text, choices[0].tokens, ask);
  };
  return shape;
}

// Fields and defaults are AskRequest's of duo.proto: greedy unless asked otherwise.
absl::StatusOr<Prepared> PrepareAsk(const std::string& session, Body& body) {
  Prepared prepared;
  AskRequest& ask = prepared.request.ask;
  ask.session_id = session;
  ask.max_new_tokens = body.Int("max_new_tokens", 0, kMostTokens).value_or(0);
  ask.temperature = static_cast<float>(body.Number("temperature", 0, 100).value_or(0));
  ask.top_p = static_cast<float>(body.Number("top_p", 0, 1).value_or(0));
  ask.seed = static_cast<uint64_t>(body.Int("seed", 0, std::numeric_limits<int64_t>::max()).value_or(0));
  ask.stop = body.Strings("stop", kMostStops);
  ask.keep = body.Bool("keep", false);
  ask.special = body.Bool("special", false);
  ask.seam = body.Bool("seam", false);
  ask.ignore_end_tokens = body.Bool("ignore_end_tokens", false);
  ask.sources = static_cast<int32_t>(body.Int("sources", 0, kMostSources).value_or(0));
  ask.token_sources = body.Bool("token_sources", false);
  prepared.request.stream = body.Bool("stream", false);
  const std::optional<std::string> text = body.String("text");
  std::vector<int32_t> tokens = body.Tokens("tokens");
  if (!body.status().ok()) return body.status();
  if (text.has_value() == !tokens.empty()) return FieldError("text", "give text or tokens, one of them");
  if (text.has_value() && text->empty()) return FieldError("text", "the question has no text");
  ask.text = text.value_or("");  // its tokens are made where it goes on with the session's text
  prepared.request.prompts.push_back(std::move(tokens));
  prepared.shape = AskShape(ask);
  return prepared;
}

void Ask(Service& service, const ExchangePtr& e) {
  Respond(service, e, [id = IdOf(*e)](Service&, Body& body) { return PrepareAsk(id, body); });
}

}  // namespace

void AddSessionRoutes(Service& service, Router& router) {
  const auto add = [&](const char* method, const char* path, void (*handler)(Service&, const ExchangePtr&)) {
    router.Add({method, path, [&service, handler](const ExchangePtr& e) { handler(service, e); }});
  };
  add("POST", "/duo/v1/sessions", Create);
  add("GET", "/duo/v1/sessions", List);
  add("GET", "/duo/v1/sessions/*", Get);
  add("DELETE", "/duo/v1/sessions/*", Close);
  add("POST", "/duo/v1/sessions/*/fork", Fork);
  add("POST", "/duo/v1/sessions/*/rewind", Rewind);
  add("POST", "/duo/v1/sessions/*/pin", Pin);
  add("POST", "/duo/v1/sessions/*/save", Save);
  add("POST", "/duo/v1/sessions/*/restore", Restore);
  add("POST", "/duo/v1/sessions/*/ask", Ask);
  router.Add({"PUT", "/duo/v1/sessions/*/text", [&service](const ExchangePtr& e) { Upload(service, e); },
              /*open=*/false, /*upload=*/true});
}

}  // namespace duo::http
