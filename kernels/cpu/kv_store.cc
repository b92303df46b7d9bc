// Rotation of queries and keys, and what is stored of keys and values: pages, rings and their copies.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/kv_vector.h"
#include "kernels/cpu/rows.h"
#include "kernels/hadamard.h"

namespace duo::cpu {
namespace {

void NormHead(float* x, int d, const float* weight, float eps) {
  double sum = 0;
  for (int i = 0; i < d; ++i) sum += double{x[i]} * x[i];
  const float inverse = static_cast<float>(1.0 / std::sqrt(sum / d + eps));
  for (int i = 0; i < d; ++i) x[i] = x[i] * inverse * weight[i];
}

// The cosines of a position's angles, then their sines.
void AnglesOf(int64_t position, const double* frequencies, int64_t half, double factor, float* out) {
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    out[i] = static_cast<float>(std::cos(angle) * factor);
    out[half + i] = static_cast<float>(std::sin(angle) * factor);
  }
}

// x turned by the angles of cos_sin; out may be x.
void RotateHead(const float* x, int d, const float* cos_sin, float* out) {
  const int half = d / 2;
  const float *cos = cos_sin, *sin = cos_sin + half;
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cos[i] - b * sin[i];
    out[half + i] = b * cos[i] + a * sin[i];
  }
}

}  // namespace

void RopeAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor) {
  const int64_t half = cos_sin.cols / 2;
  ForRows(device, cos_sin.rows, [&](int64_t r) {
    AnglesOf(positions[r], frequencies, half, factor, cos_sin.as<float>() + r * cos_sin.stride);
  });
}

void ChunkAngles(Device& device, View cos_sin, const int32_t* positions, const double* frequencies, double factor,
                 const DualChunk& chunks) {
  const int64_t d = cos_sin.cols / (kChunkKinds + 1);
  ForRows(device, cos_sin.rows, [&](int64_t r) {
    const int64_t position = positions[r];
    float* out = cos_sin.as<float>() + r * cos_sin.stride;
    AnglesOf(chunks.KeyPosition(position), frequencies, d / 2, factor, out);
    const double scaled = factor * chunks.Scale(position);
    for (int kind = 0; kind < kChunkKinds; ++kind) {
      const int64_t turned = chunks.QueryPosition(static_cast<ChunkKind>(kind), position);
      AnglesOf(turned, frequencies, d / 2, scaled, out + (kind + 1) * d);
    }
  });
}

void RotateQk(Device& device, View qkv, const HeadShape& shape, View cos_sin, const QkNorms& norms,
              const float* key_shift) {
  const int d = shape.head_dim, q_heads = shape.kv_heads * shape.group;
  ForRows(device, qkv.rows, [&](int64_t r) {
    const float* angles = cos_sin.as<float>() + r * cos_sin.stride;
    float* row = qkv.as<float>() + r * qkv.stride;
    for (int h = 0; h < q_heads + shape.kv_heads; ++h) {  // k heads follow the q heads
      float* x = row + int64_t{h} * d;
      if (const float* norm = h < q_heads ? norms.q : norms.k; norm != nullptr) NormHead(x, d, norm, norms.eps);
      RotateHead(x, d, angles, x);
      if (key_shift != nullptr && h >= q_heads) {
        const float* shift = key_shift + int64_t{h - q_heads} * d;
        for (int i = 0; i < d; ++i) x[i] -= shift[i];
      }
      if (shape.hadamard(h)) HadamardRotate(x, d);
    }
  });
}

void RotateQkByChunks(Device& device, View qkv, const ChunkQueries& queries, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  const int d = shape.head_dim, q_heads = shape.kv_heads * shape.group;
  ForRows(device, qkv.rows, [&](int64_t r) {
    const float* angles = cos_sin.as<float>() + r * cos_sin.stride;
    const auto queries_of = [&](ChunkKind kind) { return angles + (static_cast<int>(kind) + 1) * d; };
    float* row = qkv.as<float>() + r * qkv.stride;
    float* previous = queries.previous.as<float>() + r * queries.previous.stride;
    float* earlier = queries.earlier.as<float>() + r * queries.earlier.stride;
    for (int h = 0; h < q_heads + shape.kv_heads; ++h) {  // k heads follow the q heads
      float* x = row + int64_t{h} * d;
      const bool query = h < q_heads;
      if (const float* norm = query ? norms.q : norms.k; norm != nullptr) NormHead(x, d, norm, norms.eps);
      if (query) {
        const int64_t at = int64_t{h} * d;
        RotateHead(x, d, queries_of(ChunkKind::kPrevious), previous + at);
        RotateHead(x, d, queries_of(ChunkKind::kEarlier), earlier + at);
        if (shape.hadamard(h)) HadamardRotate(previous + at, d);
        if (shape.hadamard(h)) HadamardRotate(earlier + at, d);
      }
      RotateHead(x, d, query ? queries_of(ChunkKind::kOwn) : angles, x);
      if (shape.hadamard(h)) HadamardRotate(x, d);
    }
  });
}

void StoreKv(Device& device, const StepRows& rows, const PagedKv& kv) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const int d = shape.head_dim;
  const PageLayout& layout = kv.page;
  ForRows(device, batch.num_rows, [&](int64_t r) {
    const SeqSpan& span = batch.spans[batch.row_seq[r]];
    const int64_t position = int64_t{span.history} + (r - span.first_row), page = position / kPageTokens;
    const int token = static_cast<int>(position % kPageTokens);
    const bool stored = !span.keep_pages && kv.holds(page);
    for (int h = 0; h < kv.num_heads; ++h) {
      float* k = qkv.as<float>() + r * qkv.stride + shape.q_cols() + int64_t{kv.first_head + h} * d;
      float* v = k + shape.kv_cols();
      uint8_t unused[KvCodeBytes(KvFormat::kF32, kMaxHeadDim) + 4];
      uint8_t* at = nullptr;
      if (stored) at = kv.page_at(h, kv.split ? span.split_table : span.table, page);
      uint8_t* k_codes = stored ? at + layout.k_codes(token) : unused;
      uint8_t* k_params = stored ? at + layout.k_params(token) : unused + layout.code_bytes();
      EncodeKvVector(layout.format, k, d, k_codes, k_params);
      DecodeKvVector(layout.format, k_codes, k_params, d, k);
      uint8_t* v_codes = stored ? at + layout.v_codes(token) : unused;
      uint8_t* v_params = stored ? at + layout.v_params(token) : unused + layout.code_bytes();
      EncodeKvVector(layout.format, v, d, v_codes, v_params);
      DecodeKvVector(layout.format, v_codes, v_params, d, v);
    }
  });
}

void RoundToRing(Device& device, View qkv, const HeadShape& shape, const RingKv& kv) {
  if (kv.format == KvFormat::kF32) return;
  const int64_t count = int64_t{kv.num_heads} * shape.head_dim;
  ForRows(device, qkv.rows, [&](int64_t r) {
    float* k = qkv.as<float>() + r * qkv.stride + shape.q_cols() + int64_t{kv.first_head} * shape.head_dim;
    float* v = k + shape.kv_cols();
    for (int64_t i = 0; i < count; ++i) k[i] = ToFloat(ToBf16(k[i]));
    for (int64_t i = 0; i < count; ++i) v[i] = ToFloat(ToBf16(v[i]));
  });
}

void StoreRings(Device& device, const StepRows& rows, const RingKv& kv) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const int d = shape.head_dim;
  ForRows(device, batch.num_rows, [&](int64_t r) {
    const SeqSpan& span = batch.spans[batch.row_seq[r]];
    const int64_t offset = r - span.first_row, position = span.history + offset;
    if (position >= kv.sink && offset < span.num_rows - (kv.slots() - kv.sink)) return;  // overwritten within this step
    const int slot = kv.slot_of(position);
    for (int h = 0; h < kv.num_heads; ++h) {
      const float* k = qkv.as<float>() + r * qkv.stride + shape.q_cols() + int64_t{kv.first_head + h} * d;
      EncodeKvVector(kv.format, k, d, kv.k_at(span.ring, h, slot), nullptr);
      EncodeKvVector(kv.format, k + shape.kv_cols(), d, kv.v_at(span.ring, h, slot), nullptr);
    }
  });
}

void CopyPage(Device& device, const PagedKv& kv, int32_t from_id, int32_t to_id) {
  device.pool().ParallelFor(kv.num_heads, [&](int64_t h, int) {
    uint8_t* head = kv.base + h * kv.head_stride;
    std::memcpy(head + to_id * kv.id_stride(), head + from_id * kv.id_stride(), kv.id_stride());
  });
}

}  // namespace duo::cpu
