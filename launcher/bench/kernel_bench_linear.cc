// kernel_bench.h: matrices of few rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "launcher/bench/kernel_bench.h"
#include "launcher/bench/kernel_bench_parts.h"

namespace duo {

namespace {

// A block of random rows, which is repeated: their codes, and the numbers that these stand for.
struct RandomRows {
  int64_t rows = 0;
  std::vector<uint8_t> codes;  // [rows][row bytes]
  std::vector<float> dense;    // [rows][inputs]
};
const uint16_t kPair[] = {ToF16(0.01f).bits, ToF16(-0.07f).bits};  // of each group of int4: scale and minimum
const uint16_t kPair8[] = {ToF16(0.001f).bits, 0};                 // of int8
constexpr uint8_t kSubs[] = {1, 1};                                // of each group of two levels
constexpr uint8_t kExponent = 121;                                 // of each of e2m1: 2^-6
const uint16_t kPairIq4[] = {ToF16(0.001f).bits, 0};
constexpr float kIq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr float kE2M1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};

const uint16_t* PairOf(const LinearBench& b) {
  return b.table == CodeTable::kIq4 ? kPairIq4 : b.type == DType::kI4 ? kPair : kPair8;
}
float ValueOf(CodeTable table, int code) {
  if (table == CodeTable::kE2M1) return kE2M1[code] * 0x1p-6f;
  if (table == CodeTable::kIq4) return kIq4[code] * ToFloat(f16{kPairIq4[0]});
  return code * ToFloat(f16{kPair[0]}) + ToFloat(f16{kPair[1]});
}
std::string NameOf(const LinearBench& b) {
  if (b.table == CodeTable::kE2M1) return "mxfp4";
  return absl::StrCat(b.table == CodeTable::kIq4 ? "iq4" : Name(b.type), b.group > 0 ? absl::StrCat(":", b.group) : "",
                      b.block > 0 ? absl::StrCat("/", b.block) : "");
}

bool Floating(DType type) { return type == DType::kBF16 || type == DType::kF16; }

RandomRows MakeRows(const LinearBench& b, std::mt19937& rng) {
  RandomRows random;
  random.rows = std::min<int64_t>(b.outputs, 61);
  std::vector<uint8_t>& codes = random.codes;
  std::vector<float>& dense = random.dense;
  codes.resize(random.rows * Bytes(b.type, b.inputs));
  dense.resize(random.rows * b.inputs);
  for (int64_t i = 0; i < random.rows * b.inputs; ++i) {
    if (Floating(b.type)) {
      const float x = std::normal_distribution<float>(0, 0.02f)(rng);
      const uint16_t bits = b.type == DType::kBF16 ? ToBf16(x).bits : ToF16(x).bits;
      std::memcpy(&codes[2 * i], &bits, 2);
      dense[i] = b.type == DType::kBF16 ? ToFloat(bf16{bits}) : ToFloat(f16{bits});
    } else if (b.type == DType::kI4) {
      const uint8_t code = rng() % 16;
      codes[i / 2] = i % 2 == 0 ? code : codes[i / 2] | code << 4;
      dense[i] = ValueOf(b.table, code);
    } else if (b.type == DType::kI8) {
      const int8_t code = static_cast<int8_t>(rng() % 255 - 127);
      std::memcpy(&codes[i], &code, 1);
      dense[i] = code * 0.001f;
    } else {
      uint8_t code = rng() % 256;
      if ((code & 0x7f) == 0x7f) code ^= 1;
      codes[i] = code;
      dense[i] = F8ToFloat(code) * 0.001f;
    }
  }
  return random;
}

}  // namespace

absl::StatusOr<BenchRow> BenchLinear(Device& device, const LinearBench& b, const BenchRates& rates) {
  std::mt19937 rng(4);
  Memory memory;
  const DType type = ActivationType(device);
  Weight weight;
  weight.dtype = b.type;
  weight.rows = b.outputs;
  weight.cols = b.inputs;
  weight.group = b.group > 0 ? b.group : b.type == DType::kI4 ? 128 : 0;
  weight.block = b.block;
  weight.table = b.table;
  const bool powers = b.table == CodeTable::kE2M1;
  const int64_t bytes = Bytes(b.type, b.outputs * b.inputs);
  const int rounds = static_cast<int>(std::max<int64_t>(1, kRotation / bytes));
  const RandomRows random = MakeRows(b, rng);
  auto* codes = static_cast<uint8_t*>(memory.Take(device, rounds * bytes));
  std::vector<float> scales(b.outputs, 0.001f);
  const int64_t pair_count = weight.group > 0 && !powers ? b.outputs * (b.inputs / weight.pair_cols()) : 0;
  std::vector<uint16_t> pairs;
  for (int64_t i = 0; i < pair_count; ++i) pairs.insert(pairs.end(), PairOf(b), PairOf(b) + 2);
  std::vector<uint8_t> subs;
  for (int64_t i = 0; b.block > 0 && i < b.outputs * (b.inputs / weight.group); ++i) {
    subs.insert(subs.end(), std::begin(kSubs), std::end(kSubs));
  }
  void* device_scales = memory.Take(device, scales.size() * 4);
  void* device_pairs = memory.Take(device, std::max<size_t>(1, pairs.size() * 2));
  const std::vector<uint8_t> exponents(powers ? b.outputs * (b.inputs / weight.group) : 0, kExponent);
  void* device_exponents = memory.Take(device, std::max<size_t>(1, exponents.size()));
  void* device_subs = memory.Take(device, std::max<size_t>(1, subs.size()));
  std::vector<float> values = Normal(rng, b.rows * b.inputs);
  const std::vector<uint8_t> x_bytes = ToActivations(type, values);
  const size_t out_bytes = Bytes(type, b.rows * b.outputs);
  void* x_data = memory.Take(device, x_bytes.size());
  void* out_data = memory.Take(device, out_bytes);
  auto scratch_buffer =
      Buffer::Allocate(device, std::max<size_t>(256, LinearScratchBytes(device, b.rows, weight)), "benchmark scratch");
  if (!scratch_buffer.ok()) return scratch_buffer.status();
  if (!memory.status.ok()) return memory.status;
  Arena scratch(std::move(*scratch_buffer));
  device.Upload(codes, random.codes.data(), random.codes.size());
  Repeat(device, codes, random.codes.size(), bytes);
  for (int i = 1; i < rounds; ++i) device.Copy(codes + i * bytes, codes, bytes);
  device.Upload(device_scales, scales.data(), scales.size() * 4);
  device.Upload(device_pairs, pairs.data(), pairs.size() * 2);
  device.Upload(device_subs, subs.data(), subs.size());
  device.Upload(device_exponents, exponents.data(), exponents.size());
  device.Upload(x_data, x_bytes.data(), x_bytes.size());
  device.Fill(out_data, 0xff, out_bytes);
  if (HasRowScales(b.type) && weight.group == 0) weight.scales = static_cast<const float*>(device_scales);
  if (powers) weight.exponents = static_cast<const uint8_t*>(device_exponents);
  if (weight.group > 0 && !powers) weight.groups = static_cast<const uint16_t*>(device_pairs);
  if (b.block > 0) weight.subs = static_cast<const int8_t*>(device_subs);
  const View x(x_data, type, b.rows, b.inputs), out(out_data, type, b.rows, b.outputs);
  auto call = [&](int i) {
    Weight w = weight;
    w.data = codes + i % rounds * bytes;
    Linear(device, out, x, w, scratch);
  };
  BenchRow row;
  row.what = "linear";
  row.shape = absl::StrCat(NameOf(b), " rows ", b.rows, " outputs ", b.outputs, " inputs ", b.inputs);
  call(0);
  std::vector<uint8_t> got(out_bytes);
  device.Download(got.data(), out_data, out_bytes);
  double worst = 0, largest = 0;
  for (int sample = 0; sample < 256; ++sample) {
    const int64_t r = sample % b.rows, o = (sample * 7919 + sample / 16) % b.outputs;
    double exact = 0;
    for (int64_t c = 0; c < b.inputs; ++c) {
      exact += double{random.dense[o % random.rows * b.inputs + c]} * values[r * b.inputs + c];
    }
    const double error = std::abs(Activation(type, got, r * b.outputs + o) - exact);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    largest = std::max(largest, std::abs(exact));
  }
  row.error = worst / largest;
  row.verified = row.error < kAllowed;
  row.floor = std::max((bytes + pair_count * 4.0 + subs.size() + exponents.size()) / rates.copy,
                       2.0 * b.rows * b.outputs * b.inputs / rates.gemm);
  row.seconds = Time(device, std::max(rounds, Calls(row.floor)), true, call);
  return row;
}

}  // namespace duo
