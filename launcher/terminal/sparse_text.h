// What is said of texts and answers that were not read or written exactly, behind what else is said of them; empty
// where they were. Pure functions, any thread.
#pragma once

#include <string>

#include "runtime/model/decode_sparsity.h"
#include "runtime/scheduler/sparse_read.h"

namespace duo {

// ", NOT exactly: --prefill-sparsity 0.25 kept 98.12 % of attention in 12 audits"
std::string ReadSparselyText(const SparseReport& read);
// ", NOT exactly: --decode-sparsity 0.98, 75 tokens from 4.1 % of the pages, which kept 99.10 % of attention (93.20 %
// in the worst head) in 4 audits"
std::string WrittenSparselyText(const DecodeReport& written);

}  // namespace duo
