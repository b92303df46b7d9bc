// What the operator's page shows: GET /duo/v1/state, and the same every second as the stream GET /duo/v1/events.
// Filtered by the caller: calls/server_view.h. POST /duo/v1/drain is duo.proto's Drain.
#pragma once

#include "launcher/serve/http/api/base/service.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

void AddStateRoutes(Service& service, Router& router);

}  // namespace duo::http
