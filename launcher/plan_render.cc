#include "launcher/plan_render.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "parallel/held_heads.h"

namespace duo {
namespace {

constexpr int kMaxTableWidth = 160;  // characters

std::string Cell(const RankHeads& rank, int kv_heads) {
  std::string cell(kv_heads, ' ');
  for (const int head : rank.whole) cell[head] = '#';
  for (const int head : rank.streaming) cell[head] = '.';
  for (const SplitPiece& piece : rank.split) {
    const long tenths = std::lround(10.0 * (piece.last - piece.first) / piece.of);
    cell[piece.head] = static_cast<char>('0' + std::clamp(tenths, 1L, 9L));
  }
  return cell;
}

std::string CountCell(const RankHeads& rank) {
  return absl::StrFormat("%.2f .%d", RetrievalLoad(rank), rank.streaming.size());
}

std::string Grouped(int64_t n) {  // 1000000 -> "1,000,000"
  std::string digits = absl::StrCat(n);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) digits.insert(i, 1, ',');
  return digits;
}

const Partition& Find(const std::vector<Partition>& strategies, Strategy strategy) {
  return *std::find_if(strategies.begin(), strategies.end(),
                       [&](const Partition& p) { return p.strategy == strategy; });
}

}  // namespace

std::string PlanTable(const PartitionRequest& request, const std::vector<Partition>& strategies) {
  const Partition& partition = strategies.front();
  const int world = partition.world, kv_heads = request.shape.kv_heads;
  const bool picture = (kv_heads + 3) * world <= kMaxTableWidth;
  const int width = std::max(picture ? kv_heads : 10, 8);
  int64_t retrieval = 0;
  for (const uint8_t kept : request.heads.retrieval) retrieval += kept != 0;

  std::string out =
      absl::StrFormat("strategy %s, %d ranks, %d retrieval and %d streaming heads\n", Name(partition.strategy), world,
                      retrieval, int64_t{request.shape.layers} * kv_heads - retrieval);
  absl::StrAppend(&out, picture ? "# whole, 1-9 tenths of a split head, . streaming, blank: held elsewhere\n\n"
                                : "retrieval heads (pieces count their share), .n streaming heads\n\n");
  const auto row = [&](const std::string& name, const auto& cell) {
    absl::StrAppend(&out, absl::StrFormat("%5s", name));
    for (int r = 0; r < world; ++r) absl::StrAppend(&out, absl::StrFormat(" | %-*s", width, cell(r)));
    while (out.back() == ' ') out.pop_back();
    absl::StrAppend(&out, "\n");
  };
  const std::string rule(5 + world * (width + 3), '-');
  row("layer", [](int r) { return absl::StrCat("rank ", r); });
  absl::StrAppend(&out, rule, "\n");
  for (int l = 0; l < request.shape.layers; ++l) {
    const std::vector<RankHeads>& layer = partition.layers[l];
    row(absl::StrCat(l), [&](int r) { return picture ? Cell(layer[r], kv_heads) : CountCell(layer[r]); });
  }
  absl::StrAppend(&out, rule, "\n");
  row("heads", [&](int r) { return absl::StrFormat("%.2f", HeldBy(partition, r).retrieval()); });
  row("KV GB", [&](int r) {
    const double bytes =
        HeldBy(partition, r).retrieval() * static_cast<double>(request.context) * request.kv_token_bytes;
    return absl::StrFormat("%.2f", bytes / 1e9);
  });

  const Balance& balance = partition.balance;
  absl::StrAppendFormat(&out, "\nbalance (1.00 is perfect)   time %.2f   memory %.2f\n", balance.time, balance.memory);
  absl::StrAppendFormat(&out, "contiguous heads            time %.2f   memory %.2f\n", balance.naive_time,
                        balance.naive_memory);
  absl::StrAppendFormat(&out, "best whole heads            time %.2f\n", balance.heads_time);
  absl::StrAppendFormat(&out, "\nmodelled decode step at %s tokens:", Grouped(request.context));
  for (const Strategy strategy : ReadingOrder()) {
    absl::StrAppendFormat(&out, "   %s %.3f ms%s", Name(strategy), Find(strategies, strategy).step_seconds * 1e3,
                          strategy == partition.strategy ? " <" : "");
  }
  absl::StrAppend(&out, "\nmodelled time to read them:");
  for (const Strategy strategy : ReadingOrder()) {
    absl::StrAppendFormat(&out, "   %s %.1f s%s", Name(strategy), Find(strategies, strategy).read_seconds,
                          strategy == partition.strategy ? " <" : "");
  }
  absl::StrAppend(&out, "\n");
  return out;
}

std::string PlanJson(const std::vector<Partition>& strategies) {
  using nlohmann::ordered_json;
  const Partition& partition = strategies.front();
  ordered_json layers = ordered_json::array();
  for (const std::vector<RankHeads>& layer : partition.layers) {
    ordered_json ranks = ordered_json::array();
    for (const RankHeads& rank : layer) {
      ordered_json split = ordered_json::array();
      for (const SplitPiece& piece : rank.split) {
        split.push_back({{"head", piece.head},
                         {"slots", {piece.first, piece.last}},
                         {"of", piece.of},
                         {"load", static_cast<double>(piece.last - piece.first) / piece.of}});
      }
      ranks.push_back({{"retrieval", rank.whole}, {"split", split}, {"streaming", rank.streaming}});
    }
    layers.push_back({{"ranks", ranks}});
  }
  ordered_json seconds, reads;
  for (const Strategy strategy : ReadingOrder()) {
    seconds[Name(strategy)] = Find(strategies, strategy).step_seconds;
    reads[Name(strategy)] = Find(strategies, strategy).read_seconds;
  }
  const Balance& balance = partition.balance;
  const ordered_json out = {{"strategy", Name(partition.strategy)},
                            {"world", partition.world},
                            {"layers", layers},
                            {"step_seconds", partition.step_seconds},
                            {"step_seconds_by_strategy", seconds},
                            {"read_seconds", partition.read_seconds},
                            {"read_seconds_by_strategy", reads},
                            {"balance",
                             {{"time", balance.time},
                              {"memory", balance.memory},
                              {"naive_time", balance.naive_time},
                              {"naive_memory", balance.naive_memory},
                              {"heads_time", balance.heads_time}}}};
  return out.dump() + "\n";
}

std::string PlanSvg(const PartitionRequest& request, const Partition& partition) {
  constexpr int kSquare = 10, kGap = 2, kStep = kSquare + kGap, kLeft = 48, kTop = 64, kColumnGap = 16;
  const int kv_heads = request.shape.kv_heads, layers = request.shape.layers;
  const int column = std::max(kv_heads * kStep, 5 * kSquare) + kColumnGap;
  const int width = std::max(kLeft + partition.world * column, 640), height = kTop + layers * kStep + 56;
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
      "font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
      width, height, width, height, width, height);
  absl::StrAppendFormat(&out, "<text x=\"8\" y=\"20\" font-size=\"14\">%s: who holds which KV head, %d ranks</text>\n",
                        Name(partition.strategy), partition.world);
  absl::StrAppend(
      &out,
      "<text x=\"8\" y=\"38\">blue: whole retrieval head; partly blue: piece of a split one; grey dot: streaming "
      "head</text>\n");
  const auto text = [&](int x, int y, const std::string& what) {
    absl::StrAppendFormat(&out, "<text x=\"%d\" y=\"%d\">%s</text>\n", x, y, what);
  };
  const auto rect = [&](int x, int y, double w, const char* style) {
    absl::StrAppendFormat(&out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" %s/>\n", x, y, w, kSquare, style);
  };
  for (int r = 0; r < partition.world; ++r) {
    const int x = kLeft + r * column;
    absl::StrAppendFormat(&out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"#f4f4f4\"/>\n", x - 4,
                          kTop - 4, column - kColumnGap + 8 - kGap, layers * kStep + 8 - kGap);
    text(x, kTop - 10, absl::StrCat("rank ", r));
  }
  for (int l = 0; l < layers; ++l) {
    const int y = kTop + l * kStep;
    text(8, y + kSquare - 1, absl::StrCat(l));
    for (int r = 0; r < partition.world; ++r) {
      const RankHeads& rank = partition.layers[l][r];
      const auto x = [&](int head) { return kLeft + r * column + head * kStep; };
      for (const int head : rank.whole) rect(x(head), y, kSquare, "fill=\"#1f5fbf\"");
      for (const SplitPiece& piece : rank.split) {
        rect(x(piece.head), y, kSquare, "fill=\"#dce8f8\" stroke=\"#1f5fbf\" stroke-width=\"0.5\"");
        rect(x(piece.head), y, static_cast<double>(kSquare) * (piece.last - piece.first) / piece.of,
             "fill=\"#1f5fbf\"");
      }
      for (const int head : rank.streaming) {
        absl::StrAppendFormat(&out, "<circle cx=\"%d\" cy=\"%d\" r=\"2\" fill=\"#999\"/>\n", x(head) + kSquare / 2,
                              y + kSquare / 2);
      }
    }
  }
  const Balance& balance = partition.balance;
  text(8, height - 32,
       absl::StrFormat(
           "balance (1 is perfect): time %.2f, memory %.2f; contiguous heads: %.2f, %.2f; best whole heads: %.2f",
           balance.time, balance.memory, balance.naive_time, balance.naive_memory, balance.heads_time));
  text(8, height - 14,
       absl::StrFormat("modelled decode step at %s tokens: %.3f ms", Grouped(request.context),
                       partition.step_seconds * 1e3));
  absl::StrAppend(&out, "</svg>\n");
  return out;
}

}  // namespace duo
