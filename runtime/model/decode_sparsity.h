// DecodeSparsity: whether answers visit page lists (kernels/decode_lists.h), as users set it, and the report of what
// that left out. Plain values and pure functions; any thread.
//
// Off, every row of an answer sees all before it. With a target X every kDenseEvery-th token of an answer does, and
// from where its row looked the pages are chosen that the rows between visit: of each retrieval head so many that every
// query head had X of its attention on them. The dense rows are the audit, too: they say what the lists before them
// kept of their attention, which is what is reported. Layers 0 and 1, heads that would visit more than half of the
// pages, heads that are split over ranks, short texts, rows that check drafts and answers that are kept in their
// session are dense.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/decode_lists.h"

namespace duo {

struct DecodeSparsity {
  int32_t target = 0;  // share of attention, in thousandths; 0: off
  bool on() const { return target > 0; }
  bool operator==(const DecodeSparsity&) const = default;
};

// "off", "0.98".
std::string Name(const DecodeSparsity& sparsity);
// Of those, also "auto", which is 0.98; nothing: it is none of them. A target has at most three decimal places, and is
// above 0 and below 1.
std::optional<DecodeSparsity> DecodeSparsityNamed(const std::string& name);

constexpr int kDenseEvery = 16;         // tokens of an answer
constexpr int kMostListedAnswers = 16;  // that have lists at once; others are dense

// What a row that made lists found, over all heads that can have them.
struct ListsFound {
  int heads = 0;                    // none: no rank holds any whole
  double visited = 0, pages = 0;    // a head, the mean: pages that its list has it visit, and all
  bool left_out = false;            // does any head visit fewer than all?
  bool measured = false;            // what follows is of heads that visited lists before
  double mass = 1, least_mass = 1;  // share of attention kept: the mean over heads, and the least of a query head,
  int least_layer = -1, least_head = -1;  // which is one of this KV head
};
// heads: [layers][kv_heads], `count` in all.
ListsFound FoundBy(const ListedHead* heads, int count, int kv_heads);

// How an answer, or all of them, was written, for whoever asks. Masses are of heads that visited lists.
struct DecodeReport {
  bool sparse() const { return listed_tokens > 0; }
  std::string setting = "off";
  int64_t listed_tokens = 0;        // tokens that were drawn from rows that visited lists
  int64_t choices = 0;              // dense rows that made lists,
  int64_t audits = 0;               // and of these, those that measured what lists before them kept
  double mass = 1, least_mass = 1;  // as in ListsFound: the mean over audits, and the least
  int least_layer = -1, least_head = -1;
  double density = 1;  // share of the pages that lists visit, the mean over choices
  void Add(const ListsFound& found);
};

// What choosing rows of a step found, of all layers and KV heads; those of heads that have no lists have no pages.
struct ChosenLists {
  std::vector<int32_t> slots;     // of the sequences that chose
  std::vector<ListedHead> heads;  // [slots][layers * kv_heads]
};

}  // namespace duo
