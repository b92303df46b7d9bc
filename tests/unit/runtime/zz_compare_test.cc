// temporary: prints the workspace before and after
#include <gtest/gtest.h>
#include <cstdio>
#include "kernels/attention.h"
#include "runtime/model/workspace.h"
#include "runtime/weights/model_shape.h"
#include "parallel/partition.h"
namespace duo { namespace {
constexpr int kMlpRows = 2048;
int MaxEntries(const Partition& p, int group){ size_t m=0; for(auto&l:p.layers) for(auto&r:l) m=std::max(m,r.split.size()); return (int)m*group; }
int MaxHeads(const RankShard& s){ size_t m=0; for(auto&l:s.layers) m=std::max(m,l.size()); return (int)m; }
void Allocate(Arena& arena, const ModelConfig& config, const RankShard& shard, const Device& device, int rows, int world, int entries) {
  const DType t = ActivationType(device);
  const int64_t d = config.head_dim, group = config.heads / config.kv_heads, heads = MaxHeads(shard);
  arena.Matrix(DType::kF32, rows, config.hidden);
  arena.Matrix(t, rows, config.hidden); arena.Matrix(t, rows, config.hidden); arena.Matrix(t, rows, config.hidden);
  arena.Matrix(DType::kF32, rows, d);
  arena.Matrix(t, rows, heads * (group + 2) * d);
  arena.Matrix(t, rows, heads * group * d);
  arena.Matrix(t, std::min(rows, kMlpRows), 3 * shard.ffn.size());
  arena.Take(sizeof(float) * world * entries * rows);
}
size_t Old(const ModelConfig& config, const Partition& partition, const RankShard& shard, const WeightFormats& formats, KvFormat format, const HeadPlan& heads, const StepLimits& limits, const Device& device) {
  const int group = config.heads / config.kv_heads, d = config.head_dim;
  auto bytes = [&](int rows, bool prefill) {
    Arena arena = Arena::Measuring();
    arena.Matrix(DType::kF32, limits.samples, shard.vocab.size());
    Allocate(arena, config, shard, device, rows, partition.world, MaxEntries(partition, group));
    size_t scratch = 0;
    auto linear = [&](int64_t count, DType dtype, int64_t out, int64_t in, int unit) {
      Weight w; w.dtype = dtype; w.rows = out; w.cols = in; w.group = unit;
      if (count > 0 && out > 0 && in > 0) scratch = std::max(scratch, LinearScratchBytes(device, count, w));
    };
    for (const std::vector<LocalHead>& layer : shard.layers) {
      const int64_t n = layer.size();
      linear(rows, formats.matrices, n * (group + 2) * d, config.hidden, 32);
      linear(rows, formats.matrices, config.hidden, n * group * d, 32);
      PagedKv whole; RingKv ring;
      whole.page = {format, d};
      ring.format = RingFormat(format); ring.head_dim = d; ring.sink = heads.sink; ring.recent = heads.recent;
      auto paged = [&](const PagedKv& kv) {
        scratch = std::max(scratch, prefill ? PrefillScratchBytes(device, rows, group, kv, limits.max_tokens) : DecodeScratchBytes(device, rows, group, kv, limits.max_tokens));
      };
      for (const LocalHead& head : layer) {
        whole.num_heads += head.kind == HeadKind::kWhole;
        ring.num_heads += head.kind == HeadKind::kStreaming;
        if (head.kind != HeadKind::kSplit) continue;
        PagedKv piece = whole; piece.num_heads = 1; piece.split = true; piece.slots = head.slots; piece.first_slot = head.first_slot; piece.num_slots = head.last_slot - head.first_slot;
        paged(piece);
      }
      if (whole.num_heads > 0) paged(whole);
      if (ring.num_heads > 0) scratch = std::max(scratch, StreamingScratchBytes(device, rows, group, ring));
    }
    linear(std::min(rows, kMlpRows), formats.matrices, 2 * shard.ffn.size(), config.hidden, 32);
    linear(std::min(rows, kMlpRows), formats.matrices, config.hidden, shard.ffn.size(), 32);
    const size_t layers_end = arena.used() + Arena::Rounded(scratch);
    scratch = 0;
    linear(limits.samples, formats.vocabulary, shard.vocab.size(), config.hidden, 32);
    const size_t head_end = arena.used() + Arena::Rounded(Bytes(ActivationType(device), limits.samples * config.hidden)) + Arena::Rounded(scratch);
    return std::max(layers_end, head_end);
  };
  return std::max(bytes(limits.prefill_rows, true), bytes(limits.rows, false)) + 64 * Arena::kAlignment;
}
TEST(Compare, Workspace) {
  const std::unique_ptr<Device> device = Device::Cpu(2);
  struct S { int64_t h, i; int l, heads, kv, d; int64_t v; bool win; };
  for (S s : {S{256,768,6,8,4,32,2048,false}, S{4096,14336,32,32,8,128,128256,false}, S{576,1536,30,9,3,64,49152,false}, S{64,96,2,4,2,16,100,true}})
  for (int world : {1,2,3,8}) for (KvFormat kv : {KvFormat::kF32, KvFormat::kInt4}) for (DType t : {DType::kBF16, DType::kF32, DType::kI4}) for (int64_t max : {int64_t{500}, int64_t{100000}}) for (int samples : {16, 256}) {
    ModelConfig c; c.hidden=s.h; c.intermediate=s.i; c.layers=s.l; c.heads=s.heads; c.kv_heads=s.kv; c.head_dim=s.d; c.vocab=s.v; c.tie_embeddings=false; c.max_position_embeddings=max;
    PartitionRequest r; r.shape=ShapeOf(c); r.heads=FullPlan(s.l,s.kv); for (size_t i=0;i<r.heads.retrieval.size();++i) r.heads.retrieval[i]=i%3==0; r.world=world; r.kv_token_bytes=KvTokenBytes(kv,s.d);
    auto p=MakePartition(r); ASSERT_TRUE(p.ok());
    for (int rank=0; rank<world; rank+=std::max(1,world-1)) {
      RankShard shard=MakeShard(*p,r.shape,rank,t==DType::kI4?32:1,1);
      WeightFormats f; f.matrices=f.vocabulary=t; f.int4_group=32;
      StepLimits limits; limits.max_tokens=max; limits.prefill_rows=(int)std::min<int64_t>(1024,max); limits.rows=128; limits.samples=samples;
      KvSizes sizes; sizes.format=kv; sizes.rings=3; sizes.tables=2; sizes.table_pages=(max+127)/128; for(auto&l:p->layers)for(auto&q:l)if(!q.split.empty())sizes.slots=q.split[0].of;
      auto rope=ComputeRopeFrequencies(c,max);
      auto now=WorkspaceBytes({c,*p,shard,rope},f,r.heads,sizes,limits,*device);
      ASSERT_TRUE(now.ok());
      int64_t old=Old(c,*p,shard,f,kv,r.heads,limits,*device);
      if (std::abs(*now-old)>4096 || (samples==16 && rank==0 && t==DType::kBF16)) std::printf("h %ld world %d rank %d kv %s w %s max %ld samples %d: before %ld now %ld (%+ld)\n",(long)s.h,world,rank,Name(kv),Name(t),(long)max,samples,(long)old,(long)*now,(long)(*now-old));
    }
  }
}
}}
