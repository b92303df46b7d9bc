#include "runtime/saved/session_store.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/token_chain.h"
#include "runtime/saved/session_names.h"
#include "runtime/weights/fingerprint.h"
#include "runtime/weights/safetensors.h"

namespace duo {
namespace {

constexpr char kProbe[] = ".duo-probe";

std::string RetrievalString(const HeadPlan& heads) {
  std::string text;
  for (uint8_t r : heads.retrieval) text += r != 0 ? '1' : '0';
  return text;
}

// What a session of so many tokens holds by these chunks; empty: the same as by none.
std::string ChunksOf(const DualChunk& chunks, int64_t tokens) {
  const bool same = tokens <= chunks.length && (chunks.trained == 0 || tokens <= chunks.trained);
  if (chunks.length == 0 || same) return "";
  return absl::StrCat(chunks.length, " of ", chunks.size, " from ", chunks.trained);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const std::string& dir, const std::string& model_dir,
                                                                 Engine& engine, StoreOptions options) {
  std::unique_ptr<SessionStore> store(new SessionStore());
  const FileSystem& files = options.files != nullptr ? *options.files : RealFiles();
  store->dir_ = dir;
  store->files_ = &files;
  store->engine_ = &engine;
  store->disk_ = std::make_unique<DiskThread>(options.threaded);
  absl::StatusOr<SafetensorsModel> model = SafetensorsModel::Open(model_dir);
  if (!model.ok()) return model.status();
  store->fingerprint_ = WeightsFingerprint(*model);
  if (absl::Status made = MakeDirectories(files, dir); !made.ok()) return made;
  const std::string probe = absl::StrCat(kProbe, "-", getpid());
  if (absl::StatusOr<File> file = File::Open(files, dir + "/" + probe, O_WRONLY | O_CREAT); !file.ok()) {
    return file.status();
  }
  KvIoPlan plan;
  plan.dir = dir;
  plan.rings_file = probe;
  absl::StatusOr<KvIoResult> seen = engine.RunIo(plan);
  files.unlink(dir + "/" + probe);
  if (!seen.ok()) return seen.status();
  store->shared_ = seen->visible;
  absl::StatusOr<std::unique_ptr<ServerLease>> lease = ServerLease::Open(files, dir, std::move(options.lease));
  if (!lease.ok()) return lease.status();
  store->lease_ = std::move(*lease);
  store->index_ = std::make_unique<SessionIndex>(
      files, dir, *store->lease_,
      [s = store.get()](const SessionManifest& m, const std::string& where) { return s->CheckUsable(m, where); });
  store->index_->Refresh();
  store->look_seconds_ = options.look_seconds;
  if (options.look_seconds > 0) store->keeper_ = std::thread([s = store.get()] { s->Keep(); });
  return store;
}

SessionStore::~SessionStore() {
  disk_.reset();  // what it still has to do is done
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (keeper_.joinable()) keeper_.join();
}

// The store's own thread.
void SessionStore::Keep() {
  const std::chrono::duration<double> pause(std::min(look_seconds_, lease_->beat_seconds()));
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, pause, [this] { return stop_; })) {
    lock.unlock();
    // A beat that fails shows when the lease has lapsed: then saving says so.
    lease_->Beat().IgnoreError();
    index_->Refresh();
    lock.lock();
  }
}

absl::StatusOr<SavedSession> SessionStore::Find(const std::string& id) const {
  std::optional<SavedSession> found = index_->Find(id);
  if (!found.has_value() && ValidSessionId(id)) {
    index_->Refresh(id);
    found = index_->Find(id);
  }
  if (!found.has_value()) return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  return *std::move(found);
}

absl::StatusOr<SessionManifest> SessionStore::ReadWhole(const std::string& id) const {
  if (!ValidSessionId(id)) return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  const std::string name = absl::StrCat(DirOf(id), "/", kManifestName);
  while (true) {
    const absl::StatusOr<FileState> before = StateOf(*files_, name);
    absl::StatusOr<SessionManifest> m = ReadManifest(*files_, DirOf(id));
    if (absl::IsNotFound(m.status())) {
      return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
    }
    if (!m.ok()) return m.status();
    const absl::Status sections = ReadSections(*files_, DirOf(id), &*m);
    if (sections.ok()) return m;
    // Another server may have replaced it in between, and deleted what was read here.
    const absl::StatusOr<FileState> after = StateOf(*files_, name);
    if (before.ok() && after.ok() && *before == *after) return sections;
    if (!after.ok()) return after.status();
  }
}

absl::Status SessionStore::CheckUsable(const SessionManifest& m, const std::string& dir) const {
  auto differs = [&](const std::string& what, const std::string& saved, const std::string& here) {
    return absl::FailedPreconditionError(absl::StrCat(dir, ": saved with ", what, " ", saved, ", this server has ",
                                                      here, "; restore --reread reads it again from its tokens"));
  };
  const HeadPlan& heads = engine_->heads();
  if (m.version < kOldestRestoredVersion) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: format version %d, whose pages this program does not read; restore --reread reads it "
                        "again from its tokens",
                        dir, m.version));
  }
  if (!m.needs.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(dir, ": its reader needs \"", m.needs.front(),
                                                      "\", which this program does not have; restore --reread reads it "
                                                      "again from its tokens"));
  }
  if (m.fingerprint != fingerprint_)
    return differs("another model's weights: fingerprint", m.fingerprint, fingerprint_);
  if (m.layers != engine_->config().layers || m.kv_heads != engine_->config().kv_heads ||
      m.head_dim != engine_->config().head_dim) {
    return differs("another model's shape, layers", absl::StrCat(m.layers), absl::StrCat(engine_->config().layers));
  }
  const std::optional<KvFormat> format = FormatOf(m);
  if (!format.has_value() || !ReadsAs(*format, engine_->kv_format())) {
    return differs("--kv", m.kv_format,
                   absl::StrCat(Name(engine_->kv_format()), "; start one with --kv ", m.kv_format,
                                m.kv_format == "f32" ? " on the CPU (CUDA has no f32 KV)" : ""));
  }
  if (m.key_means != engine_->key_means()) {
    const auto shown = [](const std::string& print) { return print.empty() ? "off" : print; };
    return differs("--key-means", shown(m.key_means),
                   absl::StrCat(shown(engine_->key_means()), m.key_means.empty()
                                                                 ? "; start one with --key-means off"
                                                                 : "; start one with --key-means of the same file"));
  }
  if (const std::string chunks = ChunksOf(engine_->dual_chunk(), m.tokens); m.dual_chunk != chunks) {
    const auto shown = [](const std::string& of) { return of.empty() ? "none" : of; };
    return differs("chunks by which positions are read,", shown(m.dual_chunk),
                   absl::StrCat(shown(chunks), m.dual_chunk.empty()
                                                   ? "; start one whose sessions are no longer than plain RoPE reads"
                                                   : "; start one for longer sessions"));
  }
  if (m.sink != heads.sink || m.recent != heads.recent) {
    return differs("sink and recent sizes", absl::StrCat(m.sink, " and ", m.recent),
                   absl::StrCat(heads.sink, " and ", heads.recent));
  }
  if (m.retrieval != RetrievalString(heads)) {
    const auto count = std::count(m.retrieval.begin(), m.retrieval.end(), '1');
    return differs("another choice of retrieval heads,", absl::StrCat(count),
                   absl::StrCat(heads.retrieval_heads(), "; use the same --pattern and --sparsity or --threshold"));
  }
  return absl::OkStatus();
}

// A ring of every streaming head, each once.
absl::Status SessionStore::CheckRings(const SessionManifest& m, const std::string& dir) const {
  int streaming = 0;
  for (const KvRingSection& r : m.rings) streaming += m.retrieval[int64_t{r.layer} * m.kv_heads + r.head] == '0';
  const int expected = engine_->heads().streaming_heads();
  if (streaming == expected && static_cast<int>(m.rings.size()) == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("%s/%s: damaged: it has %d rings, %d of streaming heads; %d were expected",
                                             dir, kManifestName, m.rings.size(), streaming, expected));
}

SessionManifest SessionStore::ManifestOf(const SessionKv& kv, const SessionManifest& meta) const {
  SessionManifest m;
  m.tokens = static_cast<int64_t>(kv.tokens.size());
  m.max_tokens = std::max(meta.max_tokens, m.tokens);
  m.reserved_tokens = meta.reserved_tokens;
  m.durable = meta.durable;
  m.pinned = meta.pinned;
  m.open = meta.open;
  m.append = meta.append;
  m.owner = meta.owner;
  m.text = meta.text;
  m.prefix = meta.prefix;
  m.prefix_salt = meta.prefix_salt;
  FollowTokens(kv.tokens, &m.hash_chain);
  m.fingerprint = fingerprint_;
  m.kv_format = Name(engine_->kv_format());
  m.layers = engine_->config().layers;
  m.kv_heads = engine_->config().kv_heads;
  m.head_dim = engine_->config().head_dim;
  m.sink = engine_->heads().sink;
  m.recent = engine_->heads().recent;
  m.retrieval = RetrievalString(engine_->heads());
  m.rings_valid = kv.rings_valid;
  m.sparse = kv.sparse;
  m.key_means = engine_->key_means();
  m.dual_chunk = ChunksOf(engine_->dual_chunk(), m.tokens);
  return m;
}

absl::StatusOr<int64_t> SessionStore::HoldNumber(const std::string& id, bool anew) {
  const auto held = held_.find(id);
  if (held != held_.end() && !anew && lease_->Check(DirOf(id), held->second).ok()) return held->second;
  // No file that is there has this number, and none that was: another server may still be writing it.
  int64_t least = 1;
  std::vector<std::string> names;
  files_->list(DirOf(id), &names);
  for (const std::string& name : names) least = std::max(least, ParseSavedName(name).generation + 1);
  if (const auto lineage = lineages_.find(id); lineage != lineages_.end()) {
    least = std::max<int64_t>(least, lineage->second.manifest.generation + 1);
  }
  absl::StatusOr<int64_t> number = lease_->Take(DirOf(id), least);
  if (number.ok()) held_[id] = *number;
  return number;
}

absl::Status SessionStore::Hold(const std::string& id) {
  if (!ValidSessionId(id)) return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  if (absl::Status s = CheckOwned(*files_, DirOf(id)); !s.ok()) return s;
  return HoldNumber(id, false).status();
}

void SessionStore::Release(const std::string& id) {
  lineages_.erase(id);
  held_.erase(id);
  lease_->GiveBack(DirOf(id));
}

absl::StatusOr<SessionStore::Texts> SessionStore::ReadTexts(const std::string& id) {
  absl::StatusOr<SessionManifest> m = ReadManifest(*files_, DirOf(id));
  if (absl::IsNotFound(m.status())) {
    return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  }
  if (!m.ok()) return m.status();
  absl::StatusOr<std::vector<int32_t>> tokens = ReadTokens(*files_, DirOf(id), m->token_file);
  if (!tokens.ok()) return tokens.status();
  if (m->append.has_value() && !m->append->done) {
    absl::StatusOr<std::vector<int32_t>> rest = ReadTokens(*files_, DirOf(id), m->append_file);
    if (!rest.ok()) return rest.status();
    m->append->tokens = std::move(*rest);
  }
  const int vocab = engine_->config().vocab;
  for (const std::vector<int32_t>* list : {&*tokens, m->append.has_value() ? &m->append->tokens : &*tokens}) {
    for (int32_t token : *list) {
      if (token >= 0 && token < vocab) continue;
      return absl::DataLossError(
          absl::StrFormat("%s: token %d is not in this model's vocabulary of %d", DirOf(id), token, vocab));
    }
  }
  return Texts{std::move(*m), std::move(*tokens)};
}

void SessionStore::Rewound(const std::string& id, int64_t tokens) {
  auto found = lineages_.find(id);
  if (found != lineages_.end()) found->second.valid_tokens = std::min(found->second.valid_tokens, tokens);
}

void SessionStore::BeginReading(const std::string& id, const std::set<std::string>& names) {
  reading_[id].insert(names.begin(), names.end());
}

void SessionStore::EndReading(const std::string& id, const std::set<std::string>& names) {
  std::multiset<std::string>& reading = reading_[id];
  for (const std::string& name : names) reading.erase(reading.find(name));
  if (!reading.empty()) return;
  reading_.erase(id);
  // What a save has left for its sake goes now.
  const auto held = held_.find(id);
  const auto lineage = lineages_.find(id);
  if (held != held_.end() && lineage != lineages_.end() && unsynced_.count(id) == 0) {
    Clean(id, lineage->second.manifest, held->second);
  }
}

std::set<std::string> SessionStore::ReadingOf(const std::string& id) const {
  const auto found = reading_.find(id);
  if (found == reading_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

}  // namespace duo
