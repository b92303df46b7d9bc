// Any text as a Jinja template. Whatever can be read must run to an end within its limits: a text of valid UTF-8 in
// which what was given stays apart from the template's own words, or a refusal that says where.
#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/base/check.h"
#include "runtime/text/jinja/template.h"
#include "runtime/text/unicode/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace duo;
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = jinja::Template::Parse(source, "template");
  if (!parsed.ok()) {
    DUO_CHECK(parsed.status().message().substr(0, 15) == "template: line ");
    return 0;
  }
  jinja::Inputs inputs;
  inputs.given = {
      {"messages",
       {{{"role", "system"}, {"content", "Rules \x01\n"}},
        {{"role", "user"}, {"content", "\x01It's \"one\" <\xC3\xA9>"}},
        {{"role", "assistant"}, {"content", "\x01"}, {"tool_calls", {{{"name", "f"}, {"arguments", {{"a", 1}}}}}}}}},
      {"tools", {{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", {{"x", 2.5}}}}}}}},
      {"add_generation_prompt", true}};
  inputs.own = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  inputs.clock = [](const std::string& format) { return format; };
  inputs.most_steps = 20'000;
  inputs.most_bytes = 100'000;
  const auto pieces = parsed->Render(inputs);
  if (!pieces.ok()) {
    DUO_CHECK(pieces.status().message().substr(0, 15) == "template: line ");
    return 0;
  }
  const bool has_mark = source.find('\x01') != std::string_view::npos || source.find('\\') != std::string_view::npos ||
                        source.find("format") != std::string_view::npos || source.find('%') != std::string_view::npos;
  bool given = false;
  for (size_t i = 0; i < pieces->size(); ++i) {
    const jinja::Piece& piece = (*pieces)[i];
    DUO_CHECK(!piece.text.empty() && IsValidUtf8(piece.text));
    DUO_CHECK(i == 0 || piece.given != given);  // neighbours are of different origin
    given = piece.given;
    // The mark is only in what was given, unless the template makes it by an escape or a format.
    if (!piece.given && !has_mark) DUO_CHECK(piece.text.find('\x01') == std::string::npos);
  }
  return 0;
}
