// Who looks after the server rather than asks it something: /live, /health and /ready, /version, /metrics.
#pragma once

#include "launcher/serve/http/api/base/service.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

void AddHealthRoutes(const Service& service, Router& router);

}  // namespace duo::http
