// Tests of the MPI communicator, run by ctest as `mpirun -n 3 comm_test MODE`. Each mode is one behaviour; the program
// exits with 0 when every rank saw it. The modes that end in a death are judged from outside, by dies.sh.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "kernels/base/buffer.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

namespace duo {
namespace {

int failures = 0;
#define EXPECT(condition)                                                                              \
  do {                                                                                                 \
    if (!(condition)) {                                                                                \
      std::fprintf(stderr, "%s:%d: rank %d: expected " #condition "\n", __FILE__, __LINE__, c.rank()); \
      ++failures;                                                                                      \
    }                                                                                                  \
  } while (0)

std::vector<float> RandomVector(int rank, int64_t n) {
  std::mt19937 rng(7919 * rank + static_cast<int>(n));
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(rng) * (rank + 1) * 100;  // so that another order of additions rounds otherwise
  return values;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.empty()) return b.empty();  // no pointers to compare at
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// Bit-equal to adding in rank order, f32, rounded once; both algorithms and the block limit are crossed.
void SumsInRankOrder(Communicator& c, Device& device) {
  for (const int64_t n : {0, 1, 3, 257, 16384, 16385, 70001, (1 << 20) + 5}) {
    std::vector<float> sum(n), data = RandomVector(c.rank(), n);
    for (int r = 0; r < c.size(); ++r) {
      const std::vector<float> part = RandomVector(r, n);
      for (int64_t i = 0; i < n; ++i) sum[i] = r == 0 ? part[i] : sum[i] + part[i];
    }
    c.AllReduceSum(View(data.data(), DType::kF32, 1, n), device);
    EXPECT(SameBits(data, sum));

    std::vector<bf16> narrow(n), narrow_sum(n);
    std::vector<float> wide_sum(n);
    for (int r = 0; r < c.size(); ++r) {
      const std::vector<float> part = RandomVector(r, n);
      for (int64_t i = 0; i < n; ++i) {
        const bf16 rounded = ToBf16(part[i]);
        wide_sum[i] = r == 0 ? ToFloat(rounded) : wide_sum[i] + ToFloat(rounded);
        if (r == c.rank()) narrow[i] = rounded;
      }
    }
    for (int64_t i = 0; i < n; ++i) narrow_sum[i] = ToBf16(wide_sum[i]);
    c.AllReduceSum(View(narrow.data(), DType::kBF16, 1, n), device);
    EXPECT(SameBits(narrow, narrow_sum));
  }
}

void GathersInRankOrder(Communicator& c, Device& device) {
  for (const size_t bytes : {size_t{1}, size_t{13}, size_t{100003}}) {
    std::vector<uint8_t> out(bytes * c.size(), 0xee), in(bytes, static_cast<uint8_t>(c.rank() + 1));
    c.AllGather(out.data(), in.data(), bytes, device);
    std::vector<uint8_t> host(bytes * c.size(), 0xee);
    c.AllGatherHost(host.data(), in.data(), bytes);
    for (size_t i = 0; i < out.size(); ++i) {
      if (out[i] == i / bytes + 1 && host[i] == out[i]) continue;
      EXPECT(out[i] == i / bytes + 1);
      EXPECT(host[i] == out[i]);
      break;
    }
    // In place: this rank's part already lies where it belongs.
    std::vector<uint8_t> same(bytes * c.size(), 0xee);
    std::memset(same.data() + c.rank() * bytes, c.rank() + 1, bytes);
    c.AllGather(same.data(), same.data() + c.rank() * bytes, bytes, device);
    EXPECT(same == out);
  }
}

// Messages of a decode step's sizes, one after another without a pause, between ranks that come early and late: sums in
// rank order, f32, rounded once, and gathers, alone and replayed from a graph.
void SmallMessagesBetweenGpus(Communicator& c, Device& device) {
  constexpr int64_t kMost = 16384;  // words of a message
  std::mt19937 sizes(5), delays(c.rank());
  Buffer data = Buffer::Allocate(device, kMost * 4, "data").value(),
         all = Buffer::Allocate(device, kMost * 4 * c.size(), "gathered").value();
  std::vector<uint32_t> got(kMost * c.size());
  for (int round = 0; round < 300; ++round) {
    const int64_t words = round < 4 ? round + 1 : round < 8 ? 508 + round : 1 + sizes() % (round % 3 ? 2048 : kMost);
    std::vector<std::vector<float>> parts;
    for (int r = 0; r < c.size(); ++r) parts.push_back(RandomVector(r, 2 * words + round));
    if (delays() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 300));
    const bool narrow = round % 2 == 0;
    std::vector<uint32_t> own(words), sum(words);
    for (int64_t i = 0; i < words; ++i) {
      float low = 0, high = 0;
      for (int r = 0; r < c.size(); ++r) {
        const float *part = parts[r].data() + 2 * i, a = ToFloat(ToBf16(part[0])), b = ToFloat(ToBf16(part[1]));
        low = r == 0 ? (narrow ? a : part[0]) : low + (narrow ? a : part[0]);
        high = r == 0 ? b : high + b;
      }
      const float* part = parts[c.rank()].data() + 2 * i;
      const bf16 pair[2] = {ToBf16(part[0]), ToBf16(part[1])}, sums[2] = {ToBf16(low), ToBf16(high)};
      std::memcpy(&own[i], narrow ? static_cast<const void*>(pair) : part, 4);
      std::memcpy(&sum[i], narrow ? static_cast<const void*>(sums) : &low, 4);
    }
    const View view(data.data(), narrow ? DType::kBF16 : DType::kF32, 1, narrow ? 2 * words : words);
    device.Upload(data.data(), own.data(), words * 4);
    device.Fill(all.data(), 0xee, all.size());
    const auto exchange = [&] {
      c.AllGather(all.data(), data.data(), words * 4, device);
      c.AllReduceSum(view, device);
    };
    if (round % 5 == 4 && c.capturable()) {
      device.Launch(device.Capture(exchange));
      device.Synchronize();
    } else {
      exchange();
    }
    device.Download(got.data(), all.data(), words * 4 * c.size());
    EXPECT(std::memcmp(got.data() + c.rank() * words, own.data(), words * 4) == 0);
    for (int r = 0; r < c.size(); ++r) {
      const float* part = parts[r].data();
      const bf16 pair[2] = {ToBf16(part[0]), ToBf16(part[1])};
      EXPECT(std::memcmp(got.data() + r * words, narrow ? static_cast<const void*>(pair) : part, 4) == 0);
    }
    if (c.size() * words < kMost * c.size()) {  // nothing past the end
      device.Download(got.data(), all.as<uint32_t>() + c.size() * words, 4);
      EXPECT(got[0] == 0xeeeeeeeeu);
    }
    device.Download(got.data(), data.data(), words * 4);
    EXPECT(std::memcmp(got.data(), sum.data(), words * 4) == 0);
  }
}

void BroadcastsFromAnyRoot(Communicator& c) {
  for (int root = 0; root < c.size(); ++root) {
    std::vector<int> data(5003, c.rank() == root ? 100 + root : -1);
    c.Broadcast(data.data(), data.size() * sizeof(int), root);
    EXPECT(data == std::vector<int>(5003, 100 + root));
  }
}

void MessagesArriveWholeBetweenHeartbeats(Communicator& c) {
  for (const size_t bytes : {1, 4087, 4088, 4089, 1000003}) {
    std::vector<uint8_t> message(bytes);
    for (size_t i = 0; i < bytes; ++i) message[i] = static_cast<uint8_t>(i * 31 + bytes);
    if (c.rank() == 0) {
      SendHeartbeat(c);
      SendHeartbeat(c);
      SendMessage(c, message);
    } else {
      EXPECT(ReceiveMessage(c) == message);
    }
  }
}

void AgreesOnTheFirstError(Communicator& c) {
  EXPECT(Agree(c, absl::OkStatus()).ok());
  const absl::Status mine =
      c.rank() == 0 ? absl::OkStatus() : absl::NotFoundError("no file " + std::to_string(c.rank()));
  const absl::Status all = Agree(c, mine);
  EXPECT(all.code() == absl::StatusCode::kNotFound);
  EXPECT(all.message() == "rank 1: no file 1");
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

// Waiting for the next message costs at most 2 % of a core, all threads of the rank counted.
void RestsWhileIdle(Communicator& c) {
  constexpr double kIdle = 5;  // seconds
  c.Barrier();
  const double before = CpuSeconds();
  if (c.rank() == 0) {
    std::this_thread::sleep_for(std::chrono::duration<double>(kIdle));
    SendMessage(c, {1});
  } else {
    ReceiveMessage(c);
  }
  const double share = (CpuSeconds() - before) / kIdle;
  std::fprintf(stderr, "rank %d: %.2f %% of a core while idle\n", c.rank(), 100 * share);
  EXPECT(share <= 0.02);
}

int Run(const std::string& mode) {
  std::unique_ptr<MpiSession> session = MpiSession::Start(mode != "silent");
  std::unique_ptr<Device> device = Device::Cpu(2);
  if (mode == "gpus") {
    if (Device::CudaDeviceCount() < session->local_size()) return 77;  // skipped
    device = Device::Cuda(session->local_rank(), 1).value();
  }
  absl::StatusOr<std::unique_ptr<Communicator>> made = MakeCommunicator(CommKind::kAuto, session.get(), *device);
  if (!made.ok()) return 1;
  Communicator& c = **made;
  const int victim = c.size() - 1;
  if (mode == "collectives") {
    SumsInRankOrder(c, *device);
    GathersInRankOrder(c, *device);
    BroadcastsFromAnyRoot(c);
    MessagesArriveWholeBetweenHeartbeats(c);
    AgreesOnTheFirstError(c);
    EXPECT(MakeCommunicator(CommKind::kNccl, session.get(), *device).status().message().find("--comm mpi") !=
           std::string::npos);
    EXPECT(LocalGpu(CommKind::kMpi, session.get(), 1).value() == 0);
    EXPECT(LocalGpu(CommKind::kNccl, session.get(), 1).status().message().find("--comm mpi") != std::string::npos);
    EXPECT(LocalGpu(CommKind::kNccl, session.get(), 3).value() == session->local_rank());
  } else if (mode == "gpus") {
    SmallMessagesBetweenGpus(c, *device);
  } else if (mode == "idle") {
    RestsWhileIdle(c);
  } else if (mode == "killed-idle") {  // the followers wait for a message, the leader is busy elsewhere
    if (c.rank() == victim) raise(SIGKILL);
    signal(SIGTERM, SIG_IGN);  // as a draining server does when mpirun passes it on
    if (c.rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(60));
    ReceiveMessage(c);
  } else if (mode == "killed-step") {  // the others are inside a collective
    signal(SIGTERM, SIG_IGN);
    std::vector<float> data(100000);
    for (int step = 0;; ++step) {
      if (c.rank() == victim && step == 100) raise(SIGKILL);
      c.AllReduceSum(View(data.data(), DType::kF32, 1, 100000), *device);
    }
  } else if (mode == "silent") {  // a leader that neither dies nor speaks
    if (c.rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(60));
    int word = 0;
    c.Broadcast(&word, sizeof(word), 0, Wait{.timeout_seconds = 1});
  } else if (mode == "abort") {
    c.Barrier();
    if (c.rank() == victim) c.Abort("rank " + std::to_string(victim) + ": expected luck, found none");
    signal(SIGTERM, SIG_IGN);
    std::this_thread::sleep_for(std::chrono::seconds(60));
  } else {
    std::fprintf(stderr, "unknown mode %s\n", mode.c_str());
    return 2;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) { return argc == 2 ? duo::Run(argv[1]) : 2; }
