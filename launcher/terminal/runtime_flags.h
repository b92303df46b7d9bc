// The flags that every subcommand with a model shares, and what they open: MPI, the communicator, the device, the
// engine. One thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "kernels/base/device.h"
#include "launcher/terminal/commands.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/probe.h"

namespace duo {

struct RuntimeFlags {
  std::string model;
  std::string attention = "auto", kv = "auto", weights = "auto", weights_head = "auto", device = "auto", comm = "auto",
              strategy = "auto", experts = "auto", prefill_split = "heads";
  std::string pattern;
  std::optional<double> sparsity, threshold;
  std::optional<int> sink, recent;
  int chunk = 0, threads = 0;
  double max_wait = 0.5, max_gap = 0;
  std::string speculate = "off";  // auto where there is a flag for it
  std::string draft_weights = "served", draft_model;
  std::string prefill_sparsity = "off", decode_sparsity = "off";
  std::string key_means = "off";
  std::vector<double> rank_weights;
  // Who gets what there is to say about how the model runs, a line at a time, instead of stderr, and no progress bar.
  std::function<void(const std::string& line)> tell;
};

// Registers them on a subcommand; bad values are usage errors (exit code 2).
void AddRuntimeFlags(CLI::App& command, RuntimeFlags& flags, bool model_required = true);
// --speculate and what belongs to it, of commands that write answers.
void AddSpeculateFlag(CLI::App& command, RuntimeFlags& flags);
// --prefill-sparsity, of commands that read texts.
void AddSparsityFlags(CLI::App& command, RuntimeFlags& flags);
// --decode-sparsity, of commands that answer.
void AddDecodeSparsityFlag(CLI::App& command, RuntimeFlags& flags);
// --key-means, of commands that read texts.
void AddKeyMeansFlag(CLI::App& command, RuntimeFlags& flags);
// Those of them that say where a process runs: --device, --comm, --threads.
void AddDeviceFlags(CLI::App& command, RuntimeFlags& flags);

// Where a process runs. Members are destroyed last to first: engine users, communicator, device, MPI.
struct Runtime {
  std::unique_ptr<MpiSession> mpi;  // null outside mpirun
  std::unique_ptr<Device> device;
  std::unique_ptr<Communicator> comm;
  std::string device_note;  // why --device auto took the CPU; empty otherwise
  bool leader() const { return comm->rank() == 0; }
};

// MPI (under mpirun) and the device; `--device auto` takes CUDA where a driver and an sm_80 GPU are there.
absl::StatusOr<Runtime> OpenRuntime(const RuntimeFlags& flags, const Launch& launch);

// The engine's options that the flags stand for.
EngineOptions MakeEngineOptions(const RuntimeFlags& flags, const Launch& launch);

// Creates the engine with a progress bar for the weights. With --device auto a memory plan that does not fit the GPU
// falls back to the CPU, with one line that says why.
absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(const RuntimeFlags& flags, const EngineOptions& options,
                                                   Runtime& runtime);
absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(const RuntimeFlags& flags, ProbeOptions options, Runtime& runtime);

// Prints "error: ..." on rank 0 (every rank's error where ranks do not agree is rank 0's) and gives the exit code 1.
int Fail(const absl::Status& status, bool leader = true);

}  // namespace duo
