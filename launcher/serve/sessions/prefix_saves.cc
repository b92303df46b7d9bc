// Prefixes on disk. What prompts left is saved where reading it again would take longer than bringing it back, within a
// budget of bytes: so it outlives the cache and the server, killed or not, and any number of ranks can go on with it. A
// prompt that agrees with a saved text for longer than with what is in the cache waits until that is brought back, as a
// prefix, if that is predicted to be the faster way.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/math.h"
#include "kernels/base/seconds.h"
#include "kernels/base/splitmix64.h"
#include "launcher/serve/sessions/sessions.h"
#include "runtime/files/token_chain.h"

namespace duo {
namespace {

constexpr double kLookSeconds = 1;                    // between two looks at what is saved
constexpr double kPauseSeconds = 60;                  // after a save that failed
constexpr int64_t kLeastMeasured = int64_t{1} << 20;  // bytes that tell how fast the disk is
constexpr double kHopes = 1.02;

// With checksums, the places of pages, the manifest and the marks of who holds it, at most.
int64_t BytesOnDisk(int64_t bytes) { return bytes + bytes / 64 + 16384; }

}  // namespace

void Sessions::LookForSaved(bool now) {
  if (!now && SecondsSince(last_saved_look_) < kLookSeconds) return;
  last_saved_look_ = Clock::now();
  std::vector<SavedText> texts;
  for (const SavedSession& saved : store_->List()) {
    if (!saved.usable.ok() || !saved.manifest.ok() || unrestored_.count(saved.id) != 0) continue;
    const SessionManifest& m = *saved.manifest;
    if (m.hash_chain.empty()) continue;
    const std::string& owner = m.owner.empty() ? kDefaultOwner : m.owner;
    const int64_t bytes = BytesOnDisk(m.bytes);
    texts.push_back({saved.id, PrefixOf(owner, m.prefix_salt).realm, m.hash_chain, m.tokens, bytes, m.prefix});
  }
  saved_texts_.Set(std::move(texts));
}

// True: the prompt waits for a saved text to be brought back.
bool Sessions::RestoreFor(const PromptPtr& prompt) {
  const PrefixUse& use = prompt->params.prefix;
  if (store_ == nullptr || !use.on || prompt->params.rules.prompt_scores >= 0) return false;
  LookForSaved(false);
  std::vector<uint32_t> chain;
  FollowTokens(prompt->tokens, &chain);
  int64_t links = 0;
  const SavedText* saved = saved_texts_.Find(use.realm, chain, &links);
  if (saved == nullptr) return false;
  const int64_t common = links * kChainTokens, have = engine_.FindPrefix(prompt->tokens, use.realm);
  if (common < have + kChainTokens) return false;
  if (static_cast<double>(saved->bytes) / DiskRate() >= engine_.PredictRead(common - have, have)) {
    // Who does not try does not learn: a disk that was slow once gets another chance after a while.
    if (disk_rate_ < kDiskRate) disk_rate_ = std::min(kDiskRate, disk_rate_ * kHopes);
    return false;
  }
  const std::string id = saved->id;
  saved_texts_.Used(id);
  if (restoring_.count(id) == 0) {
    absl::StatusOr<std::unique_ptr<RestoreJob>> restore = store_->StartRestorePrefix(id, use.realm);
    if (!restore.ok()) {
      unrestored_.insert(id);
      saved_texts_.Erase(id);
      return false;
    }
    StoreJob job;
    job.id = absl::StrCat("/", id);  // no session's: it may be closed meanwhile
    job.begun = Clock::now();
    job.restore = *std::move(restore);
    job.done = [this, id](const absl::Status& status, StoreJob& finished) { OnPrefixRestored(id, status, finished); };
    jobs_.push_back(std::move(job));
  }
  restoring_[id].push_back(prompt);
  prompt->call->cancel = [this, id, prompt] {
    std::erase(restoring_[id], prompt);
    prompt->Refuse(absl::CancelledError("the call was cancelled"));
  };
  return true;
}

void Sessions::OnPrefixRestored(const std::string& id, const absl::Status& status, StoreJob& job) {
  const std::vector<PromptPtr> prompts = std::exchange(restoring_[id], {});
  restoring_.erase(id);
  const int64_t bytes = status.ok() ? job.restore->bytes_read() : 0;
  if (status.ok()) {
    const double seconds = SecondsSince(job.begun);
    stats_.restored_bytes += bytes;
    // The mean of what a byte took, so that one slow disk is not taken for a fast one.
    if (bytes >= kLeastMeasured) disk_rate_ = 2 / (1 / disk_rate_ + seconds / static_cast<double>(bytes));
    log_.Event("prefix restored", {{"prefix", id}, {"bytes", bytes}, {"seconds", seconds}});
  } else {
    if (!absl::IsResourceExhausted(status)) unrestored_.insert(id);
    saved_texts_.Erase(id);
    log_.Warn("prefix not restored", {{"prefix", id}, {"status", std::string(status.message())}});
  }
  const NamedSession* session = Lookup(id);
  for (const PromptPtr& prompt : prompts) {
    prompt->call->cancel = nullptr;
    if (status.ok()) {
      const bool left = saved_texts_.texts().count(id) != 0 && saved_texts_.texts().at(id).left;
      prompt->restored_from = session != nullptr ? "moved_out" : "saved";
      prompt->restored_session = left ? "" : id;
      prompt->restored_bytes = bytes;
    }
    Later([this, prompt] { StartPrompt(prompt); });
  }
}

int Sessions::RestoringPrompts() const {
  size_t answers = 0;
  for (const auto& [id, prompts] : restoring_) {
    for (const PromptPtr& prompt : prompts) answers += prompt->answers.size();
  }
  return static_cast<int>(answers);
}

// Those whose text is not back yet end with this status; how many answers that were.
int Sessions::EndRestoring(const absl::Status& status) {
  const int answers = RestoringPrompts();
  for (auto& [id, prompts] : restoring_) {
    for (const PromptPtr& prompt : std::exchange(prompts, {})) {
      prompt->call->cancel = nullptr;
      prompt->Refuse(status);
    }
  }
  return answers;
}

// What a prefix of so many tokens takes on disk at most: whole pages, and tokens.
int64_t Sessions::BytesToSave(int64_t tokens) const {
  return BytesOnDisk(engine_.KvBytes(CeilDiv(tokens, kPageTokens) * kPageTokens) + 4 * tokens);
}

// The prefix whose saving saves most, if one is worth it. One at a time.
void Sessions::SavePrefixes() {
  if (store_ == nullptr || options_.prefix_disk <= 0 || saving_prefix_ || draining_) return;
  if (Clock::now() < no_prefix_saves_until_) return;
  LookForSaved(false);
  std::optional<PrefixInfo> chosen;
  double most = 0;
  for (PrefixInfo& prefix : engine_.Prefixes()) {
    int64_t links = 0;
    saved_texts_.Find(prefix.realm, prefix.chain, &links);
    const int64_t covered = links * kChainTokens, more = prefix.tokens - covered;
    // A text that grows by little is not written again each time.
    if (more < std::max(kChainTokens, prefix.tokens / 8) || BytesToSave(prefix.tokens) > options_.prefix_disk) continue;
    const double gain = engine_.PredictRead(more, covered) - static_cast<double>(prefix.kv_bytes) / DiskRate();
    if (gain <= most) continue;
    most = gain;
    chosen = std::move(prefix);
  }
  if (chosen.has_value()) SavePrefix(*chosen);
}

void Sessions::SavePrefix(const PrefixInfo& prefix) {
  const int64_t needed = BytesToSave(prefix.tokens);
  while (saved_texts_.LeftBytes() + needed > options_.prefix_disk && saved_texts_.Oldest() != nullptr) {
    const std::string oldest = saved_texts_.Oldest()->id;
    saved_texts_.Erase(oldest);
    store_->Do([s = store_, oldest] { s->Delete(oldest).IgnoreError(); });
  }
  const size_t name = prefix.realm.find('\n');
  SessionManifest meta;
  meta.prefix = true;
  meta.owner = prefix.realm.substr(0, name);
  meta.prefix_salt = prefix.realm.substr(name + 1);
  const std::string id = absl::StrFormat("prefix-%016x", SplitMix64(next_id_++));
  StoreJob job;
  job.id = id;
  job.begun = Clock::now();
  absl::StatusOr<std::unique_ptr<SaveJob>> save = store_->StartSave(id, prefix.id, meta);
  if (!save.ok()) return OnPrefixSaved(id, save.status(), job);
  job.save = *std::move(save);
  job.done = [this, id](const absl::Status& status, StoreJob& finished) { OnPrefixSaved(id, status, finished); };
  saving_prefix_ = true;
  jobs_.push_back(std::move(job));
}

void Sessions::OnPrefixSaved(const std::string& id, const absl::Status& status, StoreJob& job) {
  saving_prefix_ = false;
  // Nobody holds it: any server may restore or delete it.
  store_->Do([s = store_, id] {
    s->Forget(id);
    s->Release(id);
  });
  if (status.ok()) {
    stats_.saved_bytes += job.save->bytes_written();
    LookForSaved(true);
    saved_texts_.Used(id);
    log_.Event("prefix saved", {{"prefix", id},
                                {"tokens", job.save->tokens()},
                                {"bytes", job.save->bytes_total()},
                                {"seconds", SecondsSince(job.begun)}});
  } else if (!absl::IsNotFound(status)) {  // it was not dropped meanwhile
    no_prefix_saves_until_ = Clock::now() + std::chrono::seconds(static_cast<int>(kPauseSeconds));
    log_.Warn("prefix not saved", {{"prefix", id}, {"status", std::string(status.message())}});
  }
  Later([this] { SavePrefixes(); });
}

}  // namespace duo
