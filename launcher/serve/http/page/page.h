// The operator's page: its files, which are part of the program, at / and /page/NAME. They need no token and hold no
// data; what they show comes from /duo/v1/state and /duo/v1/events (api/duo/state.h). Constant; any thread.
#pragma once

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "launcher/serve/http/wire/router.h"

namespace duo::http {

struct PageFile {
  absl::string_view name, text;  // "main.js"
};
absl::Span<const PageFile> PageFiles();  // from files.cc, which the build makes of this folder

void AddPageRoutes(Router& router);

}  // namespace duo::http
