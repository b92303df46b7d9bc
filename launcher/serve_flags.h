// The flags of `duo serve`.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "launcher/serve/http/front.h"
#include "launcher/serve/server.h"
#include "launcher/terminal/runtime_flags.h"

namespace duo {

constexpr char kNone[] = "none";  // --http: nothing listens

struct ServeFlags {
  RuntimeFlags runtime;
  ServerOptions server;
  HttpOptions http;
  std::string log = "text", log_level = "info", config;
  bool print_config = false, access_log = false;
  int sessions = 16, questions = 16, prefix_nodes = 16;
  int64_t kv_tokens = 0;
  std::string shape;            // of made-up weights
  bool random_weights = false;  // instead of a model's
};

// Adds them to the command. `flags` must outlive it.
void AddServeFlags(CLI::App* command, ServeFlags* flags);

// What no flag alone is wrong about; throws CLI's errors. Sets what follows from others.
void CheckServeFlags(const CLI::App& command, ServeFlags& flags);

}  // namespace duo
