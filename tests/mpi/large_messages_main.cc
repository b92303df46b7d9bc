// Messages longer than MPI counts in one call: they go in pieces. Run by ctest as `mpirun -n N large_messages_test`
// with one MODE:
//   pieces  blocks of many lengths around one piece, of a communicator with short pieces, between any ranks
//   whole   one block of more than 1 GiB between two ranks, in pieces as they are; takes 2.2 GB of memory
// The program exits with 0 when every rank saw it.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/device.h"
#include "kernels/base/splitmix64.h"
#include "parallel/comm_factories.h"

namespace duo {
namespace {

constexpr uint8_t kPoison = 0xee;

// What rank `from` sends to rank `to` at this place.
uint8_t ByteOf(int from, int to, int64_t i) { return static_cast<uint8_t>(SplitMix64(i / 8 + 1000 * from + to) + i); }

// Blocks of lengths[(3 from + 5 to) % n], and guards behind all of them that nobody may touch.
bool BlocksArrive(Communicator& c, Device& device, const std::vector<int64_t>& lengths) {
  const auto length = [&](int from, int to) { return lengths[(3 * from + 5 * to) % lengths.size()]; };
  std::vector<int64_t> sent, got;
  std::vector<uint8_t> in;
  int64_t arriving = 0;
  for (int r = 0; r < c.size(); ++r) {
    sent.push_back(length(c.rank(), r));
    got.push_back(length(r, c.rank()));
    arriving += got.back();
    for (int64_t i = 0; i < sent.back(); ++i) in.push_back(ByteOf(c.rank(), r, i));
  }
  std::vector<uint8_t> out(arriving + 16, kPoison);
  c.AllToAll(out.data(), got, in.data(), sent, device);
  int64_t at = 0, wrong = 0;
  for (int r = 0; r < c.size(); ++r) {
    for (int64_t i = 0; i < got[r]; ++i) wrong += out[at++] != ByteOf(r, c.rank(), i) ? 1 : 0;
  }
  for (; at < static_cast<int64_t>(out.size()); ++at) wrong += out[at] != kPoison ? 1 : 0;
  if (wrong > 0) std::fprintf(stderr, "rank %d: %ld bytes of blocks are wrong\n", c.rank(), static_cast<long>(wrong));
  return wrong == 0;
}

bool GathersArrive(Communicator& c, Device& device, int64_t bytes) {
  std::vector<uint8_t> own, all(bytes * c.size(), kPoison), host = all;
  for (int64_t i = 0; i < bytes; ++i) own.push_back(ByteOf(c.rank(), 0, i));
  c.AllGather(all.data(), own.data(), bytes, device);
  c.AllGatherHost(host.data(), own.data(), bytes);
  int64_t wrong = 0;
  for (int64_t i = 0; i < bytes * c.size(); ++i) {
    const uint8_t expected = ByteOf(static_cast<int>(i / bytes), 0, i % bytes);
    wrong += (all[i] != expected ? 1 : 0) + (host[i] != expected ? 1 : 0);
  }
  if (wrong > 0) std::fprintf(stderr, "rank %d: %ld gathered bytes are wrong\n", c.rank(), static_cast<long>(wrong));
  return wrong == 0;
}

bool OfPieces(MpiSession& session, Device& device) {
  constexpr int64_t kPiece = 100;
  const std::unique_ptr<Communicator> c = MakeMpiCommunicator(session, kPiece);
  const std::unique_ptr<Communicator> part = c->Split(c->rank() % 2);  // pieces of the same length
  bool right = true;
  for (Communicator* comm : {c.get(), part.get()}) {
    for (const std::vector<int64_t>& lengths :
         {std::vector<int64_t>{0, 1, 99, 100, 101, 199, 200, 201, 12345}, {0}, {100}, {0, 0, 1000}, {70001, 3}}) {
      right &= BlocksArrive(*comm, device, lengths);
    }
    for (const int64_t bytes : {1, 99, 100, 101, 200, 12345}) right &= GathersArrive(*comm, device, bytes);
  }
  return right;
}

bool OfWholePieces(MpiSession& session, Device& device) {
  const std::unique_ptr<Communicator> c = MakeMpiCommunicator(session);
  const int64_t bytes = (int64_t{1} << 30) + 12345;
  const bool sends = c->rank() == 0;
  std::vector<uint8_t> block(c->rank() < 2 ? bytes : 0, kPoison);
  for (int64_t i = 0; sends && i < bytes; ++i) block[i] = static_cast<uint8_t>(i * 7 + i / 251);
  std::vector<int64_t> sent(c->size(), 0), got(c->size(), 0);
  if (sends) sent[1] = bytes;
  if (c->rank() == 1) got[0] = bytes;
  c->AllToAll(block.data(), got, block.data(), sent, device);
  int64_t wrong = 0;
  for (int64_t i = 0; c->rank() == 1 && i < bytes; ++i) wrong += block[i] != static_cast<uint8_t>(i * 7 + i / 251);
  if (wrong > 0) std::fprintf(stderr, "rank %d: %ld bytes are wrong\n", c->rank(), static_cast<long>(wrong));
  return wrong == 0;
}

int Run(const std::string& mode) {
  const std::unique_ptr<MpiSession> session = MpiSession::Start(true);
  const std::unique_ptr<Device> device = Device::Cpu(1);
  if (mode == "pieces") return OfPieces(*session, *device) ? 0 : 1;
  if (mode == "whole") return OfWholePieces(*session, *device) ? 0 : 1;
  std::fprintf(stderr, "unknown mode %s\n", mode.c_str());
  return 2;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) { return argc == 2 ? duo::Run(argv[1]) : 2; }
