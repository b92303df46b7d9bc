// Times what it costs to say where a row looked (kernels/attention_mass.h): attention of one row over a layer's
// retrieval heads with and without the masses of some of them; what follows the step once; and the other way to masses,
// reading the keys again. Checks that both ways agree. Prints JSON.
//
//   mass_bench HEADS_OF_A_LAYER GROUP HEAD_DIM KV TOKENS ASKED     a GPU where there is one
//
// ASKED heads are spread evenly: one of each of ASKED layers, all of some layers where there are fewer layers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/attention_mass.h"
#include "kernels/base/seconds.h"
#include "kernels/base/splitmix64.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

constexpr int kBest = 32;  // pages whose keys are scored, as the runtime does

struct Shape {
  int heads = 4, group = 4, head_dim = 128, asked = 16;
  KvFormat format = KvFormat::kInt4;
  int64_t tokens = 1'000'000;
};

Buffer Take(Device& device, size_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(device, bytes, "the benchmark");
  DUO_CHECK(buffer.ok());
  return *std::move(buffer);
}

// Milliseconds of one of `calls` calls, which follow each other; the best of some rounds.
template <typename Work>
double Time(Device& device, int calls, const Work& work) {
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    device.Synchronize();
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < calls; ++i) work(i);
    device.Synchronize();
    if (round > 0) best = std::min(best, SecondsSince(start) / calls);
  }
  return 1000 * best;
}

// Whatever is read has been read so long ago that no cache holds it: heads are many, and calls go round over them.
class Bench {
 public:
  Bench(Device& device, const Shape& s)
      : device_(device),
        s_(s),
        pages_((s.tokens + kPageTokens - 1) / kPageTokens),
        layers_(std::max(2, (s.asked + s.heads - 1) / s.heads)),
        type_(device.is_cuda() ? DType::kBF16 : DType::kF32),
        shape_{s.head_dim, s.group, s.heads} {
    kv_.page = {s.format, s.head_dim};
    kv_.num_heads = s.heads;
    kv_.head_stride = pages_ * kv_.page.page_bytes();
    kv_.table_stride = pages_;
    memory_ = Take(device, kv_.head_stride * s.heads * layers_);
    kv_.base = memory_.as<uint8_t>();
    PagedKv all = kv_;
    all.num_heads = s.heads * layers_;
    FillPages(device, all, 0, pages_, 1);
    std::vector<int32_t> ids(pages_);
    std::iota(ids.begin(), ids.end(), 0);
    for (int64_t i = pages_ - 1; i > 0; --i) std::swap(ids[i], ids[SplitMix64(i) % (i + 1)]);
    table_ = Put(ids);
    kv_.tables = table_.as<int32_t>();
    qkv_ = Take(device, Bytes(type_, shape_.qkv_cols()));
    out_ = Take(device, Bytes(type_, shape_.q_cols()));
    FillRun run = {qkv_.as<uint8_t>(), shape_.qkv_cols(), 0, 1, FillKindOf(type_), 4.0f, {}};
    FillElements(device, run, 2);
    span_.num_rows = 1;
    span_.history = static_cast<int32_t>(s.tokens - 1);
    spans_ = Put(std::vector<SeqSpan>{span_});
    row_seq_ = Put(std::vector<int32_t>{0});
    positions_ = Put(std::vector<int32_t>{span_.history});
    scratch_ = Arena(Take(device, DecodeScratchBytes(device, 1, s.group, kv_, s.tokens)));
    parts_ = MassParts(device, s.group, kv_);
    DUO_CHECK_GT(parts_, 0);
    rows_ = s.asked * s.group;
    logs_ = Take(device, sizeof(float) * std::max(rows_, s.heads * s.group) * pages_ * parts_);
    again_ = Take(device, sizeof(float) * rows_ * pages_);
    weights_ = Put(std::vector<float>(rows_, 1.0f / static_cast<float>(rows_)));
    lse_ = Take(device, sizeof(float) * rows_);
    shares_ = Take(device, sizeof(float) * std::max<int64_t>(pages_, kBest * kPageTokens));
    scores_ = Take(device, sizeof(float) * rows_ * kBest * kPageTokens);
    best_ = Take(device, sizeof(int32_t) * kBest);
  }

  void Run() {
    const int per_layer = (s_.asked + layers_ - 1) / layers_;
    const uint64_t one = 1, some = (uint64_t{1} << std::min(per_layer, s_.heads)) - 1;
    const double attend = Time(device_, 20, [&](int i) { Attend(i % layers_, 0); }),
                 with_one = Time(device_, 20, [&](int i) { Attend(i % layers_, one); }),
                 with_some = Time(device_, 20, [&](int i) { Attend(i % layers_, some); });
    FillLogs();
    const double after = Time(device_, 10, [&](int) { Read(true); });
    const double reading = Time(device_, 5, [&](int) { PageMass(device_, again_.as<float>(), Heads(), pages_); }),
                 after_reading = Time(device_, 10, [&](int) { Read(false); });
    const int64_t keys = KvCodeBytes(s_.format, s_.head_dim) + KvParamBytes(s_.format);
    std::printf(
        "{\"bench\": \"mass\", \"device\": \"%s\", \"heads_of_a_layer\": %d, \"group\": %d, \"head_dim\": %d, "
        "\"kv\": \"%s\", \"tokens\": %lld, \"asked\": %d,\n"
        " \"attend_ms\": %.4f, \"attend_with_one_ms\": %.4f, \"attend_with_%d_ms\": %.4f,\n"
        " \"after_the_step_ms\": %.4f, \"cost_of_a_step_ms\": %.4f,\n"
        " \"reading_again_ms\": %.4f, \"reading_again_gb\": %.4f, \"reading_again_cost_of_a_step_ms\": %.4f,\n"
        " \"largest_difference\": %.6f}\n",
        device_.info().name.c_str(), s_.heads, s_.group, s_.head_dim, Name(s_.format), (long long)s_.tokens, s_.asked,
        attend, with_one, per_layer, with_some, after, s_.asked * (with_one - attend) + after, reading,
        1e-9 * static_cast<double>(keys * s_.tokens * s_.asked), reading + after_reading, Difference());
  }

 private:
  template <typename T>
  Buffer Put(const std::vector<T>& host) {
    Buffer buffer = Take(device_, sizeof(T) * host.size());
    device_.Upload(buffer.data(), host.data(), sizeof(T) * host.size());
    return buffer;
  }
  PagedKv Layer(int layer) const {
    PagedKv kv = kv_;
    kv.base += layer * kv_.num_heads * kv_.head_stride;
    return kv;
  }
  void Attend(int layer, uint64_t asked, float* logs = nullptr) {
    StepRows rows{View(qkv_.data(), type_, 1, shape_.qkv_cols()), shape_, {}};
    rows.batch.spans = spans_.as<SeqSpan>();
    rows.batch.row_seq = row_seq_.as<int32_t>();
    rows.batch.positions = positions_.as<int32_t>();
    rows.batch.host_spans = &span_;
    rows.batch.num_seqs = rows.batch.num_rows = rows.batch.max_rows = 1;
    rows.batch.max_tokens = s_.tokens;
    const Partial to = {View(out_.data(), type_, 1, shape_.q_cols())};
    if (asked == 0) return AttendPages(device_, to, rows, Layer(layer), scratch_);
    const MassOut mass = {logs == nullptr ? logs_.as<float>() : logs, pages_, asked};
    AttendPagesWithMass(device_, to, rows, Layer(layer), mass, scratch_);
  }
  // The heads asked: the first ones of each layer.
  std::vector<MassHead> Heads() const {
    std::vector<MassHead> heads;
    const size_t width = Bytes(type_, int64_t{s_.group} * s_.head_dim);
    for (int i = 0; i < s_.asked; ++i) {
      const int layer = i % layers_, head = i / layers_;
      heads.push_back({{qkv_.as<uint8_t>() + head * width, s_.group, head, 0, s_.tokens - 1}, Layer(layer)});
    }
    return heads;
  }
  // As the steps of all layers leave them.
  void FillLogs() {
    const int64_t each = int64_t{s_.group} * pages_ * parts_;
    for (int i = 0; i < s_.asked; ++i) {
      Attend(i % layers_, uint64_t{1} << (i / layers_), logs_.as<float>() + i * each);
    }
  }
  // What follows a step: the mean share of each page, and of each key of the best. kept: from what steps left.
  void Read(bool kept) {
    const LogMasses of = {kept ? logs_.as<float>() : again_.as<float>(), rows_, pages_, kept ? parts_ : 1};
    LogSums(device_, lse_.as<float>(), of);
    SumShares(device_, shares_.as<float>(), of, lse_.as<float>(), weights_.as<float>());
    std::vector<float> shares(pages_), keys(int64_t{kBest} * kPageTokens);
    device_.Download(shares.data(), shares_.data(), sizeof(float) * shares.size());
    std::vector<int32_t> order(pages_);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + kBest, order.end(),
                      [&](int32_t a, int32_t b) { return shares[a] != shares[b] ? shares[a] > shares[b] : a < b; });
    device_.Upload(best_.data(), order.data(), sizeof(int32_t) * kBest);
    KeyScores(device_, scores_.as<float>(), Heads(), best_.as<int32_t>(), kBest);
    const LogMasses scores = {scores_.as<float>(), rows_, int64_t{kBest} * kPageTokens, 1};
    SumShares(device_, shares_.as<float>(), scores, lse_.as<float>(), weights_.as<float>());
    device_.Download(keys.data(), shares_.data(), sizeof(float) * keys.size());
  }
  // Of the log masses of pages, however they came; of what is far below the largest nobody asks.
  double Difference() {
    std::vector<float> kept(int64_t{rows_} * pages_ * parts_), again(int64_t{rows_} * pages_);
    device_.Download(kept.data(), logs_.data(), sizeof(float) * kept.size());
    device_.Download(again.data(), again_.data(), sizeof(float) * again.size());
    double largest = 0;
    for (size_t i = 0; i < again.size(); ++i) {
      double sum = 0;
      for (int part = 0; part < parts_; ++part) sum += std::exp(double{kept[i * parts_ + part]});
      const double difference = std::abs(std::log(sum) - again[i]);
      largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
    }
    return largest;
  }

  Device& device_;
  const Shape s_;
  int64_t pages_;
  int layers_;
  DType type_;
  HeadShape shape_;
  PagedKv kv_;
  SeqSpan span_;
  int parts_ = 0, rows_ = 0;
  Buffer memory_, table_, qkv_, out_, spans_, row_seq_, positions_, logs_, again_, weights_, lse_, shares_, scores_,
      best_;
  Arena scratch_;
};

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  using namespace duo;
  if (argc != 7) {
    std::fprintf(stderr, "usage: mass_bench HEADS_OF_A_LAYER GROUP HEAD_DIM KV TOKENS ASKED\n");
    return 2;
  }
  Shape s;
  s.heads = std::atoi(argv[1]);
  s.group = std::atoi(argv[2]);
  s.head_dim = std::atoi(argv[3]);
  for (KvFormat f : kKvFormats) {
    if (std::string(argv[4]) == Name(f)) s.format = f;
  }
  s.tokens = std::atoll(argv[5]);
  s.asked = std::atoi(argv[6]);
  std::unique_ptr<Device> device = Device::CudaDeviceCount() > 0 ? *Device::Cuda(0, 4) : Device::Cpu(2);
  Bench(*device, s).Run();
  return 0;
}
