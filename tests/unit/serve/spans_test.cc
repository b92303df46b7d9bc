// Spans: what a trace's parent is, the JSON of OTLP/HTTP, and a sender that nobody waits for.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "launcher/serve/trace/http_post.h"
#include "launcher/serve/trace/span_sender.h"

namespace duo {
namespace {

using Json = nlohmann::json;
using std::chrono::seconds;
constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c", kParent[] = "b7ad6b7169203331";

std::string Text(const char* flags) { return std::string("00-") + kTrace + "-" + kParent + "-" + flags; }

Span AQuestion() {
  Span span;
  span.name = "Ask";
  span.begin = std::chrono::system_clock::time_point(seconds(1'700'000'000));
  span.seconds = 2.5;
  span.fields = {{"duo.session", "book"}, {"duo.new_tokens", 7}, {"duo.share", 0.5}};
  span.parts = {{"queue", 0, 0.5}, {"decode", 0.5, 2}};
  return span;
}

TEST(Spans, ParentsAreReadAsW3CHasThem) {
  const TraceParent good = ParseTraceParent(Text("01"));
  EXPECT_EQ(good.trace, kTrace);
  EXPECT_EQ(good.parent, kParent);
  EXPECT_TRUE(good.sampled);
  EXPECT_FALSE(ParseTraceParent(Text("02")).sampled);
  EXPECT_TRUE(ParseTraceParent("").sampled) << "who says nothing wants it";
  for (const std::string& bad : {std::string(), Text("1"), Text("0g"), "01" + Text("01").substr(2), Text("01") + "0",
                                 "00-" + std::string(32, '0') + "-" + kParent + "-01",
                                 std::string("00-") + kTrace + "-" + std::string(16, '0') + "-01",
                                 "00-0AF7651916CD43DD8448EB211C80319C-" + std::string(kParent) + "-01"}) {
    EXPECT_EQ(ParseTraceParent(bad).trace, "") << bad;
  }
}

TEST(Spans, JsonHasWhatTheProtocolWants) {
  Span asked = AQuestion(), failed = AQuestion();
  asked.traceparent = Text("01");
  failed.error = "no \"room\" \xff";
  failed.parts.clear();
  uint64_t next = 0;
  const Json json = Json::parse(OtlpJson({asked, failed}, {{"service.name", "duo"}}, [&] { return ++next; }));
  const Json& of = json["resourceSpans"][0];
  EXPECT_EQ(of["resource"]["attributes"][0], Json::parse(R"({"key":"service.name","value":{"stringValue":"duo"}})"));
  const Json& spans = of["scopeSpans"][0]["spans"];
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[0]["traceId"], kTrace);
  EXPECT_EQ(spans[0]["parentSpanId"], kParent);
  EXPECT_EQ(spans[0]["kind"], 2);
  EXPECT_EQ(spans[0]["startTimeUnixNano"], "1700000000000000000") << "64-bit numbers are strings";
  EXPECT_EQ(spans[0]["endTimeUnixNano"], "1700000002500000000");
  EXPECT_EQ(spans[0]["attributes"][1]["value"], Json::parse(R"({"intValue":"7"})"));
  EXPECT_EQ(spans[0]["attributes"][2]["value"]["doubleValue"], 0.5);
  EXPECT_EQ(spans[0]["status"]["code"], 1);
  for (int part : {1, 2}) {
    EXPECT_EQ(spans[part]["traceId"], kTrace);
    EXPECT_EQ(spans[part]["parentSpanId"], spans[0]["spanId"]);
  }
  EXPECT_EQ(spans[1]["endTimeUnixNano"], spans[2]["startTimeUnixNano"]);
  EXPECT_EQ(spans[3]["status"]["code"], 2);
  EXPECT_EQ(spans[3]["status"]["message"], "no \"room\" \xef\xbf\xbd");
  EXPECT_EQ(spans[3]["traceId"].get<std::string>().size(), 32u) << "a trace of its own";
  EXPECT_FALSE(spans[3].contains("parentSpanId"));
}

TEST(Spans, AddressesOfCollectors) {
  const auto target = [](const std::string& url) { return ParseHttpTarget(url, "/v1/traces"); };
  EXPECT_EQ(target("http://here")->port, "4318");
  EXPECT_EQ(target("http://here:99/")->path, "/v1/traces");
  EXPECT_EQ(target("http://here:99/x/y")->path, "/x/y");
  EXPECT_EQ(target("http://[::1]:99")->host, "::1");
  for (const char* bad : {"", "here:99", "https://here", "http://", "http://:99", "http://here:0", "http://here:99999",
                          "http://here:x", "http://a b", "http://user@here", "http://[::1", "http://[::1]x"}) {
    EXPECT_EQ(target(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

// A collector that takes one connection after another and answers each with the same.
class Collector {
 public:
  explicit Collector(std::string answer) : answer_(std::move(answer)) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_, 8), 0);
    socklen_t length = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Collector() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  std::vector<std::string> requests() {
    shutdown(listener_, SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    thread_ = std::thread([] {});
    return requests_;
  }

 private:
  void Run() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0; close(fd)) {
      std::string request;
      char part[4096];
      size_t whole = std::string::npos;
      while (request.size() < whole) {
        const ssize_t n = recv(fd, part, sizeof part, 0);
        if (n <= 0) break;
        request.append(part, n);
        const size_t end = request.find("\r\n\r\n"), at = request.find("Content-Length: ");
        if (end != std::string::npos) whole = end + 4 + std::stoul(request.substr(at + 16));
      }
      requests_.push_back(request);
      send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL);
    }
  }
  const std::string answer_;
  int listener_ = -1, port_ = 0;
  std::vector<std::string> requests_;  // the thread's until it has ended
  std::thread thread_;
};

TEST(SpanSenderTest, SendsWhatItHasWhenItEnds) {
  Collector collector("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
  const Log log(true);
  {
    auto sender = SpanSender::Make(collector.url(), {{"duo.model", "needle"}}, log);
    ASSERT_TRUE(sender.ok()) << sender.status();
    Span unwanted = AQuestion();
    unwanted.traceparent = Text("00");
    (*sender)->Send(unwanted);
    for (int i = 0; i < 600; ++i) (*sender)->Send(AQuestion());
  }
  const std::vector<std::string> requests = collector.requests();
  ASSERT_EQ(requests.size(), 2u) << "a request has 512 at most";
  size_t asked = 0;
  for (const std::string& request : requests) {
    EXPECT_EQ(request.rfind("POST /v1/traces HTTP/1.1\r\n", 0), 0u) << request.substr(0, 100);
    EXPECT_NE(request.find("Content-Type: application/json\r\n"), std::string::npos);
    const Json json = Json::parse(request.substr(request.find("\r\n\r\n") + 4));
    for (const Json& span : json["resourceSpans"][0]["scopeSpans"][0]["spans"]) asked += span["name"] == "Ask";
  }
  EXPECT_EQ(asked, 600u);
}

TEST(SpanSenderTest, NobodyWaitsForACollectorThatIsNotThere) {
  std::string url;
  {
    Collector gone("");
    url = gone.url();
  }
  const Log log(true);
  const auto begun = std::chrono::steady_clock::now();
  {
    auto sender = SpanSender::Make(url, {}, log);
    ASSERT_TRUE(sender.ok());
    for (size_t i = 0; i < 2 * SpanSender::kMostWaiting; ++i) (*sender)->Send(AQuestion());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, seconds(30));
}

}  // namespace
}  // namespace duo
