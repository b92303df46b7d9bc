// `duo bench comm`: latency and bandwidth of the collectives a step uses, directly and, where it can be, inside a CUDA
// graph. Verified: sums and gathers of known values.

#include <cstdio>
#include <functional>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "kernels/random_fill.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"

namespace duo {
namespace {

// Seconds of one call, over enough calls for a quarter of a second or so.
double TimeCalls(Device& device, Communicator& comm, size_t bytes, const std::function<void()>& call) {
  const int calls = bytes <= (1 << 16) ? 200 : bytes <= (1 << 22) ? 50 : 10;
  for (int i = 0; i < 3; ++i) call();
  device.Synchronize();
  comm.Barrier();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < calls; ++i) call();
  device.Synchronize();
  return SecondsSince(start) / calls;
}

}  // namespace

absl::Status BenchComm(const BenchFlags& flags, Runtime& runtime) {
  Device& device = *runtime.device;
  Communicator& comm = *runtime.comm;
  if (comm.size() < 2) return absl::InvalidArgumentError("bench comm needs several ranks: mpirun -n N duo bench comm");
  const int world = comm.size();
  const size_t largest = device.is_cuda() && comm.capturable() ? size_t{512} << 20 : size_t{16} << 20;
  absl::StatusOr<Buffer> data = Buffer::Allocate(device, largest, "the message"),
                         gathered = Buffer::Allocate(device, largest * world, "the gathered messages");
  if (absl::Status s = Agree(comm, data.ok() ? gathered.status() : data.status()); !s.ok()) return s;
  std::vector<Measurement> rows;
  std::vector<size_t> sizes;
  for (size_t bytes = 8 << 10; bytes < largest; bytes *= 8) sizes.push_back(bytes);
  sizes.push_back(largest);
  Progress progress("timing", "sizes of messages", !runtime.leader());
  int64_t done = 0;
  for (const size_t bytes : sizes) {
    progress.Update(done++, static_cast<int64_t>(sizes.size()));
    const auto count = static_cast<int64_t>(bytes / 4);
    const View view(data->data(), DType::kF32, 1, count);
    FillFloats(device, data->as<float>(), count, static_cast<float>(comm.rank() + 1));
    comm.AllReduceSum(view, device);
    const int sum = world * (world + 1) / 2;  // of 1, 2, ... world
    float last = 0;
    device.Download(&last, data->as<float>() + count - 1, 4);
    if (absl::Status s =
            Agree(comm, last == static_cast<float>(sum) ? absl::OkStatus()
                                                        : absl::InternalError("an all-reduce gave a wrong sum"));
        !s.ok())
      return s;
    FillFloats(device, data->as<float>(), count, 0.0f);  // sums of zeros stay finite however often they are added
    struct Case {
      std::string name;
      std::function<void()> call;
    };
    std::vector<Case> cases = {{"all-reduce", [&] { comm.AllReduceSum(view, device); }},
                               {"all-gather", [&] { comm.AllGather(gathered->data(), data->data(), bytes, device); }}};
    for (Case& c : cases) {
      for (bool graph : {false, true}) {
        if (graph && !(device.is_cuda() && comm.capturable())) continue;
        double seconds = 0;
        if (graph) {
          constexpr int kCalls = 16;
          const DeviceGraph recorded = device.Capture([&] {
            for (int i = 0; i < kCalls; ++i) c.call();
          });
          seconds = TimeCalls(device, comm, bytes * kCalls, [&] { device.Launch(recorded); }) / kCalls;
        } else {
          seconds = TimeCalls(device, comm, bytes, c.call);
        }
        Measurement row;
        row.what = absl::StrCat(c.name, graph ? " in a graph" : "");
        row.context = static_cast<int64_t>(bytes);
        row.seconds = seconds;
        row.details = {{"bytes", bytes}, {"gb_per_second", static_cast<double>(bytes) / seconds / 1e9}};
        rows.push_back(row);
      }
    }
  }
  progress.Done();
  if (!runtime.leader()) return absl::OkStatus();
  if (flags.json) {
    PrintRows(flags, runtime, Rates(), rows, "comm");
    return absl::OkStatus();
  }
  std::printf("%-24s %14s %12s %10s\n", "collective", "bytes", "time", "GB/s");
  for (const Measurement& row : rows) {
    std::printf("%-24s %14lld %9.1f us %10.2f\n", row.what.c_str(), static_cast<long long>(row.context),
                row.seconds * 1e6, row.details["gb_per_second"].get<double>());
  }
  return absl::OkStatus();
}

}  // namespace duo
