#include "launcher/identify/identify_inputs.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/str_format.h"
#include "kernels/base/read_file.h"
#include "runtime/text/tokenizer_folder.h"

namespace duo {
namespace {

constexpr size_t kSystemText = 4 << 20;  // bytes of the default haystack at most

}  // namespace

std::string FolderName(const std::string& dir) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::weakly_canonical(dir, error);
  if (error) path = dir;
  return path.filename().empty() ? path.parent_path().filename().string() : path.filename().string();
}

absl::StatusOr<IdentifyInputs> ReadIdentifyInputs(const IdentifyFlags& flags) {
  IdentifyInputs inputs;
  const std::string& dir = flags.runtime.model;
  absl::StatusOr<ModelConfig> config = LoadConfig(dir);
  if (!config.ok()) return config.status();
  inputs.config = *config;
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(dir, config->vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  inputs.tokenizer = *tokenizer;
  absl::StatusOr<ChatTemplate> chat = ChatTemplateFor(dir);
  if (chat.ok()) {
    if (absl::Status runs = chat->status(); !runs.ok()) return runs;
    inputs.chat = *chat;
  } else if (!absl::IsNotFound(chat.status())) {
    return chat.status();
  }
  const std::string& file = flags.key_means.empty() ? flags.haystack : flags.key_means;
  absl::StatusOr<std::string> text =
      file.empty() ? absl::StatusOr<std::string>(SystemText(kSystemText)) : ReadFile(file);
  if (!text.ok()) return text.status();
  if (text->empty()) {
    return absl::NotFoundError(
        "no text in /usr/share/common-licenses or /usr/share/perl/*/pod to hide facts in; give one with --haystack "
        "FILE");
  }
  inputs.haystack = *text;
  absl::StatusOr<std::vector<int>> stops = StopTokens(dir, *config);
  if (!stops.ok()) return stops.status();
  inputs.end_tokens.assign(stops->begin(), stops->end());
  if (inputs.chat.has_value()) {
    if (std::optional<int32_t> id = inputs.chat->EndOfTurn(inputs.tokenizer)) inputs.end_tokens.push_back(*id);
  }
  inputs.name = FolderName(dir);
  return inputs;
}

absl::StatusOr<PasskeyData> MakePasskeyData(const IdentifyFlags& flags, const IdentifyInputs& inputs, RecallTask task,
                                            int words) {
  PasskeyOptions options;
  options.task = task;
  options.facts = flags.facts;
  options.words = words;
  return PasskeyData::Create(inputs.tokenizer, inputs.chat, inputs.haystack, options);
}

absl::StatusOr<DocumentLengths> ChooseDocumentLengths(const IdentifyFlags& flags, const IdentifyInputs& inputs,
                                                      const PasskeyData& data, bool cuda) {
  const int64_t opening = 64, room = MaxPlainPositions(inputs.config) - data.max_question_tokens() - opening;
  DocumentLengths lengths;
  lengths.most = flags.max_length > 0 ? flags.max_length : std::min<int64_t>(cuda ? 32000 : 2000, room);
  lengths.least = flags.min_length > 0 ? flags.min_length
                                       : std::min(std::max<int64_t>(1000, data.min_document_tokens()), lengths.most);
  if (lengths.most > room) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--max-length %d: with its questions a document of this model may have %d tokens at most", lengths.most, room));
  }
  if (lengths.least > lengths.most || lengths.least < data.min_document_tokens()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("documents of %d to %d tokens: expected --min-length <= --max-length and at least %d tokens, "
                        "which %d facts and as much text take (fewer with --facts or --words)",
                        lengths.least, lengths.most, data.min_document_tokens(), data.options().facts));
  }
  return lengths;
}

}  // namespace duo
