#include "runtime/identify/head_masses.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace duo {
namespace {

constexpr double kWorthNaming = 0.1;   // of what the best head finds
constexpr double kOutsideShare = 0.1;  // of a gate that mass outside the window alone can give

TokenRange Narrow(const PasskeySample::Range& range) {
  return {static_cast<int32_t>(range.begin), static_cast<int32_t>(range.end)};
}

// A document's questions on an engine that has read it.
class DocumentMasses {
 public:
  DocumentMasses(Engine& engine, SessionId session, const PasskeyDocument& document, int sink, int recent,
                 std::vector<HeadMasses>* masses)
      : engine_(engine), session_(session), document_(document), sink_(sink), recent_(recent), masses_(*masses) {}

  absl::Status Ask(const std::function<void()>& answered) {
    for (const PasskeyDocument::Question& question : document_.questions) {
      GenerateParams params;
      params.max_new_tokens = question.answer_tokens;
      params.mass = true;
      const auto first = static_cast<int64_t>(document_.tokens.size() + question.tokens.size()) - 1;
      for (int i = 0; i < question.answer_tokens; ++i) {
        const auto window = static_cast<int32_t>(std::max<int64_t>(sink_, first + i - recent_));
        params.mass_ranges.push_back({Narrow(question.fact), Narrow(question.copied[i]), {sink_, window}});
      }
      RequestEvents events;
      events.on_mass = [this](const RowMass& row) { Add(row); };
      events.on_done = [this, answered](const RequestResult& result) {
        if (status_.ok()) status_ = result.status;
        answered();
      };
      auto ask = engine_.Ask(session_, question.tokens, params, std::move(events));
      if (!ask.ok()) return ask.status();
    }
    GenerateParams params;
    params.max_new_tokens = 1;
    params.mass = true;
    params.mass_ranges.emplace_back();
    for (const PasskeyDocument::Question& question : document_.questions) {
      params.mass_ranges[0].push_back(Narrow(question.fact));
    }
    RequestEvents events;
    events.on_mass = [this](const RowMass& row) { AddEmpty(row); };
    events.on_done = [this](const RequestResult& result) {
      if (status_.ok()) status_ = result.status;
    };
    auto ask = engine_.Ask(session_, document_.empty_question, params, std::move(events));
    if (!ask.ok()) return ask.status();
    while (engine_.Step()) {
    }
    return status_;
  }
  int64_t rows() const { return rows_; }
  int64_t empty_rows() const { return empty_rows_; }

 private:
  void Add(const RowMass& row) {
    ++rows_;
    const size_t heads = masses_.size();
    for (size_t h = 0; h < heads; ++h) {
      masses_[h].fact += row.ranges[h];
      masses_[h].copied += row.ranges[heads + h];
      masses_[h].outside += row.ranges[2 * heads + h];
    }
  }
  void AddEmpty(const RowMass& row) {
    const size_t heads = masses_.size();
    for (size_t q = 0; q < document_.questions.size(); ++q) {
      ++empty_rows_;
      for (size_t h = 0; h < heads; ++h) masses_[h].empty += row.ranges[q * heads + h];
    }
  }

  Engine& engine_;
  SessionId session_;
  const PasskeyDocument& document_;
  int sink_, recent_;
  std::vector<HeadMasses>& masses_;
  int64_t rows_ = 0, empty_rows_ = 0;
  absl::Status status_;
};

std::vector<double> Ranks(const std::vector<double>& x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] < x[b]; });
  std::vector<double> ranks(x.size());
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && x[order[end]] == x[order[i]]) ++end;
    for (size_t k = i; k < end; ++k) ranks[order[k]] = 0.5 * static_cast<double>(i + end - 1);
    i = end;
  }
  return ranks;
}

}  // namespace

absl::StatusOr<std::vector<HeadMasses>> MeasureHeadMasses(Engine& engine, const std::vector<PasskeyDocument>& documents,
                                                          int sink, int recent,
                                                          const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<HeadMasses> masses;
  for (const ProvenanceHead& h : engine.provenance_heads()) masses.push_back({h.layer, h.head});
  int64_t rows = 0, empty_rows = 0, done = 0, total = 0;
  for (const PasskeyDocument& document : documents) total += static_cast<int64_t>(document.questions.size());
  for (const PasskeyDocument& document : documents) {
    absl::StatusOr<SessionId> session = engine.CreateSession(static_cast<int64_t>(document.tokens.size()));
    if (!session.ok()) return session.status();
    absl::Status read;
    RequestEvents events;
    events.on_done = [&](const RequestResult& result) { read = result.status; };
    auto append = engine.Append(*session, document.tokens, std::move(events));
    if (!append.ok()) return append.status();
    DocumentMasses of(engine, *session, document, sink, recent, &masses);
    if (absl::Status s = of.Ask([&] { progress(++done, total); }); !s.ok()) return s;
    if (!read.ok()) return read;
    rows += of.rows();
    empty_rows += of.empty_rows();
    if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
  }
  for (HeadMasses& m : masses) {
    m.fact /= static_cast<double>(std::max<int64_t>(rows, 1));
    m.copied /= static_cast<double>(std::max<int64_t>(rows, 1));
    m.outside /= static_cast<double>(std::max<int64_t>(rows, 1));
    m.empty /= static_cast<double>(std::max<int64_t>(empty_rows, 1));
  }
  return masses;
}

std::vector<ProvenanceHead> ChooseProvenanceHeads(const std::vector<HeadMasses>& masses, int most) {
  std::vector<HeadMasses> order = masses;
  std::stable_sort(order.begin(), order.end(),
                   [](const HeadMasses& a, const HeadMasses& b) { return a.found() > b.found(); });
  std::vector<ProvenanceHead> heads;
  for (const HeadMasses& m : order) {
    if (static_cast<int>(heads.size()) >= most || m.found() <= 0) break;
    if (m.found() < kWorthNaming * order.front().found()) break;
    heads.push_back({m.layer, m.head, std::round(1e4 * m.found()) / 1e4});
  }
  std::erase_if(heads, [](const ProvenanceHead& h) { return h.weight <= 0; });
  return heads;
}

std::vector<double> QuickGates(const std::vector<HeadMasses>& masses, int layers, int kv_heads, int group) {
  std::vector<double> found(static_cast<size_t>(layers) * kv_heads), outside(found.size());
  for (const HeadMasses& m : masses) {
    const size_t kv = static_cast<size_t>(m.layer) * kv_heads + m.head / group;
    found[kv] = std::max({found[kv], m.found(), m.copied});
    outside[kv] = std::max(outside[kv], m.outside);
  }
  for (size_t i = 0; i < found.size(); ++i) {
    found[i] = (1 - kOutsideShare) * std::min(1.0, found[i]) + kOutsideShare * std::min(1.0, outside[i]);
  }
  return found;
}

std::vector<ProvenanceHead> AllRetrievalHeads(const HeadPlan& plan, int group) {
  std::vector<ProvenanceHead> heads;
  for (int layer = 0; layer < plan.layers; ++layer) {
    for (int head = 0; head < plan.kv_heads * group; ++head) {
      if (plan.is_retrieval(layer, head / group)) heads.push_back({layer, head, 1});
    }
  }
  return heads;
}

double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double mean = 0.5 * (static_cast<double>(x.size()) - 1);
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

}  // namespace duo
