#include "launcher/serve/trace/span_sender.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/trace/http_post.h"

namespace duo {
namespace {

constexpr char kPath[] = "/v1/traces";
constexpr size_t kMostOfARequest = 512;  // spans
constexpr double kAnswerSeconds = 10, kLastSeconds = 1, kLineSeconds = 60;
constexpr std::chrono::seconds kBetween{1}, kAfterFailure{5};

// Whether the collector may take the same later, as the protocol has it.
bool Again(int status) { return status == 429 || status == 502 || status == 503 || status == 504; }

}  // namespace

class SpanSender::Queue {
 public:
  Queue(HttpTarget target, std::vector<SpanField> resource, const Log& log)
      : target_(std::move(target)), resource_(std::move(resource)), log_(log), thread_([this] { Run(); }) {}
  ~Queue() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void Add(Span span) {
    std::lock_guard lock(mutex_);
    spans_.push_back(std::move(span));
    Bound();
    wake_.notify_one();
  }

 private:
  void Bound() {
    while (spans_.size() > kMostWaiting) {
      spans_.pop_front();
      ++lost_;
    }
  }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || !spans_.empty(); });
      if (spans_.empty()) return;
      wake_.wait_for(lock, failed_ ? kAfterFailure : kBetween, [this] { return stop_; });
      const bool last = stop_;
      const size_t count = std::min(spans_.size(), kMostOfARequest);
      std::vector<Span> some(std::make_move_iterator(spans_.begin()), std::make_move_iterator(spans_.begin() + count));
      spans_.erase(spans_.begin(), spans_.begin() + static_cast<std::ptrdiff_t>(count));
      lock.unlock();
      std::string why;
      const bool taken = Post(some, last, &why);
      lock.lock();
      if (taken && !why.empty()) lost_ += count;  // it does not want them
      failed_ = !taken;
      if (!taken) {
        spans_.insert(spans_.begin(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
        Bound();
      }
      if (!why.empty()) Tell(why, lock);
      if (last && !taken) return;
    }
  }

  // False: they are to be sent again. why: what went wrong.
  bool Post(const std::vector<Span>& spans, bool last, std::string* why) {
    const std::string body = OtlpJson(spans, resource_, [this] { return Id(); });
    const absl::StatusOr<int> status = PostJson(target_, body, last ? kLastSeconds : kAnswerSeconds);
    if (!status.ok()) {
      *why = std::string(status.status().message());
      return false;
    }
    if (*status / 100 == 2) return true;
    *why = absl::StrCat("it answered ", *status);
    return !Again(*status);
  }

  void Tell(const std::string& why, std::unique_lock<std::mutex>& lock) {
    if (told_ && SecondsSince(last_line_) < kLineSeconds) return;
    told_ = true;
    last_line_ = Clock::now();
    const int64_t lost = std::exchange(lost_, 0);
    const auto waiting = static_cast<int64_t>(spans_.size());
    lock.unlock();
    log_.Warn("spans not sent", {{"collector", absl::StrCat(target_.host, ":", target_.port, target_.path)},
                                 {"status", why},
                                 {"waiting", waiting},
                                 {"lost", lost}});
    lock.lock();
  }

  uint64_t Id() {
    uint64_t id = 0;
    while (id == 0) id = random_();
    return id;
  }

  const HttpTarget target_;
  const std::vector<SpanField> resource_;
  const Log& log_;
  std::mt19937_64 random_{(uint64_t{std::random_device()()} << 32) | std::random_device()()};  // the thread's
  std::mutex mutex_;                                                                           // guards what follows
  std::condition_variable wake_;
  std::deque<Span> spans_;
  int64_t lost_ = 0;
  bool stop_ = false, failed_ = false, told_ = false;
  Clock::time_point last_line_;
  std::thread thread_;
};

SpanSender::SpanSender(std::unique_ptr<Queue> queue) : queue_(std::move(queue)) {}
SpanSender::~SpanSender() = default;

absl::Status SpanSender::Check(const std::string& url) { return ParseHttpTarget(url, kPath).status(); }

absl::StatusOr<std::unique_ptr<SpanSender>> SpanSender::Make(const std::string& url, std::vector<SpanField> resource,
                                                             const Log& log) {
  absl::StatusOr<HttpTarget> target = ParseHttpTarget(url, kPath);
  if (!target.ok()) return target.status();
  resource.insert(resource.begin(), {"service.name", "duo"});
  return std::unique_ptr<SpanSender>(
      new SpanSender(std::make_unique<Queue>(*std::move(target), std::move(resource), log)));
}

void SpanSender::Send(Span span) {
  if (ParseTraceParent(span.traceparent).sampled) queue_->Add(std::move(span));
}

}  // namespace duo
