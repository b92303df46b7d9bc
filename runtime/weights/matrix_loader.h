// MatrixLoader: fills a rank's weight matrix in device memory from slices of stored matrices, row by row: codes are
// kept where the formats agree (stored_matrix.h), everything else goes by value and is converted or quantised. Why by
// rows: a row's scale comes from the whole row, also where ranks hold parts of it. Collective over the ranks where they
// cut rows of a format with a scale a row. Not thread-safe; the work is spread over the device's thread pool.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/device.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "runtime/weights/stored_matrix.h"

namespace duo {

// Rows of a stored matrix, some of its columns.
struct MatrixPart {
  StoredMatrix matrix;
  Range rows;
  std::vector<Range> cols;    // in the order they stand in memory
  std::vector<bool> present;  // [cols]; absent pieces are zeros
};

class MatrixLoader {
 public:
  // progress(bytes done, total) is called after every block of rows; it may be null.
  MatrixLoader(Device& device, Communicator& comm, const std::function<void(int64_t, int64_t)>& progress, int64_t total)
      : device_(device), comm_(comm), progress_(progress), total_(total) {}

  // The parts one below the other. cuts_columns: the other ranks hold other columns of the same rows.
  absl::Status Fill(const Weight& w, const std::vector<MatrixPart>& parts, bool cuts_columns);

 private:
  std::vector<float> SharedMaxima(const MatrixPart& part, const Weight& w);
  absl::Status FillPart(const Weight& w, const MatrixPart& part, const std::vector<float>& maxima, int64_t out_row);
  bool Encode(const Weight& w, const MatrixPart& part, int64_t first, int64_t count, const std::vector<float>& maxima);
  void FillScaleBlocks(const Weight& w, const MatrixPart& part, int64_t out_row);
  void Upload(const Weight& w, int64_t out_row, int64_t count);

  Device& device_;
  Communicator& comm_;
  const std::function<void(int64_t, int64_t)>& progress_;
  int64_t done_ = 0, total_ = 0;
  std::vector<uint8_t> codes_;  // staging of one block of rows
  std::vector<float> scales_;
  std::vector<uint16_t> groups_;
  std::vector<int8_t> subs_;
  std::vector<uint8_t> exponents_;
};

}  // namespace duo
