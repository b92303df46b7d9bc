// A golden: what Hugging Face transformers computed for one small model, and that model rebuilt on disk.
//
// tests/golden/models/NAME.json, written by make_goldens.py, holds no weights: every tensor follows from a counter.
// Element i takes u = the top byte of splitmix64(fnv1a64(tensor name) + i) and is (2u - 255) * 2^-exponent, or, in a
// norm's weight (exponent null), (192 + u % 64) / 256, or, in a tensor with "bytes" [first, spread], first + u %
// spread. That is eight significant bits: exact in bf16, f16 and f32. From element "zero_from" on, where a tensor has
// that, it is 0. A tensor with "e4m3" has the codes u, a NaN's with its bit 6 turned, and one with "scale" has
// (192 + u % 64) / 256 * 2^-scale in f32.
//
// Plain values; any thread. What is wrong with a golden file is a bug in the tests: a CHECK.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace duo {

struct GoldenRun {
  std::vector<float> logits;    // [vocab], of the prompt's last token
  std::vector<int32_t> greedy;  // tokens
  std::vector<float> leads;     // of the best logit over the second at each of them
  float bf16_error = 0;         // largest difference of a plain bf16 run to f32, over the logits of all these steps

  float tolerance() const { return 2 * bf16_error; }
};

struct Golden {
  std::string name;
  std::string model_dir;           // with `pattern_dir`, inside the folder that LoadGolden was given, or the demo model
  std::string pattern_dir;         // the heads of `duo`, as gates of 0 and 1
  std::vector<int32_t> prompt;     // token ids
  std::vector<uint8_t> retrieval;  // [layers][kv_heads], of the duo run
  int sink = 0;
  int recent = 0;
  GoldenRun full, duo;
};

// Names of the goldens in the source tree, ascending.
std::vector<std::string> GoldenNames();

// Reads the golden and writes its model (unless it is one of the source tree's) and its pattern below `scratch`.
Golden LoadGolden(const std::string& name, const std::string& scratch);

// Every token of its model, where that is a mixture of experts, goes through all of them.
void ChooseAllExperts(const Golden& golden);

// More positions for its model than transformers was asked about: plain RoPE has no end.
void GivePositions(const Golden& golden, int64_t positions);

}  // namespace duo
