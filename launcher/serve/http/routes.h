// OpenAI's routes.
#pragma once

#include "launcher/serve/http/api/base/service.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

void AddOpenAiRoutes(Service& service, Router& router);

}  // namespace duo::http
