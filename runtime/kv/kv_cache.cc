#include "runtime/kv/kv_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"

namespace duo {
namespace {

bool Windowed(const ModelConfig& config, int layer) {
  return config.sliding_window > 0 && config.window_layers[layer] != 0;
}

int64_t SplitTablePages(const KvSizes& sizes) { return CeilDiv(sizes.table_pages, sizes.slots); }

int WholeHeads(const std::vector<LocalHead>& layer) {
  const auto whole = [](const LocalHead& head) { return head.kind == HeadKind::kWhole; };
  return static_cast<int>(std::count_if(layer.begin(), layer.end(), whole));
}

// Lists on this rank, of all layers.
int64_t Lists(const RankShard& shard, const KvSizes& sizes) {
  int64_t heads = 0;
  for (size_t l = kDenseLayers; l < shard.layers.size(); ++l) heads += WholeHeads(shard.layers[l]);
  return heads * sizes.lists;
}

// Deals out the cache's memory, layer by layer in order.
struct Places {
  const KvSizes& sizes;
  const HeadPlan& heads;
  PageLayout page;
  int64_t ring_stride;
  const int32_t *tables, *split_tables;
  uint8_t *pages, *split_pages, *rings;  // where the next layer's begin
  int32_t* list_pages;
  ListedHead* list_heads;

  // The piece of a split head that is the layer's `index`-th head.
  PagedKv Piece(const LocalHead& head, int index, int window) {
    PagedKv piece;
    piece.base = split_pages;
    piece.page = page;
    piece.num_heads = 1;
    piece.first_head = index;
    piece.slots = head.slots;
    piece.first_slot = head.first_slot;
    piece.num_slots = head.last_slot - head.first_slot;
    piece.split = true;
    piece.tables = split_tables;
    piece.table_stride = SplitTablePages(sizes);
    piece.window = window;
    piece.head_stride = piece.id_stride() * sizes.split_pages;
    split_pages += piece.head_stride;
    return piece;
  }

  PagedKv Whole(int first_head, int num_heads, int window) {
    PagedKv whole;
    whole.base = pages;
    whole.page = page;
    whole.num_heads = num_heads;
    whole.first_head = first_head;
    whole.head_stride = page.page_bytes() * sizes.pages;
    whole.tables = tables;
    whole.table_stride = sizes.table_pages;
    whole.window = window;
    pages += num_heads * whole.head_stride;
    return whole;
  }

  RingKv Ring(int first_head, int num_heads, int window) {
    RingKv ring;
    ring.base = rings;
    ring.ring_stride = ring_stride;
    ring.format = RingFormat(sizes.format);
    ring.head_dim = page.head_dim;
    ring.num_heads = num_heads;
    ring.first_head = first_head;
    ring.sink = heads.sink;
    ring.recent = heads.recent;
    ring.window = window;
    ring.slack = sizes.ring_slack;
    rings += num_heads * ring.ring_bytes();
    return ring;
  }

  DecodeLists ListsOf(int num_heads) {
    DecodeLists lists = {sizes.lists, num_heads, ListStride(sizes.table_pages), list_pages, list_heads};
    list_pages += int64_t{lists.slots} * num_heads * lists.stride;
    list_heads += int64_t{lists.slots} * num_heads;
    return lists;
  }

  LayerKv Layer(const std::vector<LocalHead>& local, int group, int window, bool has_lists) {
    LayerKv layer;
    const int whole = WholeHeads(local);
    int streaming = 0;  // heads; a rank's pieces come first, then whole ones, then streaming ones
    for (int i = 0; i < static_cast<int>(local.size()); ++i) {
      if (local[i].kind == HeadKind::kSplit) layer.paged.push_back(Piece(local[i], i, window));
      streaming += local[i].kind == HeadKind::kStreaming;
    }
    const int pieces = static_cast<int>(layer.paged.size()), paged = pieces + whole;
    if (whole > 0) layer.paged.push_back(Whole(pieces, whole, window));
    if (has_lists) layer.lists = ListsOf(whole);
    layer.ring = Ring(streaming > 0 ? paged : 0, streaming, window);
    layer.shape = {page.head_dim, group, paged + streaming, KvRotatesKeys(sizes.format) ? paged : 0};
    return layer;
  }
};

}  // namespace

KvUnitBytes UnitBytes(const ModelConfig& config, const RankShard& shard, const HeadPlan& heads, KvFormat format,
                      int ring_slack) {
  const int64_t page = PageLayout{format, config.head_dim}.page_bytes();
  const int64_t ring = RingBytes(format, config.head_dim, heads.sink, heads.recent, ring_slack);
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

int64_t ListBytes(const RankShard& shard, const KvSizes& sizes) {
  return Lists(shard, sizes) * static_cast<int64_t>(4 * ListStride(sizes.table_pages) + sizeof(ListedHead));
}

absl::Status KvCache::Allocate(Device& device, const RankShard& shard, const KvUnitBytes& unit) {
  const int64_t lists = Lists(shard, sizes_);
  const struct {
    Buffer& buffer;
    int64_t bytes;
    const char* what;
  } wanted[] = {
      {pages_, unit.page * sizes_.pages, "the KV cache of the retrieval heads"},
      {split_pages_, unit.split_page * sizes_.split_pages, "the KV cache of the split heads"},
      {rings_, unit.ring * sizes_.rings, "the KV cache of the streaming heads"},
      {tables_, 4 * sizes_.tables * sizes_.table_pages, "the page tables"},
      {split_tables_, 4 * sizes_.tables * SplitTablePages(sizes_), "the split page tables"},
      {list_pages_, 4 * lists * ListStride(sizes_.table_pages), "the page lists of answers"},
      {list_heads_, static_cast<int64_t>(sizeof(ListedHead)) * lists, "the page lists of answers"},
  };
  for (const auto& [buffer, bytes, what] : wanted) {
    absl::StatusOr<Buffer> got = Buffer::Allocate(device, bytes, what);
    if (!got.ok()) return got.status();
    buffer = std::move(*got);
  }
  // Kernels may read a table's unused tail (a graph's padding rows do): ids there must be valid.
  for (const Buffer* buffer : {&tables_, &split_tables_, &rings_, &list_heads_}) {
    device.Fill(buffer->data(), 0, buffer->size());
  }
  return absl::OkStatus();
}

absl::StatusOr<KvCache> KvCache::Create(Device& device, const ModelConfig& config, const RankShard& shard,
                                        const HeadPlan& heads, const KvSizes& sizes) {
  KvCache cache;
  cache.sizes_ = sizes;
  const KvUnitBytes unit = UnitBytes(config, shard, heads, sizes.format, sizes.ring_slack);
  cache.ring_stride_ = unit.ring;
  if (absl::Status s = cache.Allocate(device, shard, unit); !s.ok()) return s;
  Places places{sizes,
                heads,
                {sizes.format, config.head_dim},
                unit.ring,
                cache.tables_.as<int32_t>(),
                cache.split_tables_.as<int32_t>(),
                cache.pages_.as<uint8_t>(),
                cache.split_pages_.as<uint8_t>(),
                cache.rings_.as<uint8_t>(),
                cache.list_pages_.as<int32_t>(),
                cache.list_heads_.as<ListedHead>()};
  for (int l = 0; l < config.layers; ++l) {
    const int window = Windowed(config, l) ? static_cast<int>(config.sliding_window) : 0;
    cache.layers_.push_back(
        places.Layer(shard.layers[l], config.heads / config.kv_heads, window, sizes.lists > 0 && l >= kDenseLayers));
  }
  return cache;
}

void KvCache::WriteTable(Device& device, bool split, int table, int first, const int32_t* ids, int count) {
  const int64_t stride = split ? SplitTablePages(sizes_) : sizes_.table_pages;
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
