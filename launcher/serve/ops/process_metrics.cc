#include "launcher/serve/ops/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace duo {
namespace {

prometheus::Gauge& Gauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

// The fields of /proc/self/stat from the third on, which is behind the program's name; empty where it cannot be read.
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name = text.rfind(')');
  if (name == std::string::npos) return {};
  std::istringstream rest(text.substr(name + 1));
  return {std::istream_iterator<std::string>(rest), std::istream_iterator<std::string>()};
}

// Seconds since 1970 at which the machine began, by its clocks of now.
double BootTime() {
  double up = 0;
  std::ifstream("/proc/uptime") >> up;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count() - up;
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

ProcessMetrics::ProcessMetrics(prometheus::Registry& registry)
    : cpu_(prometheus::BuildCounter()
               .Name("process_cpu_seconds_total")
               .Help("CPU time, user and system")
               .Register(registry)
               .Add({})),
      resident_(Gauge(registry, "process_resident_memory_bytes", "Memory that is in use")),
      virtual_(Gauge(registry, "process_virtual_memory_bytes", "Address space")),
      open_files_(Gauge(registry, "process_open_fds", "Open files")),
      most_files_(Gauge(registry, "process_max_fds", "Open files at most")),
      threads_(Gauge(registry, "process_threads", "Threads")),
      begun_(Gauge(registry, "process_start_time_seconds", "When the process began, since 1970")) {
  constexpr size_t kBegan = 19;  // field 22, in ticks since the machine began
  const std::vector<std::string> fields = StatFields();
  if (fields.size() > kBegan) {
    begun_.Set(BootTime() + std::stod(fields[kBegan]) / static_cast<double>(sysconf(_SC_CLK_TCK)));
  }
}

void ProcessMetrics::Update() {
  constexpr size_t kThreads = 17, kVirtual = 20, kResident = 21;  // fields 20, 23, 24
  std::lock_guard lock(mutex_);
  if (const double cpu = CpuSeconds(); cpu > cpu_.Value()) cpu_.Increment(cpu - cpu_.Value());
  const std::vector<std::string> fields = StatFields();
  if (fields.size() > kResident) {
    threads_.Set(std::stod(fields[kThreads]));
    virtual_.Set(std::stod(fields[kVirtual]));
    resident_.Set(std::stod(fields[kResident]) * static_cast<double>(sysconf(_SC_PAGESIZE)));
  }
  std::error_code error;
  const std::filesystem::directory_iterator files("/proc/self/fd", error), end;
  if (!error) open_files_.Set(static_cast<double>(std::distance(files, end)) - 1);  // but the one that looks
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) most_files_.Set(static_cast<double>(limit.rlim_cur));
}

}  // namespace duo
