// KV layout: where a token's codes live. One definition, shared by host and device code, by the kernels, the session
// store and the tests. Plain values; views own nothing.
//
// A page holds kPageTokens tokens of one (layer, KV head):
//     [K codes of 128 tokens][V codes of 128 tokens][K parameters of 128 tokens][V parameters of 128 tokens]
// A ring holds S + R + 1 tokens of one (layer, KV head) of a streaming head: its sinks, then a circular part:
//     [K vectors of S + R + 1 slots][V vectors of S + R + 1 slots]
// In memory it may have slack besides (base/ring.h); in files it has none.
//
// A whole head stores every page. A split head's pages are dealt out over `slots` slots: page p belongs to slot
// p mod slots, and a holder stores the slots [first_slot, first_slot + num_slots). A split page id names `slots`
// consecutive pages; a whole head is the case slots = 1.
#pragma once

#include <cstdint>

#include "kernels/base/ring.h"
#include "kernels/kv_codec.h"

namespace duo {

constexpr int kPageTokens = 128;

// What rings hold beside pages of a format: f32 with f32, else bf16.
constexpr KvFormat RingFormat(KvFormat pages) { return pages == KvFormat::kF32 ? KvFormat::kF32 : KvFormat::kBF16; }

// Bytes of one ring, of one (layer, KV head), beside pages of a format.
constexpr int64_t RingBytes(KvFormat pages, int head_dim, int sink, int recent, int slack = 0) {
  return int64_t{RingSlots(sink, recent, slack)} * KvTokenBytes(RingFormat(pages), head_dim);
}

// Byte offsets inside one page.
struct PageLayout {
  KvFormat format = KvFormat::kBF16;
  int head_dim = 0;

  DUO_HD int code_bytes() const { return KvCodeBytes(format, head_dim); }
  DUO_HD int param_bytes() const { return KvParamBytes(format); }
  DUO_HD int64_t k_codes(int token) const { return int64_t{token} * code_bytes(); }
  DUO_HD int64_t v_codes(int token) const { return int64_t{kPageTokens + token} * code_bytes(); }
  DUO_HD int64_t k_params(int token) const { return int64_t{2 * kPageTokens} * code_bytes() + token * param_bytes(); }
  DUO_HD int64_t v_params(int token) const { return k_params(kPageTokens + token); }
  DUO_HD int64_t page_bytes() const { return int64_t{kPageTokens} * KvTokenBytes(format, head_dim); }
};

// The retrieval heads of one layer that share a layout on this rank: all whole heads, or one piece of a split head.
struct PagedKv {
  uint8_t* base = nullptr;  // device memory; [num_heads][page ids][num_slots] pages
  int64_t head_stride = 0;  // bytes from one head to the next
  PageLayout page;
  int num_heads = 0;   // KV heads
  int first_head = 0;  // the first of them among this rank's KV heads, in the order of the qkv projection
  int slots = 1;       // D: slots of the split head; 1 when whole
  int first_slot = 0;
  int num_slots = 1;
  bool split = false;               // page ids come from the split tables
  const int32_t* tables = nullptr;  // device; [table][table_stride]: the page id of each group of `slots` pages
  int64_t table_stride = 0;
  int window = 0;  // a configured sliding window W: row p sees j > p - W; 0 = all

  DUO_HD int64_t id_stride() const { return num_slots * page.page_bytes(); }
  // Is page p (of the sequence) stored here, and where is it?
  DUO_HD bool holds(int64_t p) const {
    const int slot = static_cast<int>(p % slots);
    return slot >= first_slot && slot < first_slot + num_slots;
  }
  DUO_HD uint8_t* page_at(int head, int table, int64_t p) const {
    const int64_t id = tables[table * table_stride + p / slots];
    return base + head * head_stride + id * id_stride() + (p % slots - first_slot) * page.page_bytes();
  }
  // The q-th page stored here, in sequence order, is page `held(q)` of the sequence.
  DUO_HD int64_t held(int64_t q) const { return q / num_slots * slots + first_slot + q % num_slots; }
  // How many of the sequence's first `pages` pages are stored here.
  DUO_HD int64_t held_count(int64_t pages) const {
    const int64_t rest = pages % slots - first_slot;
    return pages / slots * num_slots + (rest < 0 ? 0 : rest > num_slots ? num_slots : rest);
  }
};

// The streaming heads of one layer on this rank.
struct RingKv {
  uint8_t* base = nullptr;            // device memory; [ring][num_heads of this layer] rings of ring_bytes()
  int64_t ring_stride = 0;            // bytes from one session's ring set to the next
  KvFormat format = KvFormat::kBF16;  // f32 or bf16
  int head_dim = 0;
  int num_heads = 0;
  int first_head = 0;  // as in PagedKv
  int sink = 0;        // S
  int recent = 0;      // R: row p sees j < S and p - R <= j <= p
  int window = 0;      // as in PagedKv; also hides sinks
  int slack = 0;       // of its last tokens so many may be taken back

  DUO_HD int slots() const { return RingSlots(sink, recent, slack); }
  DUO_HD int vector_bytes() const { return KvCodeBytes(format, head_dim); }
  DUO_HD int64_t ring_bytes() const { return int64_t{2} * slots() * vector_bytes(); }
  DUO_HD int slot_of(int64_t position) const { return RingSlot(position, sink, recent, slack); }
  DUO_HD uint8_t* k_at(int ring, int head, int slot) const {
    return base + ring * ring_stride + head * ring_bytes() + int64_t{slot} * vector_bytes();
  }
  DUO_HD uint8_t* v_at(int ring, int head, int slot) const { return k_at(ring, head, slots() + slot); }
};

}  // namespace duo
