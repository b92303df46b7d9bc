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

// config.json. Architectures: llama (Mistral's and Mixtral's models, too, are that), qwen2, qwen3, qwen2moe, qwen3moe,
// gpt-oss; others are refused by name. What a config.json has no key for, tensors say.
absl::StatusOr<std::string> GgufConfigJson(const GgufFile& file);

// tokenizer.json, of byte-level BPE (tokenizer.ggml.model gpt2) and of SentencePiece's BPE (llama). How text is split
// (tokenizer.ggml.pre) is a name, whose regular expression is looked up; unknown names are refused.
absl::StatusOr<std::string> GgufTokenizerJson(const GgufFile& file);

// tokenizer_config.json: the chat templates and the special tokens.
absl::StatusOr<std::string> GgufTokenizerConfigJson(const GgufFile& file);

// The model_type that config.json has; empty where the architecture is none of these.
std::string GgufModelType(const GgufFile& file);

// The tensor of a folder that one of a file is, or holds.
struct FolderTensor {
  std::string name;          // "model.layers.3.self_attn.k_proj.weight" for "blk.3.attn_k.weight"; empty: none has it
  bool each_expert = false;  // it holds a layer's experts one after the other; {} in `name` stands for one's number
};
// model_type: GgufModelType; llama's windowed models ("mistral") have llama's names.
FolderTensor FolderTensorOf(std::string_view name, std::string_view model_type);

// Whether the converter put the rows of q and k in pairs for interleaved RoPE. Only llama's does.
bool HasPairedRows(const GgufFile& file);

// A vector of divisors of RoPE's frequencies, [head_dim / 2] f32, that some models bring.
inline constexpr char kGgufRopeFreqs[] = "rope_freqs.weight";

}  // namespace duo
