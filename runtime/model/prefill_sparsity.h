// PrefillSparsity: how densely retrieval heads read long texts (kernels/page_lists.h), as users set it, and what
// follows from it at fixed positions. Plain values and pure functions; any thread.
//
// Off, every row sees all before it. With a density X each block of 128 queries visits the share X of the pages before
// it, those whose pooled keys promise most. With auto the densities follow from audits, which measure the true share of
// attention that lists keep: each head has the least density of a ladder that kept the target, or none of the ladder
// did and it reads densely.
//
// What decides is fixed: blocks are absolute; an append's or prompt's last token and whatever shares a block with its
// beginning or end are read densely, and lists of fewer than 2,048 tokens there are none; the text is cut into windows
// of absolute position, one block of each is audited, and what it found counts from the window's end on. So what is
// read follows from the texts and where one ends and the next begins, but not from chunks, batches or ranks. Heads that
// are split over ranks are always dense.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/page_audit.h"

namespace duo {

struct PrefillSparsity {
  enum class Mode : uint8_t { kOff, kFixed, kAuto };
  Mode mode = Mode::kOff;
  int32_t density = kDense;  // kFixed: in thousandths
  int32_t target = 980;      // kAuto: of attention, in thousandths
  bool on() const { return mode != Mode::kOff; }
  bool operator==(const PrefillSparsity&) const = default;
};

// "off", "auto:0.98", "0.25".
std::string Name(const PrefillSparsity& sparsity);
// Of those, also "auto"; nothing: it is none of them. A density or target has at most three decimal places, and is
// above 0 and below 1.
std::optional<PrefillSparsity> PrefillSparsityNamed(const std::string& name);

constexpr ListRule kListRule = {};  // sinks, local pages and the floor of 2,048 tokens

// What audits measure: the set density, or the ladder that auto chooses from.
AuditRungs RungsOf(const PrefillSparsity& sparsity);

// The window that a position lies in: 2,048 tokens at first, later an eighth of the position, at most 32,768.
struct SparseWindow {
  int64_t begin = 0, end = 0;
  int64_t audited = 0;  // the position of the block that is audited, a random one of its blocks
};
SparseWindow WindowAt(int64_t position);

// How a step's chunk is read, as its plan says.
struct SparseRows {
  int32_t begin = 0, end = 0;      // positions, whole blocks: read by lists; none: all of the chunk is dense
  std::vector<int32_t> densities;  // [layers * kv_heads], in thousandths
  AuditRungs rungs;
  std::vector<int32_t> audited;  // positions of blocks in [begin, end) that are also read densely, ascending
};

// What audits of a step found, of all layers and KV heads; those of heads that no rank holds whole are zero.
struct SparseAudits {
  std::vector<int32_t> positions;  // of the audited blocks
  std::vector<PageAudit> heads;    // [positions][layers * kv_heads]
};

}  // namespace duo
