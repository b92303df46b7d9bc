// Headers that can be read in two ways are refused; the gate lets in who may come.
#include "launcher/serve/http/wire/request.h"

#include <gtest/gtest.h>

#include "launcher/serve/http/wire/gate.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {
namespace {

Header Get(const std::string& target, const std::vector<std::pair<std::string, std::string>>& more = {}) {
  Header header = {"GET", target, 11, {{"host", "localhost:8000"}}};
  for (const auto& field : more) header.fields.push_back(field);
  return header;
}

int StatusOf(const Header& header) {
  const std::variant<Request, Refusal> read = ReadHeader(header);
  const Refusal* refusal = std::get_if<Refusal>(&read);
  return refusal == nullptr ? 200 : refusal->status;
}

TEST(HttpRequest, LengthsThatContradictAreRefused) {
  EXPECT_EQ(StatusOf(Get("/", {{"content-length", "5"}})), 200);
  EXPECT_EQ(StatusOf(Get("/", {{"content-length", "5"}, {"content-length", "5"}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"content-length", "5"}, {"transfer-encoding", "chunked"}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"transfer-encoding", "chunked"}, {"transfer-encoding", "chunked"}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"transfer-encoding", "gzip, chunked"}})), 501);
  EXPECT_EQ(StatusOf(Get("/", {{"content-length", "5x"}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"content-length", ""}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"host", "second"}})), 400);
  EXPECT_EQ(StatusOf(Get("/", {{"content-encoding", "gzip"}})), 415);
}

TEST(HttpRequest, PathsAreDecodedOnce) {
  const auto path = [](const std::string& target) { return std::get<Request>(ReadHeader(Get(target))).path; };
  EXPECT_EQ(path("/a/b%20c"), (std::vector<std::string>{"a", "b c"}));
  EXPECT_EQ(path("/a%2fb"), (std::vector<std::string>{"a/b"}));
  EXPECT_EQ(path("/%252e"), (std::vector<std::string>{"%2e"}));
  for (const char* bad : {"/%", "/%2", "/%zz", "/%00", "*", "x", "", "/?a=%q"})
    EXPECT_EQ(StatusOf(Get(bad)), 400) << bad;
  const Request request = std::get<Request>(ReadHeader(Get("/x?a=1&b=%20&a=2&c")));
  EXPECT_EQ(request.query, (std::map<std::string, std::string>{{"a", "2"}, {"b", " "}, {"c", ""}}));
}

TEST(HttpGate, StrangersStayOutside) {
  GateRules rules;
  const auto enters = [&](const std::vector<std::pair<std::string, std::string>>& fields) {
    const Header header = Get("/", fields);
    return !CheckSender(rules, header, std::get<Request>(ReadHeader(header))).has_value();
  };
  EXPECT_TRUE(enters({}));
  EXPECT_TRUE(enters({{"origin", "http://localhost:8000"}}));
  EXPECT_FALSE(enters({{"origin", "http://localhost:8001"}}));
  EXPECT_FALSE(enters({{"origin", "null"}}));
  EXPECT_FALSE(enters({{"sec-fetch-site", "cross-site"}}));
  rules.origins = {"http://ui.example"};
  EXPECT_TRUE(enters({{"origin", "http://ui.example"}, {"sec-fetch-site", "cross-site"}}));
  EXPECT_FALSE(enters({{"origin", "http://other.example"}}));
  rules.host = "elsewhere";
  EXPECT_TRUE(enters({}));
  Header foreign = Get("/");
  foreign.fields[0].second = "evil.example";
  EXPECT_TRUE(CheckSender(rules, foreign, std::get<Request>(ReadHeader(foreign))).has_value());
  rules.loopback = false;
  EXPECT_FALSE(CheckSender(rules, foreign, std::get<Request>(ReadHeader(foreign))).has_value());
}

TEST(HttpGate, BodiesAreJsonAndUploadsText) {
  const auto status = [](const std::string& type, bool body, bool uploads) {
    Request request;
    request.content_type = type;
    request.chunked = body;
    const std::optional<Refusal> refusal = CheckContentType(request, uploads);
    return refusal.has_value() ? refusal->status : 200;
  };
  EXPECT_EQ(status("application/json", true, false), 200);
  EXPECT_EQ(status("text/plain", true, false), 415);
  EXPECT_EQ(status("", true, false), 415);
  EXPECT_EQ(status("", false, false), 200);
  EXPECT_EQ(status("application/x-www-form-urlencoded", false, false), 415);
  EXPECT_EQ(status("text/plain", true, true), 200);
  EXPECT_EQ(status("application/octet-stream", true, true), 200);
  EXPECT_EQ(status("application/json", true, true), 415);
}

TEST(HttpRouter, PatternsTakeOneSegmentOrTheRest) {
  Router router;
  router.Add({"GET", "/v1/models/**", nullptr});
  router.Add({"POST", "/s/*/ask", nullptr});
  const auto find = [&](const std::string& method, std::vector<std::string> path, std::string* allow) {
    Request request;
    request.method = method;
    request.path = std::move(path);
    const auto found = router.Find(request, allow);
    const Refusal* refusal = std::get_if<Refusal>(&found);
    return refusal == nullptr ? 200 : refusal->status;
  };
  std::string allow;
  EXPECT_EQ(find("GET", {"v1", "models", "org", "name"}, &allow), 200);
  EXPECT_EQ(find("HEAD", {"v1", "models", "name"}, &allow), 200);
  EXPECT_EQ(find("GET", {"v1", "models", ""}, &allow), 404);
  EXPECT_EQ(find("POST", {"s", "x", "ask"}, &allow), 200);
  EXPECT_EQ(find("POST", {"s", "", "ask"}, &allow), 404);
  EXPECT_EQ(find("POST", {"s", "x", "y", "ask"}, &allow), 404);
  EXPECT_EQ(find("GET", {"s", "x", "ask"}, &allow), 405);
  EXPECT_EQ(allow, "POST");
}

}  // namespace
}  // namespace duo::http
