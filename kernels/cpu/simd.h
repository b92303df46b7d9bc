// The CPU backend's vectorised inner loops, compiled for several instruction sets and chosen once by what the processor
// has. One source (kernels/cpu/simd/*.h, GCC vector extensions) serves all of them.
//
// The files that implement this table are compiled with flags that the running processor may lack, so they must not
// instantiate inline functions of other headers: the linker would keep one copy for everybody. They include nothing but
// this header, which for that reason declares plain data only.
// Pure functions, thread-safe; pointers need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace duo::cpu {

// How numbers are stored. value = code * scale + min, min where the code is unsigned.
enum class Code : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8,  // e4m3
  kI8,  // signed
  kU8,  // unsigned
  kU4,  // two to a byte, the even element in the low nibble
  // The same, codes that stand for the numbers of a table; without a minimum.
  kIq4,
  kE2M1,
};

constexpr int kMaxGemvRows = 8;    // activation rows that Gemv takes at once
constexpr int kColumnBlock = 64;   // Gemv's x is padded with zeros to a multiple of this many columns
constexpr int kKeyBlock = 64;      // keys of one attention tile
constexpr int kVectorFloats = 16;  // rows of attention tiles are padded to a multiple of this
constexpr int kFewRowsUnit = 32;   // what a head's size must be a multiple of for dot_codes and add_codes

// y[i][o] = sum over c of x[i][c] * value(o, c): one pass over the codes for all rows of x.
struct GemvWork {
  Code code;
  const uint8_t* codes;  // [outs][row_bytes]
  int64_t row_bytes;
  int64_t outs, cols;
  const float* scales;           // [outs] or null; kF8 with groups: [.. / scale_rows][ceil(cols / group)]
  const uint16_t* groups;        // kU4, kIq4, kI8 with groups: [outs][cols / block] pairs of f16 (scale, min)
  const int8_t* subs;            // null, or [outs][cols / group] pairs that these are multiplied with
  const uint8_t* exponents;      // kE2M1: [outs][cols / group], scale = 2^(exponent - 127)
  int group;                     // 0: none
  int block;                     // columns per pair of `groups`; group where subs is null
  int scale_rows = 1, past = 0;  // kF8 with groups: outs that share scales; outs of those before the first one
  int rows;                      // 1, 2, 4 or 8
  const float* x;                // [rows][x_stride], made by `gemv_prepare`
  int64_t x_stride;
  float* y;  // [rows][y_stride]
  int64_t y_stride;
};

// Stored vectors of one head: codes [count][stride bytes], d of them in each. params: f16, one vector's after the
// other's, its scale (kF8) or its scale and min (kU8, kU4).
struct CodedVectors {
  Code code;  // kF32, kBF16, kF8, kU8, kU4
  const uint8_t* codes;
  int64_t stride;
  const uint8_t* params;
  int count;  // at most kKeyBlock
  int d;      // a multiple of kFewRowsUnit
};

struct SimdKernels {
  const char* name;

  // out[i] = code i * scale + min, for count codes from the start of `codes`.
  void (*decode)(Code code, const void* codes, float scale, float min, int64_t count, float* out);
  // codes[i] = round((x[i] - min) * inverse), clamped (kU8, kU4), or x[i] * inverse rounded to the type (kF8, kBF16).
  void (*encode)(Code code, const float* x, float inverse, float min, int64_t count, void* codes);
  void (*extremes)(const float* x, int64_t count, float* lowest, float* highest);

  // Copies a row of activations into the order that `gemv` wants, padded with zeros to a multiple of kColumnBlock.
  void (*gemv_prepare)(Code code, const float* x, int64_t cols, float* out);
  void (*gemv)(const GemvWork& work);

  // c [rows, cols] = scale[row] * c + a [rows, depth] * b [depth, cols]; scale null: c is not read.
  // cols is a multiple of kVectorFloats.
  void (*multiply)(int rows, int cols, int depth, const float* a, int lda, const float* b, int ldb, float* c, int ldc,
                   const float* scale);
  // keys [d][kKeyBlock] = the transpose of rows [count][stride]; d is a multiple of kVectorFloats, and so many rows
  // as kVectorFloats divides may be read beyond count.
  void (*transpose)(const float* rows, int stride, int count, int d, float* keys);
  // The two products of attention for a few rows, straight from the codes:
  // scores [rows][kKeyBlock] = q [rows][q_stride] times the keys, 0 beyond their count, and
  // o [rows][o_stride] = shrink[row] * o + weights [rows][kKeyBlock] times the values.
  void (*dot_codes)(const CodedVectors& keys, int rows, const float* q, int q_stride, float* scores);
  void (*add_codes)(const CodedVectors& values, int rows, const float* weights, const float* shrink, float* o,
                    int o_stride);
  // For each row of scores [rows][kKeyBlock]: top = max(top, scores); shrink = exp(old top - top); scores become
  // exp(score - top); sum = sum * shrink + their sum. A row that has seen nothing keeps top = -inf and scores 0.
  void (*softmax)(int rows, float* scores, float* top, float* sum, float* shrink);
  // Its gradient, for each row of [rows][kKeyBlock]: scores become p = exp(score - lse), gradients, which hold that of
  // p, become p * (gradient - delta). A score of -inf gives 0 and 0.
  void (*softmax_gradient)(int rows, float* scores, float* gradients, const float* lse, const float* delta);

  // out = gate / (1 + exp(-gate)) * up.
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);
  // Its gradient from that of out. d_gate may be gate and d_up may be up.
  void (*swiglu_gradient)(const float* gate, const float* up, const float* d_out, int64_t count, float* d_gate,
                          float* d_up);

  // Does `rounds` rounds of independent multiply-adds on registers and returns how many FLOP that was.
  double (*multiply_add_rounds)(int64_t rounds, float* sink);
  // Sum of `count` floats: a stream of reads.
  float (*read)(const float* x, int64_t count);
};

// The best table for this processor. The choice never changes during a run.
const SimdKernels& Simd();
// Every table this processor can run, for tests; returns how many (at most 3).
int SupportedSimd(const SimdKernels* tables[3]);

extern const SimdKernels kGenericKernels;
#ifdef DUO_X86_SIMD
extern const SimdKernels kAvx2Kernels;
extern const SimdKernels kAvx512Kernels;
#endif

}  // namespace duo::cpu
