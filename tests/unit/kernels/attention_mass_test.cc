// The mass of pages and the scores of keys against f64 over the decoded keys, in every format, whole and split, with
// and without a window.
#include "kernels/attention_mass.h"

#include <cmath>
#include <numeric>
#include <string>

#include "devices.h"
#include "kernels/attention_plain.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

struct Pages {
  PagedKv kv;
  Buffer bytes, tables;
};

// Of one sequence, its page ids in reverse; table 1 is its, table 0 names pages that are not there.
Pages MakePages(Device& device, KvFormat format, int d, int64_t pages, int slots, int first_slot, int num_slots) {
  Pages p;
  p.kv.page = {format, d};
  p.kv.num_heads = 2;
  p.kv.slots = slots;
  p.kv.split = slots > 1;
  p.kv.first_slot = first_slot;
  p.kv.num_slots = num_slots;
  const int64_t ids = (pages + slots - 1) / slots;
  p.kv.head_stride = ids * p.kv.id_stride();
  p.kv.table_stride = ids;
  p.bytes = Allocate(device, p.kv.num_heads * p.kv.head_stride);
  p.kv.base = p.bytes.as<uint8_t>();
  std::vector<int32_t> table(2 * ids, 1 << 20);
  std::iota(table.rbegin(), table.rbegin() + ids, 0);
  p.tables = Upload(device, table);
  p.kv.tables = p.tables.as<int32_t>();
  FillPages(device, p.kv, 0, ids, 7);
  return p;
}

class AttentionMass : public DeviceTest {
 protected:
  // The reference reads the device's memory, so on CUDA from a copy.
  void Check(KvFormat format, int d, int group, int64_t position, const Pages& pages) {
    const PagedKv& kv = pages.kv;
    const int64_t count = position / kPageTokens + 2;  // the last one lies behind the row
    std::mt19937 rng(static_cast<unsigned>(d + position));
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<size_t>(group) * d);
    for (float& x : q) x = Rounded(normal(rng));
    Buffer device_q = UploadAs(device(), activation(), q);
    std::vector<int32_t> wanted(count);
    std::iota(wanted.rbegin(), wanted.rend(), 0);
    Buffer device_wanted = Upload(device(), wanted);
    Buffer mass = Allocate(device(), sizeof(float) * group * count),
           scores = Allocate(device(), sizeof(float) * group * count * kPageTokens);
    const MassRow row = {device_q.data(), group, 1, 1, position};
    PageMass(device(), mass.as<float>(), row, kv, count);
    KeyScores(device(), scores.as<float>(), row, kv, device_wanted.as<int32_t>(), static_cast<int>(count));
    const auto got_mass = Download<float>(device(), mass.data(), group * count),
               got_scores = Download<float>(device(), scores.data(), group * count * kPageTokens);

    const std::vector<uint8_t> host_bytes = Download<uint8_t>(device(), pages.bytes.data(), pages.bytes.size());
    const std::vector<int32_t> host_tables =
        Download<int32_t>(device(), pages.tables.data(), pages.tables.size() / sizeof(int32_t));
    PagedKv host = kv;
    host.base = const_cast<uint8_t*>(host_bytes.data());
    host.tables = host_tables.data();
    // Sums of d products in f32, in any order: d roundings of the sum of magnitudes at most.
    for (int g = 0; g < group; ++g) {
      for (int64_t p = 0; p < count; ++p) {
        double sum = 0, allowed = 0;
        for (int t = 0; t < kPageTokens; ++t) {
          const int64_t j = p * kPageTokens + t;
          const bool sees = host.holds(p) && j <= position && (host.window == 0 || position - j < host.window);
          const float found = got_scores[(g * count + count - 1 - p) * kPageTokens + t];
          if (!sees) {
            ASSERT_EQ(found, -INFINITY) << "key " << j;
            continue;
          }
          const uint8_t* page = host.page_at(1, 1, p);
          double score = 0, magnitude = 0;
          for (int c = 0; c < d; ++c) {
            const double product =
                double{q[g * d + c]} * PlainValue(host.page, page, false, t, c) / std::sqrt(double(d));
            score += product;
            magnitude += std::abs(product);
          }
          const double error = (d + 3) * 0x1p-24 * magnitude;
          ASSERT_NEAR(found, score, error) << "key " << j;
          sum += std::exp(score);
          allowed = std::max(allowed, error);
        }
        const float found = got_mass[g * count + p];
        if (sum == 0) {
          ASSERT_EQ(found, -INFINITY) << "page " << p;
        } else {
          // The sum's own roundings, and those of exp and log.
          ASSERT_NEAR(found, std::log(sum), allowed + (kPageTokens + 8) * 0x1p-23) << Name(format) << " page " << p;
        }
      }
    }
  }
  float Rounded(float x) const { return cuda() ? ToFloat(ToBf16(x)) : x; }
};
INSTANTIATE_ON_DEVICES(AttentionMass);

TEST_P(AttentionMass, IsThatOfTheKeysOfEachPage) {
  for (KvFormat format : kKvFormats) {
    if (cuda() && format == KvFormat::kF32) continue;
    for (int d : {64, 128}) {
      for (int64_t position : {0, 127, 128, 1000}) {
        const Pages pages = MakePages(device(), format, d, position / kPageTokens + 2, 1, 0, 1);
        Check(format, d, 3, position, pages);
      }
    }
  }
}

TEST_P(AttentionMass, IsThatOfTheSlotsHeldHere) {
  for (KvFormat format : {KvFormat::kBF16, KvFormat::kInt4}) {
    const Pages pages = MakePages(device(), format, 64, 9, 4, 1, 2);
    Check(format, 64, 1, 900, pages);
  }
}

TEST_P(AttentionMass, LeavesOutWhatTheWindowHides) {
  Pages pages = MakePages(device(), KvFormat::kInt8, 64, 9, 1, 0, 1);
  pages.kv.window = 300;
  Check(KvFormat::kInt8, 64, 2, 777, pages);
}

TEST_P(AttentionMass, TakesHeadsOfAnySizeAndManyQueryHeads) {
  if (cuda()) GTEST_SKIP() << "the CPU's alone";
  const Pages pages = MakePages(device(), KvFormat::kBF16, 40, 3, 1, 0, 1);
  Check(KvFormat::kBF16, 40, 17, 300, pages);
}

}  // namespace
}  // namespace duo
