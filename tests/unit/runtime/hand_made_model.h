// A model made by hand, for schedulers under test. It keeps what a step stores in pages and rings, by the numbers in
// the plans alone, and its draws depend on all that a row would attend to; so a page that was given away, a ring slot
// that was overwritten too early or a draft that survived changes what it draws or fails at once.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "kernels/base/splitmix64.h"
#include "kernels/list_ends.h"
#include "runtime/drafts/model_guesses.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/sampler.h"
#include "runtime/model/step_plan.h"

namespace duo {

class HandMadeModel {
 public:
  static constexpr int kSink = 2, kRecent = 6, kVocab = 40;

  HandMadeModel(const KvSizes& sizes, int slack)
      : slots_(kSink + kRecent + 1 + slack), slack_(slack), pages_(sizes.pages), rings_(sizes.rings, Ring(slots_)) {}

  int64_t guessed_by_copy = 0, guessed_by_ends = 0;  // rows

  StepResult Execute(const StepPlan& plan) {
    const int32_t* ids = plan.table_ids.data();
    for (const TableWrite& write : plan.table_writes) {
      std::vector<int32_t>& table = tables_[write.table];
      table.resize(std::max<size_t>(table.size(), write.first + write.count));
      std::copy(ids, ids + write.count, table.begin() + write.first);
      ids += write.count;
    }
    for (const IdCopy& copy : plan.page_copies) pages_[copy.to] = pages_[copy.from];
    for (const IdCopy& copy : plan.ring_copies) rings_[copy.to] = rings_[copy.from];
    std::vector<uint64_t> seen(plan.tokens.size());
    std::set<int32_t> broken;  // rows
    StepResult result;
    for (const SeqSpan& span : plan.spans) {
      Read(span, plan, &seen);
      EXPECT_TRUE(plan.draft_weights == 0 || span.num_rows == 1);
      if (plan.draft_weights != 0) ++guessed_by_copy;
      if (span.list_use == ListUse::kVisit ||
          plan.draft_weights != 0) {  // which sees less, and so something else now and then, or no number
        EXPECT_EQ(span.num_rows, 1);
        const bool ends = span.list_use == ListUse::kVisit && span.list == kListOfEnds;
        EXPECT_TRUE(span.list_use != ListUse::kVisit || ends || listed_.count(span.list) == 1);
        guessed_by_ends += ends;
        uint64_t& one = seen[span.first_row];
        if (SplitMix64(one) % 16 == 1) broken.insert(span.first_row);
        if (SplitMix64(one) % (ends ? 3 : 4) == 0) one = SplitMix64(one + 1);
      } else if (span.list_use != ListUse::kNone) {
        listed_.insert(span.list);
        result.lists.slots.push_back(span.list);
        const int32_t pages = span.history / kPageTokens + 1;
        result.lists.heads.push_back({.length = 0, .tail = pages - 1, .pages = pages});
      }
    }
    for (size_t i = 0; i < plan.sample_rows.size(); ++i) {
      const int32_t row = plan.sample_rows[i];
      EXPECT_EQ(plan.samples[i].position, plan.positions[row] + 1);
      result.tokens.push_back(broken.count(row) != 0 ? kNoToken : Draw(plan, i, seen[row]));
    }
    return result;
  }

  // What a model guesses that sees the last two tokens alone; now and then it is still reading.
  static ModelGuessed Guess(std::span<const GuessAsked> asked) {
    ModelGuessed guessed;
    for (const GuessAsked& a : asked) {
      std::vector<int32_t>& tokens = guessed.tokens.emplace_back();
      EXPECT_LE(a.size(), a.draw.position);
      EXPECT_LE(a.read, 400);  // 3 % of sixty tokens, where a guess takes a hundredth of a step
      if (a.draw.position % 7 == 0) {
        guessed.read = true;
        continue;
      }
      int32_t last = a.at(a.size() - 1), before = a.size() > 1 ? a.at(a.size() - 2) : -1;
      SampleParams draw = a.draw;
      for (int i = 0; i < a.wanted; ++i, ++draw.position) {
        tokens.push_back(static_cast<int32_t>(Draw(draw, Near(last, before)) % kVocab));
        before = std::exchange(last, tokens.back());
      }
      guessed.steps = std::max(guessed.steps, a.wanted);
    }
    return guessed;
  }

 private:
  using Page = std::array<int32_t, kPageTokens>;
  struct Slot {
    int64_t position = -1;
    int32_t token = -1;
  };
  using Ring = std::vector<Slot>;

  int32_t& Stored(int table, int64_t position) {
    return pages_[tables_[table].at(position / kPageTokens)][position % kPageTokens];
  }

  // before: -1 where there is none.
  static uint64_t Near(int32_t last, int32_t before) {
    const auto near = static_cast<uint64_t>(last % 6);
    return SplitMix64(before < 0 ? near : near * 64 + static_cast<uint64_t>(before % 6));
  }

  // What each row attends to, as one number.
  void Read(const SeqSpan& span, const StepPlan& plan, std::vector<uint64_t>* seen) {
    Ring& ring = rings_[span.ring];
    const int64_t end = int64_t{span.history} + span.num_rows;
    for (int64_t p = span.history; p < end; ++p) {
      const int32_t token = plan.tokens[span.first_row + p - span.history];
      EXPECT_GE(token, 0);
      if (span.keep_pages == 0) Stored(span.table, p) = token;
      EXPECT_EQ(Stored(span.table, p), token);
    }
    for (int64_t p = span.history; p < end; ++p) {
      uint64_t all = 0;
      for (int64_t j = 0; j <= p; ++j) all = SplitMix64(all ^ static_cast<uint64_t>(Stored(span.table, j)));
      for (int64_t j = std::max<int64_t>(kSink, p - kRecent); j < span.history; ++j) {
        if (j < span.ring_begin) continue;
        const Slot& slot = ring[RingSlot(j, kSink, kRecent, slack_)];
        EXPECT_EQ(slot.position, j) << "row " << p << " of a span behind " << span.history;
        EXPECT_EQ(slot.token, Stored(span.table, j));
      }
      // Mostly what follows from the last two tokens, so that texts repeat themselves, sometimes from all of them.
      const uint64_t near = Near(Stored(span.table, p), p > 0 ? Stored(span.table, p - 1) : -1);
      (*seen)[span.first_row + p - span.history] = all % 9 == 0 ? all : near;
    }
    for (int64_t p = span.history; p < end; ++p) {
      if (p >= kSink && p < end - (slots_ - kSink)) continue;
      ring[RingSlot(p, kSink, kRecent, slack_)] = {p, plan.tokens[span.first_row + p - span.history]};
    }
  }

  static uint64_t Draw(const SampleParams& p, uint64_t seen) {
    const uint64_t noise = p.temperature > 0 ? SplitMix64(p.seed ^ SplitMix64(static_cast<uint64_t>(p.position))) : 0;
    return noise % 4 == 1 ? noise : seen;
  }
  static int32_t Draw(const StepPlan& plan, size_t sample, uint64_t seen) {
    uint64_t draw = Draw(plan.samples[sample], seen);
    std::set<int32_t> banned;
    for (const SampleRule& rule : plan.rules) {
      if (rule.sample != static_cast<int32_t>(sample)) continue;
      for (int32_t i = rule.first_edit; i < rule.first_edit + rule.edits; ++i) {
        const LogitEdit& edit = plan.edits[i];
        if (std::isinf(edit.add)) {
          banned.insert(edit.id);
        } else {
          draw = SplitMix64(draw ^ static_cast<uint64_t>(edit.id) ^ static_cast<uint64_t>(-1000 * edit.add));
        }
      }
    }
    while (banned.count(static_cast<int32_t>(draw % kVocab)) != 0) draw = SplitMix64(draw);
    return static_cast<int32_t>(draw % kVocab);
  }

  int slots_, slack_;
  std::set<int32_t> listed_;  // slots that have lists
  std::map<int32_t, std::vector<int32_t>> tables_;
  std::vector<Page> pages_;
  std::vector<Ring> rings_;
};

}  // namespace duo
