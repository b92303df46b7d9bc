// What `duo identify` works on: what its flags name, and the documents that follow from both. Every rank reads
// for itself, so the files must be visible to each. Errors name the file or the flag. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/identify/identify_flags.h"
#include "runtime/identify/passkey_data.h"
#include "runtime/weights/config.h"

namespace duo {

struct IdentifyInputs {
  ModelConfig config;
  Tokenizer tokenizer;
  std::optional<ChatTemplate> chat;
  std::string haystack;  // or the text of --key-means
  std::vector<int32_t> end_tokens;
  std::string name;  // the model folder's
};

// A path's last name, links and a trailing slash resolved.
std::string FolderName(const std::string& dir);

absl::StatusOr<IdentifyInputs> ReadIdentifyInputs(const IdentifyFlags& flags);

// words: of a passkey.
absl::StatusOr<PasskeyData> MakePasskeyData(const IdentifyFlags& flags, const IdentifyInputs& inputs, RecallTask task,
                                            int words);

// The documents' lengths: as asked, else as long as the device is good for and the model's positions allow.
struct DocumentLengths {
  int64_t least = 0, most = 0;
};
absl::StatusOr<DocumentLengths> ChooseDocumentLengths(const IdentifyFlags& flags, const IdentifyInputs& inputs,
                                                      const PasskeyData& data, bool cuda);

}  // namespace duo
