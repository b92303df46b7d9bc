// What each query head of a model looks at while it answers from documents with hidden facts: what provenance heads are
// chosen by, and what a quick pattern is made of. Forward passes of the real engine alone, no gradient. One thread, the
// engine's; on rank 0. Pure where no engine is taken.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "runtime/engine/engine.h"
#include "runtime/identify/passkey_data.h"

namespace duo {

// A query head's mass, as the mean over the rows from which the tokens of answers are drawn.
struct HeadMasses {
  int layer = 0, head = 0;
  double fact = 0;     // on the sentence that the answer needs
  double copied = 0;   // on the very token that is drawn next
  double empty = 0;    // on that sentence when nothing is asked: what it gets whatever the question
  double outside = 0;  // on what a streaming window would not see
  double found() const { return fact - empty; }
};

// The engine must have been made with EngineOptions::provenance; its provenance heads are those that are measured, in
// order. outside: of this window. progress: questions answered, in all.
absl::StatusOr<std::vector<HeadMasses>> MeasureHeadMasses(Engine& engine, const std::vector<PasskeyDocument>& documents,
                                                          int sink, int recent,
                                                          const std::function<void(int64_t, int64_t)>& progress);

// Those that find facts best, weighted by how much more of their mass lies on the needed fact than without a question:
// at most `most`, and none that finds less than a tenth of what the best does. Descending.
std::vector<ProvenanceHead> ChooseProvenanceHeads(const std::vector<HeadMasses>& masses, int most = 32);

// Gates [layers][kv_heads] from the masses of all query heads under full attention: a KV head is worth what the best of
// its query heads copies and finds; where none does, what it looks at outside the window orders the rest.
std::vector<double> QuickGates(const std::vector<HeadMasses>& masses, int layers, int kv_heads, int group);

// All query heads of KV heads that keep everything, weights alike.
std::vector<ProvenanceHead> AllRetrievalHeads(const HeadPlan& plan, int group);

// Spearman's rank correlation of two lists of one length, equal values sharing their mean rank; 0 where one is
// constant.
double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace duo
