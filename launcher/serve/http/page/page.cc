#include "launcher/serve/http/page/page.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

const char* TypeOf(absl::string_view name) {
  if (absl::EndsWith(name, ".html")) return "text/html; charset=utf-8";
  if (absl::EndsWith(name, ".css")) return "text/css; charset=utf-8";
  if (absl::EndsWith(name, ".svg")) return "image/svg+xml";
  return "text/javascript; charset=utf-8";
}

// Nothing from elsewhere, nothing inline, in nobody's frame; a newer program's files are not mixed with these.
Fields Guards() {
  return {{"Content-Security-Policy",
           "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"},
          {"X-Content-Type-Options", "nosniff"},
          {"X-Frame-Options", "DENY"},
          {"Referrer-Policy", "no-referrer"},
          {"Cross-Origin-Opener-Policy", "same-origin"},
          {"Cache-Control", "no-cache"}};
}

}  // namespace

void AddPageRoutes(Router& router) {
  for (const PageFile& file : PageFiles()) {
    const std::string path = file.name == "index.html" ? "/" : absl::StrCat("/page/", file.name);
    router.Add({"GET", path, [file](const ExchangePtr& e) { e->Answer(200, TypeOf(file.name), file.text, Guards()); },
                /*open=*/true});
  }
}

}  // namespace duo::http
