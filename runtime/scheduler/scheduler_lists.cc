// Answers that are written by page lists (runtime/model/decode_sparsity.h): which rows of a step visit their lists,
// which make them, and what that found.
#include <utility>

#include "kernels/list_ends.h"
#include "runtime/scheduler/pages_read.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr double kPagesOfEnds = DecodeListRule::kSinkPages + DecodeListRule::kLastPages;

// What sequences that read their text together have in common.
int32_t FirstPage(const Sequence& sequence) { return sequence.pages.empty() ? -1 - sequence.table : sequence.pages[0]; }

}  // namespace

// What a kept answer leaves in its session is read by whoever asks next: it is as exact as the rest. What is guessed is
// checked, and nobody reads it.
bool Scheduler::MayBeListed(const Request& r) const {
  return options_.guesses ? MayGuess(r) && r.self.WantsLists() : r.drawing && !ExtendsSession(r);
}

// In the order of the plan's sequences. A row that is due sees everything, and makes lists. Those that have lists visit
// them where that is fewer pages than the step would read without: rows of sequences that begin with the same pages
// read these together when they see everything.
void Scheduler::PlanLists(StepPlan* plan) {
  if (!options_.decode.on()) return;
  PagesRead read;
  for (size_t i = plan->kind == StepKind::kPrefill ? 1 : 0; i < parts_.size(); ++i) {
    SeqSpan& span = plan->spans[i];
    const int64_t position = span.history, pages = (position + span.num_rows - 1) / kPageTokens + 1;
    const auto found = requests_.find(parts_[i].request);
    Request* request = found == requests_.end() || parts_[i].refeeds ? nullptr : &found->second;
    const bool known = request != nullptr && request->sequence != nullptr;
    const int32_t first = known ? FirstPage(*request->sequence) : -1 - span.table;
    const bool may = request != nullptr && MayBeListed(*request);
    const bool guesses = request != nullptr && parts_[i].guesses;
    // Guesses follow the step, and are to have lists wherever its drafts end.
    const int64_t next = position + (options_.guesses ? span.num_rows : 0);
    if (may && request->lists.DueFor(next, position, options_.list_pages) && !guesses) PlanChoice(*request, &span);
    const bool visits_list = guesses ? parts_[i].guess_kind == GuessKind::kLists : may && !options_.guesses;
    if (guesses && parts_[i].guess_kind == GuessKind::kEnds) {
      span.list_use = ListUse::kVisit;
      span.list = kListOfEnds;
      read.MayVisit(first, pages, kPagesOfEnds);
    } else if (visits_list && span.num_rows == 1 && request->lists.Serves(position)) {
      span.list_use = ListUse::kVisit;
      span.list = request->lists.slot;
      read.MayVisit(first, pages, request->lists.Pages(position));
    } else {
      read.Sees(first, pages);
    }
  }
  plan->list_target = options_.decode.target;
  const bool visits = read.visits();
  for (size_t i = 0; i < parts_.size(); ++i) {
    SeqSpan& span = plan->spans[i];
    if (span.list_use == ListUse::kVisit && !visits) span.list_use = ListUse::kNone;
    parts_[i].list_use = span.list_use;
    if (parts_[i].guesses && span.list_use == ListUse::kNone) parts_[i].guess_kind = GuessKind::kAll;
  }
}

// Would the rows that guess read fewer pages than if they saw everything? Not beside rows of others that read the same
// text anyway, or where lists are too long for their number: there a plain row gives a token for what a guess takes.
bool Scheduler::GuessesReadLess(const Riding& riding) const {
  PagesRead read;
  const auto sees = [&](const Sequence& sequence, int64_t first, int rows) {
    read.Sees(FirstPage(sequence), (first + rows - 1) / kPageTokens + 1);
  };
  for (const auto& [session, rows] : riding.rebuilds) sees(session->sequence, session->sequence.rings_at, rows);
  for (const auto& [request, rows] : riding.refeeds) sees(*request->sequence, request->sequence->rings_at, rows);
  for (const auto& [request, rows] : riding.requests) {
    const Sequence& sequence = *request->sequence;
    const int64_t position = sequence.length + std::ssize(request->guesses);
    if (!request->guessing || request->guess_kind == GuessKind::kAll) {
      sees(sequence, sequence.length, rows + static_cast<int>(request->drafts.size()));
    } else {
      const bool ends = request->guess_kind == GuessKind::kEnds;
      read.MayVisit(FirstPage(sequence), position / kPageTokens + 1,
                    ends ? kPagesOfEnds : request->lists.Pages(position));
    }
  }
  return read.visits();
}

void Scheduler::PlanChoice(Request& request, SeqSpan* span) {
  ListedAnswer& lists = request.lists;
  if (lists.slot < 0) {
    if (list_slots_.empty()) return;
    lists.slot = list_slots_.back();
    list_slots_.pop_back();
  }
  span->list_use = lists.made() ? ListUse::kChooseAgain : ListUse::kChoose;
  span->list = lists.slot;
}

// What the part's row did with its lists; chosen: sequences before it in the step that made some.
void Scheduler::OnListed(Request& request, const Part& part, const ChosenLists& lists, size_t chosen) {
  const int64_t position = request.sequence->length;
  if (part.list_use == ListUse::kVisit) {
    request.lists.Visited(position);
    ++stats_.decode.listed_tokens;
    stats_.decode.setting = Name(options_.decode);
  } else if (chosen < lists.slots.size()) {
    const ListsFound found = FoundBy(&lists.heads[chosen * options_.heads], options_.heads, options_.kv_heads);
    request.lists.Made(position, found);
    if (options_.guesses && !found.left_out) request.self.LeftNothingOut(GuessKind::kLists);
    stats_.decode.Add(found);
  }
}

void Scheduler::GiveBackLists(Request& request) {
  request.result.decode = request.lists.Report(options_.decode);
  if (request.lists.slot >= 0) list_slots_.push_back(std::exchange(request.lists.slot, -1));
}

}  // namespace duo
