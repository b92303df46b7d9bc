#include "runtime/saved/session_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"
#include "runtime/files/file.h"
#include "runtime/saved/session_files.h"
#include "runtime/weights/fingerprint.h"
#include "runtime/weights/safetensors.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr char kProbe[] = ".duo-probe";

std::string RetrievalString(const HeadPlan& heads) {
  std::string text;
  for (uint8_t r : heads.retrieval) text += r != 0 ? '1' : '0';
  return text;
}

}  // namespace

int64_t SavedPageBytes(const Engine& engine) {
  return PageLayout{engine.kv_format(), engine.config().head_dim}.page_bytes();
}
int64_t SavedRingBytes(const Engine& engine) {
  const HeadPlan& heads = engine.heads();
  return int64_t{heads.sink + heads.recent + 1} *
         KvTokenBytes(RingFormat(engine.kv_format()), engine.config().head_dim);
}

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const std::string& dir, const std::string& model_dir,
                                                                 Engine& engine) {
  std::unique_ptr<SessionStore> store(new SessionStore());
  store->dir_ = dir;
  store->engine_ = &engine;
  absl::StatusOr<SafetensorsModel> model = SafetensorsModel::Open(model_dir);
  if (!model.ok()) return model.status();
  store->fingerprint_ = WeightsFingerprint(*model);
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return FileError(error.value(), dir, "make this directory");
  const std::string probe = absl::StrCat(kProbe, "-", getpid());
  if (absl::Status s = WriteAll(dir + "/" + probe, "probe"); !s.ok()) return s;
  KvIoPlan plan;
  plan.dir = dir;
  plan.rings_file = probe;
  absl::StatusOr<KvIoResult> seen = engine.RunIo(plan);
  unlink((dir + "/" + probe).c_str());
  if (!seen.ok()) return seen.status();
  store->shared_ = seen->visible;
  return store;
}

std::vector<SessionStore::Listed> SessionStore::List() const {
  std::vector<Listed> all;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir_, ignored)) {
    const std::string id = entry.path().filename().string();
    if (Exists(id)) all.push_back({id, Find(id)});
  }
  std::sort(all.begin(), all.end(), [](const Listed& a, const Listed& b) { return a.id < b.id; });
  return all;
}

bool SessionStore::Exists(const std::string& id) const { return access((DirOf(id) + kManifest).c_str(), F_OK) == 0; }

absl::StatusOr<SessionManifest> SessionStore::Find(const std::string& id) const {
  if (!Exists(id)) return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  return ReadManifest(DirOf(id));
}

absl::StatusOr<std::unique_ptr<SaveJob>> SessionStore::StartSave(const std::string& id, SessionId session,
                                                                 const SessionManifest& meta) {
  absl::StatusOr<SessionKv> kv = engine_->Kv(session);
  if (!kv.ok()) return kv.status();
  std::unique_ptr<SaveJob> job(new SaveJob());
  job->session_ = session;
  job->dir_ = DirOf(id);
  std::error_code error;
  fs::create_directories(job->dir_, error);
  if (error) return FileError(error.value(), job->dir_, "make this directory");
  job->store_ = this;  // from here on there is something to undo

  SessionManifest& m = job->manifest_;
  const auto lineage = lineages_.find(id);
  job->fresh_ = lineage == lineages_.end() || lineage->second.session != session;
  int64_t valid = 0;
  if (job->fresh_) {
    // A generation of file names that no older save uses, whole or interrupted.
    if (absl::StatusOr<SessionManifest> old = Find(id); old.ok()) m.generation = old->generation + 1;
    for (const auto& entry : fs::directory_iterator(job->dir_, error)) {
      m.generation = std::max(m.generation, std::atoi(entry.path().filename().c_str()) + 1);
    }
  } else {
    m.generation = lineage->second.manifest.generation;
    m.serial = lineage->second.manifest.serial + 1;
    m.sections = lineage->second.manifest.sections;
    valid = lineage->second.valid_tokens;
  }
  m.tokens = static_cast<int64_t>(kv->tokens.size());
  m.max_tokens = meta.max_tokens;
  m.durable = meta.durable;
  m.open = meta.open;
  m.append = meta.append;
  m.fingerprint = fingerprint_;
  m.kv_format = Name(engine_->kv_format());
  m.layers = engine_->config().layers;
  m.kv_heads = engine_->config().kv_heads;
  m.head_dim = engine_->config().head_dim;
  m.sink = engine_->heads().sink;
  m.recent = engine_->heads().recent;
  m.retrieval = RetrievalString(engine_->heads());
  m.rings_valid = kv->rings_valid;

  // Sections that lie wholly beyond what is still valid go; the page that the valid part ends in is written again.
  const int64_t first = std::min(valid, m.tokens) / kPageTokens, end = (m.tokens + kPageTokens - 1) / kPageTokens;
  std::erase_if(m.sections, [&](const KvSection& s) { return s.first >= first; });
  std::map<std::string, int64_t>& lengths = job->old_lengths_;
  struct stat info = {};
  job->to_write_ = SectionsOf(engine_->partition(), first, end, kRangePages);
  for (KvSection& s : job->to_write_) {
    s.generation = m.generation;
    const std::string name = PageFileName(m.generation, s.first / kRangePages);
    auto [length, added] = lengths.emplace(name, 0);
    if (added && stat((job->dir_ + "/" + name).c_str(), &info) == 0) length->second = info.st_size;
  }
  std::map<std::string, int64_t> ends = lengths;
  for (KvSection& s : job->to_write_) {
    int64_t& at = ends[PageFileName(m.generation, s.first / kRangePages)];
    s.offset = at;
    at += SectionBytes(s, SavedPageBytes(*engine_));
  }
  return job;
}

absl::Status SessionStore::CheckFits(const SessionManifest& m, const std::string& dir) const {
  auto differs = [&](const std::string& what, const std::string& saved, const std::string& here) {
    return absl::FailedPreconditionError(dir + ": saved with " + what + " " + saved + ", this server has " + here);
  };
  const HeadPlan& heads = engine_->heads();
  if (m.fingerprint != fingerprint_)
    return differs("another model's weights: fingerprint", m.fingerprint, fingerprint_);
  if (m.layers != engine_->config().layers || m.kv_heads != engine_->config().kv_heads ||
      m.head_dim != engine_->config().head_dim) {
    return differs("another model's shape, layers", absl::StrCat(m.layers), absl::StrCat(engine_->config().layers));
  }
  if (m.kv_format != Name(engine_->kv_format())) {
    return differs("--kv", m.kv_format,
                   absl::StrCat(Name(engine_->kv_format()), "; start one with --kv ", m.kv_format,
                                m.kv_format == "f32" ? " on the CPU (CUDA has no f32 KV)" : ""));
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
  // Every page must be there, else the session would attend to other sessions' leavings.
  const int64_t pages = (m.tokens + kPageTokens - 1) / kPageTokens;
  std::vector<uint8_t> there(static_cast<size_t>(m.layers) * m.kv_heads * pages);
  for (const KvSection& s : m.sections) {
    for (int i = 0; i < s.count; ++i) {
      const int64_t p = s.first + int64_t{i} * s.step;
      if (p < pages) there[(int64_t{s.layer} * m.kv_heads + s.head) * pages + p] = 1;
    }
  }
  for (int h = 0; h < m.layers * m.kv_heads; ++h) {
    const auto row = there.begin() + h * pages;
    if (heads.retrieval[h] != 0 && std::find(row, row + pages, 0) != row + pages) {
      return absl::DataLossError(absl::StrFormat("%s%s: damaged: pages of layer %d, head %d are missing", dir,
                                                 kManifest, h / m.kv_heads, h % m.kv_heads));
    }
  }
  if (static_cast<int>(m.rings.size()) != heads.streaming_heads()) {
    return absl::DataLossError(absl::StrFormat("%s%s: damaged: it has %d rings, %d were expected", dir, kManifest,
                                               m.rings.size(), heads.streaming_heads()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RestoreJob>> SessionStore::StartRestore(const std::string& id, int64_t max_tokens) {
  absl::StatusOr<SessionManifest> manifest = Find(id);
  if (!manifest.ok()) return manifest.status();
  std::unique_ptr<RestoreJob> job(new RestoreJob());
  job->store_ = this;
  job->dir_ = DirOf(id);
  if (absl::Status s = CheckFits(*manifest, job->dir_); !s.ok()) return s;
  absl::StatusOr<std::vector<int32_t>> tokens = ReadTokens(job->dir_, manifest->token_file, manifest->tokens);
  if (!tokens.ok()) return tokens.status();
  if (manifest->append.has_value() && !manifest->append->done) {
    absl::StatusOr<std::vector<int32_t>> rest = ReadTokens(job->dir_, manifest->append_file, manifest->append->total);
    if (!rest.ok()) return rest.status();
    manifest->append->tokens = std::move(*rest);
  }
  if (max_tokens == 0) max_tokens = manifest->max_tokens;
  if (max_tokens < manifest->tokens) {
    return absl::InvalidArgumentError(absl::StrFormat("saved session %s holds %d tokens, max_tokens of %d is less", id,
                                                      manifest->tokens, max_tokens));
  }
  absl::StatusOr<SessionId> session = engine_->Adopt(max_tokens, std::move(*tokens), manifest->rings_valid);
  if (!session.ok()) return session.status();
  job->session_ = *session;
  job->manifest_ = std::move(*manifest);
  job->manifest_.max_tokens = max_tokens;
  return job;
}

void SessionStore::Rewound(const std::string& id, int64_t tokens) {
  auto found = lineages_.find(id);
  if (found != lineages_.end()) found->second.valid_tokens = std::min(found->second.valid_tokens, tokens);
}

absl::Status SessionStore::SetOpen(const std::string& id, bool open) {
  absl::StatusOr<SessionManifest> manifest = Find(id);
  if (!manifest.ok()) return manifest.status();
  if (manifest->open == open) return absl::OkStatus();
  manifest->open = open;
  return ReplaceManifest(DirOf(id), *manifest);
}

absl::Status SessionStore::Delete(const std::string& id) {
  lineages_.erase(id);
  const std::string file = DirOf(id) + kManifest;
  if (unlink(file.c_str()) != 0 && errno != ENOENT)
    return FileError(errno, file, "delete it");  // from here on it is gone
  std::error_code error;
  fs::remove_all(DirOf(id), error);
  return error ? FileError(error.value(), DirOf(id), "delete it") : absl::OkStatus();
}

}  // namespace duo
