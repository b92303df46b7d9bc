#include "launcher/serve/calls/server_view.h"

#include <map>
#include <utility>

namespace duo {
namespace {

std::vector<std::vector<HeadPlace>> PlacesOf(const HeadPlan& heads, const Partition& partition) {
  std::vector<std::vector<HeadPlace>> places(heads.layers, std::vector<HeadPlace>(heads.kv_heads));
  for (int layer = 0; layer < heads.layers; ++layer) {
    for (int head = 0; head < heads.kv_heads; ++head) places[layer][head].retrieval = heads.is_retrieval(layer, head);
    for (int rank = 0; rank < partition.world; ++rank) {
      const RankHeads& held = partition.layers[layer][rank];
      for (int head : held.whole) places[layer][head].ranks.emplace_back(rank, 1);
      for (int head : held.streaming) places[layer][head].ranks.emplace_back(rank, 1);
      for (const SplitPiece& piece : held.split) {
        places[layer][piece.head].ranks.emplace_back(rank, static_cast<double>(piece.last - piece.first) / piece.of);
      }
    }
  }
  return places;
}

std::vector<HeadAttention> AttentionOf(const Engine& engine, const std::vector<std::vector<float>>& looked) {
  std::map<std::pair<int, int>, HeadAttention> known;
  const auto head_of = [&](int layer, int head) -> HeadAttention& {
    HeadAttention& one = known[{layer, head}];
    one.layer = layer;
    one.head = head;
    return one;
  };
  const int kv_heads = engine.heads().kv_heads, group = engine.config().heads / kv_heads;
  const std::vector<ProvenanceHead>& provenance = engine.provenance_heads();
  for (size_t h = 0; h < provenance.size(); ++h) {
    HeadAttention& one = head_of(provenance[h].layer, provenance[h].head / group);
    one.weight = one.weight.value_or(0) + provenance[h].weight;
    double text = 0;  // of one query head; a KV head has the mean of its own, by their weights
    for (const std::vector<float>& answer : looked) text += answer[h] / static_cast<double>(looked.size());
    if (!looked.empty()) one.text = one.text.value_or(0) + provenance[h].weight * text;
  }
  for (auto& [where, one] : known) {
    if (one.text.has_value()) *one.text /= *one.weight;
  }
  std::vector<HeadAttention> list;
  for (const auto& [where, one] : known) list.push_back(one);
  return list;
}

// Bytes of every class over all ranks, and of every rank over all classes.
void AddMemory(const Engine& engine, const EngineStats& stats, ServerView& view) {
  MemoryClass whole{"retrieval"}, split{"retrieval_split"}, rings{"streaming"};
  for (const RankKv& kv : RankKvOf(engine)) {
    const KvInUse used = InUse(kv, stats);
    whole.used += used.whole;
    split.used += used.split;
    rings.used += used.rings;
    whole.room += stats.pages * kv.page_bytes;
    split.room += stats.split_pages * kv.split_page_bytes;
    rings.room += stats.rings * kv.ring_bytes;
    view.rank_kv_bytes.push_back(used.whole + used.split + used.rings);
  }
  view.memory = {whole, split, rings};
}

// On the engine's thread.
ServerView ViewOf(CallContext& context, const Identity& who, bool with_heads) {
  ServerView view;
  view.who = who;
  view.everybody = who.role == Role::kAdmin;
  view.plan = PlanOf(context);
  view.stats = StatsOf(context);
  AddMemory(*context.engine, view.stats.engine, view);
  if (with_heads) view.heads = PlacesOf(context.engine->heads(), context.engine->partition());
  view.attention = AttentionOf(*context.engine, context.activity.looked());
  view.answered = context.activity.answered();
  if (!Has(who.role, Right::kSessions)) return view;
  view.sessions = context.sessions->List();
  view.calls = context.activity.calls();
  view.refused = context.activity.refused();
  if (view.everybody) return view;
  const auto foreign = [&](const auto& one) { return one.owner != who.owner; };
  std::erase_if(view.sessions, foreign);
  std::erase_if(view.calls, foreign);
  std::erase_if(view.refused, foreign);
  return view;
}

}  // namespace

UnaryCallPtr StartView(CallContext& context, const Caller& caller, bool with_heads,
                       const Answered<ServerView>& finish) {
  auto call = std::make_shared<UnaryCall>(context);
  const absl::StatusOr<Identity> who = context.Authenticate(caller, Right::kNumbers);
  if (!who.ok()) {
    context.Count("View", who.status());
    finish(who.status());
    return call;
  }
  // Not counted where all is well: looking at the numbers is not to change them.
  const bool posted =
      context.thread->Post([&context, who = *who, with_heads, finish] { finish(ViewOf(context, who, with_heads)); });
  if (!posted) finish(QueueFull());
  return call;
}

}  // namespace duo
