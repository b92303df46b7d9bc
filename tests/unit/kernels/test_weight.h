// Random weight matrices of every format, with the exact value of each element.
#pragma once

#include <cmath>
#include <vector>

#include "devices.h"
#include "kernels/scale_blocks.h"

namespace duo {

struct TestWeight {
  Weight weight;               // device pointers
  std::vector<double> values;  // [rows][cols], exact
  std::vector<float> bias;
  Buffer data, scales, groups, subs, exponents, bias_memory;
};

inline TestWeight MakeWeight(Device& device, DType dtype, int64_t rows, int64_t cols, int group, bool bias,
                             std::mt19937& rng) {
  TestWeight w;
  w.weight = {dtype, rows, cols, nullptr, nullptr, nullptr, dtype == DType::kI4 ? group : 0, nullptr};
  w.values.resize(rows * cols);
  std::vector<uint8_t> bytes((rows * cols * Bits(dtype) + 7) / 8);
  std::vector<float> scales(rows);
  std::vector<uint16_t> groups;
  std::uniform_int_distribution<int> byte(0, 255);
  const std::vector<float> normal = Normal(rng, rows * cols, 0.05f);
  for (float& s : scales) s = 0.0004f * (1 + byte(rng) / 64.0f);
  if (dtype == DType::kI4) {
    for (int64_t g = 0; g < rows * (cols / group); ++g) {
      groups.push_back(ToF16(0.01f * (1 + byte(rng) / 100.0f)).bits);
      groups.push_back(ToF16(-0.08f - byte(rng) / 5000.0f).bits);
    }
  }
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t r = i / cols, c = i % cols;
    switch (dtype) {
      case DType::kF32:
        memcpy(&bytes[4 * i], &normal[i], 4);
        w.values[i] = normal[i];
        break;
      case DType::kF16: {
        const f16 x = ToF16(normal[i]);
        memcpy(&bytes[2 * i], &x, 2);
        w.values[i] = ToFloat(x);
        break;
      }
      case DType::kBF16: {
        const bf16 x = ToBf16(normal[i]);
        memcpy(&bytes[2 * i], &x, 2);
        w.values[i] = ToFloat(x);
        break;
      }
      case DType::kF8E4M3:
        bytes[i] = FloatToF8(normal[i] * 1000);
        w.values[i] = double{F8ToFloat(bytes[i])} * scales[r];
        break;
      case DType::kI8: {
        const int code = byte(rng) % 255 - 127;
        bytes[i] = static_cast<uint8_t>(code);
        w.values[i] = code * double{scales[r]};
        break;
      }
      default: {  // int4
        const int code = byte(rng) % 16;
        const int64_t g = r * (cols / group) + c / group;
        if (i % 2 == 0) {
          bytes[i / 2] = static_cast<uint8_t>(code);
        } else {
          bytes[i / 2] |= code << 4;
        }
        w.values[i] = code * double{ToFloat(f16{groups[2 * g]})} + ToFloat(f16{groups[2 * g + 1]});
      }
    }
  }
  w.data = Upload(device, bytes);
  w.weight.data = w.data.data();
  if (dtype == DType::kF8E4M3 || dtype == DType::kI8) {
    w.scales = Upload(device, scales);
    w.weight.scales = w.scales.as<float>();
  }
  if (dtype == DType::kI4) {
    w.groups = Upload(device, groups);
    w.weight.groups = w.groups.as<uint16_t>();
  }
  w.bias.assign(rows, 0.0f);
  if (bias) {
    w.bias = Normal(rng, rows);
    w.bias_memory = Upload(device, w.bias);
    w.weight.bias = w.bias_memory.as<float>();
  }
  return w;
}

// Codes in groups of `group` columns; block > 0: of two levels. All products of parameters are exact in f64, as in f32.
inline TestWeight MakeGroupedWeight(Device& device, DType dtype, int64_t rows, int64_t cols, int group, int block,
                                    std::mt19937& rng) {
  TestWeight w;
  const int pair_cols = block > 0 ? block : group;
  std::vector<uint8_t> bytes(Bytes(dtype, rows * cols));
  std::vector<uint16_t> pairs(2 * rows * (cols / pair_cols));
  std::vector<int8_t> subs(block > 0 ? 2 * rows * (cols / group) : 0);
  std::uniform_int_distribution<int> byte(0, 255);
  for (size_t i = 0; i < pairs.size(); i += 2) {
    pairs[i] = ToF16((block > 0 ? 0.0002f : 0.002f) * (1 + byte(rng) / 100.0f)).bits;
    pairs[i + 1] = ToF16((block > 0 ? -0.002f : -0.02f) * (1 + byte(rng) / 100.0f)).bits;
  }
  for (size_t i = 0; i < subs.size(); ++i) subs[i] = static_cast<int8_t>(i % 2 == 0 ? byte(rng) - 128 : byte(rng) % 64);
  w.values.resize(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t r = i / cols, c = i % cols, pair = 2 * (r * (cols / pair_cols) + c / pair_cols);
    const int64_t sub = 2 * (r * (cols / group) + c / group);
    const int code = dtype == DType::kI4 ? byte(rng) % 16 : byte(rng) - 128;
    if (dtype == DType::kI8) {
      bytes[i] = static_cast<uint8_t>(code);
    } else {
      bytes[i / 2] |= static_cast<uint8_t>(code << 4 * (i % 2));
    }
    const double scale = double{ToFloat(f16{pairs[pair]})} * (block > 0 ? subs[sub] : 1);
    w.values[i] = code * scale + double{ToFloat(f16{pairs[pair + 1]})} * (block > 0 ? subs[sub + 1] : 1);
  }
  w.data = Upload(device, bytes);
  w.groups = Upload(device, pairs);
  w.weight.dtype = dtype;
  w.weight.rows = rows;
  w.weight.cols = cols;
  w.weight.data = w.data.data();
  w.weight.groups = w.groups.as<uint16_t>();
  w.weight.group = group;
  w.weight.block = block;
  if (block > 0) {
    w.subs = Upload(device, subs);
    w.weight.subs = w.subs.as<int8_t>();
  }
  w.bias.assign(rows, 0.0f);
  return w;
}

// fp8 with a scale for each block of `block` rows and `group` columns; the last ones are cut off.
inline TestWeight MakeScaleBlockWeight(Device& device, int64_t rows, int64_t cols, int block, int group, bool bias,
                                       std::mt19937& rng) {
  TestWeight w;
  w.weight.dtype = DType::kF8E4M3;
  w.weight.rows = rows;
  w.weight.cols = cols;
  w.weight.block = block;
  w.weight.group = group;
  std::vector<float> scales(ScaleCount(w.weight));
  std::uniform_int_distribution<int> byte(0, 255);
  for (float& s : scales) s = 0.0001f * (1 + byte(rng) / 16.0f);
  std::vector<uint8_t> codes(rows * cols);
  w.values.resize(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    codes[i] = static_cast<uint8_t>(byte(rng));
    if ((codes[i] & 0x7f) == 0x7f) codes[i] ^= 0x40;  // no NaN
    const float scale = scales[i / cols / block * ScalesAcross(w.weight) + i % cols / group];
    w.values[i] = double{F8ToFloat(codes[i])} * scale;
  }
  w.data = Upload(device, codes);
  w.scales = Upload(device, scales);
  w.weight.data = w.data.data();
  w.weight.scales = w.scales.as<float>();
  w.bias.assign(rows, 0.0f);
  if (bias) {
    w.bias = Normal(rng, rows);
    w.bias_memory = Upload(device, w.bias);
    w.weight.bias = w.bias_memory.as<float>();
  }
  return w;
}

// Codes of a table: kIq4's in groups of 32 with a scale and no minimum, or of two levels; kE2M1's with powers of two.
inline TestWeight MakeTableWeight(Device& device, CodeTable table, int64_t rows, int64_t cols, int block,
                                  std::mt19937& rng, int least_exponent = 118) {
  constexpr int kGroup = 32;
  constexpr double kIq4[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  constexpr double kE2M1[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
  const bool powers = table == CodeTable::kE2M1;
  TestWeight w = MakeGroupedWeight(device, DType::kI4, rows, cols, kGroup, powers ? 0 : block, rng);
  std::vector<uint16_t> pairs = Download<uint16_t>(device, w.groups.data(), w.groups.size() / 2);
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = i % 2 == 0 ? ToF16(ToFloat(f16{pairs[i]}) * 0.1f).bits : 0;
  const std::vector<uint8_t> bytes = Download<uint8_t>(device, w.data.data(), Bytes(DType::kI4, rows * cols));
  std::vector<int8_t> subs;
  if (w.weight.block > 0) subs = Download<int8_t>(device, w.subs.data(), 2 * rows * (cols / kGroup));
  std::vector<uint8_t> exponents(powers ? rows * (cols / kGroup) : 0);
  for (uint8_t& e : exponents) e = static_cast<uint8_t>(least_exponent + rng() % 6);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t r = i / cols, c = i % cols, group = r * (cols / kGroup) + c / kGroup;
    const int code = bytes[i / 2] >> (4 * (i % 2)) & 15;
    if (powers) {
      w.values[i] = kE2M1[code] * std::ldexp(1.0, exponents[group] - 127);
    } else {
      const int64_t pair = r * (cols / w.weight.pair_cols()) + c / w.weight.pair_cols();
      w.values[i] = kIq4[code] * double{ToFloat(f16{pairs[2 * pair]})} * (block > 0 ? subs[2 * group] : 1);
    }
  }
  w.weight.table = table;
  if (powers) {
    w.exponents = Upload(device, exponents);
    w.weight.exponents = w.exponents.as<uint8_t>();
    w.weight.groups = nullptr;
  } else {
    w.groups = Upload(device, pairs);
    w.weight.groups = w.groups.as<uint16_t>();
  }
  return w;
}

}  // namespace duo
