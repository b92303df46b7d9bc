// SessionManifest: everything about a saved session but its bytes, and its file. A plain value; reading trusts nothing:
// what is accepted names only files of the store's form, and its numbers fit each other. Any thread.
//
// The file is JSON and a last line "crc32c XXXXXXXX" over all bytes before it. Format versions:
//   1  int4 keys were not rotated by kernels/hadamard.h: the session can only be read again from its tokens
//   2  sections and rings stand in the manifest
//   3  sections and rings stand in a file of their own, so that the manifest stays small. Programs that know version 2
//      refuse it, naming both versions. Fields that a program does not know are skipped and kept, so later ones need no
//      version of their own; what a program must not skip is named in "needs", and one that does not know a name there
//      refuses by it. Planned: owner, tail, chat (here already, as saved_text.h has them), offsets,
//      rings_at (rings at boundaries); with a need of the same name: sparse (here already: how it was read, which a
//      program that reads on densely must say, too), key_means (here already: the fingerprint of what was taken from
//      its keys), dual_chunk (here already: the chunks by whose positions its keys are rotated), ring_slots (rings with
//      slots for drafts).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/kv/kv_io.h"
#include "runtime/text/session_text.h"

namespace duo {

constexpr int kSessionFormatVersion = 3;
constexpr int kOldestRestoredVersion = 2;

// An append that the session was in the middle of, or has last finished, as far as retries need it.
struct SavedAppend {
  std::string id;
  int64_t received_bytes = 0;
  int64_t start = 0;  // tokens of the session before it
  int64_t total = 0;  // its tokens
  bool done = false;
  std::vector<int32_t> tokens;  // [total] unless done; in a file of its own
  SessionText before;           // unless done: the session's text as it was before it
};

struct SavedFile {
  std::string name;   // without directory; empty: there is none
  int64_t bytes = 0;  // the file may be longer: more was added later
  uint32_t crc = 0;   // of these bytes
};

struct SessionManifest {
  int version = kSessionFormatVersion;
  int generation = 1;  // the highest of the files that it names
  int64_t serial = 0;  // of saves
  int64_t tokens = 0, max_tokens = 0;
  int64_t reserved_tokens = 0;  // that the session was promised room for
  bool durable = false, open = false;
  bool pinned = false;  // it stays in memory when it is idle

  std::string fingerprint;  // of the model
  std::string kv_format;    // "bf16", ..
  int layers = 0, kv_heads = 0, head_dim = 0, sink = 0, recent = 0;
  std::string retrieval;  // [layers * kv_heads] of 0 and 1

  bool rings_valid = true;  // the rings are those of `tokens`; otherwise only their sinks count
  std::string rings_file;   // empty without streaming heads
  SavedFile sections_file;  // empty in versions 1 and 2
  SavedFile token_file;
  std::optional<SavedAppend> append;
  SavedFile append_file;  // the append's tokens, when it is not done
  int64_t bytes = 0;      // on disk

  std::vector<std::string> needs;    // that this program does not know
  SparseRead::Kept sparse;           // how its text was read; "sparse" among the needs, unless densely
  std::string key_means;             // what its keys are kept without (Engine::key_means), of that name among the needs
  // The chunks by whose positions its keys are rotated, of that name among the needs; empty: no token of it is so far
  // in that they make a difference.
  std::string dual_chunk;
  std::string owner;                 // the name of whose session it is
  SessionText text;                  // behind the tokens, and behind those of an append that is not done (saved_text.h)
  std::vector<uint32_t> hash_chain;  // of the tokens (token_chain.h), or of fewer of them
  bool prefix = false;               // no session of anybody's: what a prompt left, for others to go on from
  std::string prefix_salt;           // of it: only prompts of the same salt go on there
  std::string more;                  // a JSON object: fields that this program does not know; empty: none

  // From sections_file, or in versions 1 and 2 from the manifest. A later section of the same page counts.
  std::vector<KvSection> sections;
  std::vector<KvRingSection> rings;
};

// Always the newest version; without sections and rings.
std::string FormatManifest(const SessionManifest& manifest);
// `file` is what errors call it.
absl::StatusOr<SessionManifest> ParseManifest(std::string_view text, const std::string& file);
// Whether any version of this program wrote it, damaged or not.
bool LooksLikeManifest(std::string_view text);

// The sections and rings as bytes, and back into a manifest that lacks them; `file` is what errors call it.
std::string FormatSections(const SessionManifest& manifest);
absl::Status ParseSections(std::string_view bytes, const std::string& file, SessionManifest* manifest);

}  // namespace duo
