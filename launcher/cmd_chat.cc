// `duo chat`: a conversation with a model in the terminal, or with lines of standard input.

#include "launcher/cmd_chat.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "launcher/chat/chat_session.h"
#include "launcher/chat/served_chat.h"
#include "launcher/client/interrupt.h"
#include "launcher/client/server_flags.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/prompt_file.h"
#include "launcher/terminal/runtime_checks.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

struct ChatFlags {
  RuntimeFlags runtime;
  ChatOptions chat;
  std::string system, document;
  int64_t max_tokens = 32768;
  ServerFlags server;  // instead of a model in this process
  std::string session;
};

constexpr int64_t kSlack = 1024;  // tokens of pages that are not full
constexpr char kCommands[] =
    "/file FILE    ask about a text: it becomes the beginning of your next turn\n"
    "/system TEXT  what the model is told before everything; without TEXT its template's own\n"
    "/undo         takes your last turn and its answer back (with --server: the last one alone)\n"
    "/new          begins again\n"
    "/save FILE    writes the conversation as JSON, which `duo generate --messages` takes\n"
    "/quit         ends; so does the end of input\n"
    "Ctrl-C stops an answer. Whatever else begins with a slash is sent with two of them.\n";

// Session: ChatSession or ServedChat.
template <typename Session>
class Chat {
 public:
  Chat(Session& session, Interrupt& interrupt) : session_(session), interrupt_(interrupt) {
    terminal_ = isatty(STDIN_FILENO) != 0;
  }

  int Run(const std::string& document) {
    if (!document.empty()) AddFile(document);
    if (terminal_) std::fprintf(stderr, "/help says what there is besides questions.\n");
    std::string line;
    while (Read(line)) {
      if (line == "/quit") break;
      if (line.empty()) continue;
      if (line.compare(0, 2, "//") == 0) {
        Say(line.substr(1));
      } else if (line[0] == '/') {
        Command(line);
      } else {
        Say(line);
      }
    }
    return 0;
  }

 private:
  bool Read(std::string& line) {
    if (terminal_) std::fprintf(stderr, "> ");
    return static_cast<bool>(std::getline(std::cin, line));
  }

  void Command(const std::string& line) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, space), rest = line.substr(std::min(space + 1, line.size()));
    if (name == "/file" && !rest.empty()) return AddFile(rest);
    if (name == "/system") {
      session_.SetSystem(rest);
      return session_.system_waits() ? Tell("from /new on: the server's conversation has begun with another") : void();
    }
    if (name == "/undo") return Undo();
    if (name == "/new") {
      document_.clear();
      const absl::Status begun = session_.Clear();
      return begun.ok() ? void() : Tell(std::string(begun.message()));
    }
    if (name == "/save" && !rest.empty()) return Save(rest);
    if (name != "/help") Tell("no such command");
    std::fputs(kCommands, stderr);
  }

  void Undo() {
    const absl::StatusOr<bool> undone = session_.Undo();
    if (!undone.ok()) return Tell(std::string(undone.status().message()));
    if (!*undone) Tell("there is nothing to take back");
  }

  static void Tell(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

  void AddFile(const std::string& file) {
    absl::StatusOr<std::string> text = ReadTextFile(file);
    if (!text.ok()) return Tell(std::string(text.status().message()));
    document_ += *text + "\n\n";
  }

  void Save(const std::string& file) {
    nlohmann::ordered_json turns = nlohmann::ordered_json::array();
    for (const Message& turn : session_.turns()) turns.push_back({{"role", turn.role}, {"content", turn.content}});
    std::ofstream out(file);
    out << turns.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
    if (!out.flush()) Tell("cannot write " + file);
  }

  void Say(const std::string& text) {
    stopped_ = false;
    interrupt_.Tell([this] { stopped_ = true; });
    Progress progress("reading", "tokens", false);
    ChatListener listener;
    listener.on_read = [&](int64_t done, int64_t total) { progress.Update(done, total); };
    listener.on_text = [&](const std::string& piece) {
      progress.Done();
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    listener.stopped = [this] { return stopped_.load(); };
    listener.when_stopped = [this](std::function<void()> stop) {
      if (!stop) return interrupt_.Tell(nullptr);
      interrupt_.Tell([this, stop = std::move(stop)] {
        stopped_ = true;
        stop();
      });
    };
    const absl::StatusOr<ChatAnswer> answer = session_.Say(document_ + text, listener);
    progress.Done();
    interrupt_.Tell(nullptr);
    if (!answer.ok())
      return Tell(absl::IsCancelled(answer.status()) ? "stopped; your turn is taken back"
                                                     : std::string(answer.status().message()));
    document_.clear();
    std::printf("\n");
    std::fflush(stdout);
    if (answer->stopped) Tell("stopped");
  }

  Session& session_;
  Interrupt& interrupt_;
  std::atomic<bool> stopped_{false};
  std::string document_;  // what the next turn begins with
  bool terminal_ = false;
};

int RunChat(const ChatFlags& flags, const Launch& launch) {
  Interrupt interrupt;  // before other threads are made
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return Fail(config.status(), runtime->leader());
  EngineOptions options = MakeEngineOptions(flags.runtime, launch);
  options.sessions = options.questions = 1;
  options.max_session_tokens = std::min(flags.max_tokens, MaxPositions(*config));
  options.kv_tokens = options.max_session_tokens + kSlack;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, *runtime);
  if (!engine.ok()) return Fail(engine.status(), runtime->leader());
  if (!runtime->leader()) {
    (*engine)->Follow();
    return 0;
  }
  const absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(flags.runtime.model, (*engine)->config().vocab);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  const absl::StatusOr<ChatTemplate> chat = ChatTemplateFor(flags.runtime.model);
  if (!chat.ok()) return Fail(chat.status());
  if (absl::Status s = chat->status(); !s.ok()) return Fail(s);
  const absl::StatusOr<std::vector<int>> stops = StopTokens(flags.runtime.model, (*engine)->config());
  if (!stops.ok()) return Fail(stops.status());
  ChatOptions chat_options = flags.chat;
  chat_options.end_tokens.assign(stops->begin(), stops->end());
  if (const std::optional<int32_t> token = chat->EndOfTurn(*tokenizer)) chat_options.end_tokens.push_back(*token);
  ChatSession session(**engine, *tokenizer, *chat, std::move(chat_options));
  if (absl::Status s = session.Open(options.max_session_tokens); !s.ok()) return Fail(s);
  session.SetSystem(flags.system);
  return Chat(session, interrupt).Run(flags.document);
}

int RunServedChat(const ChatFlags& flags) {
  Interrupt interrupt;  // before gRPC's threads are made
  absl::StatusOr<ClientOptions> server = OptionsOf(flags.server);
  if (!server.ok()) return Fail(server.status());
  ServedChat session(*server, flags.session, flags.chat);
  session.SetSystem(flags.system);
  if (absl::Status s = session.Open(); !s.ok()) return Fail(WithAdvice(s, *server));
  return Chat(session, interrupt).Run(flags.document);
}

// A model or a server, and the flags of that one alone: those of the other would be without effect.
void CheckChatFlags(const CLI::App& command, const std::vector<const CLI::Option*>& of_model) {
  const bool served = command.count("--server") > 0;
  if (!served && command.count("--model") == 0) throw CLI::RequiredError("--model or --server");
  if (served && command.count("--model") > 0) throw CLI::ExcludesError("--server", "--model");
  for (const char* flag : {"--session", "--tls-ca", "--tls-cert", "--tls-key", "--token-file"}) {
    if (!served && command.count(flag) > 0) throw CLI::RequiresError(flag, "--server");
  }
  for (const CLI::Option* option : of_model) {
    if (!served || option->count() == 0) continue;
    throw CLI::ValidationError(option->get_name(),
                               "is of a model in this process; with --server the server's own flags say how it runs");
  }
}

}  // namespace

void AddChatCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Talk to an instruct model in the terminal");
  command->footer(
      std::string("Examples:\n"
                  "  duo chat --model DIR\n"
                  "  duo chat --model DIR --file report.txt --system 'Answer in one sentence.'\n"
                  "  duo chat --server HOST:PORT --session notes      # of a `duo serve`; goes on where it was left\n"
                  "In the conversation:\n") +
      kCommands);
  AddRuntimeFlags(*command, flags->runtime, /*model_required=*/false);
  AddSpeculateFlag(*command, flags->runtime);
  std::vector<const CLI::Option*> of_model;
  for (const CLI::Option* option : command->get_options()) {
    if (option != command->get_help_ptr()) of_model.push_back(option);
  }
  command->add_option("--file", flags->document, "A text that the first turn begins with")->type_name("FILE");
  command->add_option("--system", flags->system, "The system turn (default: the template's own)")->type_name("TEXT");
  command->add_option("--max-tokens", flags->max_tokens, "Length of the conversation at most")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(int64_t{128}, int64_t{1} << 31))
      ->capture_default_str();
  command->add_option("--max-new-tokens", flags->chat.max_new_tokens, "Length of an answer at most")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->capture_default_str();
  command->add_option("--temperature", flags->chat.temperature, "0: the most likely token; above: sampling")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", flags->chat.top_p, "Sample from the most likely tokens of this probability")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command->add_option("--seed", flags->chat.seed, "Draws with the same seed are the same")->capture_default_str();
  of_model.push_back(command->get_option("--max-tokens"));
  AddServerFlags(*command, flags->server);
  command->get_option("--server")
      ->description("Talk to the model of this `duo serve` instead of one in this process")
      ->default_str("");  // without the flag there is no server
  command
      ->add_option(
          "--session", flags->session,
          "The conversation's session there, which stays; one that is there goes on (default: a new one, which "
          "ends with the conversation)")
      ->type_name("ID");
  command->callback([flags, command, of_model, &launch] {
    CheckChatFlags(*command, of_model);
    CheckRuntimeFlags(flags->runtime, launch);
    launch.chosen = [flags, command, &launch] {
      return command->count("--server") > 0 ? RunServedChat(*flags) : RunChat(*flags, launch);
    };
  });
}

}  // namespace duo
