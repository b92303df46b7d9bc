// How a message travels between the GPUs of a host (peer_memory.h): its units, their sending and receiving. For the .cu
// files of parallel/.
#pragma once

#include <cstdint>

#include "kernels/base/bf16_pairs.cuh"
#include "parallel/peer_memory.h"
#include "parallel/wait_watch.h"

namespace duo::peers {

constexpr size_t kUnitBytes = 16;  // eight of data, and the message's number twice

// A half of a unit: four bytes of data below the message's number. Eight aligned bytes are written and read at once.
__device__ __forceinline__ uint64_t Half(uint32_t data, uint32_t number) { return uint64_t{number} << 32 | data; }

__device__ __forceinline__ void Send(ulonglong2* to, uint2 data, uint32_t number) {
  asm volatile("st.volatile.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(Half(data.x, number)),
               "l"(Half(data.y, number))
               : "memory");
}

// Where message `number` of rank `from` lies in an inbox.
__device__ __forceinline__ size_t Slot(const PeerWires& wires, uint32_t number, int from) {
  return (static_cast<size_t>(number % 2) * wires.ranks + from) * wires.units;
}
__device__ __forceinline__ ulonglong2* Inbox(const PeerWires& wires, int rank) {
  return static_cast<ulonglong2*>(wires.inboxes[rank]);
}

// To every peer, each rank beginning with another one.
__device__ __forceinline__ void SendToAll(const PeerWires& wires, int unit, uint2 data, uint32_t number) {
  const size_t at = Slot(wires, number, wires.rank) + unit;
  for (int step = 1; step < wires.ranks; ++step) {
    Send(Inbox(wires, (wires.rank + step) % wires.ranks) + at, data, number);
  }
}

// A unit as it was found: perhaps not there yet.
struct Found {
  uint64_t low, high;

  __device__ __forceinline__ void Load(const ulonglong2* from) {
    asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(low), "=l"(high) : "l"(from) : "memory");
  }
  __device__ __forceinline__ bool Has(uint32_t number) const {
    return static_cast<uint32_t>(low >> 32) == number && static_cast<uint32_t>(high >> 32) == number;
  }
  __device__ __forceinline__ uint2 data() const { return {static_cast<uint32_t>(low), static_cast<uint32_t>(high)}; }
};

constexpr int kPollsALook = 1 << 16;  // at the clock; some tens of milliseconds

__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Waits for a unit that was looked for once.
__device__ __forceinline__ uint2 Await(Found found, const ulonglong2* from, uint32_t number, int peer,
                                       int32_t* silent) {
  PeerSilence silence;
  for (int polls = 1; !found.Has(number); ++polls) {
    found.Load(from);
    if (polls < kPollsALook) continue;
    polls = 0;
    if (silence.TooLong(Nanoseconds())) *static_cast<volatile int32_t*>(silent) = peer + 1;
  }
  return found.data();
}

__device__ __forceinline__ uint2 Receive(const PeerWires& wires, int unit, uint32_t number, int peer) {
  const ulonglong2* from = Inbox(wires, wires.rank) + Slot(wires, number, peer) + unit;
  Found found;
  found.Load(from);
  return Await(found, from, number, peer, wires.silent);
}

// Four bf16 of a unit.
__device__ __forceinline__ void AddBf16(float (&sum)[4], uint2 part) {
  sum[0] += cuda::LowBf16(part.x);
  sum[1] += cuda::HighBf16(part.x);
  sum[2] += cuda::LowBf16(part.y);
  sum[3] += cuda::HighBf16(part.y);
}
__device__ __forceinline__ uint2 RoundedBf16(const float (&sum)[4]) {
  return {cuda::PackBf16(sum[0], sum[1]), cuda::PackBf16(sum[2], sum[3])};
}

}  // namespace duo::peers
