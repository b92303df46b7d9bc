// `duo bench recall`: which questions about documents a model answers right, read or written sparsely, beside dense.

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "launcher/bench/bench.h"
#include "launcher/bench/recall_cases.h"
#include "launcher/terminal/progress.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kTogether = 64;           // questions that are open at once
constexpr int kBehindAnswer = 2;        // tokens that may be drawn behind the answer
constexpr int64_t kLeastRoom = 384;     // tokens of a question and its answer, page rounding included

struct Setting {
  std::string name;
  PrefillSparsity prefill;
  DecodeSparsity decode;
};

// Dense first: it is what the others are compared with.
std::vector<Setting> Settings(const BenchFlags& flags) {
  std::vector<Setting> all = {{"dense", {}, {}}};
  for (const std::string& name : flags.prefill_sparsities)
    all.push_back({absl::StrCat("prefill ", name), *PrefillSparsityNamed(name), {}});
  for (const std::string& name : flags.decode_sparsities)
    all.push_back({absl::StrCat("decode ", name), {}, *DecodeSparsityNamed(name)});
  return all;
}

struct Found {
  std::map<std::string, std::string> inside, asked;  // of each task, a '1' or '0' for each question
  double read_seconds = 0, ask_seconds = 0;
  int64_t tokens = 0;
  std::vector<SparseReport> reports;  // of the documents
  DecodeReport decode;
};

struct Cases {
  Tokenizer tokenizer;
  std::vector<RecallDocument> documents;
  int64_t longest = 0;        // document, in tokens
  int64_t room = kLeastRoom;  // that the longest question takes, with its answer and page rounding
  int64_t session = 0;        // tokens of one
};

// Tokens of the document's longest question, with what is read of the document with it, and of its answer.
absl::StatusOr<int64_t> LongestQuestion(const RecallDocument& document, const Tokenizer& tokenizer) {
  EncodeOptions continued;
  continued.continued = true;
  int64_t longest = 0;
  for (const AskedQuestion& each : document.asked) {
    absl::StatusOr<std::vector<int32_t>> ask = tokenizer.Encode(document.rest + each.ask, continued);
    if (!ask.ok()) return ask.status();
    absl::StatusOr<std::vector<int32_t>> answer = tokenizer.Encode(each.answer, continued);
    if (!answer.ok()) return answer.status();
    longest = std::max(longest, std::ssize(*ask) + std::ssize(*answer) + kBehindAnswer);
  }
  return longest;
}

absl::StatusOr<Cases> LoadCases(const BenchFlags& flags) {
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return config.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(flags.runtime.model, config->vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  Cases cases = {*std::move(tokenizer), {}};
  for (const std::string& path : flags.questions) {
    absl::StatusOr<RecallDocument> document = ReadRecallDocument(path, cases.tokenizer);
    if (!document.ok()) return document.status();
    document->asked = FirstOfEach(document->asked, flags.asked);
    const absl::StatusOr<int64_t> question = LongestQuestion(*document, cases.tokenizer);
    if (!question.ok()) return question.status();
    const auto tokens = static_cast<int64_t>(document->tokens.size());
    if (tokens + *question > MaxPositions(*config)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: its document has %s tokens and its longest question, with the answer, %s, but the model has %s "
          "positions; expected a shorter document or question (tests/bench/recall_tasks.py --tokens)",
          path, Grouped(tokens), Grouped(*question), Grouped(MaxPositions(*config))));
    }
    cases.longest = std::max(cases.longest, tokens);
    cases.room = std::max(cases.room, *question + 2 * kPageTokens);
    cases.documents.push_back(*std::move(document));
  }
  cases.session = std::min(cases.longest + cases.room, MaxPositions(*config));
  return cases;
}

// judge: the model's first choices for the answers inside the document, while it is read into the session. Writing
// sparsely reads like dense, so nothing inside is judged again then.
absl::Status Read(Engine& engine, SessionId session, const RecallDocument& document, bool judge, Found* found) {
  std::vector<int32_t> choices;  // for the tokens behind the first
  absl::Status read;
  RequestEvents events;
  if (judge) {
    events.on_logits = [&](const std::vector<float>& logits) {
      choices.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    };
  }
  events.on_done = [&](const RequestResult& result) {
    read = result.status;
    found->reports.push_back(result.sparse);
  };
  const Clock::time_point start = Clock::now();
  absl::StatusOr<RequestId> append = engine.Append(session, document.tokens, std::move(events));
  if (!append.ok()) return append.status();
  while (engine.Step()) {
  }
  found->read_seconds += SecondsSince(start);
  found->tokens += static_cast<int64_t>(document.tokens.size());
  if (!read.ok() || !judge) return read;
  for (const InsideQuestion& question : document.inside) {
    const auto first = choices.begin() + question.first - 1;
    found->inside[question.task] +=
        PredictedRight(question, document.tokens, {first, first + question.count}) ? '1' : '0';
  }
  return absl::OkStatus();
}

// The answers to the document's questions, on forks of the session. One at a time where answers visit page lists:
// questions that are open together read the text together, and densely.
absl::Status AskAll(Engine& engine, SessionId session, const RecallDocument& document, const Tokenizer& tokenizer,
                    Found* found) {
  const Clock::time_point start = Clock::now();
  std::vector<std::vector<int32_t>> answers(document.asked.size());
  absl::Status failed;
  for (size_t i = 0; i < document.asked.size(); ++i) {
    EncodeOptions continued;
    continued.continued = true;
    absl::StatusOr<std::vector<int32_t>> ask = tokenizer.Encode(document.rest + document.asked[i].ask, continued);
    if (!ask.ok()) return ask.status();
    absl::StatusOr<std::vector<int32_t>> answer = tokenizer.Encode(document.asked[i].answer, continued);
    if (!answer.ok()) return answer.status();
    GenerateParams params;
    params.max_new_tokens = static_cast<int64_t>(answer->size()) + kBehindAnswer;
    RequestEvents events;
    events.on_token = [&answers, &tokenizer, i](int32_t token) {
      answers[i].push_back(token);
      return tokenizer.BytesOf(token).find('\n') == std::string::npos;
    };
    events.on_done = [&failed](const RequestResult& result) { failed.Update(result.status); };
    absl::StatusOr<RequestId> asked = engine.Ask(session, *std::move(ask), params, std::move(events));
    if (!asked.ok()) return asked.status();
    while (engine.decode_sparsity().on() && engine.Step()) {
    }
  }
  while (engine.Step()) {
  }
  found->ask_seconds += SecondsSince(start);
  for (size_t i = 0; i < answers.size(); ++i) {
    const AskedQuestion& question = document.asked[i];
    found->asked[question.task] += AnsweredRight(question, tokenizer.Decode(answers[i])) ? '1' : '0';
  }
  return failed;
}

absl::StatusOr<Found> Judge(const Cases& cases, Engine& engine, bool inside, Progress& progress) {
  Found found;
  int64_t done = 0;
  for (const RecallDocument& document : cases.documents) {
    const auto tokens = static_cast<int64_t>(document.tokens.size());
    absl::StatusOr<SessionId> session = engine.CreateSession(std::min(tokens + cases.room, cases.session), tokens);
    if (!session.ok()) return session.status();
    if (absl::Status s = Read(engine, *session, document, inside && !document.inside.empty(), &found); !s.ok())
      return s;
    if (absl::Status s = AskAll(engine, *session, document, cases.tokenizer, &found); !s.ok()) return s;
    if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
    progress.Update(++done, static_cast<int64_t>(cases.documents.size()));
  }
  found.decode = engine.counted().decode;
  return found;
}

Json TasksOf(const std::map<std::string, std::string>& bits, const std::map<std::string, std::string>& dense) {
  Json tasks = Json::object();
  for (const auto& [task, found] : bits) {
    const PairedLoss loss = LossOf(dense.at(task), found);
    tasks[task] = {{"questions", loss.questions},
                   {"right", std::count(found.begin(), found.end(), '1')},
                   {"lost", loss.lost},
                   {"gained", loss.gained},
                   {"net_loss", loss.net},
                   {"net_loss_bound", loss.bound},
                   {"which", found}};
  }
  return tasks;
}

Json RowOf(const Setting& setting, const Found& found, const Found& dense) {
  Json row = {{"setting", setting.name},
              {"inside", TasksOf(found.inside, dense.inside)},
              {"asked", TasksOf(found.asked, dense.asked)},
              {"tokens", found.tokens},
              {"read_seconds", found.read_seconds},
              {"ask_seconds", found.ask_seconds}};
  if (setting.prefill.on()) {
    Json documents = Json::array();
    for (const SparseReport& report : found.reports) {
      documents.push_back({{"audits", report.audits},
                           {"mass", report.mass},
                           {"least_mass", report.least_mass},
                           {"error", report.error},
                           {"density", report.density}});
    }
    row["reading"] = std::move(documents);
  }
  if (setting.decode.on()) {
    const DecodeReport& lists = found.decode;
    row["writing"] = {{"listed_tokens", lists.listed_tokens},
                      {"choices", lists.choices},
                      {"density", lists.density},
                      {"audits", lists.audits},
                      {"mass", lists.mass},
                      {"least_mass", lists.least_mass}};
  }
  return row;
}

// compared: not with itself.
void PrintTasks(const char* where, const Json& tasks, bool compared) {
  for (const auto& [task, found] : tasks.items()) {
    const double of = std::max(1.0, found["questions"].get<double>());
    std::printf("  %-6s %-6s %6.2f %% of %-5d", where, task.c_str(), 100 * found["right"].get<double>() / of,
                found["questions"].get<int>());
    if (compared) {
      std::printf(" lost %-3d gained %-3d net loss %6.2f, at most %.2f points", found["lost"].get<int>(),
                  found["gained"].get<int>(), 100 * found["net_loss"].get<double>(),
                  100 * found["net_loss_bound"].get<double>());
    }
    std::printf("\n");
  }
}

void Print(const Json& row) {
  std::printf("%s: %s tokens read in %s, questions %s\n", row["setting"].get<std::string>().c_str(),
              Grouped(row["tokens"].get<int64_t>()).c_str(), Duration(row["read_seconds"].get<double>()).c_str(),
              Duration(row["ask_seconds"].get<double>()).c_str());
  // How sparse it was: short texts are read and written densely, whatever was asked for.
  if (row.contains("reading")) {
    double density = 0, mass = 0;
    const auto count = static_cast<double>(row["reading"].size());
    for (const Json& document : row["reading"]) {
      density += document["density"].get<double>() / count;
      mass += document["mass"].get<double>() / count;
    }
    std::printf("  read from %.0f %% of the pages, which kept %.3f of the attention in audits\n", 100 * density, mass);
  }
  if (row.contains("writing")) {
    const Json& lists = row["writing"];
    std::printf("  %d tokens written from lists of pages, which hold %.0f %% of them\n",
                lists["listed_tokens"].get<int>(), 100 * lists["density"].get<double>());
  }
  const bool compared = row["setting"] != "dense";
  PrintTasks("inside", row["inside"], compared);
  PrintTasks("asked", row["asked"], compared);
}

}  // namespace

absl::Status BenchRecall(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  absl::StatusOr<Cases> cases = Cases();
  if (runtime.leader()) cases = LoadCases(flags);
  if (absl::Status s = Agree(*runtime.comm, cases.status()); !s.ok()) return s;
  int64_t sizes[] = {cases->longest, cases->room, cases->session};
  runtime.comm->Broadcast(sizes, sizeof sizes, 0);
  const auto [longest, room, most] = sizes;
  // Logits of a whole text take longer than reading it: where only writing is compared, nobody wants them.
  const bool inside = !flags.prefill_sparsities.empty() || flags.decode_sparsities.empty();
  Json rows = Json::array();
  std::optional<Found> dense;
  for (const Setting& setting : Settings(flags)) {
    EngineOptions options = MakeEngineOptions(flags.runtime, launch);
    options.prefill_sparsity = setting.prefill;
    options.decode_sparsity = setting.decode;
    options.sessions = 1;
    options.questions = setting.decode.on() ? 1 : kTogether;
    options.max_session_tokens = most;
    options.kv_tokens = longest + (options.questions + 1) * room;
    options.append_logits = inside && !setting.decode.on();
    absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, runtime);
    if (!engine.ok()) return engine.status();
    if (!runtime.leader()) {
      (*engine)->Follow();
      continue;
    }
    Progress progress(setting.name, "documents", false);
    absl::StatusOr<Found> found = Judge(*cases, **engine, options.append_logits, progress);
    progress.Done();
    if (!found.ok()) return found.status();
    if (!dense.has_value()) dense = *found;
    rows.push_back(RowOf(setting, *found, *dense));
    if (!flags.json) Print(rows.back());
    if (rows.size() == 1) {
      rows.back()["kv"] = Name((*engine)->kv_format());
      rows.back()["attention"] = Name((*engine)->attention());
      rows.back()["retrieval_heads"] = (*engine)->heads().retrieval_heads();
      rows.back()["streaming_heads"] = (*engine)->heads().streaming_heads();
    }
  }
  if (flags.json && runtime.leader()) {
    const Json out = {{"bench", "recall"},  {"model", flags.runtime.model},          {"documents", flags.questions},
                      {"longest", longest}, {"device", runtime.device->info().name}, {"world", runtime.comm->size()},
                      {"rows", rows}};
    std::printf("%s\n", out.dump(1).c_str());
  }
  return absl::OkStatus();
}

}  // namespace duo
