// What a GGUF file says of its model, in the words of a Hugging Face folder: the texts of config.json, tokenizer.json
// and tokenizer_config.json. Why: whatever reads a folder then reads a file too, and both are checked in one place. The
// keys are those that llama.cpp's converters write. Pure functions of an open file, any thread. Errors: a Status that
// names the file and the key.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/gguf/gguf_file.h"

namespace duo {

// config.json. Architectures: llama (Mistral's models, too, are that), qwen2, qwen3; others are refused by name. What a
// config.json has no key for, tensors say: see GgufTensorNames.
absl::StatusOr<std::string> GgufConfigJson(const GgufFile& file);

// tokenizer.json, of byte-level BPE (tokenizer.ggml.model gpt2) and of SentencePiece's BPE (llama). How text is split
// (tokenizer.ggml.pre) is a name, whose regular expression is looked up; unknown names are refused.
absl::StatusOr<std::string> GgufTokenizerJson(const GgufFile& file);

// tokenizer_config.json: the chat templates and the special tokens.
absl::StatusOr<std::string> GgufTokenizerConfigJson(const GgufFile& file);

// The name that a folder has for a tensor, "model.layers.3.self_attn.k_proj.weight" for "blk.3.attn_k.weight"; empty
// for a name that is not a decoder's.
std::string FolderTensorName(std::string_view name);

// Whether the converter put the rows of q and k in pairs for interleaved RoPE. Only llama's does.
bool HasPairedRows(const GgufFile& file);

// A vector of divisors of RoPE's frequencies, [head_dim / 2] f32, that some models bring.
inline constexpr char kGgufRopeFreqs[] = "rope_freqs.weight";

}  // namespace duo
