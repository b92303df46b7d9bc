#include "runtime/engine/draft_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/base/math.h"
#include "kernels/row_cuts.h"
#include "runtime/model/rope.h"
#include "runtime/model/sampler.h"
#include "runtime/model/workspace.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/supported_quantization.h"
#include "runtime/weights/tied_head.h"

namespace duo {
namespace {

// Tokens that a text begins with at most: on a CPU they take as long as hundreds of guesses.
constexpr int64_t kGpuWindow = 1024, kCpuWindow = 512;
constexpr int64_t kCpuReadAtOnce = kMaxDecodeRows;

}  // namespace

absl::Status CheckSameTokens(const std::string& model_dir, int64_t rows, const std::string& draft_dir,
                             int64_t draft_rows) {
  absl::StatusOr<Tokenizer> model = LoadTokenizerOf(model_dir, rows);
  if (!model.ok()) return model.status();
  absl::StatusOr<Tokenizer> draft = LoadTokenizerOf(draft_dir, draft_rows);
  if (!draft.ok()) return draft.status();
  const std::string needs = "; a draft model needs the tokenizer of the model that answers";
  if (model->vocab_size() != draft->vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat("--draft-model ", draft_dir, ": its tokenizer has ",
                                                   draft->vocab_size(), " tokens, that of ", model_dir, " has ",
                                                   model->vocab_size(), needs));
  }
  for (int32_t id = 0; id < model->vocab_size(); ++id) {
    if (model->TextOf(id) == draft->TextOf(id)) continue;
    return absl::InvalidArgumentError(absl::StrCat("--draft-model ", draft_dir, ": token ", id, " is \"",
                                                   std::string(draft->TextOf(id)), "\" there and \"",
                                                   std::string(model->TextOf(id)), "\" in ", model_dir, needs));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DraftModel>> DraftModel::Open(const std::string& dir, int texts, Device& device) {
  std::unique_ptr<DraftModel> model(new DraftModel(device));
  absl::StatusOr<ModelConfig> config = LoadConfig(dir);
  if (!config.ok()) return config.status();
  if (absl::Status s = CheckSupported(config->quantization, dir + "/config.json"); !s.ok()) return s;
  if (config->sliding_window > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--draft-model ", dir, ": models with sliding windows cannot take guesses back"));
  }
  absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(dir);
  if (!files.ok()) return files.status();
  if (HasHeadOfItsOwn(*files, *config)) config->tie_embeddings = false;
  absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, device.is_cuda(), {});
  if (!formats.ok()) return formats.status();
  model->config_ = *std::move(config);
  model->files_ = *std::move(files);
  model->formats_ = *std::move(formats);
  if (absl::Status s = model->Plan(texts); !s.ok()) return s;
  return model;
}

absl::Status DraftModel::Plan(int texts) {
  sizes_.format = device_.is_cuda() ? KvFormat::kBF16 : KvFormat::kF32;
  const int group = static_cast<int>(config_.heads / config_.kv_heads);
  if (absl::Status s = CheckAttention(device_, config_.head_dim, group, sizes_.format); !s.ok()) return s;
  heads_ = FullPlan(config_.layers, config_.kv_heads);
  PartitionRequest request;
  request.shape = ShapeOf(config_);
  request.heads = heads_;
  request.kv_token_bytes = KvTokenBytes(sizes_.format, config_.head_dim);
  absl::StatusOr<Partition> partition = MakePartition(request);
  if (!partition.ok()) return partition.status();
  partition_ = *std::move(partition);
  shard_ = MakeShard(partition_, request.shape, 0, 1, 1, {1, 1});

  const int64_t wanted = 2 * (device_.is_cuda() ? kGpuWindow : kCpuWindow);
  limits_.max_tokens = std::min(wanted, MaxPlainPositions(config_));
  window_ = limits_.max_tokens / 2;
  limits_.prefill_rows = kMaxDecodeRows;
  limits_.batch = Worker::Bucket(texts);
  limits_.samples = limits_.batch;
  limits_.rows = std::max(kMaxDecodeRows, limits_.batch * kExactRows);
  sizes_.table_pages = CeilDiv(limits_.max_tokens, kPageTokens);
  sizes_.pages = texts * sizes_.table_pages;
  sizes_.tables = texts;
  sizes_.rings = texts + 1;
  texts_.resize(texts);

  const KvUnitBytes unit = UnitBytes(config_, shard_, heads_, sizes_.format);
  cache_bytes_ = sizes_.pages * unit.page + sizes_.rings * unit.ring + 8 * sizes_.tables * sizes_.table_pages;
  weight_bytes_ = WeightBytes({config_, shard_, formats_});
  const RopeFrequencies rope = ComputeRopeFrequencies(config_, limits_.max_tokens);
  const absl::StatusOr<int64_t> forward =
      WorkspaceBytes({config_, partition_, shard_, rope, {}, {}}, formats_, nullptr, heads_, sizes_, limits_, device_);
  if (!forward.ok()) return forward.status();
  const auto sampling = static_cast<int64_t>(Bytes(DType::kF32, limits_.samples * config_.vocab) +
                                             DrawScratchBytes(device_, limits_.samples, config_.vocab));
  workspace_bytes_ = std::max(*forward, sampling);
  return absl::OkStatus();
}

absl::Status DraftModel::Load(const std::function<void(int64_t, int64_t)>& progress) {
  absl::StatusOr<ModelWeights> weights = LoadWeights(*files_, {config_, shard_, formats_}, device_, *comm_, progress);
  if (!weights.ok()) return weights.status();
  files_.reset();
  const RopeFrequencies rope = ComputeRopeFrequencies(config_, limits_.max_tokens);
  absl::StatusOr<Model> model =
      Model::Create({config_, partition_, shard_, rope, {}, {}}, *std::move(weights), device_, *comm_);
  if (!model.ok()) return model.status();
  absl::StatusOr<KvCache> cache = KvCache::Create(device_, config_, shard_, heads_, sizes_);
  if (!cache.ok()) return cache.status();
  absl::StatusOr<Buffer> workspace = Buffer::Allocate(device_, workspace_bytes_, "the draft model's workspace");
  if (!workspace.ok()) return workspace.status();
  absl::StatusOr<std::unique_ptr<Worker>> worker =
      Worker::Create(*std::move(model), *std::move(cache), Arena(*std::move(workspace)), limits_, device_, *comm_);
  if (!worker.ok()) return worker.status();
  worker_ = *std::move(worker);
  StepPlan tables;  // each text has its pages for good
  tables.kind = StepKind::kCacheUpdates;
  const auto pages = static_cast<int32_t>(sizes_.table_pages);
  for (int32_t text = 0; text < static_cast<int32_t>(texts_.size()); ++text) {
    tables.table_writes.push_back({0, text, 0, pages});
    for (int32_t page = 0; page < pages; ++page) tables.table_ids.push_back(text * pages + page);
  }
  worker_->Execute(tables);
  worker_->RecordGraphs();
  return absl::OkStatus();
}

// The place of an answer's text, where what it holds agrees with the text, and what is to be read behind it fits in.
// -1: the other answers have all places.
int DraftModel::TextFor(const GuessAsked& asked) {
  const auto agreed = [&](const Text& text) {
    // The last token is always fed, because the next one is drawn from its row.
    const int64_t most = std::min<int64_t>(static_cast<int64_t>(text.fed.size()), asked.size() - 1 - text.start);
    int64_t same = 0;
    while (same < most && text.fed[same] == asked.at(text.start + same)) ++same;
    return same;
  };
  int best = -1;
  int64_t best_agrees = -1;
  for (int i = 0; i < static_cast<int>(texts_.size()); ++i) {
    const Text& text = texts_[i];
    if (text.used == calls_ && text.answer != asked.answer) continue;
    const int64_t agrees = text.answer == asked.answer ? INT64_MAX : agreed(text);
    const bool older = best < 0 || text.used < texts_[best].used;
    if (agrees < best_agrees || (agrees == best_agrees && !older)) continue;
    best = i;
    best_agrees = agrees;
  }
  if (best < 0) return -1;
  Text& text = texts_[best];
  text.answer = asked.answer;
  text.used = calls_;
  const int64_t same = agreed(text), size = asked.size(), window = std::clamp<int64_t>(asked.read, kExactRows, window_);
  text.fed.resize(std::max<int64_t>(same, 0));
  const bool goes_on =
      same > 0 && size - text.start + asked.wanted <= limits_.max_tokens && size - text.start - same <= window;
  if (goes_on) return best;
  text.start = std::max<int64_t>(0, size - window);
  text.fed.clear();
  return best;
}

// Are all tokens that it has to read its own, too? A vocabulary may have rows that no tokenizer gives.
bool DraftModel::Knows(const GuessAsked& asked, const Text& text) const {
  for (int64_t i = text.start + static_cast<int64_t>(text.fed.size()); i < asked.size(); ++i) {
    if (asked.at(i) < 0 || asked.at(i) >= config_.vocab) return false;
  }
  return true;
}

void DraftModel::Feed(StepPlan* plan, int text, const std::vector<int32_t>& tokens) {
  std::vector<int32_t>& fed = texts_[text].fed;
  SeqSpan span;
  span.first_row = static_cast<int32_t>(plan->tokens.size());
  span.num_rows = static_cast<int32_t>(tokens.size());
  span.history = static_cast<int32_t>(fed.size());
  span.table = span.split_table = span.ring = text;
  for (const int32_t token : tokens) {
    plan->tokens.push_back(token);
    plan->positions.push_back(static_cast<int32_t>(fed.size()));
    plan->row_seq.push_back(static_cast<int32_t>(plan->spans.size()));
    fed.push_back(token);
  }
  plan->spans.push_back(span);
}

// All but what a step that draws can have besides, at most *most tokens.
void DraftModel::Read(const GuessAsked& asked, int text, int64_t* most) {
  const Text& of = texts_[text];
  while (*most > 0) {
    const int64_t left = Unread(asked, of), first = asked.size() - left;
    if (left <= kExactRows) return;
    const int64_t count = std::min<int64_t>({left - kExactRows, kMaxDecodeRows, *most});
    std::vector<int32_t> tokens;
    for (int64_t i = first; i < first + count; ++i) tokens.push_back(asked.at(i));
    StepPlan plan;
    Feed(&plan, text, tokens);
    worker_->Execute(plan);
    *most -= count;
  }
}

// One more guess of those that still want some. texts: theirs; becomes -1 of those that have come to an end. False:
// nobody wants any.
bool DraftModel::Draw(std::span<const GuessAsked> asked, int64_t vocab, std::vector<int>* texts,
                      ModelGuessed* guessed) {
  StepPlan plan;
  std::vector<size_t> drawing;
  for (size_t i = 0; i < asked.size(); ++i) {
    std::vector<int32_t>& tokens = guessed->tokens[i];
    const int place = (*texts)[i];
    if (place < 0 || static_cast<int>(tokens.size()) >= asked[i].wanted) continue;
    const Text& text = texts_[place];
    std::vector<int32_t> next;
    for (int64_t left = Unread(asked[i], text); left > 0; --left) next.push_back(asked[i].at(asked[i].size() - left));
    if (next.empty()) next.push_back(tokens.back());
    if (static_cast<int64_t>(text.fed.size() + next.size()) > limits_.max_tokens) continue;
    Feed(&plan, place, next);
    plan.sample_rows.push_back(static_cast<int32_t>(plan.tokens.size()) - 1);
    SampleParams draw = asked[i].draw;
    draw.position += static_cast<int64_t>(tokens.size());
    plan.samples.push_back(draw);
    drawing.push_back(i);
  }
  if (drawing.empty()) return false;
  const StepResult result = worker_->Execute(plan);
  for (size_t d = 0; d < drawing.size(); ++d) {
    const int32_t token = result.tokens[d];
    if (token >= 0 && token < std::min<int64_t>(vocab, config_.vocab)) {
      guessed->tokens[drawing[d]].push_back(token);
    } else {
      (*texts)[drawing[d]] = -1;
    }
  }
  ++guessed->steps;
  return true;
}

ModelGuessed DraftModel::Guess(std::span<const GuessAsked> asked, int64_t vocab) {
  ++calls_;
  for (const GuessAsked& a : asked) {
    for (Text& text : texts_) {
      if (text.answer == a.answer) text.used = calls_;
    }
  }
  ModelGuessed guessed;
  guessed.tokens.resize(asked.size());
  std::vector<int> texts;
  const int64_t at_once = device_.is_cuda() ? INT64_MAX : kCpuReadAtOnce;
  int64_t most = at_once;
  for (const GuessAsked& a : asked) {
    int text = a.wanted > 0 ? TextFor(a) : -1;
    if (text >= 0 && !Knows(a, texts_[text])) text = -1;
    if (text >= 0) Read(a, text, &most);
    texts.push_back(text >= 0 && Unread(a, texts_[text]) <= kExactRows ? text : -1);
  }
  guessed.read = most < at_once;
  while (Draw(asked, vocab, &texts, &guessed)) {
  }
  return guessed;
}

}  // namespace duo
