// Test driver: the tokenizer as a filter, so that a script can compare it with another implementation.
//   tokenize TOKENIZER.json encode [--parse-special] [--no-special]   stdin: texts, stdout: token ids
//   tokenize TOKENIZER.json decode [--keep-special]                   stdin: token ids, stdout: texts
//   tokenize TOKENIZER.json pieces [--parse-special]                  stdin: pairs, a text and what follows it; stdout:
//   ids of both read as two pieces (the first as far as it is certain), ids of both as one text, and the bytes that
//   were certain, as one number
//   tokenize TOKENIZER.json session [--parse-special]                 stdin: a document's two pieces and a question,
//   and so on; stdout, for the plain text and for each of two chat templates: ids of a session that gets them one after
//   the other, and ids of all of it as one text tokenize TOKENIZER.json time stdin: one text; stdout: its bytes,
//   tokens, seconds tokenize MODEL_DIR chat      stdin: conversations, stdout: each rendered by the model's chat
//   template, text then ids
// A conversation is a uint32 (1: with the generation prompt), a uint32 count of messages, and role and content texts;
// one that is refused comes out empty. A text is a uint32 byte count and its bytes; token ids are a uint32 count and
// int32 each; little endian, one after another until the end of the input. decode pushes token by token and checks that
// this equals decoding the whole.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/session_text.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/unicode/unicode.h"

namespace {

bool HasFlag(int argc, char** argv, const char* flag) {
  for (int i = 3; i < argc; ++i) {
    if (std::strcmp(argv[i], flag) == 0) return true;
  }
  return false;
}

bool ReadCount(uint32_t* count) {
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(count), sizeof(*count)));
}

template <typename Items>
void WriteItems(const Items& items) {
  const uint32_t count = static_cast<uint32_t>(items.size());
  std::cout.write(reinterpret_cast<const char*>(&count), sizeof(count));
  std::cout.write(reinterpret_cast<const char*>(items.data()), count * sizeof(items[0]));
}

void EncodeAll(const duo::Tokenizer& tokenizer, duo::EncodeOptions options) {
  uint32_t size = 0;
  std::string text;
  while (ReadCount(&size)) {
    text.resize(size);
    std::cin.read(text.data(), size);
    WriteItems(tokenizer.Encode(text, options).value());
  }
}

void DecodeAll(const duo::Tokenizer& tokenizer, bool skip_special) {
  uint32_t size = 0;
  std::vector<int32_t> ids;
  while (ReadCount(&size)) {
    ids.resize(size);
    std::cin.read(reinterpret_cast<char*>(ids.data()), size * sizeof(int32_t));
    const std::string whole = tokenizer.Decode(ids, skip_special);
    duo::StreamDecoder stream(tokenizer, skip_special);
    std::string pieces;
    for (const int32_t id : ids) pieces += stream.Push(id);
    pieces += stream.Flush();
    DUO_CHECK_EQ(pieces, whole);
    WriteItems(whole);
  }
}

void EncodePieces(const duo::Tokenizer& tokenizer, bool parse_special) {
  uint32_t size = 0;
  std::string first, second;
  while (ReadCount(&size)) {
    first.resize(size);
    std::cin.read(first.data(), size);
    DUO_CHECK(ReadCount(&size));
    second.resize(size);
    std::cin.read(second.data(), size);
    duo::EncodeOptions options{.parse_special = parse_special};
    const std::string whole = first + second;
    const std::vector<int32_t> expected = tokenizer.Encode(whole, options).value();
    duo::StableTokens stable = tokenizer.EncodeStable(first, options).value();
    std::vector<int32_t> ids = stable.ids;
    size_t read = stable.bytes;
    DUO_CHECK_LE(read, first.size());
    // What is not certain after the first piece may come in a piece of its own, too.
    options.continued = read > 0;
    stable = tokenizer.EncodeStable(whole.substr(read, (whole.size() - read) / 2), options).value();
    ids.insert(ids.end(), stable.ids.begin(), stable.ids.end());
    const auto certain = static_cast<int32_t>(read);
    read += stable.bytes;
    options.continued = read > 0;
    const std::vector<int32_t> rest = tokenizer.Encode(whole.substr(read), options).value();
    ids.insert(ids.end(), rest.begin(), rest.end());
    WriteItems(ids);
    WriteItems(expected);
    WriteItems(std::vector<int32_t>{certain});
  }
}

std::string ReadText() {
  uint32_t size = 0;
  DUO_CHECK(ReadCount(&size));
  std::string text(size, '\0');
  std::cin.read(text.data(), size);
  return text;
}

// Turns between special tokens, and turns that are trimmed between words that are none.
constexpr const char* kTemplates[] = {
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"};

using Ids = std::vector<int32_t>;

// chat: null for a plain text.
Ids InPieces(const duo::Tokenizer& tokenizer, const duo::ChatTemplate* chat, bool special,
             const std::vector<std::string>& texts) {
  duo::ChatFrame frame;
  if (chat != nullptr) frame = duo::FrameOf(*chat, "").value();
  duo::SessionText session;
  session.chat = chat != nullptr;
  Ids ids;
  for (size_t i = 0; i + 1 < texts.size(); ++i) {
    DUO_CHECK(duo::AddDocument(&frame, texts[i], special, &session).ok());
    duo::TextRead read = duo::ReadStable(tokenizer, std::move(session)).value();
    ids.insert(ids.end(), read.tokens.begin(), read.tokens.end());
    session = std::move(read.rest);
  }
  DUO_CHECK(duo::AddQuestion(&frame, texts.back(), special, &session).ok());
  duo::BeginAnswer(frame, &session);
  const Ids rest = duo::ReadAll(tokenizer, session).value();
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

Ids InOnePiece(const duo::Tokenizer& tokenizer, const duo::ChatTemplate* chat, bool special,
               const std::string& document, const std::string& question) {
  if (chat == nullptr) {
    return tokenizer.Encode(document + question, {.parse_special = special, .add_special_tokens = false}).value();
  }
  const duo::DocumentTurns turns =
      duo::RenderQuestions(*chat, "", duo::ReplaceInvalidUtf8(document), {&question, 1}).value();
  std::vector<duo::TextSegment> all = turns.document;
  all.insert(all.end(), turns.questions[0].begin(), turns.questions[0].end());
  for (duo::TextSegment& segment : all) segment.parse_special |= special;
  return tokenizer.EncodeSegments(all).value();
}

void Sessions(const duo::Tokenizer& tokenizer, bool special) {
  std::vector<duo::ChatTemplate> chats;
  for (const char* jinja : kTemplates) {
    const duo::ChatTemplateSource source{"", "template", jinja};
    chats.emplace_back(std::span(&source, 1),
                       std::vector<std::pair<std::string, std::string>>{{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  }
  uint32_t size = 0;
  while (ReadCount(&size)) {
    std::vector<std::string> texts(3);
    for (std::string& text : texts) {
      text.resize(size);
      std::cin.read(text.data(), size);
      if (&text != &texts.back()) DUO_CHECK(ReadCount(&size));
    }
    const duo::ChatTemplate* const forms[] = {nullptr, &chats[0], &chats[1]};
    for (const duo::ChatTemplate* chat : forms) {
      if (chat != nullptr && duo::TrimmedText(duo::ReplaceInvalidUtf8(texts[2])).empty()) texts[2] = "x";
      WriteItems(InPieces(tokenizer, chat, special, texts));
      WriteItems(InOnePiece(tokenizer, chat, special, texts[0] + texts[1], texts[2]));
    }
  }
}

int Chat(const std::string& model_dir) {
  const auto tokenizer = duo::Tokenizer::Load(model_dir + "/tokenizer.json");
  const auto chat = duo::ChatTemplateFor(model_dir);
  if (!tokenizer.ok() || !chat.ok() || !chat->status().ok()) {
    const absl::Status status = !tokenizer.ok() ? tokenizer.status() : chat.ok() ? chat->status() : chat.status();
    std::cerr << "error: " << status.message() << "\n";
    return 1;
  }
  uint32_t generation = 0, count = 0;
  while (ReadCount(&generation) && ReadCount(&count)) {
    std::vector<duo::Message> messages(count);
    for (duo::Message& message : messages) {
      message.role = ReadText();
      message.content = ReadText();
    }
    const auto segments = chat->Render(messages, generation != 0);
    std::string text;
    std::vector<int32_t> ids;
    if (segments.ok()) {
      for (const duo::TextSegment& segment : *segments) text += segment.text;
      ids = tokenizer->EncodeSegments(*segments).value();
    }
    WriteItems(text);
    WriteItems(ids);
  }
  return std::cout.flush() ? 0 : 1;
}

void Time(const duo::Tokenizer& tokenizer) {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  const auto start = std::chrono::steady_clock::now();
  const size_t tokens = tokenizer.Encode(text).value().size();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%zu bytes %zu tokens %.3f s\n", text.size(), tokens, seconds.count());
}

}  // namespace

int main(int argc, char** argv) {
  std::ios::sync_with_stdio(false);
  if (argc < 3) {
    std::cerr
        << "usage: tokenize TOKENIZER.json encode|decode|pieces|session|time [flags], or tokenize MODEL_DIR chat\n";
    return 2;
  }
  if (std::strcmp(argv[2], "chat") == 0) return Chat(argv[1]);
  const auto tokenizer = duo::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << "error: " << tokenizer.status().message() << "\n";
    return 1;
  }
  const std::string mode = argv[2];
  if (mode == "encode") {
    EncodeAll(*tokenizer, {.parse_special = HasFlag(argc, argv, "--parse-special"),
                           .add_special_tokens = !HasFlag(argc, argv, "--no-special")});
  } else if (mode == "decode") {
    DecodeAll(*tokenizer, !HasFlag(argc, argv, "--keep-special"));
  } else if (mode == "pieces") {
    EncodePieces(*tokenizer, HasFlag(argc, argv, "--parse-special"));
  } else if (mode == "session") {
    Sessions(*tokenizer, HasFlag(argc, argv, "--parse-special"));
  } else if (mode == "time") {
    Time(*tokenizer);
  } else {
    std::cerr << "unknown mode " << mode << "\n";
    return 2;
  }
  return std::cout.flush() ? 0 : 1;
}
