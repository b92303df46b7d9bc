// The plain attention that proves capacity, against the decode kernels on the same pages: two programs that share
// nothing but the layout.
#include "kernels/attention_plain.h"

#include <numeric>

#include "devices.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

class PlainAttention : public DeviceTest {};
INSTANTIATE_ON_DEVICES(PlainAttention);

TEST_P(PlainAttention, AgreesWithTheDecodeKernels) {
  for (KvFormat format : kKvFormats) {
    if (cuda() && format == KvFormat::kF32) continue;
    for (int d : {64, 128}) {
      for (int64_t tokens : {1, 31, 129, 1000}) {
        const HeadShape shape = {d, 2, 3};  // 3 KV heads, the first of them not in these pages
        const int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
        PagedKv kv;
        kv.page = {format, d};
        kv.num_heads = 2;
        kv.first_head = 1;
        kv.head_stride = pages * kv.page.page_bytes();
        kv.table_stride = pages;
        Buffer bytes = Allocate(device(), kv.num_heads * kv.head_stride);
        kv.base = bytes.as<uint8_t>();
        std::vector<int32_t> ids(pages);
        std::iota(ids.rbegin(), ids.rend(), 0);
        Buffer tables = Upload(device(), ids);
        kv.tables = tables.as<int32_t>();
        FillPages(device(), kv, 0, pages, 7);

        std::mt19937 rng(d + tokens);
        std::normal_distribution<float> normal;
        std::vector<float> q(shape.qkv_cols());
        for (float& x : q) x = normal(rng);
        Buffer qkv = UploadAs(device(), activation(), q);
        std::vector<SeqSpan> spans(1);
        spans[0].num_rows = 1;
        spans[0].history = static_cast<int32_t>(tokens - 1);
        Buffer device_spans = Upload(device(), spans), row_seq = Upload(device(), std::vector<int32_t>{0}),
               positions = Upload(device(), std::vector<int32_t>{static_cast<int32_t>(tokens - 1)});
        SeqBatch batch;
        batch.spans = device_spans.as<SeqSpan>();
        batch.row_seq = row_seq.as<int32_t>();
        batch.positions = positions.as<int32_t>();
        batch.host_spans = spans.data();
        batch.num_seqs = batch.num_rows = batch.max_rows = 1;
        batch.max_tokens = tokens;
        Buffer out = Allocate(device(), Bytes(activation(), shape.q_cols())),
               plain = Allocate(device(), sizeof(float) * 4 * d);
        auto scratch = Buffer::Allocate(device(), DecodeScratchBytes(device(), 1, 2, kv, tokens) + 4096, "scratch");
        ASSERT_TRUE(scratch.ok());
        Arena arena(std::move(*scratch));
        const View in(qkv.data(), activation(), 1, shape.qkv_cols());
        AttendPages(device(), {View(out.data(), activation(), 1, shape.q_cols())}, {in, shape, batch}, kv, arena);
        AttendPlain(device(), plain.as<float>(), in, shape, kv, {.tokens = tokens});
        const std::vector<float> expected = Download<float>(device(), plain.data(), 4 * d);
        const std::vector<uint8_t> raw = Download<uint8_t>(device(), out.data(), out.size());
        double difference = 0, norm = 0;
        for (int i = 0; i < 4 * d; ++i) {
          const int at = 2 * d + i;
          const float x = cuda() ? ToFloat(reinterpret_cast<const bf16*>(raw.data())[at])
                                 : reinterpret_cast<const float*>(raw.data())[at];
          difference += std::pow(x - expected[i], 2);
          norm += std::pow(expected[i], 2);
        }
        // CUDA rounds softmax weights and outputs to bf16, 2^-9 each; the CPU sums in f32.
        EXPECT_LE(std::sqrt(difference / norm), cuda() ? 4 * 0x1p-9 : 1e-5)
            << Name(format) << " d " << d << " tokens " << tokens;
      }
    }
  }
}

}  // namespace
}  // namespace duo
