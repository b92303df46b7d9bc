// The HTTP server by itself, on a free port of loopback: slow readers, bodies in pieces, clients that are gone, its
// end.
#include "launcher/serve/http/wire/listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

namespace duo::http {
namespace {

constexpr std::chrono::seconds kPatience{60};

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { Close(); }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  void Send(const std::string& bytes) {
    EXPECT_EQ(send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL), bytes.size());
  }
  // Everything until the server closes.
  std::string All() {
    std::string all;
    char bytes[4096];
    for (ssize_t n = 0; (n = recv(socket_, bytes, sizeof bytes, 0)) > 0;) all.append(bytes, n);
    return all;
  }

 private:
  int socket_;
};

ListenerOptions Options(Router router) {
  ListenerOptions options;
  options.address = "127.0.0.1:0";
  options.router = std::move(router);
  options.authenticate = [](const Request&) { return std::nullopt; };
  options.error_body = [](const Refusal& refusal) { return refusal.message; };
  return options;
}

std::string Ask(const std::string& line, const std::string& more = "") {
  return line + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + more + "\r\n";
}

TEST(HttpListener, AReaderThatNeverReadsIsDropped) {
  std::promise<void> gone;
  std::atomic<int> written{0};
  Router router;
  const std::string piece(64 << 10, 'x');
  router.Add({"GET", "/endless", [&](const ExchangePtr& e) {
                e->OnGone([&] { gone.set_value(); });
                e->Begin(200, "text/plain");
                auto next = std::make_shared<std::function<void(bool)>>();
                std::weak_ptr<std::function<void(bool)>> weak = next;
                *next = [&, e, weak](bool ok) {  // the next piece when the last one is written, and no sooner
                  ++written;
                  if (const auto again = weak.lock(); ok && again != nullptr)
                    e->Write(piece, [again](bool done) { (*again)(done); });
                };
                e->Write(piece, [next](bool ok) { (*next)(ok); });
              }});
  ListenerOptions options = Options(std::move(router));
  options.send_buffer = 4096;
  options.write_seconds = 0.5;
  auto listener = Listener::Listen(std::move(options));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client client((*listener)->port(), 4096);
  client.Send(Ask("GET /endless"));
  EXPECT_EQ(gone.get_future().wait_for(kPatience), std::future_status::ready);
  EXPECT_LT(written, 100) << "what a client does not read is not written";
}

TEST(HttpListener, BodiesComeInAnyPieces) {
  Router router;
  router.Add({"POST", "/echo", [](const ExchangePtr& e) { e->Answer(200, "text/plain", e->request.body); }});
  auto listener = Listener::Listen(Options(std::move(router)));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client client((*listener)->port());
  const std::string json = "Content-Type: application/json\r\n";
  const std::string request =
      Ask("POST /echo", json + "Transfer-Encoding: chunked\r\n") + "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
  for (char byte : request) client.Send(std::string(1, byte));
  EXPECT_NE(client.All().find("\r\n\r\nabcde"), std::string::npos);
  Client large((*listener)->port());
  const std::string body(1 << 20, 'y');
  large.Send(Ask("POST /echo", json + "Content-Length: " + std::to_string(body.size()) + "\r\n") + body);
  EXPECT_NE(large.All().find(body), std::string::npos);
}

// All bodies together hold what they may, counted as it comes: who announces and sends nothing holds nothing.
TEST(HttpListener, BodiesHoldNoMoreThanTheyMay) {
  Router router;
  router.Add({"POST", "/echo", [](const ExchangePtr& e) { e->Answer(200, "text/plain", "thanks"); }});
  ListenerOptions options = Options(std::move(router));
  std::atomic<int64_t> held{0};
  constexpr int64_t kMost = 100000;
  options.take_body = [&](int64_t bytes) -> std::optional<Refusal> {
    if ((held += bytes) <= kMost) return std::nullopt;
    held -= bytes;
    return Refusal{503, "no room for bodies", "full"};
  };
  options.give_body = [&](int64_t bytes) { held -= bytes; };
  auto listener = Listener::Listen(std::move(options));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const auto begin = [&](Client& client, int64_t announced, int64_t sent) {
    client.Send(
        Ask("POST /echo", "Content-Type: application/json\r\nContent-Length: " + std::to_string(announced) + "\r\n") +
        std::string(sent, 'b'));
  };
  const auto wait_for = [&](int64_t bytes) {
    for (int i = 0; i < 500 && held != bytes; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(held, bytes);
  };
  const int port = (*listener)->port();
  Client silent(port), half(port), announces(port), grows(port), fits(port);
  begin(silent, 90000, 0);
  begin(half, 90000, 60000);
  wait_for(60000);
  begin(announces, 90000, 0);
  const std::string refused = announces.All();
  EXPECT_NE(refused.find(" 503 "), std::string::npos) << refused;
  EXPECT_NE(refused.find("Retry-After"), std::string::npos);
  grows.Send(Ask("POST /echo", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n") + "EA60\r\n" +
             std::string(60000, 'b'));
  EXPECT_NE(grows.All().find(" 503 "), std::string::npos) << "one that says nothing of its length";
  wait_for(60000);
  begin(fits, 30000, 30000);
  EXPECT_NE(fits.All().find("thanks"), std::string::npos);
  half.Close();
  silent.Close();
  wait_for(0);
}

TEST(HttpListener, AnUploadIsReadAsItsHandlerAsks) {
  std::promise<std::string> all;
  Router router;
  router.Add({"PUT", "/up",
              [&](const ExchangePtr& e) {
                auto text = std::make_shared<std::string>();
                auto take = std::make_shared<std::function<void(std::string, bool)>>();
                *take = [&, e, text, take](const std::string& piece, bool last) {
                  *text += piece;
                  if (!last) return e->Read(*take);
                  all.set_value(*text);
                  e->Answer(200, "text/plain", "done");
                  *take = nullptr;
                };
                e->Read(*take);
              },
              /*open=*/false, /*upload=*/true});
  auto listener = Listener::Listen(Options(std::move(router)));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client client((*listener)->port());
  const std::string body(300000, 'z');
  client.Send(Ask("PUT /up", "Expect: 100-continue\r\nContent-Length: " + std::to_string(body.size()) + "\r\n"));
  client.Send(body);
  std::future<std::string> came = all.get_future();
  ASSERT_EQ(came.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(came.get(), body);
  const std::string answer = client.All();
  EXPECT_EQ(answer.substr(0, 21), "HTTP/1.1 100 Continue");
  EXPECT_NE(answer.find("done"), std::string::npos);
}

TEST(HttpListener, AClientThatIsGoneIsNoticedWhereNothingIsWritten) {
  std::promise<void> asked, gone;
  Router router;
  router.Add({"GET", "/wait", [&](const ExchangePtr& e) {
                e->OnGone([&, e] { gone.set_value(); });
                asked.set_value();
              }});
  auto listener = Listener::Listen(Options(std::move(router)));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client client((*listener)->port());
  client.Send(Ask("GET /wait"));
  ASSERT_EQ(asked.get_future().wait_for(kPatience), std::future_status::ready);
  client.Close();
  EXPECT_EQ(gone.get_future().wait_for(kPatience), std::future_status::ready);
}

TEST(HttpListener, SlowHeadersEndInTimeAndTooManyConnectionsAreTold) {
  ListenerOptions options = Options(Router());
  options.header_seconds = 0.3;
  options.max_connections = 2;
  auto listener = Listener::Listen(std::move(options));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client slow((*listener)->port());
  slow.Send("GET / HT");
  EXPECT_NE(slow.All().find(" 408 "), std::string::npos);
  slow.Close();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // its place is free again
  Client first((*listener)->port()), second((*listener)->port()), third((*listener)->port());
  EXPECT_NE(third.All().find(" 503 "), std::string::npos);
}

TEST(HttpListener, StopsWhileAnswersAreOnTheirWay) {
  std::promise<void> asked;
  Router router;
  ExchangePtr held;
  router.Add({"GET", "/wait", [&](const ExchangePtr& e) {
                held = e;
                e->OnGone([&] { held = nullptr; });  // cut off after a moment
                asked.set_value();
              }});
  auto listener = Listener::Listen(Options(std::move(router)));
  ASSERT_TRUE(listener.ok()) << listener.status();
  Client client((*listener)->port()), idle((*listener)->port());
  client.Send(Ask("GET /wait"));
  ASSERT_EQ(asked.get_future().wait_for(kPatience), std::future_status::ready);
  (*listener)->Stop();
  EXPECT_EQ(idle.All(), "");
}

}  // namespace
}  // namespace duo::http
