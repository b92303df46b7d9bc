// ByteStream: one connection's bytes, plain or through TLS. Private to this folder, whose files alone include Boost.
// One thread; a handler comes from the thread's loop, never from inside the call. Owns the socket.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <functional>
#include <memory>
#include <utility>  // before asio: Boost 1.74 uses std::exchange in C++20 and does not include it

namespace duo::http {

class ByteStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Error = boost::system::error_code;
  using Handler = std::function<void(const Error&, size_t bytes)>;

  // tls: null: plain.
  ByteStream(Socket socket, boost::asio::ssl::context* tls) : socket_(std::make_unique<Socket>(std::move(socket))) {
    if (tls != nullptr) tls_ = std::make_unique<boost::asio::ssl::stream<Socket&>>(*socket_, *tls);
  }
  bool tls() const { return tls_ != nullptr; }

  void Handshake(std::function<void(const Error&)> done) {
    tls_->async_handshake(boost::asio::ssl::stream_base::server, std::move(done));
  }
  void Read(boost::asio::mutable_buffer into, Handler done) {
    if (tls_ != nullptr) return tls_->async_read_some(into, std::move(done));
    socket_->async_read_some(into, std::move(done));
  }
  void Write(boost::asio::const_buffer from, Handler done) {
    if (tls_ != nullptr) return tls_->async_write_some(from, std::move(done));
    socket_->async_write_some(from, std::move(done));
  }
  // Nothing more will be written; the client may still send.
  void EndWriting() {
    Error ignored;
    socket_->shutdown(Socket::shutdown_send, ignored);
  }
  void Close() {
    Error ignored;
    socket_->close(ignored);
  }
  // The client has answered what was written with a reset: it is gone.
  bool broken() {
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(socket_->native_handle(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0;
  }

 private:
  std::unique_ptr<Socket> socket_;  // tls_ refers to it
  std::unique_ptr<boost::asio::ssl::stream<Socket&>> tls_;
};

}  // namespace duo::http
