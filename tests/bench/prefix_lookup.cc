// What finding a prompt of a million tokens, four megabytes of text, takes among 1,000 others, in milliseconds of CPU
// time of one thread, as JSON. The prompt agrees with most of them for a part of its length, as texts of one tree do.
//
//   find    how much of it is there (Scheduler::FindPrefix)
//   start   from its call to its fork: looking, comparing, taking pages (Scheduler::Ask and Next)
//   saved   which saved text it begins like (PrefixIndex::Find), and the same for 1,000 prefixes one after the other
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/splitmix64.h"
#include "launcher/serve/prefix/prefix_index.h"
#include "runtime/files/token_chain.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr int kNodes = 1000, kRepeats = 41;
constexpr int64_t kPrompt = 1000000, kLongest = 400000;

double Milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

struct Times {
  std::vector<double> all;
  void Print(const char* name, const char* end) {
    std::sort(all.begin(), all.end());
    std::printf(" \"%s\": {\"median_ms\": %.3f, \"worst_ms\": %.3f}%s\n", name, all[all.size() / 2], all.back(), end);
  }
};

int Main() {
  uint64_t random = 24;
  const auto draw = [&](uint64_t below) {
    random = SplitMix64(random + 1);
    return random % below;
  };
  std::vector<int32_t> prompt(kPrompt);
  for (int32_t& token : prompt) token = static_cast<int32_t>(draw(100000));
  SchedulerOptions options;
  options.sessions = 2;
  options.questions = 2;
  options.prefixes = kNodes + 1;
  options.refeed = 8192;
  options.flop_per_token = 1.6e10;
  options.flop_per_token_pair = 2.6e5;
  options.flop_rate = 4e14;
  KvSizes sizes;
  sizes.pages = sizes.split_pages = kNodes * (kLongest / kPageTokens + 1) + 3 * (kPrompt / kPageTokens + 1);
  sizes.slots = 2;
  sizes.tables = options.sessions + options.questions + options.prefixes;
  sizes.rings = sizes.tables + 1;
  sizes.table_pages = kPrompt / kPageTokens + 2;
  Scheduler scheduler(options, sizes, true, true);
  std::vector<SavedText> saved;
  int64_t node_tokens = 0;
  StepPlan plan;
  for (int i = 0; i <= kNodes; ++i) {  // the last one is a beginning of the prompt as long as it but for a question
    const bool whole = i == kNodes;
    const auto length = whole ? kPrompt - 100 : static_cast<int64_t>(2000 + draw(kLongest - 2000));
    const int64_t common = whole ? length : static_cast<int64_t>(draw(length));
    std::vector<int32_t> tokens(prompt.begin(), prompt.begin() + common);
    while (std::ssize(tokens) < length) tokens.push_back(static_cast<int32_t>(draw(100000)));
    std::vector<uint32_t> chain;
    FollowTokens(tokens, &chain);
    saved.push_back({std::to_string(i), "me", std::move(chain), length, length, true});
    const auto id = scheduler.AdoptPrefix(std::move(tokens), true, "me");
    DUO_CHECK(id.ok() && scheduler.Filled(*id).ok());
    node_tokens += length;
    plan = StepPlan();
    scheduler.TakeCacheUpdates(&plan);
  }
  const SessionId empty = scheduler.CreateSession(1, 0).value();
  Times find, start, from_disk, all_saved;
  for (int i = 0; i < kRepeats; ++i) {
    for (int64_t at = kPrompt - 50; at < kPrompt; ++at) prompt[at] = static_cast<int32_t>(draw(100000));  // a question
    double begun = Milliseconds();
    DUO_CHECK(scheduler.FindPrefix(prompt, "me") >= kPrompt - 100);
    find.all.push_back(Milliseconds() - begun);
    GenerateParams params;
    params.max_new_tokens = 1;
    params.prefix = {true, "me"};
    int64_t cached = 0;
    RequestEvents events;
    events.on_start = [&](const CachedPrefix& found) { cached = found.tokens; };
    std::vector<int32_t> tokens = prompt;
    begun = Milliseconds();
    const RequestId request = scheduler.Ask(empty, std::move(tokens), params, std::move(events)).value();
    plan = StepPlan();
    DUO_CHECK(scheduler.Next(&plan));
    start.all.push_back(Milliseconds() - begun);
    DUO_CHECK(cached >= kPrompt - 100);
    StepResult result;
    result.tokens.assign(plan.sample_rows.size(), 7);
    scheduler.Complete(result, 0.01);
    scheduler.Cancel(request).IgnoreError();
    while (scheduler.Next(&plan)) {
      result.tokens.assign(plan.sample_rows.size(), 7);
      scheduler.Complete(result, 0.01);
    }
  }
  PrefixIndex index;
  std::vector<std::vector<uint32_t>> chains;
  for (const SavedText& text : saved) chains.push_back(text.chain);
  index.Set(std::move(saved));
  for (int i = 0; i < kRepeats; ++i) {
    int64_t links = 0;
    double begun = Milliseconds();
    std::vector<uint32_t> chain;
    FollowTokens(prompt, &chain);
    DUO_CHECK(index.Find("me", chain, &links) != nullptr && links == (kPrompt - 100) / kChainTokens);
    from_disk.all.push_back(Milliseconds() - begun);
    begun = Milliseconds();
    for (const std::vector<uint32_t>& each : chains) index.Find("me", each, &links);
    all_saved.all.push_back(Milliseconds() - begun);
  }
  std::printf("{\"prompt_tokens\": %lld, \"nodes\": %d, \"node_tokens\": %lld,\n", static_cast<long long>(kPrompt),
              kNodes + 1, static_cast<long long>(node_tokens));
  find.Print("find", ",");
  start.Print("start", ",");
  from_disk.Print("saved", ",");
  all_saved.Print("saved_for_each_node", "}");
  return 0;
}

}  // namespace
}  // namespace duo

int main() { return duo::Main(); }
