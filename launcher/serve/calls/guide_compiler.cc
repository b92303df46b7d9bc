#include "launcher/serve/calls/guide_compiler.h"

#include <algorithm>
#include <utility>

namespace duo {
namespace {

constexpr size_t kMostWaiting = 256, kMostKept = 32;

}  // namespace

GuideCompiler::~GuideCompiler() {
  std::deque<Job> left;
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
    left = std::move(jobs_);
    jobs_.clear();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (const Job& job : left) job.done(absl::CancelledError("the server ends"));
}

void GuideCompiler::Compile(Guide guide, Done done) {
  {
    std::lock_guard lock(mutex_);
    if (!ending_ && jobs_.size() < kMostWaiting) {
      jobs_.push_back({std::move(guide), std::move(done)});
      if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
      done = nullptr;
    }
  }
  if (done != nullptr) return done(absl::ResourceExhaustedError("too many schemas and grammars wait; try again later"));
  changed_.notify_one();
}

void GuideCompiler::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
    if (ending_) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job.done(Make(job.guide));
    lock.lock();
  }
}

absl::StatusOr<CompiledGuide> GuideCompiler::Make(const Guide& guide) {
  if (tokens_ == nullptr) tokens_ = MakeTokenTrie(tokenizer_, vocab_);
  const auto known = std::find_if(kept_.begin(), kept_.end(), [&](const auto& kept) { return kept.first == guide; });
  if (known != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, known);
  } else {
    absl::StatusOr<std::shared_ptr<const Grammar>> grammar = CompileGuide(guide);
    if (!grammar.ok()) return grammar.status();
    kept_.emplace_front(guide, std::move(*grammar));
    if (kept_.size() > kMostKept) kept_.pop_back();
  }
  return CompiledGuide{kept_.front().second, tokens_};
}

}  // namespace duo
