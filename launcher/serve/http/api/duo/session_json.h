// A session as JSON: the names are duo.proto's.
#pragma once

#include "launcher/serve/http/api/base/body.h"
#include "launcher/serve/sessions/session_view.h"

namespace duo::http {

Json SessionJson(const SessionView& view);
Json PrefixJson(const SessionView& view);

}  // namespace duo::http
