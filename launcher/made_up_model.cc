#include "launcher/made_up_model.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

// How byte-level tokenizers write a byte: as itself where it is printable Latin-1, the others as the characters from
// U+0100 on, in order.
std::string Written(int byte, int* next) {
  const bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  std::string text;
  AppendUtf8(itself ? byte : 0x100 + (*next)++, &text);
  return text;
}

}  // namespace

absl::StatusOr<ProbeOptions> MadeUpModel(const RuntimeFlags& flags, const Launch& launch, const std::string& shape) {
  BenchFlags made;
  made.runtime = flags;
  made.shape = shape;
  absl::StatusOr<ProbeOptions> options = BenchEngine(made, launch, flags.attention == "full" ? "full" : "duo", 0);
  if (options.ok()) options->model_dir = absl::StrCat("random weights of ", shape);
  return options;
}

absl::StatusOr<Tokenizer> MadeUpTokenizer(int64_t vocab) {
  nlohmann::json words = nlohmann::json::object();
  int next = 0;
  for (int byte = 0; byte < 256; ++byte) words[Written(byte, &next)] = byte;
  for (int64_t id = 256; id < vocab; ++id) words[absl::StrCat("\u0120w", id)] = id;
  const nlohmann::json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const nlohmann::json file = {{"version", "1.0"},
                               {"added_tokens", nlohmann::json::array()},
                               {"pre_tokenizer", bytes},
                               {"decoder", bytes},
                               {"model", {{"type", "BPE"}, {"vocab", words}, {"merges", nlohmann::json::array()}}}};
  return Tokenizer::Parse(file.dump(), "the made-up tokenizer");
}

}  // namespace duo
