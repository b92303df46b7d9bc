// `duo client VERB`: every call of the service from the command line.

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "launcher/client/client.h"
#include "launcher/client/server_flags.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/runtime_flags.h"

namespace duo {
namespace {

struct ClientFlags {
  ServerFlags server;
  VerbOptions verb;
};

int RunVerb(const ClientFlags& flags) {
  const absl::StatusOr<ClientOptions> options = OptionsOf(flags.server);
  if (!options.ok()) return Fail(options.status());
  const absl::Status status = WithAdvice(RunClient(*options, flags.verb), *options);
  if (status.ok()) return 0;
  return Fail(
      absl::Status(status.code(), absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message())));
}

// What every verb has: the server, who calls, and what becomes of its answer.
struct VerbMaker {
  CLI::App* client;
  std::shared_ptr<ClientFlags> flags;
  Launch* launch;

  CLI::App* operator()(const char* name, const char* help, Verb which, const char* example) const {
    ClientOptions& c = flags->server.options;
    CLI::App* command = client->add_subcommand(name, help);
    command->footer(std::string("Example:\n  duo client ") + example);
    AddServerFlags(*command, flags->server);
    command->add_option("--timeout", c.timeout, "Seconds that the call may take; 0: no limit")
        ->check(ZeroOrMore())
        ->capture_default_str();
    command->add_flag("--json", c.json, "Print the answer as one JSON object");
    command->callback([flags = flags, which, launch = launch] {
      flags->verb.verb = which;
      launch->chosen = [flags] { return RunVerb(*flags); };
    });
    return command;
  }
};

void AddSession(CLI::App* command, VerbOptions& v) {
  command->add_option("session", v.session, "The session's id")->required()->type_name("ID");
}

// One of two options has to be there; `both` names them.
void NeedOneOf(CLI::App* command, CLI::Option* one, CLI::Option* other, const char* both) {
  command->parse_complete_callback([one, other, both] {
    if (one->count() + other->count() == 0) throw CLI::RequiredError(both);
  });
}

void AddReadingVerbs(const VerbMaker& verb, VerbOptions& v) {
  CLI::App* create = verb("create", "Open an empty session", Verb::kCreate, "create book --max-tokens 200000");
  create->add_option("session", v.session, "Its id; made by the server if not given")->type_name("ID");
  create->add_option("--max-tokens", v.max_tokens, "It may hold so many tokens; 0: the server's limit")
      ->transform(TokensWithUnit(true));
  create
      ->add_option(
          "--reserved-tokens", v.reserved_tokens,
          "Room that it has from the start, whatever others do; 0: appends and kept questions take theirs when "
          "they come")
      ->transform(TokensWithUnit(true));
  create->add_flag("--durable", v.durable, "Appends write checkpoints");
  create->add_flag("--chat", v.chat, "A conversation: the model's chat template is around what is appended and asked");
  create->add_option("--system", v.system, "A conversation with this system turn")->type_name("TEXT");

  CLI::App* append = verb("append", "Add a document to a session", Verb::kAppend, "append book --file book.txt");
  AddSession(append, v);
  auto* file = append->add_option("--file", v.file, "The document; - reads stdin")->type_name("FILE");
  auto* written = append->add_option("--text", v.text, "Or its text")->type_name("TEXT")->excludes(file);
  NeedOneOf(append, file, written, "--file or --text");
  append->add_option("--append-id", v.append_id, "Names the append, so that it can be repeated safely")
      ->type_name("ID");
  append->add_option("--retries", v.retries, "Times that a broken append is taken up again")
      ->check(ZeroOrMore())
      ->capture_default_str();
  append->add_flag("--wait", v.wait,
                   "Try for a while also where no server answers yet, as one that still loads its model");
  append->add_flag("--special", v.special, "Read the text of special tokens as those tokens");
  auto* seam =
      append->add_flag("--seam", v.seam, "A text of its own, tokenised without what is before it and what comes after");
  append->add_flag("--chat", v.chat, "Make the session, which is empty, a conversation, as create --chat")
      ->excludes(seam);

  CLI::App* ask = verb("ask", "Ask a question; the answer is printed as it comes", Verb::kAsk,
                       "ask book $'\\nQuestion: Who is the narrator?\\nAnswer: ' --stop $'\\n'");
  AddSession(ask, v);
  auto* question = ask->add_option("text", v.text, "The question, as the model is to see it")->type_name("TEXT");
  auto* asked = ask->add_option("--file", v.file, "Or a file with it; - reads stdin")->type_name("FILE");
  asked->excludes(question);
  NeedOneOf(ask, question, asked, "a question or --file");
  ask->add_option("--max-new-tokens", v.max_new_tokens, "Length of the answer at most")
      ->transform(TokensWithUnit(true))
      ->capture_default_str();
  ask->add_option("--stop", v.stops, "The answer ends before this text; repeat for more")
      ->type_name("TEXT")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->expected(1)
      ->allow_extra_args(false);
  ask->add_option("--temperature", v.temperature, "0: the likeliest token always")
      ->check(ZeroOrMore())
      ->capture_default_str();
  ask->add_option("--top-p", v.top_p, "Draw from the likeliest tokens that make up this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  ask->add_option("--seed", v.seed, "Of drawing")->capture_default_str();
  AddSamplingFlags(*ask, v.sampling);
  ask->add_option("--sources", v.sources,
                  "Name the so many sentences of the session's text at which the model looked most; the server needs "
                  "--sources")
      ->type_name("N")
      ->check(CLI::Range(1, 1000));
  ask->add_flag("--keep", v.keep, "Question and answer become part of the session");
  ask->add_flag("--special", v.special, "Read the text of special tokens as those tokens");
  ask->add_flag("--seam", v.seam, "A text of its own, tokenised without what is before it");
}

void AddSessionVerbs(const VerbMaker& verb, VerbOptions& v) {
  CLI::App* fork = verb("fork", "Make a session with the same content", Verb::kFork, "fork book draft");
  AddSession(fork, v);
  fork->add_option("new", v.new_id, "Its id; made by the server if not given")->type_name("ID");
  fork->add_option("--max-tokens", v.max_tokens, "It may hold so many tokens; 0: as the session's")
      ->transform(TokensWithUnit(true));
  fork->add_option("--reserved-tokens", v.reserved_tokens, "As of create")->transform(TokensWithUnit(true));

  CLI::App* rewind = verb("rewind", "Cut a session to its first tokens", Verb::kRewind, "rewind book 1000");
  AddSession(rewind, v);
  rewind->add_option("tokens", v.tokens, "How many it keeps")->required()->transform(TokensWithUnit(true));

  AddSession(verb("save", "Write a session to the server's save directory", Verb::kSave, "save book"), v);
  CLI::App* restore = verb("restore", "Open a saved session", Verb::kRestore, "restore book --as again");
  AddSession(restore, v);
  restore->add_option("--as", v.new_id, "Another id for it")->type_name("ID");
  restore->add_option("--max-tokens", v.max_tokens, "It may hold so many tokens; 0: as saved")
      ->transform(TokensWithUnit(true));
  restore->add_flag("--reread", v.reread,
                    "Read it again from its tokens: for sessions of another model, KV format or format version");

  verb("list", "All sessions, open and saved", Verb::kList, "list");
  AddSession(verb("get", "One session", Verb::kGet, "get book"), v);
  CLI::App* pin = verb("pin", "Keep a session in the KV cache however long it is idle (duo serve --idle-out)",
                       Verb::kPin, "pin book");
  AddSession(pin, v);
  pin->add_flag("--off", v.off, "No more");
  CLI::App* close = verb("close", "End a session", Verb::kClose, "close book");
  AddSession(close, v);
  close->add_flag("--delete-saved", v.delete_saved, "Also delete what is saved of it");
}

void AddServerVerbs(const VerbMaker& verb, VerbOptions& v) {
  CLI::App* tokenize =
      verb("tokenize", "Text to token ids, one a line", Verb::kTokenize, "tokenize 'How many tokens is this?'");
  auto* words = tokenize->add_option("text", v.text, "The text")->type_name("TEXT");
  auto* of_file = tokenize->add_option("--file", v.file, "Or a file with it; - reads stdin")->type_name("FILE");
  of_file->excludes(words);
  NeedOneOf(tokenize, words, of_file, "a text or --file");
  tokenize->add_flag("--special", v.special, "Read the text of special tokens as those tokens");

  verb("plan", "What the server runs and where it lives", Verb::kPlan, "plan");
  verb("stats", "The server's counters", Verb::kStats, "stats");
  verb("drain", "Finish what runs, save every session, end the server", Verb::kDrain, "drain --grace 60")
      ->add_option("--grace", v.grace, "Seconds that running questions get; 0: the server's --grace")
      ->check(ZeroOrMore());
}

}  // namespace

void AddClientCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<ClientFlags>();
  CLI::App* client = app.add_subcommand("client", "Talk to `duo serve`");
  client->require_subcommand(1);
  client->footer(
      "Example, a document and three questions:\n"
      "  duo client create book --max-tokens 200000\n"
      "  duo client append book --file book.txt\n"
      "  duo client ask book $'\\nQuestion: Who is the narrator?\\nAnswer: ' --stop $'\\n'\n"
      "  duo client ask book $'\\nQuestion: Where does it begin?\\nAnswer: ' --stop $'\\n'\n"
      "  duo client ask book $'\\nQuestion: How does it end?\\nAnswer: ' --stop $'\\n'\n"
      "  duo client close book\n"
      "Help on one of them: duo client SUBCOMMAND --help");

  const VerbMaker verb{client, flags, &launch};
  AddReadingVerbs(verb, flags->verb);
  AddSessionVerbs(verb, flags->verb);
  AddServerVerbs(verb, flags->verb);
}

}  // namespace duo
