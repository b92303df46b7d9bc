// GuideCompiler: what requests ask their answers to be (runtime/text/grammar) becomes grammars on a thread of its own,
// so that neither the engine nor a transport waits for a large schema. The grammars used last are kept, so that a
// client that sends the same schema again and again pays once; so are the tokens' bytes, made when they are first
// needed.
//
// Any thread. The destructor ends the thread; what still waited is answered with CANCELLED.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/guide.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/token_bytes.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct CompiledGuide {
  std::shared_ptr<const Grammar> grammar;
  std::shared_ptr<const TokenTrie> tokens;
};

class GuideCompiler {
 public:
  using Done = std::function<void(const absl::StatusOr<CompiledGuide>&)>;

  // vocab: the model's, which may be larger than the tokenizer's.
  GuideCompiler(Tokenizer tokenizer, int64_t vocab) : tokenizer_(std::move(tokenizer)), vocab_(vocab) {}
  ~GuideCompiler();

  // `done` is called once, on this thread or the compiler's. RESOURCE_EXHAUSTED where too many wait already.
  void Compile(Guide guide, Done done);

 private:
  struct Job {
    Guide guide;
    Done done;
  };
  void Run();
  absl::StatusOr<CompiledGuide> Make(const Guide& guide);

  const Tokenizer tokenizer_;
  const int64_t vocab_;
  // The thread's own.
  std::shared_ptr<const TokenTrie> tokens_;
  std::list<std::pair<Guide, std::shared_ptr<const Grammar>>> kept_;  // used last first

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool ending_ = false;
  std::thread thread_;  // begun with the first job
};

}  // namespace duo
