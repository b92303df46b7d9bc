#include "launcher/terminal/service_manager.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string>

namespace duo {
namespace {

// A socket as a service manager has one; what it hears.
class Listener {
 public:
  explicit Listener(const std::string& path) : socket_(socket(AF_UNIX, SOCK_DGRAM, 0)) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (path[0] == '@') address.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0) << path;
  }
  ~Listener() { close(socket_); }
  std::string Heard() {
    char text[512];
    const ssize_t n = recv(socket_, text, sizeof text, MSG_DONTWAIT);
    return n < 0 ? "nothing" : std::string(text, static_cast<size_t>(n));
  }

 private:
  const int socket_;
};

TEST(ServiceManager, TellsThroughPathsAndAbstractNames) {
  const std::string name = std::to_string(getpid());
  for (const std::string& path : {testing::TempDir() + "notify" + name, "@duo-test-" + name}) {
    Listener listener(path);
    const ServiceManager manager(path);
    manager.Status("loading the model\nREADY=1");  // no second line gets in
    EXPECT_EQ(listener.Heard(), "STATUS=loading the model");
    manager.Ready();
    EXPECT_EQ(listener.Heard().substr(0, 8), "READY=1\n");
    manager.Stopping();
    EXPECT_EQ(listener.Heard().substr(0, 11), "STOPPING=1\n");
    EXPECT_EQ(listener.Heard(), "nothing");
  }
}

TEST(ServiceManager, NobodyNeedsToListen) {
  ServiceManager("").Ready();
  ServiceManager("/none/there").Ready();
  ServiceManager(std::string(500, 'x')).Ready();
}

}  // namespace
}  // namespace duo
