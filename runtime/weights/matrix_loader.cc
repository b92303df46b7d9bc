#include "runtime/weights/matrix_loader.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "kernels/scale_blocks.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/scale_grid.h"

namespace duo {
namespace {

constexpr int64_t kBlockBytes = int64_t{32} << 20;  // of values, that are converted before they are uploaded

bool RowScaled(const Weight& w) { return HasRowScales(w.dtype) && w.group == 0; }
int64_t RowBytes(const Weight& w) { return Bytes(w.dtype, w.cols); }
// Pairs of scale and minimum, and of what they are multiplied with.
int64_t RowExponents(const Weight& w) { return w.table == CodeTable::kE2M1 ? w.cols / w.group : 0; }
int64_t RowPairs(const Weight& w) {
  return w.group > 0 && RowExponents(w) == 0 && !HasScaleBlocks(w) ? w.cols / w.pair_cols() : 0;
}
int64_t RowSubs(const Weight& w) { return w.block > 0 && !HasScaleBlocks(w) ? w.cols / w.group : 0; }
CodeFormat FormatOf(const Weight& w) { return {w.dtype, w.group, w.block, w.table}; }

void GatherRow(const MatrixPart& part, int64_t row, float* out) {
  for (size_t i = 0; i < part.cols.size(); ++i) {
    const Range& piece = part.cols[i];
    if (part.present[i]) {
      part.matrix.Values(row, piece.begin, piece.size(), out);
    } else {
      std::fill(out, out + piece.size(), 0.0f);
    }
    out += piece.size();
  }
}

// A row whose stored codes are this format's: the codes and parameters as they are.
void CopyRow(const MatrixPart& part, int64_t row, const Weight& w, const RowCodes& out) {
  auto [codes, scale, groups, subs, exponents] = out;
  for (size_t i = 0; i < part.cols.size(); ++i) {
    const Range& piece = part.cols[i];
    if (w.group == 0) {
      if (part.present[i]) {
        part.matrix.Codes(row, piece.begin, piece.size(), codes);
      } else {
        std::fill(codes, codes + piece.size(), uint8_t{0});
      }
      codes += piece.size();
      continue;
    }
    const auto group_bytes = static_cast<int64_t>(Bytes(w.dtype, w.group));
    for (int64_t c = piece.begin; c < piece.end; c += w.group, codes += group_bytes, groups += 2) {
      if (part.present[i]) {
        part.matrix.Group(row, c, w.group, w.dtype, codes, groups);
      } else {
        std::fill(codes, codes + group_bytes, uint8_t{0});
        groups[0] = groups[1] = 0;
      }
    }
  }
  if (w.group == 0) *scale = part.matrix.RowScale(row);
}

// The same of a GGUF file's blocks. False if one has a minimum beyond f16.
bool CopyBlocks(const MatrixPart& part, int64_t row, const Weight& w, RowCodes out) {
  const CodeFormat format = FormatOf(w);
  bool fits = true;
  for (size_t i = 0; i < part.cols.size(); ++i) {
    const Range& piece = part.cols[i];
    const int64_t bytes = Bytes(w.dtype, piece.size()), exponents = RowExponents(w) > 0 ? piece.size() / w.group : 0;
    const int64_t pairs = exponents > 0 ? 0 : piece.size() / w.pair_cols();
    const int64_t subs = w.block > 0 ? piece.size() / w.group : 0;
    if (part.present[i]) {
      fits = part.matrix.Blocks(row, piece.begin, piece.size(), format, out) && fits;
    } else {
      std::fill(out.codes, out.codes + bytes, uint8_t{0});
      std::fill(out.groups, out.groups + 2 * pairs, uint16_t{0});
      std::fill(out.subs, out.subs + 2 * subs, int8_t{0});
      std::fill(out.exponents, out.exponents + exponents, uint8_t{0});
    }
    out.codes += bytes;
    out.groups += 2 * pairs;
    out.subs += 2 * subs;
    out.exponents += exponents;
  }
  return fits;
}

// Whether the codes of a GGUF file's blocks can be kept: columns are cut at the bounds of groups and blocks, which
// FormatsAsStored saw to, and the format is one that holds them.
bool KeepsBlocks(const MatrixPart& part, const Weight& w) {
  if (!part.matrix.in_blocks() || w.group == 0) return false;
  const CodeFormat stored = part.matrix.block_format(), format = FormatOf(w);
  if (stored.group == 0 || w.group > stored.group) return false;
  if (w.dtype == DType::kI4 && (stored.type != DType::kI4 || stored.table != w.table)) return false;
  if (stored.table == CodeTable::kE2M1 && w.table != stored.table) return false;
  if (stored.block > 0 && w.block == 0) return false;
  if (w.pair_cols() > (stored.block > 0 ? stored.block : stored.group)) return false;
  for (const Range& piece : part.cols) {
    if (piece.begin % w.pair_cols() != 0 || piece.size() % w.pair_cols() != 0) return false;
  }
  return Join(stored, format).type == w.dtype;
}

// Whether the stored codes can be kept: groups must lie within the stored ones, wherever the columns are cut.
bool Keeps(const MatrixPart& part, const Weight& w) {
  if (!IsQuantized(w.dtype) || w.block > 0 || w.table != CodeTable::kNone) return false;
  const bool grouped_int8 = w.dtype == DType::kI8 && w.group > 0;
  const bool int4 = part.matrix.native() == DType::kI4;  // which bytes hold, too, as where a matrix has parts of both
  if (grouped_int8 ? !part.matrix.grouped_int8() && !int4 : part.matrix.native() != w.dtype) return false;
  if (w.group == 0) return true;
  if (part.matrix.group() % w.group != 0) return false;
  for (const Range& piece : part.cols) {
    if (piece.begin % w.group != 0 || piece.size() % w.group != 0) return false;
  }
  return true;
}

}  // namespace

// The maxima of the part's rows over all ranks, for matrices whose rows are cut between ranks.
std::vector<float> MatrixLoader::SharedMaxima(const MatrixPart& part, const Weight& w) {
  const int64_t rows = part.rows.size();
  std::vector<float> maxima(rows);
  device_.pool().ParallelFor(CeilDiv(rows, 64), [&](int64_t block, int) {
    std::vector<float> row(w.cols);
    for (int64_t r = block * 64; r < std::min(rows, block * 64 + 64); ++r) {
      GatherRow(part, part.rows.begin + r, row.data());
      maxima[r] = AbsMax(row.data(), w.cols);
    }
  });
  if (comm_.size() == 1) return maxima;
  std::vector<float> all(maxima.size() * comm_.size());
  comm_.AllGatherHost(all.data(), maxima.data(), 4 * maxima.size());
  for (int r = 0; r < comm_.size(); ++r) {
    for (int64_t i = 0; i < rows; ++i) maxima[i] = std::max(maxima[i], all[r * rows + i]);
  }
  return maxima;
}

// `count` rows from `first` on into the staging vectors. maxima: of the part's rows, where they are shared.
bool MatrixLoader::Encode(const Weight& w, const MatrixPart& part, int64_t first, int64_t count,
                          const std::vector<float>& maxima) {
  const bool keeps = Keeps(part, w), blocks = KeepsBlocks(part, w);
  const int64_t row_bytes = RowBytes(w), row_pairs = RowPairs(w), row_subs = RowSubs(w),
                row_exponents = RowExponents(w);
  codes_.resize(count * row_bytes);
  scales_.resize(count);
  groups_.resize(count * row_pairs * 2);
  subs_.resize(count * row_subs * 2);
  exponents_.resize(count * row_exponents);
  std::atomic<bool> fits = true;
  device_.pool().ParallelFor(CeilDiv(count, 16), [&](int64_t block, int) {
    std::vector<float> row(w.cols);
    for (int64_t r = block * 16; r < std::min(count, block * 16 + 16); ++r) {
      const RowCodes out = {codes_.data() + r * row_bytes, &scales_[r], groups_.data() + r * row_pairs * 2,
                            subs_.data() + r * row_subs * 2, exponents_.data() + r * row_exponents};
      if (blocks) {
        if (!CopyBlocks(part, first + r, w, out)) fits = false;
        continue;
      }
      if (keeps) {
        CopyRow(part, first + r, w, out);
        continue;
      }
      GatherRow(part, first + r, row.data());
      const float absmax = !RowScaled(w)     ? 0.0f
                           : !maxima.empty() ? maxima[first - part.rows.begin + r]
                                             : AbsMax(row.data(), w.cols);
      QuantizeRow(w.dtype, row.data(), w.cols, absmax, w.group, out);
    }
  });
  return fits;
}

void MatrixLoader::Upload(const Weight& w, int64_t out_row, int64_t count) {
  auto* data = static_cast<uint8_t*>(const_cast<void*>(w.data));
  device_.Upload(data + out_row * RowBytes(w), codes_.data(), codes_.size());
  if (RowScaled(w)) device_.Upload(const_cast<float*>(w.scales) + out_row, scales_.data(), 4 * count);
  if (const int64_t pairs = RowPairs(w); pairs > 0)
    device_.Upload(const_cast<uint16_t*>(w.groups) + out_row * pairs * 2, groups_.data(), 2 * groups_.size());
  if (const int64_t subs = RowSubs(w); subs > 0)
    device_.Upload(const_cast<int8_t*>(w.subs) + out_row * subs * 2, subs_.data(), subs_.size());
  if (const int64_t exponents = RowExponents(w); exponents > 0)
    device_.Upload(const_cast<uint8_t*>(w.exponents) + out_row * exponents, exponents_.data(), exponents_.size());
}

// The codes and the scales of a part, of fp8 in blocks. The blocks are the stored tensor's, also where a rank holds a
// piece of them.
void MatrixLoader::FillScaleBlocks(const Weight& w, const MatrixPart& part, int64_t out_row) {
  const ScaleGrid grid = ScaleGridOf(part.matrix, part.rows, w, device_.pool());
  const int64_t across = ScalesAcross(w), row_bytes = w.cols;
  std::vector<float> scales(CeilDiv(part.rows.size(), int64_t{w.block}) * across);
  for (int64_t r = 0; r * w.block < part.rows.size(); ++r) {
    int64_t column = 0;  // in memory
    for (size_t i = 0; i < part.cols.size(); ++i) {
      const Range& piece = part.cols[i];
      for (int64_t c = piece.begin; c < piece.end; c += w.group, column += w.group)
        scales[r * across + column / w.group] = part.present[i] ? grid.At(part.rows.begin + r * w.block, c) : 0.0f;
    }
  }
  device_.Upload(const_cast<float*>(ScalesOfRow(w, out_row)), scales.data(), 4 * scales.size());

  const int64_t block_rows = std::max<int64_t>(1, kBlockBytes / (4 * w.cols));
  for (int64_t first = 0; first < part.rows.size(); first += block_rows) {
    const int64_t count = std::min(block_rows, part.rows.size() - first);
    codes_.assign(count * row_bytes, 0);
    device_.pool().ParallelFor(CeilDiv(count, 16), [&](int64_t block, int) {
      for (int64_t r = block * 16; r < std::min(count, block * 16 + 16); ++r) {
        uint8_t* codes = codes_.data() + r * row_bytes;
        for (size_t i = 0; i < part.cols.size(); codes += part.cols[i].size(), ++i) {
          if (part.present[i]) grid.Codes(part.matrix, part.rows.begin + first + r, part.cols[i], codes);
        }
      }
    });
    device_.Upload(static_cast<uint8_t*>(const_cast<void*>(w.data)) + (out_row + first) * row_bytes, codes_.data(),
                   codes_.size());
    part.matrix.DropPages();
    done_ += count * row_bytes;
    if (progress_) progress_(done_, total_);
  }
}

absl::Status MatrixLoader::FillPart(const Weight& w, const MatrixPart& part, const std::vector<float>& maxima,
                                    int64_t out_row) {
  if (w.cols == 0) return absl::OkStatus();
  const int64_t block_rows = std::max<int64_t>(1, kBlockBytes / (4 * w.cols));
  for (int64_t first = part.rows.begin; first < part.rows.end; first += block_rows) {
    const int64_t count = std::min(block_rows, part.rows.end - first);
    if (!Encode(w, part, first, count, maxima)) {
      return absl::InvalidArgumentError(absl::StrCat(part.matrix.file(), ": tensor ", part.matrix.name(),
                                                     ": a block's scale is too large for its codes to be kept; use "
                                                     "--weights bf16"));
    }
    Upload(w, out_row, count);
    part.matrix.DropPages();  // else the file would stand in memory beside what is made of it
    out_row += count;
    done_ += count * RowBytes(w);
    if (progress_) progress_(done_, total_);
  }
  return absl::OkStatus();
}

absl::Status MatrixLoader::Fill(const Weight& w, const std::vector<MatrixPart>& parts, bool cuts_columns) {
  if (parts.empty()) return absl::OkStatus();
  if (w.dtype == DType::kI4 && w.group == 0) {
    const StoredMatrix& matrix = parts.front().matrix;
    return absl::InvalidArgumentError(absl::StrCat("int4 weights need columns in multiples of 32; ", matrix.name(),
                                                   " has ", matrix.cols(), "; use --weights int8"));
  }
  int64_t out_row = 0;
  for (const MatrixPart& part : parts) {
    std::vector<float> maxima;
    if (HasScaleBlocks(w)) {
      if (w.cols > 0) FillScaleBlocks(w, part, out_row);
      out_row += part.rows.size();
      continue;
    }
    if (RowScaled(w) && cuts_columns && !Keeps(part, w)) maxima = SharedMaxima(part, w);
    if (absl::Status s = FillPart(w, part, maxima, out_row); !s.ok()) return s;
    out_row += part.rows.size();
  }
  return absl::OkStatus();
}

}  // namespace duo
