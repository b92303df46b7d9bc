#include "launcher/serve/grpc/tls_credentials.h"

#include <grpc/grpc_security.h>
#include <grpcpp/grpcpp.h>

#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"

namespace duo {
namespace {

struct Pem {
  std::string certificate, key, client_ca;
};

absl::StatusOr<Pem> Read(const TlsFiles& files) {
  Pem pem;
  const std::pair<const std::string*, std::string*> parts[] = {
      {&files.certificate, &pem.certificate}, {&files.key, &pem.key}, {&files.client_ca, &pem.client_ca}};
  for (const auto& [file, into] : parts) {
    if (file->empty()) continue;
    absl::StatusOr<std::string> text = ReadFile(*file);
    if (!text.ok()) return text.status();
    if (text->empty()) return absl::InvalidArgumentError(absl::StrCat(*file, ": the file is empty"));
    *into = *std::move(text);
  }
  return pem;
}

grpc::SslServerCredentialsOptions OptionsOf(const Pem& pem) {
  grpc::SslServerCredentialsOptions options(pem.client_ca.empty()
                                                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = pem.client_ca;
  options.pem_key_cert_pairs.push_back({pem.key, pem.certificate});
  return options;
}

// gRPC alone knows whether it can serve with these: a server that takes nobody's calls tries.
absl::Status Try(const Pem& pem, const TlsFiles& files) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(OptionsOf(pem)), &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server != nullptr) server->Shutdown();
  if (server != nullptr && port != 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tls-cert ", files.certificate, " and --tls-key ", files.key,
                   files.client_ca.empty() ? "" : absl::StrCat(" and --tls-client-ca ", files.client_ca),
                   ": they are no PEM certificate and its private key"));
}

// gRPC asks it for certificates before every handshake.
class TlsCredentials final : public grpc::ServerCredentials {
 public:
  TlsCredentials(Pem pem, bool clients) : pem_(std::move(pem)) {
    credentials_ =
        grpc_ssl_server_credentials_create_with_options(grpc_ssl_server_credentials_create_options_using_config_fetcher(
            clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                    : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            &TlsCredentials::Fetch, this));
  }
  ~TlsCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}
  void Take(Pem pem) {
    std::lock_guard lock(mutex_);
    pem_ = std::move(pem);
    fresh_ = true;
  }

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }
  static grpc_ssl_certificate_config_reload_status Fetch(void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<TlsCredentials*>(self)->Give(config);
  }
  grpc_ssl_certificate_config_reload_status Give(grpc_ssl_server_certificate_config** config) {
    std::lock_guard lock(mutex_);
    if (!fresh_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    fresh_ = false;
    const grpc_ssl_pem_key_cert_pair pair = {pem_.key.c_str(), pem_.certificate.c_str()};
    // gRPC wants roots also where it asks no client for a certificate; then they count for nothing.
    const std::string& roots = pem_.client_ca.empty() ? pem_.certificate : pem_.client_ca;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  grpc_server_credentials* credentials_;
  std::mutex mutex_;
  Pem pem_;            // guarded by mutex_
  bool fresh_ = true;  // likewise: gRPC does not have pem_ yet
};

}  // namespace

absl::StatusOr<Certificates> LoadCertificates(const TlsFiles& files) {
  if (!files.on()) {
    return Certificates{grpc::InsecureServerCredentials(), [] { return std::function<void()>([] {}); }};
  }
  absl::StatusOr<Pem> pem = Read(files);
  if (!pem.ok()) return pem.status();
  if (absl::Status s = Try(*pem, files); !s.ok()) return s;
  auto made = std::make_shared<TlsCredentials>(*std::move(pem), !files.client_ca.empty());
  return Certificates{made, [files, weak = made.get()]() -> absl::StatusOr<std::function<void()>> {
                        absl::StatusOr<Pem> fresh = Read(files);
                        if (!fresh.ok()) return fresh.status();
                        if (absl::Status s = Try(*fresh, files); !s.ok()) return s;
                        return std::function<void()>([weak, taken = *std::move(fresh)] { weak->Take(taken); });
                      }};
}

}  // namespace duo
