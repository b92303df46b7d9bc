// SessionManifest: everything about a saved session but its bytes, and its file. A plain value; reading trusts nothing.
// The file is JSON and a last line "crc32c XXXXXXXX" over all bytes before it. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/kv/kv_io.h"

namespace duo {

constexpr int kSessionFormatVersion = 2;  // 1: int4 keys were not rotated by kernels/hadamard.h

// An append that the session was in the middle of, or has last finished, as far as retries need it.
struct SavedAppend {
  std::string id;
  int64_t received_bytes = 0;
  int64_t start = 0;  // tokens of the session before it
  int64_t total = 0;  // its tokens
  bool done = false;
  std::vector<int32_t> tokens;  // [total] unless done; in a file of its own
};

struct SavedFile {
  std::string name;  // without directory
  int64_t bytes = 0;
  uint32_t crc = 0;
};

struct SessionManifest {
  int version = kSessionFormatVersion;
  int generation = 1;  // of page files; a save that shares nothing with the older one begins a new one
  int64_t serial = 0;  // of saves
  int64_t tokens = 0, max_tokens = 0;
  bool durable = false, open = false;

  std::string fingerprint;  // of the model
  std::string kv_format;    // "bf16", ..
  int layers = 0, kv_heads = 0, head_dim = 0, sink = 0, recent = 0;
  std::string retrieval;  // [layers * kv_heads] of 0 and 1

  std::vector<KvSection> sections;
  bool rings_valid = true;  // the rings are those of `tokens`; otherwise only their sinks count
  std::string rings_file;   // empty without streaming heads
  std::vector<KvRingSection> rings;
  SavedFile token_file;
  std::optional<SavedAppend> append;
  SavedFile append_file;  // the append's tokens, when it is not done
  int64_t bytes = 0;      // on disk
};

std::string FormatManifest(const SessionManifest& manifest);
// `file` is what errors call it.
absl::StatusOr<SessionManifest> ParseManifest(std::string_view text, const std::string& file);

}  // namespace duo
