// What comes over HTTP: a header, or a body for each route that answers. Whatever is accepted must be something that
// can be asked of the engine; whatever is refused has a client's code and a sentence.
#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/base/check.h"
#include "launcher/serve/http/api/conversions/messages.h"
#include "launcher/serve/http/api/conversions/responses.h"
#include "launcher/serve/http/api/openai/chat.h"
#include "launcher/serve/http/api/openai/completions.h"
#include "launcher/serve/http/wire/gate.h"
#include "tests/support/source_dir.h"

namespace duo::http {
namespace {

constexpr int64_t kWindow = 500, kMostNew = 300;

struct Fixture {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(SourceDir() + "/launcher/demo/needle-6m/tokenizer.json");
  CallContext context;
  Service service;

  Fixture() {
    DUO_CHECK(tokenizer.ok());
    context.tokenizer = &*tokenizer;
    context.vocab = tokenizer->vocab_size();
    service.limits = {kWindow, kWindow, kMostNew, 4};
    const ChatTemplateSource source = {"default", "fuzz",
                                       "{% for m in messages %}{{ m['role'] + (m['content'] or '') }}{% endfor %}"
                                       "{# <think> </think> <tool_call> #}"};
    service.chat = ChatTemplate({&source, 1}, {});
    service.calls = &context;
  }
};

void CheckBody(Fixture& fixture, absl::string_view text) {
  const absl::StatusOr<Json> object = ParseBody(text);
  if (!object.ok()) {
    DUO_CHECK_EQ(ErrorOf(object.status(), 0).status, 400);
    return;
  }
  for (const Prepare prepare : {PrepareCompletion, PrepareChat, PrepareResponse, PrepareMessage}) {
    Body body(*object);
    const absl::StatusOr<Prepared> prepared = prepare(fixture.service, body);
    if (!prepared.ok()) {
      const ErrorAnswer error = ErrorOf(prepared.status(), 0);
      DUO_CHECK(error.status >= 400 && error.status < 500 && !error.message.empty());
      DUO_CHECK(!ErrorBody(error).empty());
      continue;
    }
    const AnswerRequest& request = prepared->request;
    DUO_CHECK(!request.prompts.empty());
    DUO_CHECK(request.ask.max_new_tokens >= 1 && request.ask.max_new_tokens <= kMostNew);
    for (const std::vector<int32_t>& prompt : request.prompts) {
      DUO_CHECK(!prompt.empty() && static_cast<int64_t>(prompt.size()) < kWindow);
      DUO_CHECK(fixture.context.CheckTokens(prompt).ok());
    }
  }
}

// Lines as a parser would have them: the method and the target, then names and values.
void CheckHeader(absl::string_view text) {
  Header header;
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  const std::vector<std::string> first = absl::StrSplit(lines[0], ' ');
  header.method = first[0];
  header.target = first.size() > 1 ? first[1] : "";
  header.version = first.size() > 2 && first[2] == "10" ? 10 : 11;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::pair<std::string, std::string> field = absl::StrSplit(lines[i], absl::MaxSplits(':', 1));
    header.fields.emplace_back(absl::AsciiStrToLower(field.first),
                               std::string(absl::StripAsciiWhitespace(field.second)));
  }
  const std::variant<Request, Refusal> read = ReadHeader(header);
  if (const Refusal* refusal = std::get_if<Refusal>(&read)) {
    DUO_CHECK(refusal->status >= 400 && !refusal->message.empty());
    return;
  }
  const Request& request = std::get<Request>(read);
  DUO_CHECK(!(request.chunked && request.content_length.has_value()));
  DUO_CHECK(header.Count("content-length") <= 1 && header.Count("host") <= 1);
  for (const std::string& segment : request.path) DUO_CHECK(segment.find('\0') == std::string::npos);
  DUO_CHECK(request.request_id.find_first_of("\r\n") == std::string::npos);
  GateRules rules;
  rules.origins = {"http://ui.example"};
  const bool refused = CheckSender(rules, header, request).has_value();
  DUO_CHECK(refused || request.origin.empty() || !AllowedOrigin(rules, request).empty() ||
            request.origin.find("://") != std::string::npos);
}

}  // namespace
}  // namespace duo::http

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* fixture = new duo::http::Fixture();
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.substr(0, 1) == "{") {
    duo::http::CheckBody(*fixture, text);
  } else {
    duo::http::CheckHeader(text);
  }
  return 0;
}
