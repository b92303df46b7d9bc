// logits MODEL_DIR: reads token ids from stdin and prints the logits of what follows them, one a line. Full attention,
// f32 KV cache, weights as stored, CPU. For comparisons with other programs.

#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/device.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: logits MODEL_DIR < token ids\n");
    return 2;
  }
  std::vector<int32_t> tokens;
  for (int32_t id; std::cin >> id;) tokens.push_back(id);
  const std::unique_ptr<duo::Device> device = duo::Device::Cpu(2);
  const std::unique_ptr<duo::Communicator> comm = duo::MakeSelfCommunicator();
  duo::EngineOptions options;
  options.model_dir = argv[1];
  options.attention = duo::AttentionMode::kFull;
  options.questions = 1;
  options.max_session_tokens = options.kv_tokens = static_cast<int64_t>(tokens.size()) + 1;
  auto engine = duo::Engine::Create(options, *device, *comm);
  if (!engine.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(engine.status().message()).c_str());
    return 1;
  }
  const auto session = (*engine)->CreateSession(1);
  duo::GenerateParams params;
  params.max_new_tokens = 1;
  params.want_logits = true;
  duo::RequestEvents events;
  events.on_logits = [](const std::vector<float>& logits) {
    for (float x : logits) std::printf("%.9g\n", static_cast<double>(x));
  };
  const auto ask = session.ok() ? (*engine)->Ask(*session, tokens, params, std::move(events)) : session.status();
  if (!ask.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(ask.status().message()).c_str());
    return 1;
  }
  while ((*engine)->Step()) {
  }
  return 0;
}
