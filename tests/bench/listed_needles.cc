// Counts the facts that a model finds in a text when its answers are written by page lists (--decode-sparsity), beside
// dense ones; asks one question at a time, because several at once would read the text together. Prints JSON.
// listed_needles MODEL PATTERN SPARSITY TEXT QUESTIONS SETTING.. (on the CPU; TEXT and QUESTIONS are
// launcher/demo/needle_document.py's; 12 tokens an answer, greedy)
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/read_file.h"
#include "kernels/base/seconds.h"
#include "runtime/engine/engine.h"
#include "runtime/text/tokenizer.h"

namespace duo {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
T Got(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "error: %s\n", std::string(value.status().message()).c_str());
    std::exit(1);
  }
  return *std::move(value);
}

struct Document {
  Tokenizer tokenizer;
  std::vector<int32_t> tokens;
  std::string rest;  // behind them, read with each question
  Json questions;
};

void RunSteps(Engine& engine) {
  while (engine.Step()) {
  }
}

std::string Answer(Engine& engine, SessionId session, const Document& document, const std::string& ask) {
  EncodeOptions options;
  options.continued = true;
  std::vector<int32_t> answer;
  RequestEvents events;
  events.on_token = [&](int32_t token) {
    answer.push_back(token);
    return document.tokenizer.Decode(answer).find('\n') == std::string::npos;
  };
  GenerateParams params;
  params.max_new_tokens = 12;
  Got(engine.Ask(session, Got(document.tokenizer.Encode(document.rest + ask, options)), params, events));
  RunSteps(engine);
  return document.tokenizer.Decode(answer);
}

Json Run(EngineOptions options, const Document& document, const std::string& setting) {
  const std::optional<DecodeSparsity> sparsity = DecodeSparsityNamed(setting);
  DUO_CHECK(sparsity.has_value());
  options.decode_sparsity = *sparsity;
  const auto tokens = static_cast<int64_t>(document.tokens.size());
  options.max_session_tokens = tokens + 256;
  options.kv_tokens = 2 * tokens + 4096;
  const std::unique_ptr<Device> device = Device::Cpu(static_cast<int>(std::thread::hardware_concurrency()));
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  const std::unique_ptr<Engine> engine = Got(Engine::Create(options, *device, *comm));
  const SessionId session = Got(engine->CreateSession(tokens + 256));
  Got(engine->Append(session, document.tokens, {}));
  RunSteps(*engine);
  std::vector<bool> found;
  const Clock::time_point start = Clock::now();
  for (const Json& question : document.questions) {
    const std::string answer = Answer(*engine, session, document, question.at("ask"));
    found.push_back(answer.find(question.at("answer").get<std::string>()) != std::string::npos);
  }
  const DecodeReport& lists = engine->counted().decode;
  return {{"setting", setting},
          {"tokens", tokens},
          {"questions", found.size()},
          {"found", std::count(found.begin(), found.end(), true)},
          {"which", found},
          {"listed_tokens", lists.listed_tokens},
          {"choices", lists.choices},
          {"density", lists.density},
          {"audits", lists.audits},
          {"mass", lists.mass},
          {"least_mass", lists.least_mass},
          {"answers_seconds", SecondsSince(start)}};
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  using namespace duo;
  if (argc < 7) return 2;
  const std::string model = argv[1];
  Document document = {Got(Tokenizer::Load(model + "/tokenizer.json")), {}, "", Json()};
  const std::string text = Got(ReadFile(argv[4]));
  const StableTokens stable = Got(document.tokenizer.EncodeStable(text));
  document.tokens = stable.ids;
  document.rest = text.substr(stable.bytes);
  document.questions = Json::parse(Got(ReadFile(argv[5]))).at("questions");
  EngineOptions options;
  options.model_dir = model;
  options.pattern_dir = argv[2];
  options.sparsity = std::atof(argv[3]);
  Json rows = Json::array();
  for (int i = 6; i < argc; ++i) {
    rows.push_back(Run(options, document, argv[i]));
    std::fprintf(stderr, "%s\n", rows.back().dump().c_str());
  }
  std::printf("%s\n", rows.dump(1).c_str());
  return 0;
}
