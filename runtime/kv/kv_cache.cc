#include "runtime/kv/kv_cache.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"

namespace duo {
namespace {

bool Windowed(const ModelConfig& config, int layer) {
  return config.sliding_window > 0 && config.window_layers[layer] != 0;
}

}  // namespace

KvUnitBytes UnitBytes(const ModelConfig& config, const RankShard& shard, const HeadPlan& heads, KvFormat format) {
  const int64_t page = PageLayout{format, config.head_dim}.page_bytes();
  const int64_t ring = RingBytes(format, config.head_dim, heads.sink, heads.recent);
  KvUnitBytes bytes;
  for (const std::vector<LocalHead>& layer : shard.layers) {
    for (const LocalHead& head : layer) {
      if (head.kind == HeadKind::kWhole) bytes.page += page;
      if (head.kind == HeadKind::kSplit) bytes.split_page += page * (head.last_slot - head.first_slot);
      if (head.kind == HeadKind::kStreaming) bytes.ring += ring;
    }
  }
  return bytes;
}

absl::StatusOr<KvCache> KvCache::Create(Device& device, const ModelConfig& config, const RankShard& shard,
                                        const HeadPlan& heads, const KvSizes& sizes) {
  KvCache cache;
  cache.sizes_ = sizes;
  const KvUnitBytes unit = UnitBytes(config, shard, heads, sizes.format);
  cache.ring_stride_ = unit.ring;
  const int64_t split_table_pages = CeilDiv(sizes.table_pages, sizes.slots);

  auto allocate = [&](Buffer& buffer, int64_t bytes, std::string_view what) -> absl::Status {
    absl::StatusOr<Buffer> got = Buffer::Allocate(device, bytes, what);
    if (!got.ok()) return got.status();
    buffer = std::move(*got);
    return absl::OkStatus();
  };
  absl::Status status = allocate(cache.pages_, unit.page * sizes.pages, "the KV cache of the retrieval heads");
  if (status.ok())
    status = allocate(cache.split_pages_, unit.split_page * sizes.split_pages, "the KV cache of the split heads");
  if (status.ok()) status = allocate(cache.rings_, unit.ring * sizes.rings, "the KV cache of the streaming heads");
  if (status.ok()) status = allocate(cache.tables_, 4 * sizes.tables * sizes.table_pages, "the page tables");
  if (status.ok())
    status = allocate(cache.split_tables_, 4 * sizes.tables * split_table_pages, "the split page tables");
  if (!status.ok()) return status;
  // Kernels may read a table's unused tail (a graph's padding rows do): ids there must be valid.
  device.Fill(cache.tables_.data(), 0, cache.tables_.size());
  device.Fill(cache.split_tables_.data(), 0, cache.split_tables_.size());
  device.Fill(cache.rings_.data(), 0, cache.rings_.size());

  const PageLayout page{sizes.format, config.head_dim};
  uint8_t* pages = cache.pages_.as<uint8_t>();
  uint8_t* split_pages = cache.split_pages_.as<uint8_t>();
  uint8_t* rings = cache.rings_.as<uint8_t>();
  for (int l = 0; l < config.layers; ++l) {
    LayerKv layer;
    const int window = Windowed(config, l) ? static_cast<int>(config.sliding_window) : 0;
    const std::vector<LocalHead>& local = shard.layers[l];
    layer.shape = {config.head_dim, config.heads / config.kv_heads, static_cast<int>(local.size())};
    PagedKv whole;
    for (int i = 0; i < static_cast<int>(local.size()); ++i) {
      const LocalHead& head = local[i];
      if (head.kind == HeadKind::kSplit) {
        PagedKv piece;
        piece.base = split_pages;
        piece.page = page;
        piece.num_heads = 1;
        piece.first_head = i;
        piece.slots = head.slots;
        piece.first_slot = head.first_slot;
        piece.num_slots = head.last_slot - head.first_slot;
        piece.split = true;
        piece.tables = cache.split_tables_.as<int32_t>();
        piece.table_stride = split_table_pages;
        piece.window = window;
        piece.head_stride = piece.id_stride() * sizes.split_pages;
        split_pages += piece.head_stride;
        layer.paged.push_back(piece);
      } else if (head.kind == HeadKind::kWhole) {
        if (whole.num_heads++ == 0) whole.first_head = i;
      } else {
        if (layer.ring.num_heads++ == 0) layer.ring.first_head = i;
      }
    }
    const int paged_heads = layer.shape.kv_heads - layer.ring.num_heads;
    layer.shape.hadamard_heads = KvRotatesKeys(sizes.format) ? paged_heads : 0;
    if (whole.num_heads > 0) {
      whole.base = pages;
      whole.page = page;
      whole.head_stride = page.page_bytes() * sizes.pages;
      whole.tables = cache.tables_.as<int32_t>();
      whole.table_stride = sizes.table_pages;
      whole.window = window;
      pages += whole.num_heads * whole.head_stride;
      layer.paged.push_back(whole);
    }
    RingKv& ring = layer.ring;
    ring.base = rings;
    ring.ring_stride = cache.ring_stride_;
    ring.format = RingFormat(sizes.format);
    ring.head_dim = config.head_dim;
    ring.sink = heads.sink;
    ring.recent = heads.recent;
    ring.window = window;
    rings += ring.num_heads * ring.ring_bytes();
    cache.layers_.push_back(std::move(layer));
  }
  return cache;
}

void KvCache::WriteTable(Device& device, bool split, int table, int first, const int32_t* ids, int count) {
  const int64_t stride = split ? CeilDiv(sizes_.table_pages, sizes_.slots) : sizes_.table_pages;
  DUO_CHECK_LT(table, sizes_.tables);
  DUO_CHECK_LE(first + count, stride);
  Buffer& tables = split ? split_tables_ : tables_;
  device.Upload(tables.as<int32_t>() + table * stride + first, ids, int64_t{4} * count);
}

void KvCache::CopyPages(Device& device, bool split, int32_t from_id, int32_t to_id) {
  for (const LayerKv& layer : layers_) {
    for (const PagedKv& kv : layer.paged) {
      if (kv.split == split) CopyPage(device, kv, from_id, to_id);
    }
  }
}

void KvCache::CopyRings(Device& device, int32_t from_ring, int32_t to_ring) {
  device.Copy(ring_data(to_ring), ring_data(from_ring), ring_stride_);
}

}  // namespace duo
