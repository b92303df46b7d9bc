// Rotating and storing in one op against the two ops that it stands for: the same bits in qkv and in every page.
#include "kernels/rotate_store.h"

#include "attention_fixture.h"

namespace duo {
namespace {

struct RotateCase {
  bool normed = true, shifted = false, hadamard = false;
  int groups = 1;        // that the paged heads lie in
  bool padding = false;  // the last row belongs to no sequence
};

class RotatedState : public AttentionState {
 public:
  RotatedState(Device& device, const AttentionCase& c, const RotateCase& how) : AttentionState(device, c), how_(how) {
    if (how.hadamard) shape_.hadamard_heads = c.paged_heads;
    std::mt19937 rng(7);
    const int d = c.head_dim;
    const auto upload = [&](int64_t count) { return Upload(device, Normal(rng, count)); };
    cos_sin_ = upload(int64_t{rows_} * d);
    q_norm_ = upload(d);
    k_norm_ = upload(d);
    shift_ = upload(int64_t{shape_.kv_heads} * d);
    if (how.padding) {
      row_seq_.back() = -1;
      device_row_seq_ = Upload(device, row_seq_);
    }
  }

  // All bytes that a step of either kind leaves: of qkv, then of the pages.
  std::vector<uint8_t> Step(bool together) {
    Buffer qkv = UploadAs(device_, type_, host_qkv_), pages = Upload(device_, host_pages_);
    StepRows rows{View(qkv.data(), type_, rows_, shape_.qkv_cols()), shape_, Batch()};
    std::vector<PagedKv> paged;
    for (int g = 0; g < how_.groups; ++g) {
      PagedKv kv = pages_;
      const int first = c_.paged_heads * g / how_.groups, end = c_.paged_heads * (g + 1) / how_.groups;
      kv.first_head = first;
      kv.num_heads = end - first;
      kv.base = pages.as<uint8_t>() + first * kv.head_stride;
      paged.push_back(kv);
    }
    const View cos_sin(cos_sin_.data(), DType::kF32, rows_, c_.head_dim);
    QkNorms norms;
    if (how_.normed) norms = {q_norm_.as<float>(), k_norm_.as<float>(), 1e-6f};
    const float* shift = how_.shifted ? shift_.as<float>() : nullptr;
    if (together) {
      RotateAndStore(device_, rows, cos_sin, norms, shift, paged);
    } else {
      RotateQk(device_, rows.qkv, shape_, cos_sin, norms, shift);
      for (const PagedKv& kv : paged) StoreKv(device_, rows, kv);
    }
    std::vector<uint8_t> all = Download<uint8_t>(device_, qkv.data(), Bytes(type_, host_qkv_.size()));
    const std::vector<uint8_t> stored = Download<uint8_t>(device_, pages.data(), host_pages_.size());
    all.insert(all.end(), stored.begin(), stored.end());
    return all;
  }
  std::vector<uint8_t> Before() {
    Buffer qkv = UploadAs(device_, type_, host_qkv_);
    std::vector<uint8_t> all = Download<uint8_t>(device_, qkv.data(), Bytes(type_, host_qkv_.size()));
    all.insert(all.end(), host_pages_.begin(), host_pages_.end());
    return all;
  }

 private:
  RotateCase how_;
  Buffer cos_sin_, q_norm_, k_norm_, shift_;
};

class RotateStore : public DeviceTest {
 protected:
  void Compare(const AttentionCase& c, const RotateCase& how) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group << " slots "
                                    << c.first_slot << "+" << c.num_slots << " of " << c.slots << " groups "
                                    << how.groups << " normed " << how.normed << " shifted " << how.shifted
                                    << " hadamard " << how.hadamard);
    RotatedState state(device(), c, how);
    const std::vector<uint8_t> apart = state.Step(false);
    ASSERT_NE(apart, state.Before());
    EXPECT_TRUE(state.Step(true) == apart);
  }
  AttentionCase Case(KvFormat format, int head_dim) const {
    AttentionCase c;
    c.format = format;
    c.ring_format = cuda() ? KvFormat::kBF16 : KvFormat::kF32;
    c.head_dim = head_dim;
    c.paged_heads = 5;
    c.ring_heads = 2;
    c.group = 3;
    c.sequences = {{0, 2}, {127, 3}, {300, 1}, {64, 2, 0, true}};
    return c;
  }
};
INSTANTIATE_ON_DEVICES(RotateStore);

TEST_P(RotateStore, HasTheBitsOfRotatingAndStoringForEveryFormatAndHeadSize) {
  std::vector<KvFormat> formats = {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};
  if (!cuda()) formats.push_back(KvFormat::kF32);
  for (const KvFormat format : formats) {
    for (const int d : {64, 128}) {
      for (int bits = 0; bits < 8; ++bits) {
        RotateCase how;
        how.normed = (bits & 1) != 0;
        how.shifted = (bits & 2) != 0;
        how.hadamard = (bits & 4) != 0;
        Compare(Case(format, d), how);
      }
    }
  }
}

TEST_P(RotateStore, GroupsOfHeadsPiecesOfSplitOnesAndPaddingAreStoredAlike) {
  for (const int groups : {1, 2, 4, 5}) {  // more than one launch takes, too
    for (const bool padding : {false, true}) {
      if (padding && !cuda()) continue;  // only recorded steps have it
      AttentionCase c = Case(KvFormat::kInt4, 128);
      Compare(c, {.groups = groups, .padding = padding});
      c.slots = 3, c.first_slot = 1, c.num_slots = 1;
      Compare(c, {.groups = groups, .padding = padding});
    }
  }
}

}  // namespace
}  // namespace duo
