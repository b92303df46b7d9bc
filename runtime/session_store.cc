#include "runtime/session_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/crc32c.h"
#include "runtime/safetensors.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

constexpr char kManifest[] = "/manifest";
constexpr char kProbe[] = ".duo-probe";
constexpr int64_t kPartBytes = int64_t{48} << 20;  // of one Step over all ranks

absl::StatusOr<std::string> ReadAll(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return FileError(errno, file, "open it");
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) return FileError(EIO, file, "read it");
  return text.str();
}

absl::Status SyncDir(const std::string& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError(errno, dir, "open it");
  const int failed = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  return failed == 0 || failed == EINVAL ? absl::OkStatus() : FileError(failed, dir, "write it to the disk");
}

// The file holds exactly `text` and is on the disk when this returns OK.
absl::Status WriteAll(const std::string& file, std::string_view text) {
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (fd < 0) return FileError(errno, file, "open it");
  int failed = 0;
  for (size_t done = 0; done < text.size() && failed == 0;) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) failed = n == 0 ? ENOSPC : errno;
    if (n > 0) done += n;
  }
  if (failed == 0 && fdatasync(fd) != 0) failed = errno;
  if (close(fd) != 0 && failed == 0) failed = errno;
  return failed == 0 ? absl::OkStatus() : FileError(failed, file, absl::StrFormat("write %d bytes", text.size()));
}

// A new manifest takes the old one's place in one step.
absl::Status ReplaceManifest(const std::string& dir, const SessionManifest& manifest) {
  const std::string file = dir + kManifest, temporary = file + ".new";
  if (absl::Status s = WriteAll(temporary, FormatManifest(manifest)); !s.ok()) {
    unlink(temporary.c_str());
    return s;
  }
  if (rename(temporary.c_str(), file.c_str()) != 0) return FileError(errno, file, "replace it");
  return SyncDir(dir);
}

absl::StatusOr<SavedFile> WriteTokens(const std::string& dir, const std::string& name,
                                      const std::vector<int32_t>& tokens) {
  const std::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  if (absl::Status s = WriteAll(dir + "/" + name, bytes); !s.ok()) return s;
  return SavedFile{name, static_cast<int64_t>(bytes.size()), Crc32c(bytes.data(), bytes.size())};
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& dir, const SavedFile& file, int64_t count) {
  const std::string name = dir + "/" + file.name;
  absl::StatusOr<std::string> bytes = ReadAll(name);
  if (!bytes.ok()) return absl::DataLossError(std::string(bytes.status().message()));
  if (static_cast<int64_t>(bytes->size()) != count * 4 || Crc32c(bytes->data(), bytes->size()) != file.crc) {
    return absl::DataLossError(
        absl::StrFormat("%s: damaged: its checksum is wrong (%d bytes, %d expected)", name, bytes->size(), count * 4));
  }
  std::vector<int32_t> tokens(count);
  if (count > 0) std::memcpy(tokens.data(), bytes->data(), bytes->size());
  return tokens;
}

// What a manifest names; everything else in its directory is left over.
std::set<std::string> FilesOf(const SessionManifest& m) {
  std::set<std::string> files = {"manifest", m.token_file.name};
  if (!m.rings_file.empty()) files.insert(m.rings_file);
  if (m.append.has_value() && !m.append_file.name.empty()) files.insert(m.append_file.name);
  for (const KvSection& s : m.sections) files.insert(PageFileName(s.generation, s.first / kRangePages));
  return files;
}

void RemoveLeftovers(const std::string& dir, const SessionManifest& manifest) {
  const std::set<std::string> keep = FilesOf(manifest);
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(dir, ignored)) {
    if (keep.count(entry.path().filename().string()) == 0) fs::remove(entry.path(), ignored);
  }
}

// Which weights: names, types, shapes, and some bytes of every tensor.
absl::StatusOr<std::string> Fingerprint(const std::string& model_dir) {
  absl::StatusOr<SafetensorsModel> model = SafetensorsModel::Open(model_dir);
  if (!model.ok()) return model.status();
  uint32_t shape_crc = 0, byte_crc = 0;
  for (const std::string& name : model->names()) {
    const TensorInfo& t = *model->Find(name);
    shape_crc = Crc32c(name.data(), name.size(), shape_crc);
    shape_crc = Crc32c(Name(t.dtype), std::strlen(Name(t.dtype)), shape_crc);
    shape_crc = Crc32c(t.shape.data(), t.shape.size() * sizeof(int64_t), shape_crc);
    constexpr size_t kSample = 4096;
    const size_t n = std::min(t.bytes, kSample);
    byte_crc = Crc32c(t.data, n, byte_crc);
    byte_crc = Crc32c(t.data + (t.bytes - n) / 2, n, byte_crc);
    byte_crc = Crc32c(t.data + t.bytes - n, n, byte_crc);
  }
  return absl::StrFormat("%08x%08x%016x", shape_crc, byte_crc, model->bytes());
}

int64_t PageBytes(const Engine& engine) {
  return PageLayout{engine.kv_format(), engine.config().head_dim}.page_bytes();
}
int64_t RingBytes(const Engine& engine) {
  const HeadPlan& heads = engine.heads();
  return int64_t{heads.sink + heads.recent + 1} *
         KvTokenBytes(RingFormat(engine.kv_format()), engine.config().head_dim);
}
std::string RetrievalString(const HeadPlan& heads) {
  std::string text;
  for (uint8_t r : heads.retrieval) text += r != 0 ? '1' : '0';
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SessionStore>> SessionStore::Open(const std::string& dir, const std::string& model_dir,
                                                                 Engine& engine) {
  std::unique_ptr<SessionStore> store(new SessionStore());
  store->dir_ = dir;
  store->engine_ = &engine;
  absl::StatusOr<std::string> fingerprint = Fingerprint(model_dir);
  if (!fingerprint.ok()) return fingerprint.status();
  store->fingerprint_ = *fingerprint;
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
  const std::string file = DirOf(id) + kManifest;
  if (!Exists(id)) return absl::NotFoundError(absl::StrCat("there is no saved session ", id, " in ", dir_));
  absl::StatusOr<std::string> text = ReadAll(file);
  if (!text.ok()) return text.status();
  return ParseManifest(*text, file);
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
    at += SectionBytes(s, PageBytes(*engine_));
  }
  return job;
}

// The next sections, up to kPartBytes.
absl::Status SaveJob::WritePart() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  for (int64_t bytes = 0; next_ < to_write_.size() && bytes < kPartBytes; ++next_) {
    plan.sections.push_back(to_write_[next_]);
    bytes += SectionBytes(to_write_[next_], PageBytes(engine));
  }
  absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
  if (!result.ok()) return result.status();
  bytes_written_ += result->bytes;
  for (size_t i = 0; i < plan.sections.size(); ++i) {
    plan.sections[i].crc = result->section_crcs[i];
    manifest_.sections.push_back(plan.sections[i]);
  }
  return absl::OkStatus();
}

// Rings, tokens, and the manifest that makes all of it count.
absl::Status SaveJob::Finish() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  SessionManifest& m = manifest_;
  KvIoPlan plan;
  plan.kind = KvIoKind::kWrite;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.ring = kv->ring;
  plan.rings = RingSectionsOf(engine.partition(), RingBytes(engine));
  if (!plan.rings.empty()) {
    plan.rings_file = m.rings_file = absl::StrCat(m.generation, "-rings-", m.serial);
    absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
    if (!result.ok()) return result.status();
    bytes_written_ += result->bytes;
    for (size_t i = 0; i < plan.rings.size(); ++i) plan.rings[i].crc = result->ring_crcs[i];
    m.rings = plan.rings;
  }
  absl::StatusOr<SavedFile> tokens = WriteTokens(dir_, absl::StrCat(m.generation, "-tokens-", m.serial), kv->tokens);
  if (!tokens.ok()) return tokens.status();
  m.token_file = *tokens;
  if (m.append.has_value() && !m.append->done) {
    tokens = WriteTokens(dir_, absl::StrCat(m.generation, "-append-", m.serial), m.append->tokens);
    if (!tokens.ok()) return tokens.status();
    m.append_file = *tokens;
  }
  bytes_written_ += m.token_file.bytes + m.append_file.bytes;
  m.bytes = m.token_file.bytes + m.append_file.bytes + static_cast<int64_t>(m.rings.size()) * RingBytes(engine);
  for (const KvSection& s : m.sections) m.bytes += SectionBytes(s, PageBytes(engine));
  if (absl::Status s = SyncDir(dir_); !s.ok()) return s;
  if (absl::Status s = ReplaceManifest(dir_, m); !s.ok()) return s;
  if (absl::Status s = SyncDir(store_->dir_); !s.ok()) return s;
  done_ = true;
  RemoveLeftovers(dir_, m);
  SavedLineage& lineage = store_->lineages_[fs::path(dir_).filename().string()];
  lineage = {session_, m.tokens, m};
  if (m.append.has_value()) lineage.manifest.append->tokens.clear();
  return absl::OkStatus();
}

absl::StatusOr<bool> SaveJob::Step() {
  if (next_ < to_write_.size()) {
    if (absl::Status s = WritePart(); !s.ok()) return s;
    return false;
  }
  if (absl::Status s = Finish(); !s.ok()) return s;
  return true;
}

SaveJob::~SaveJob() {
  if (done_ || store_ == nullptr) return;
  // What was written is not named by any manifest: files that are appended to get their old length back, new ones go.
  for (const auto& [name, length] : old_lengths_) {
    const std::string file = dir_ + "/" + name;
    const int ignored = length > 0 ? truncate(file.c_str(), length) : unlink(file.c_str());
    static_cast<void>(ignored);
  }
  const std::string id = fs::path(dir_).filename().string();
  if (absl::StatusOr<SessionManifest> old = store_->Find(id); old.ok()) {
    RemoveLeftovers(dir_, *old);
  } else if (old.status().code() == absl::StatusCode::kNotFound) {
    std::error_code ignored;
    fs::remove_all(dir_, ignored);
  }
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

absl::StatusOr<bool> RestoreJob::Step() {
  Engine& engine = *store_->engine_;
  absl::StatusOr<SessionKv> kv = engine.Kv(session_);
  if (!kv.ok()) return kv.status();
  KvIoPlan plan;
  plan.kind = KvIoKind::kRead;
  plan.shared = store_->shared_;
  plan.dir = dir_;
  plan.tokens = manifest_.tokens;
  plan.pages = kv->pages;
  plan.split_pages = kv->split_pages;
  // Sections of one page must be read in order; within a part they are read at once, so a page may come only once.
  std::set<std::tuple<int, int, int>> seen;
  int64_t bytes = 0;
  for (; next_ < manifest_.sections.size() && bytes < kPartBytes; ++next_) {
    const KvSection& s = manifest_.sections[next_];
    if (!seen.insert({s.layer, s.head, s.first / kRangePages * 4096 + s.first % s.step}).second) break;
    plan.sections.push_back(s);
    bytes += SectionBytes(s, PageBytes(engine));
  }
  const bool last = next_ == manifest_.sections.size();
  if (last) {
    plan.ring = kv->ring;
    plan.rings = manifest_.rings;
    plan.rings_file = manifest_.rings_file;
  }
  absl::StatusOr<KvIoResult> result = engine.RunIo(plan);
  if (!result.ok()) return result.status();
  bytes_read_ += result->bytes;
  if (!last) return false;
  done_ = true;
  SessionManifest kept = manifest_;
  if (kept.append.has_value()) kept.append->tokens.clear();
  store_->lineages_[fs::path(dir_).filename().string()] = {session_, manifest_.tokens, std::move(kept)};
  return true;
}

RestoreJob::~RestoreJob() {
  if (!done_ && session_ != 0) store_->engine_->CloseSession(session_).IgnoreError();
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
