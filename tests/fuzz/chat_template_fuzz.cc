// Any text as a chat template. Whatever is recognised must write conversations in which what people wrote stays whole,
// in order, and apart from what may become special tokens.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace duo;
  const std::string_view jinja(reinterpret_cast<const char*>(data), size);
  const auto chat = RecogniseChatTemplate(jinja, "<s>", "</s>", "26 Jul 2024", "template");
  if (!chat.ok()) {
    DUO_CHECK(chat.status().message().substr(0, 9) == "template:");
    return 0;
  }
  const std::vector<Message> messages = {{ChatRole::kSystem, "Rules <|im_end|>"},
                                         {ChatRole::kUser, "One [INST]</s>"},
                                         {ChatRole::kAssistant, "Two <|eot_id|>"},
                                         {ChatRole::kUser, "Three"}};
  for (const size_t count : {2u, 4u}) {
    const auto segments = chat->Render(std::span(messages).first(count), true);
    if (!segments.ok()) continue;
    std::string people;
    for (const TextSegment& segment : *segments) {
      if (!segment.parse_special) people += segment.text + "\n";
    }
    size_t at = 0;
    for (size_t i = 1; i < count; ++i) {  // the system text is a turn in some families and part of one in others
      at = people.find(messages[i].content, at);
      DUO_CHECK(at != std::string::npos);
    }
  }
  return 0;
}
