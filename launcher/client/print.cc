#include "launcher/client/print.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "launcher/terminal/progress.h"

namespace duo {
namespace {

constexpr size_t kShownBytes = 100;  // of a source's text

std::string Size(int64_t bytes) {
  return bytes < 1000 ? Counted(bytes, "byte") : ByteCount(static_cast<double>(bytes));
}

const char* Where(const v1::Session& s) {
  static constexpr const char* kWhere[] = {"?", "open", "moved out", "saved"};
  return kWhere[std::clamp<int>(s.residence(), 0, 3)];
}

// What else there is to know of a session.
std::string Notes(const v1::Session& s) {
  std::string notes;
  auto add = [&](const std::string& note) { absl::StrAppend(&notes, notes.empty() ? "" : ", ", note); };
  if (s.pinned()) add("pinned");
  if (s.durable()) {
    add(s.durable_tokens() == s.tokens() ? "durable" : absl::StrCat("durable to ", Grouped(s.durable_tokens())));
  }
  if (s.chat()) add("chat");
  if (s.has_sparse()) {
    const v1::SparseReading& r = s.sparse();
    std::string text = absl::StrCat("read sparsely (", r.setting());
    if (r.audits() > 0) {
      absl::StrAppendFormat(&text, ": %.2f %% of attention kept, least %.2f %% by layer %d, KV head %d, in %s",
                            100 * r.mass(), 100 * r.least_mass(), r.least_layer(), r.least_head(),
                            Counted(r.audits(), "audit"));
    }
    add(text + ")");
  }
  if (s.reads_whole() && s.tail_bytes() > 0) {
    add(absl::StrCat(Size(s.tail_bytes()), " that each question reads again (its tokenizer has no certain place)"));
  } else if (s.tail_bytes() > 0) {
    add(absl::StrCat(Size(s.tail_bytes()), " to be read with what comes next"));
  }
  if (s.has_append() && !s.append().done()) {
    const v1::AppendState& a = s.append();
    add(a.received_all() ? absl::StrCat("append ", a.append_id(), " at ", Grouped(a.tokens()), " of ",
                                        Grouped(a.total_tokens()), " tokens")
                         : absl::StrCat("append ", a.append_id(), " has sent ", Size(a.received_bytes())));
  }
  if (!s.held_by().empty()) add(absl::StrCat("held by ", s.held_by()));
  if (!s.unusable().empty()) add(absl::StrCat("cannot be restored here: ", s.unusable()));
  if (s.pending_calls() > 0) add(Counted(s.pending_calls(), "call"));
  return notes;
}

// "label      text"
void Row(const char* label, const std::string& text) { std::printf("%-12s %s\n", label, text.c_str()); }

}  // namespace

std::string Counted(int64_t count, const char* noun) {
  return absl::StrCat(Grouped(count), " ", noun, count == 1 ? "" : "s");
}

void PrintSources(const v1::AskResponse& answer) {
  std::fprintf(stderr, "where the model looked:\n");
  if (answer.provenance().empty()) std::fprintf(stderr, "  nowhere in the session's text\n");
  for (const v1::Source& s : answer.provenance()) {
    std::string text = s.text().substr(0, kShownBytes);
    while (text.size() < s.text().size() && !text.empty() && (s.text()[text.size()] & 0xC0) == 0x80) text.pop_back();
    for (char& c : text) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    }
    std::fprintf(stderr, "  line %lld  %.2f  %s%s\n", static_cast<long long>(s.line()), s.score(), text.c_str(),
                 text.size() < s.text().size() ? "..." : "");
  }
}

void PrintSession(const v1::Session& s) {
  const std::string notes = Notes(s);
  std::printf("%s: %s of %s tokens, %s of KV cache, %s%s%s\n", s.id().c_str(), Grouped(s.tokens()).c_str(),
              Grouped(s.max_tokens()).c_str(), Size(s.kv_bytes()).c_str(), Where(s), notes.empty() ? "" : ", ",
              notes.c_str());
}

// Apart from the sessions: what prompts over HTTP left.
static void PrintPrefixes(const v1::ListResponse& list) {
  if (list.prefixes().empty()) return;
  int width = 6;
  for (const v1::Prefix& p : list.prefixes()) width = std::max(width, static_cast<int>(p.id().size()));
  std::printf("\n%-*s  %12s  %9s  %-9s  %6s  %12s\n", width, "PREFIX", "TOKENS", "KV CACHE", "WHERE", "HITS", "IDLE");
  for (const v1::Prefix& p : list.prefixes()) {
    const std::string idle = p.saved() ? "-" : Duration(p.idle_seconds());
    std::printf("%-*s  %12s  %9s  %-9s  %6s  %12s\n", width, p.id().c_str(), Grouped(p.tokens()).c_str(),
                Size(p.kv_bytes()).c_str(), p.saved() ? "saved" : "open", Grouped(p.hits()).c_str(), idle.c_str());
  }
  std::printf(
      "prefixes are what prompts left for others that begin alike; they give way to whatever needs their room\n");
}

void PrintSessions(const v1::ListResponse& list) {
  if (list.sessions().empty()) {
    std::printf("no sessions\n");
    return PrintPrefixes(list);
  }
  int width = 7;
  int64_t tokens = 0, bytes = 0;
  for (const v1::Session& s : list.sessions()) width = std::max(width, static_cast<int>(s.id().size()));
  std::printf("%-*s  %12s  %12s  %9s  %-9s  %12s  %s\n", width, "SESSION", "TOKENS", "OF", "KV CACHE", "WHERE", "IDLE",
              "NOTES");
  for (const v1::Session& s : list.sessions()) {
    const bool open = s.residence() == v1::RESIDENCE_OPEN;
    const std::string idle = s.residence() == v1::RESIDENCE_SAVED ? "-" : Duration(s.idle_seconds());
    std::printf("%-*s  %12s  %12s  %9s  %-9s  %12s  %s\n", width, s.id().c_str(), Grouped(s.tokens()).c_str(),
                Grouped(s.max_tokens()).c_str(), Size(s.kv_bytes()).c_str(), Where(s), idle.c_str(), Notes(s).c_str());
    if (open) tokens += s.tokens();
    if (open) bytes += s.kv_bytes();
  }
  std::printf("%s; those that are open hold %s tokens in %s\n", Counted(list.sessions_size(), "session").c_str(),
              Grouped(tokens).c_str(), Size(bytes).c_str());
  PrintPrefixes(list);
}

void PrintPlan(const v1::PlanResponse& p) {
  Row("model", p.model());
  Row("device", p.device());
  Row("heads",
      absl::StrFormat("%d layers of %d KV heads: %d keep everything, %d the first %d and the last %d tokens",
                      p.layers(), p.kv_heads(), p.retrieval_heads(), p.streaming_heads(), p.sink(), p.recent()));
  std::vector<std::string> formats;
  for (const v1::WeightFormat& one : p.weight_formats()) {
    formats.push_back(absl::StrFormat("%s %.1f %%", one.format(), 100 * one.share()));
  }
  if (!formats.empty()) Row("weights", absl::StrJoin(formats, ", "));
  Row("KV cache", absl::StrFormat("%s, room for %s tokens in all, %s in a session", p.kv_format(),
                                  Grouped(p.kv_tokens()), Grouped(p.max_session_tokens())));
  Row("memory", p.memory());
  Row("ranks", absl::StrFormat("%d, placed by \"%s\"; the busiest has %.2f times the mean's time, %.2f its memory",
                               p.world(), p.strategy(), p.balance_time(), p.balance_memory()));
  for (const v1::RankHeads& rank : p.ranks()) {
    Row("", absl::StrFormat("rank %d: %d retrieval heads whole, %.1f in pieces, %d streaming heads", rank.rank(),
                            rank.whole(), rank.split(), rank.streaming()));
  }
  if (!p.experts().empty()) {
    Row("experts", p.experts() == "whole" ? "whole: each lies on one rank" : "split: every rank has a part of each");
  }
  if (!p.prefill_split().empty()) {
    Row("reading", p.prefill_split() == "rows" ? "long prompts by rows: ranks share out their tokens"
                                               : "by heads: every rank has all tokens of a prompt for its heads");
  }
}

DecodeReport ReportOf(const v1::SparseWriting& written) {
  DecodeReport report;
  report.setting = written.setting();
  report.listed_tokens = written.listed_tokens();
  report.choices = written.choices();
  report.audits = written.audits();
  report.mass = written.mass();
  report.least_mass = written.least_mass();
  report.least_layer = written.least_layer();
  report.least_head = written.least_head();
  report.density = written.density();
  return report;
}

void PrintStats(const v1::StatsResponse& s) {
  auto used = [](int64_t all, int64_t free) {
    return absl::StrCat(Grouped(all - free), " of ", Grouped(all), " in use");
  };
  Row("up", absl::StrCat(Duration(s.uptime_seconds()), s.draining() ? ", draining" : ""));
  Row("tokens", absl::StrCat(Grouped(s.prefill_tokens()), " read, ", Grouped(s.decode_tokens()), " written"));
  if (s.drafted_tokens() > 0) {
    Row("drafts", absl::StrFormat("%s checked, %s right: %.2f tokens a step of an answer", Grouped(s.drafted_tokens()),
                                  Grouped(s.accepted_tokens()),
                                  1 + static_cast<double>(s.accepted_tokens()) /
                                          static_cast<double>(std::max<int64_t>(s.draw_steps(), 1))));
  }
  if (s.has_sparse()) {
    const DecodeReport r = ReportOf(s.sparse());
    Row("sparse", absl::StrFormat("%s tokens written from %.1f %% of the pages, NOT exactly (--decode-sparsity %s); "
                                  "%.2f %% of attention kept (%.2f %% in the worst head) in %s",
                                  Grouped(r.listed_tokens), 100 * r.density, r.setting, 100 * r.mass,
                                  100 * r.least_mass, Counted(r.audits, "audit")));
  }
  Row("steps", absl::StrFormat("%s, busy %.0f %% of the time", Grouped(s.steps()),
                               s.uptime_seconds() > 0 ? 100 * s.busy_seconds() / s.uptime_seconds() : 0.0));
  Row("sessions", absl::StrCat(s.sessions_open(), " open, ", s.sessions_moved_out(), " moved out"));
  Row("requests", absl::StrFormat("%d running, %d waiting; a question's longest wait was %.2f s", s.requests_running(),
                                  s.requests_waiting(), s.longest_wait_seconds()));
  if (s.pages() > 0) {
    Row("KV pages", absl::StrCat(used(s.pages(), s.pages_free()), ", ", Grouped(s.pages_available()),
                                 " neither used nor promised (128 tokens each)"));
  }
  if (s.split_pages() > 0) Row("split pages", used(s.split_pages(), s.split_pages_free()));
  Row("ring sets", used(s.rings(), s.rings_free()));
  Row("calls", absl::StrCat(Grouped(s.calls()), " answered, ", Grouped(s.calls_refused()), " refused"));
  Row("disk", absl::StrCat(s.checkpoints(), " checkpoints, ", Size(s.saved_bytes()), " written, ",
                           Size(s.restored_bytes()), " read"));
}

}  // namespace duo
