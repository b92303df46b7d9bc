// What a conversation in the terminal is made of, whoever answers. Plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace duo {

struct ChatOptions {
  int64_t max_new_tokens = 1024;  // of an answer
  float temperature = 0, top_p = 1;
  uint64_t seed = 0;
  std::vector<int32_t> end_tokens;  // each ends an answer; of a model in this process
};

// What the answer is shown by: how much of the turn is read, the text as it comes, and whether to stop.
struct ChatListener {
  std::function<void(int64_t done, int64_t total)> on_read;
  std::function<void(const std::string& text)> on_text;
  std::function<bool()> stopped;
  // Has `stop` called, on another thread, as soon as it is to stop; null: no more.
  std::function<void(std::function<void()> stop)> when_stopped;
};

struct ChatAnswer {
  bool stopped = false;  // by its reader; what there is of it stays
};

}  // namespace duo
