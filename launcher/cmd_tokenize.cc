// `duo tokenize`: a text, or a conversation in the model's chat template, as the model will see it.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "launcher/generate_texts.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/runtime_flags.h"
#include "launcher/text_flags.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

struct TokenizeFlags {
  std::string model;
  TextFlags text;
  bool ids = false, json = false, count = false;
};

// A token's own text where it is one, else as the vocabulary spells it.
std::string Readable(const Tokenizer& tokenizer, int32_t id) {
  const std::string text = tokenizer.Decode({&id, 1}, /*skip_special=*/false);
  return text.empty() || text.find("\xEF\xBF\xBD") != std::string::npos ? std::string(tokenizer.TextOf(id)) : text;
}

// The tokens' text, special tokens in brackets that no template writes.
std::string Marked(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string out;
  StreamDecoder decoder(tokenizer, /*skip_special=*/false);
  for (const int32_t id : ids) {
    if (tokenizer.is_special(id)) {
      absl::StrAppend(&out, decoder.Flush(), "\u27E6", std::string(tokenizer.TextOf(id)), "\u27E7");
    } else {
      out += decoder.Push(id);
    }
  }
  return out + decoder.Flush();
}

std::string Escaped(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int RunTokenize(const TokenizeFlags& flags, const Launch& launch) {
  if (launch.rank != 0) return 0;  // reads files only: under mpirun one rank does
  const absl::StatusOr<Texts> texts = EncodeTexts(flags.model, flags.text);
  if (!texts.ok()) return Fail(texts.status());
  const absl::StatusOr<ModelConfig> config = LoadConfig(flags.model);
  if (!config.ok()) return Fail(config.status());
  const std::vector<int32_t>& ids = texts->prompt;
  if (flags.json) {
    std::vector<std::string> pieces;
    std::vector<bool> special;
    for (const int32_t id : ids) {
      pieces.push_back(std::string(texts->tokenizer.TextOf(id)));
      special.push_back(texts->tokenizer.is_special(id));
    }
    nlohmann::ordered_json out;
    out["tokens"] = ids.size();
    out["positions"] = MaxPositions(*config);
    out["text"] = texts->rendered;
    if (!flags.count) {
      out["ids"] = ids;
      out["pieces"] = pieces;
      out["special"] = special;
    }
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else if (flags.count) {
    std::printf("%d\n", static_cast<int>(ids.size()));
  } else if (flags.ids) {
    std::printf("%s\n", absl::StrJoin(ids, " ").c_str());
  } else {
    std::printf("%s\n\n", Marked(texts->tokenizer, ids).c_str());
    for (const int32_t id : ids) std::printf("%7d  %s\n", id, Escaped(Readable(texts->tokenizer, id)).c_str());
  }
  std::fflush(stdout);
  const int64_t positions = MaxPositions(*config), tokens = static_cast<int64_t>(ids.size());
  std::fprintf(stderr, "%s tokens of %s bytes; the model has %s positions: %s\n", Grouped(tokens).c_str(),
               Grouped(static_cast<int64_t>(texts->rendered.size())).c_str(), Grouped(positions).c_str(),
               tokens < positions ? "it fits" : "it does not fit");
  return 0;
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens that a text or a conversation becomes");
  command->footer(
      "Examples:\n"
      "  duo tokenize --model DIR --text 'Once upon a time'\n"
      "  duo tokenize --model DIR --file book.txt --count\n"
      "  duo tokenize --model DIR --messages talk.json --json");
  command->add_option("--model", flags->model, "Model: a folder or a .gguf file")->type_name("PATH")->required();
  auto* text = command->add_option("--text", flags->text.prompt, "The text")->type_name("TEXT");
  auto* file =
      command->add_option("--file", flags->text.prompt_file, "Or a file of text; -: standard input")->type_name("FILE");
  auto* messages = AddMessagesFlag(*command, flags->text);
  text->excludes(file)->excludes(messages);
  file->excludes(messages);
  command->add_flag("--chat", flags->text.chat, "The text is a user turn of the model's chat template");
  command->add_flag("--special", flags->text.special, "Read the text of special tokens as those tokens");
  AddTemplateArgFlag(*command, flags->text);
  auto* ids = command->add_flag("--ids", flags->ids, "Print the ids alone, on one line");
  auto* json = command->add_flag("--json", flags->json, "Print one JSON object: ids, pieces, text");
  command->add_flag("--count", flags->count, "Print the number of tokens alone")->excludes(ids);
  ids->excludes(json);
  command->callback([flags, text, file, messages, &launch] {
    if (text->count() + file->count() + messages->count() == 0)
      throw CLI::RequiredError("--text, --file or --messages");
    launch.chosen = [flags, &launch] { return RunTokenize(*flags, launch); };
  });
}

}  // namespace duo
