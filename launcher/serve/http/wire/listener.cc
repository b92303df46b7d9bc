#include "launcher/serve/http/wire/listener.h"

#include <sys/resource.h>

#include <set>
#include <thread>

#include "launcher/serve/http/wire/connection.h"
// Behind <utility>, which byte_stream.h includes.
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"

namespace duo::http {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::system::error_code;

constexpr std::chrono::milliseconds kTick{100};
constexpr double kPatience = 2;  // seconds for answers when the server stops
constexpr rlim_t kFiles = 65536;

// A connection is a file; the usual soft limit of 1,024 is one that programs are meant to raise.
void RaiseFileLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kFiles) return;
  limit.rlim_cur = std::min(limit.rlim_max, kFiles);
  setrlimit(RLIMIT_NOFILE, &limit);
}

using Tls = std::unique_ptr<asio::ssl::context>;

// With the certificates that are in these files now.
absl::StatusOr<Tls> OpenTls(const TlsFiles& files) {
  auto tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
  Error error;
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                       asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1,
                   error);
  const auto failed = [&](const std::string& file) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", error.message()));
  };
  if (tls->use_certificate_chain_file(files.certificate, error); error) return failed(files.certificate);
  if (tls->use_private_key_file(files.key, asio::ssl::context::pem, error); error) return failed(files.key);
  if (files.client_ca.empty()) return tls;
  if (tls->load_verify_file(files.client_ca, error); error) return failed(files.client_ca);
  tls->set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert, error);
  if (error) return failed(files.client_ca);
  return tls;
}

}  // namespace

struct Listener::State {
  asio::io_context io{1};
  tcp::acceptor acceptor{io};
  asio::steady_timer timer{io}, pause{io};
  std::unique_ptr<asio::ssl::context> tls;  // null: plain
  std::shared_ptr<Shared> shared = std::make_shared<Shared>();
  std::set<std::shared_ptr<Connection>> connections;
  std::optional<Clock::time_point> stop_by;
  int port = 0;
  std::thread thread;

  absl::Status Open();
  void Accept();
  void OnAccepted(const Error& error, tcp::socket socket);
  void Sweep();
};

absl::Status Listener::State::Open() {
  const std::string& address = shared->options.address;
  const auto failed = [&](const std::string& why) {
    return absl::UnavailableError(absl::StrCat("--http ", address, ": cannot listen there: ", why));
  };
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return failed("expected HOST:PORT");
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (shared->options.tls.on()) {
    absl::StatusOr<Tls> opened = OpenTls(shared->options.tls);
    if (!opened.ok()) return opened.status();
    tls = *std::move(opened);
  }
  Error error;
  const auto found = tcp::resolver(io).resolve(host, address.substr(colon + 1), tcp::resolver::passive, error);
  if (error || found.empty()) return failed(error.message());
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failed(error.message());
  port = acceptor.local_endpoint(error).port();
  return absl::OkStatus();
}

void Listener::State::Accept() {
  acceptor.async_accept([this](const Error& error, tcp::socket socket) { OnAccepted(error, std::move(socket)); });
}

void Listener::State::OnAccepted(const Error& error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {  // no file left, say: the next attempt a little later
    pause.expires_after(kTick);
    return pause.async_wait([this](const Error& cancelled) {
      if (!cancelled && acceptor.is_open()) Accept();
    });
  }
  Error ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  const ListenerOptions& options = shared->options;
  if (options.send_buffer > 0) {
    socket.set_option(asio::socket_base::send_buffer_size(options.send_buffer), ignored);
  }
  const bool full = static_cast<int>(connections.size()) >= options.max_connections;
  auto connection = std::make_shared<Connection>(ByteStream(std::move(socket), full ? nullptr : tls.get()), shared);
  connections.insert(connection);
  if (full && tls != nullptr) {
    connection->Close();
  } else if (full) {
    connection->Refuse({503, "the server has too many connections; try again later", "too_many_connections"});
  } else {
    connection->Start();
  }
  Accept();
}

void Listener::State::Sweep() {
  const Clock::time_point now = Clock::now();
  const bool cut = stop_by.has_value() && now > *stop_by;
  for (auto it = connections.begin(); it != connections.end();) {
    const std::shared_ptr<Connection> connection = *it;
    cut ? connection->Close() : connection->Tick(now);
    it = connection->closed() ? connections.erase(it) : std::next(it);
  }
  if (stop_by.has_value() && connections.empty()) return;
  timer.expires_after(kTick);
  timer.async_wait([this](const Error& cancelled) {
    if (!cancelled) Sweep();
  });
}

Listener::Listener() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Listen(ListenerOptions options) {
  RaiseFileLimit();
  std::unique_ptr<Listener> listener(new Listener());
  State* s = listener->state_.get();
  s->shared->options = std::move(options);
  if (absl::Status opened = s->Open(); !opened.ok()) return opened;
  const auto guard = std::make_shared<asio::executor_work_guard<asio::io_context::executor_type>>(s->io.get_executor());
  s->shared->post = [s, guard](std::function<void()> closure) { asio::post(s->io, std::move(closure)); };
  s->thread = std::thread([s] { s->io.run(); });
  pthread_setname_np(s->thread.native_handle(), "duo-http");
  asio::post(s->io, [s] {
    s->Accept();
    s->Sweep();
  });
  return listener;
}

int Listener::port() const { return state_->port; }

absl::StatusOr<std::function<void()>> Listener::PrepareCertificates() {
  State* s = state_.get();
  if (!s->shared->options.tls.on()) return std::function<void()>([] {});
  absl::StatusOr<Tls> fresh = OpenTls(s->shared->options.tls);
  if (!fresh.ok()) return fresh.status();
  const auto taken = std::make_shared<Tls>(*std::move(fresh));  // std::function copies what it holds
  // Connections that stand hold theirs.
  return std::function<void()>([s, taken] { asio::post(s->io, [s, taken] { s->tls = std::move(*taken); }); });
}

void Listener::Stop() {
  State* s = state_.get();
  if (!s->thread.joinable()) return;
  asio::post(s->io, [s] {
    s->shared->stopping = true;
    s->shared->post = nullptr;  // what holds the loop now are the exchanges' copies
    Error ignored;
    s->acceptor.close(ignored);
    s->pause.cancel();
    s->stop_by = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(kPatience));
    const std::set<std::shared_ptr<Connection>> open = s->connections;
    for (const std::shared_ptr<Connection>& connection : open) connection->Stop();
  });
  s->thread.join();
}

Listener::~Listener() { Stop(); }

}  // namespace duo::http
