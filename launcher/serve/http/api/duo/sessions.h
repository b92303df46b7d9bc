// Sessions over HTTP, under /duo/v1/sessions: what duo.proto's Sessions has, as JSON and raw text, so that curl will
// do.
#pragma once

#include "launcher/serve/http/api/base/service.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

void AddSessionRoutes(Service& service, Router& router);

// PUT of a document's text (upload.cc).
void Upload(Service& service, const ExchangePtr& exchange);

}  // namespace duo::http
