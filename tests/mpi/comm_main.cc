// Tests of the communicators, run by ctest as `mpirun -n 3 comm_test MODE`. Each mode is one behaviour; the program
// exits with 0 when every rank saw it. The modes that end in a death are judged from outside, by dies.sh.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "kernels/base/buffer.h"
#include "kernels/ops.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"
#include "parallel/wait_watch.h"

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

// Numbers as they lie in memory, f32 or bf16.
std::vector<uint8_t> Encoded(const std::vector<float>& values, DType type) {
  std::vector<uint8_t> bytes(Bytes(type, values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const bf16 narrow = ToBf16(values[i]);
    std::memcpy(bytes.data() + Bytes(type, i), type == DType::kBF16 ? static_cast<const void*>(&narrow) : &values[i],
                Bytes(type, 1));
  }
  return bytes;
}

// A message in the device's memory, with bytes behind it that nobody may touch.
class Message {
 public:
  Message(Device& device, const std::vector<uint8_t>& bytes) : device_(device), size_(bytes.size()) {
    buffer_ = Buffer::Allocate(device, size_ + kGuard, "a message").value();
    device.Fill(data(), 0xee, size_ + kGuard);
    if (size_ > 0) device.Upload(data(), bytes.data(), size_);
  }
  uint8_t* data() const { return buffer_.as<uint8_t>(); }
  bool Is(std::vector<uint8_t> expected) const {
    expected.insert(expected.end(), kGuard, 0xee);
    std::vector<uint8_t> found(size_ + kGuard);
    device_.Download(found.data(), data(), found.size());
    return found == expected;
  }

 private:
  static constexpr size_t kGuard = 16;
  Device& device_;
  size_t size_;
  Buffer buffer_;
};

// Runs an exchange at once, or records and replays it.
void Do(Device& device, bool record, const std::function<void()>& exchange) {
  record ? device.Launch(device.Capture(exchange)) : exchange();
  device.Synchronize();
}

// Bit-equal to adding in rank order, f32, rounded once.
void SumsInRankOrder(Communicator& c, Device& device, int64_t n, DType type, bool record) {
  std::vector<float> sum(n), own(n);
  for (int r = 0; r < c.size(); ++r) {
    std::vector<float> part = RandomVector(r, n);
    for (int64_t i = 0; i < n; ++i) {
      if (type == DType::kBF16) part[i] = ToFloat(ToBf16(part[i]));
      sum[i] = r == 0 ? part[i] : sum[i] + part[i];
    }
    if (r == c.rank()) own = part;
  }
  const Message data(device, Encoded(own, type));
  Do(device, record, [&] { c.AllReduceSum(View(data.data(), type, 1, n), device); });
  EXPECT(data.Is(Encoded(sum, type)));
}

void GathersInRankOrder(Communicator& c, Device& device, size_t bytes, bool in_place, bool record) {
  std::vector<uint8_t> all(bytes * c.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i * 31 + i / bytes);
  const std::vector<uint8_t> own(all.begin() + c.rank() * bytes, all.begin() + (c.rank() + 1) * bytes);
  std::vector<uint8_t> before(all.size(), 0xee);
  if (in_place) std::copy(own.begin(), own.end(), before.begin() + c.rank() * bytes);
  const Message in(device, own), out(device, before);
  const uint8_t* from = in_place ? out.data() + c.rank() * bytes : in.data();
  Do(device, record, [&] { c.AllGather(out.data(), from, bytes, device); });
  EXPECT(out.Is(all));
  std::vector<uint8_t> host(all.size(), 0xee);
  c.AllGatherHost(host.data(), own.data(), bytes);
  EXPECT(host == all);
}

// What rank `from` sends to rank `to`: blocks of many lengths, some of them empty.
std::vector<uint8_t> BlockOf(int from, int to, int64_t scale) {
  std::vector<uint8_t> block((from * 3 + to * 5) % 4 * scale + (from == to ? 0 : from + 1));
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<uint8_t>(i * 13 + from * 64 + to);
  return block;
}

void BlocksReachTheirRanks(Communicator& c, Device& device, int64_t scale) {
  std::vector<uint8_t> sent, expected;
  std::vector<int64_t> sent_bytes, got_bytes;
  for (int r = 0; r < c.size(); ++r) {
    const std::vector<uint8_t> to = BlockOf(c.rank(), r, scale), from = BlockOf(r, c.rank(), scale);
    sent.insert(sent.end(), to.begin(), to.end());
    expected.insert(expected.end(), from.begin(), from.end());
    sent_bytes.push_back(static_cast<int64_t>(to.size()));
    got_bytes.push_back(static_cast<int64_t>(from.size()));
  }
  const Message in(device, sent), out(device, std::vector<uint8_t>(expected.size(), 0xdd));
  c.AllToAll(out.data(), got_bytes, in.data(), sent_bytes, device);
  device.Synchronize();
  EXPECT(out.Is(expected));
  EXPECT(in.Is(sent));
}

// Rank 0 alone sends: the others' empty blocks lie where theirs arrive, as they do when device memory is staged.
void OneRankSends(Communicator& c, Device& device, int64_t bytes) {
  const bool sends = c.rank() == 0;
  std::vector<int64_t> sent_bytes(c.size(), sends ? bytes : 0), got_bytes(c.size(), 0);
  sent_bytes[0] = 0;
  if (!sends) got_bytes[0] = bytes;
  const std::vector<uint8_t> values(bytes * c.size(), 0x5a);
  const Message in(device, values), out(device, std::vector<uint8_t>(bytes, 0xdd));
  c.AllToAll(out.data(), got_bytes, sends ? in.data() : out.data(), sent_bytes, device);
  device.Synchronize();
  EXPECT(out.Is(std::vector<uint8_t>(bytes, sends ? 0xdd : 0x5a)));
}

// Both algorithms over MPI and the block limit are crossed.
void ExchangesOfAllSizes(Communicator& c, Device& device) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t n : {0, 1, 3, 257, 16384, 16385, 70001, (1 << 20) + 5})
      SumsInRankOrder(c, device, n, type, false);
  }
  for (const int64_t scale : {0, 1, 257, 100003}) BlocksReachTheirRanks(c, device, scale);
  for (const int64_t bytes : {1, 257, 100003}) OneRankSends(c, device, bytes);
  for (const bool in_place : {false, true}) {
    for (const size_t bytes : {1, 13, 100003}) GathersInRankOrder(c, device, bytes, in_place, false);
  }
}

// Messages of a decode step's sizes between ranks that come early and late, alone and replayed from a graph.
void SmallExchanges(Communicator& c, Device& device) {
  std::mt19937 sizes(5), delays(c.rank());
  for (int round = 0; round < 300; ++round) {
    const int64_t words = round < 4 ? round + 1 : round < 8 ? 508 + round : 1 + sizes() % (round % 3 ? 2048 : 16384);
    const bool record = round % 5 == 4 && device.is_cuda();
    if (delays() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 300));
    GathersInRankOrder(c, device, words * 4, round % 7 == 0, record);
    if (delays() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(delays() % 300));
    if (round % 2 == 0) SumsInRankOrder(c, device, 2 * words, DType::kBF16, record);
    if (round % 2 == 1) SumsInRankOrder(c, device, words, DType::kF32, record);
  }
}

// One sum right after another: a message that ran into the next one would show in what all of them took part in.
void SumsInARow(Communicator& c, Device& device) {
  constexpr int kTimes = 40, kNumbers = 4096;
  const Message data(device, Encoded(std::vector<float>(kNumbers, 1), DType::kF32));
  Do(device, device.is_cuda(), [&] {
    for (int i = 0; i < kTimes; ++i) c.AllReduceSum(View(data.data(), DType::kF32, 1, 1 + i * 997 % kNumbers), device);
  });
  std::vector<float> expected(kNumbers, 1);
  for (int i = 0; i < kTimes; ++i) {
    for (int k = 0; k < 1 + i * 997 % kNumbers; ++k) expected[k] *= static_cast<float>(c.size());  // exact
  }
  EXPECT(data.Is(Encoded(expected, DType::kF32)));
}

// A rank sends 1 MB at most to all others together, in whole blocks of 2 KB.
int64_t MostPeerBytes(const Communicator& c) { return (1 << 20) / (c.size() - 1) / 2048 * 2048; }

// Messages of all the sizes that go through the GPUs' memory, and of the first that do not.
void LargerSums(Communicator& c, Device& device) {
  for (const int64_t kb : {63, 64, 65, 200, 511, 1023, 1024, 1025}) {
    GathersInRankOrder(c, device, kb << 10, kb % 2 == 0, kb % 2 == 0);
    if (c.size() > 2 && (kb << 10) > MostPeerBytes(c)) continue;  // in NCCL's own order
    SumsInRankOrder(c, device, kb * 512 - 2, DType::kBF16, kb % 2 == 0);
    SumsInRankOrder(c, device, kb * 256, DType::kF32, kb % 2 == 1);
  }
}

struct SumNormCase {
  int64_t rows, hidden;
  bool with_norm;
  // One kernel takes rows of up to 8192 columns, each in whole blocks of 1024, that are a message.
  bool taken(const Communicator& c) const {
    return hidden % 4 == 0 && hidden <= 8192 && rows * ((hidden + 1023) / 1024) * 2048 <= MostPeerBytes(c);
  }
};

// The sum, the residual stream and its norm in one kernel have the bits that they have one after another.
void SumsWithNorms(Communicator& c, Device& device) {
  const SumNormCase cases[] = {{1, 4096, true},   {1, 4, true},       {1, 1020, false},
                               {3, 1028, true},   {2, 8192, true},    {16, 4096, true},
                               {5, 2052, false},  {64, 2048, true},   {128 / (c.size() - 1), 4096, true},
                               {129, 4096, true}, {1000, 4096, true}, {1, 8196, true},
                               {1, 130, true}};
  for (const SumNormCase& of : cases) {
    const bool taken_here = of.taken(c);
    for (int time = 0; time < 3; ++time) {  // both of an inbox's places, alone and recorded
      const int64_t n = of.rows * of.hidden;
      const std::vector<uint8_t> part = Encoded(RandomVector(c.rank() + 10 * time, n), DType::kBF16),
                                 stream = Encoded(RandomVector(1000 + time, n), DType::kF32),
                                 weight = Encoded(RandomVector(2000, of.hidden), DType::kF32),
                                 poison(Bytes(DType::kBF16, n), 0xff);
      const Message weights(device, weight);
      std::vector<std::vector<uint8_t>> found[2];
      for (const bool fused : {false, true}) {
        const Message data(device, part), residual(device, stream), out(device, poison);
        const View sum(data.data(), DType::kBF16, of.rows, of.hidden),
            to(residual.data(), DType::kF32, of.rows, of.hidden),
            normed = of.with_norm ? View(out.data(), DType::kBF16, of.rows, of.hidden) : View();
        const auto* w = reinterpret_cast<const float*>(weights.data());
        bool taken = false;
        Do(device, time == 2 && (taken_here || !fused), [&] {
          if (fused) {
            taken = c.AllReduceAddNorm(sum, {normed, to, w, 1e-5f}, device);
          } else {
            c.AllReduceSum(sum, device);
            AddRmsNorm(device, normed, to, sum, w, 1e-5f);
          }
        });
        if (fused) EXPECT(taken == taken_here);
        std::vector<uint8_t> stream_bytes(stream.size()), out_bytes(poison.size());
        device.Download(stream_bytes.data(), residual.data(), stream_bytes.size());
        device.Download(out_bytes.data(), out.data(), out_bytes.size());
        if (fused && !taken_here) {  // nothing was done
          EXPECT(stream_bytes == stream && out_bytes == poison && data.Is(part));
          continue;
        }
        EXPECT(of.with_norm != (out_bytes == poison));
        found[fused] = {stream_bytes, out_bytes};
      }
      if (taken_here) EXPECT(found[0] == found[1]);
    }
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
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  c.Broadcast(host, sizeof host, 1);  // it may be another one
  EXPECT(all.message() == std::string("rank 1 on ") + host + ": no file 1");
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
    if (Device::CudaDeviceCount() < session->local_size()) {
      if (session->rank() == 0) std::printf("skipped: no GPU for each rank here\n");
      return 77;
    }
    device = Device::Cuda(session->local_rank(), 1).value();
  }
  absl::StatusOr<std::unique_ptr<Communicator>> made = MakeCommunicator(CommKind::kAuto, session.get(), *device);
  if (!made.ok()) return 1;
  Communicator& c = **made;
  const int victim = c.size() - 1;
  if (mode == "collectives") {
    ExchangesOfAllSizes(c, *device);
    SmallExchanges(c, *device);
    SumsInARow(c, *device);
    BroadcastsFromAnyRoot(c);
    MessagesArriveWholeBetweenHeartbeats(c);
    AgreesOnTheFirstError(c);
    EXPECT(MakeCommunicator(CommKind::kNccl, session.get(), *device).status().message().find("--comm mpi") !=
           std::string::npos);
    EXPECT(LocalGpu(CommKind::kMpi, session.get(), 1).value() == 0);
    EXPECT(LocalGpu(CommKind::kNccl, session.get(), 1).status().message().find("--comm mpi") != std::string::npos);
    EXPECT(LocalGpu(CommKind::kNccl, session.get(), 3).value() == session->local_rank());
  } else if (mode == "gpus") {
    SmallExchanges(c, *device);
    SumsInARow(c, *device);
    LargerSums(c, *device);
    for (const int64_t scale : {0, 1, 257, 1000003}) BlocksReachTheirRanks(c, *device, scale);
    SumsWithNorms(c, *device);
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
  } else if (mode == "transport-error") {  // one rank is told, while all wait for what never comes
    int looks = 0;
    const WaitWatch::Asked asked = {
        [&] { return c.rank() == victim && ++looks == 3 ? std::string("remote process exited") : std::string(); },
        [] { return -1; }};
    const WaitWatch watch(
        c.rank(), asked, [&c](const std::string& wrong) { c.Abort(wrong); }, std::chrono::milliseconds(100));
    signal(SIGTERM, SIG_IGN);
    if (c.rank() == victim) std::this_thread::sleep_for(std::chrono::seconds(60));
    c.Barrier();
  } else {
    std::fprintf(stderr, "unknown mode %s\n", mode.c_str());
    return 2;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) { return argc == 2 ? duo::Run(argv[1]) : 2; }
