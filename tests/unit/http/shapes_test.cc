// What requests of the chat routes ask of a model, and how answers look to their clients: thoughts, texts and calls,
// whole and as streams. No server: the answer is made up.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "launcher/serve/http/api/conversions/messages.h"
#include "launcher/serve/http/api/conversions/responses.h"
#include "launcher/serve/http/api/openai/chat.h"
#include "tests/support/source_dir.h"

namespace duo::http {
namespace {

constexpr char kTemplate[] =
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}"
    "{% for m in messages %}({{ m.role }}:{{ m.content }}{% if m.reasoning_content %}~{{ m.reasoning_content }}{% "
    "endif %}"
    "{% for c in m.tool_calls or [] %}!{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %})"
    "{% endfor %}{# <think> </think> <tool_call> #}";
constexpr char kAnswer[] =
    "<think>\nhm, well\n</think>\n\nI look it up.\n<tool_call>\n{\"name\": \"find\", \"arguments\": {\"n\": 7}}\n"
    "</tool_call>";

class Shapes : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(tokenizer_.ok());
    context_.tokenizer = &*tokenizer_;
    context_.vocab = tokenizer_->vocab_size();
    service_.model = "m";
    service_.limits = {5000, 5000, 5000, 4};
    const ChatTemplateSource source = {"default", "test", kTemplate};
    service_.chat = ChatTemplate({&source, 1}, {});
    service_.calls = &context_;
  }
  absl::StatusOr<Prepared> Read(const Prepare& prepare, const Json& json) {
    Body body(json);
    absl::StatusOr<Prepared> prepared = prepare(service_, body);
    if (prepared.ok() && !body.status().ok()) return body.status();
    return prepared;
  }
  // The text that the model is given.
  std::string Asked(const Prepare& prepare, const Json& json) {
    const absl::StatusOr<Prepared> prepared = Read(prepare, json);
    if (!prepared.ok()) return std::string(prepared.status().message());
    return tokenizer_->Decode(prepared->request.prompts[0], /*skip_special=*/false);
  }
  std::string Refused(const Prepare& prepare, const Json& json) {
    const absl::StatusOr<Prepared> prepared = Read(prepare, json);
    return prepared.ok() ? "taken" : ErrorOf(prepared.status(), 0).param;
  }
  Choice MadeUp(const std::string& text, const std::string& ended_by) {
    Choice choice;
    choice.text = text;
    choice.tokens = *tokenizer_->Encode(text, EncodeOptions{.add_special_tokens = false});
    choice.new_tokens = static_cast<int64_t>(choice.tokens.size());
    choice.prompt_tokens = 5;
    choice.ended_by = ended_by;
    choice.finish = ended_by == "length" ? "length" : "stop";
    return choice;
  }
  // The events of an answer that comes in pieces of so many bytes.
  std::vector<Json> Streamed(const AnswerShape& shape, const std::string& text, const std::string& ended_by,
                             size_t piece) {
    std::string bytes;
    for (size_t at = 0; at < text.size(); at += piece) {
      AskUpdate grown;
      grown.text = text.substr(at, piece);
      bytes += shape.piece(MadeUp(text.substr(0, at + piece), ""), grown, at == 0);
    }
    const Choice choice = MadeUp(text, ended_by);
    bytes += shape.finish(choice, {}, text.empty()) + shape.end({choice});
    std::vector<Json> events;
    for (absl::string_view block : absl::StrSplit(bytes, "\n\n", absl::SkipEmpty())) {
      const std::vector<absl::string_view> lines = absl::StrSplit(block, '\n');
      EXPECT_EQ(lines.size(), 2u) << block;
      events.push_back(Json::parse(lines[1].substr(6)));
      EXPECT_EQ(absl::StrCat("event: ", events.back()["type"].get<std::string>()), lines[0]);
    }
    return events;
  }
  static std::vector<std::string> Types(const std::vector<Json>& events) {
    std::vector<std::string> types;
    for (const Json& event : events) {
      const std::string type = event["type"];
      if (types.empty() || types.back() != type) types.push_back(type);
    }
    return types;
  }

  absl::StatusOr<Tokenizer> tokenizer_ = Tokenizer::Load(SourceDir() + "/launcher/demo/needle-6m/tokenizer.json");
  CallContext context_;
  Service service_;
};

const Json kFind = {{"type", "object"}, {"properties", {{"n", {{"type", "integer"}}}}}};
const Json kResponse = {{"input", "Where?"},
                        {"tools", Json::array({{{"type", "function"}, {"name", "find"}, {"parameters", kFind}}})}};
const Json kMessage = {{"max_tokens", 50},
                       {"messages", Json::array({{{"role", "user"}, {"content", "Where?"}}})},
                       {"tools", Json::array({{{"name", "find"}, {"input_schema", kFind}}})}};

TEST_F(Shapes, AResponseIsOfItems) {
  const auto prepared = Read(PrepareResponse, kResponse);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const Json whole = prepared->shape.whole({MadeUp(kAnswer, "eos")});
  ASSERT_EQ(whole["output"].size(), 3u) << whole;
  EXPECT_EQ(whole["status"], "completed");
  EXPECT_EQ(whole["output"][0]["content"][0]["text"], "hm, well");
  EXPECT_EQ(whole["output"][1]["content"][0]["text"], "I look it up.");
  EXPECT_EQ(whole["output"][2]["name"], "find");
  EXPECT_EQ(whole["output"][2]["arguments"], "{\"n\":7}");
  EXPECT_EQ(whole["tools"][0]["strict"], true);
  const int64_t thought = whole["usage"]["output_tokens_details"]["reasoning_tokens"];
  EXPECT_GT(thought, 3);
  EXPECT_LT(thought, whole["usage"]["output_tokens"].get<int64_t>() - 5);
  const Json cut = prepared->shape.whole({MadeUp("I look", "length")});
  EXPECT_EQ(cut["status"], "incomplete");
  EXPECT_EQ(cut["output"][0]["status"], "incomplete");
  EXPECT_EQ(prepared->shape.whole({MadeUp("", "eos")})["output"][0]["content"][0]["text"], "");
}

TEST_F(Shapes, TheEventsOfAResponseAreComplete) {
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{1000}}) {
    const auto prepared = Read(PrepareResponse, kResponse);
    ASSERT_TRUE(prepared.ok());
    const std::vector<Json> events = Streamed(prepared->shape, kAnswer, "eos", piece);
    const std::vector<std::string> expected = {"response.created",
                                               "response.in_progress",  //
                                               "response.output_item.added",
                                               "response.content_part.added",
                                               "response.reasoning_text.delta",
                                               "response.reasoning_text.done",
                                               "response.content_part.done",
                                               "response.output_item.done",  //
                                               "response.output_item.added",
                                               "response.content_part.added",
                                               "response.output_text.delta",
                                               "response.output_text.done",
                                               "response.content_part.done",
                                               "response.output_item.done",  //
                                               "response.output_item.added",
                                               "response.function_call_arguments.delta",
                                               "response.function_call_arguments.done",
                                               "response.output_item.done",  //
                                               "response.completed"};
    EXPECT_EQ(Types(events), expected) << piece;
    std::map<std::string, std::string> texts;  // by item
    std::map<int, Json> items;                 // by place
    for (size_t i = 0; i < events.size(); ++i) {
      const Json& event = events[i];
      EXPECT_EQ(event["sequence_number"], i);
      const std::string type = event["type"];
      if (absl::EndsWith(type, ".delta")) texts[event["item_id"]] += event["delta"].get<std::string>();
      if (type == "response.output_item.done") items[event["output_index"]] = event["item"];
    }
    const Json& output = events.back()["response"]["output"];
    ASSERT_EQ(items.size(), 3u);
    for (const auto& [index, item] : items) EXPECT_EQ(item, output[index]);
    EXPECT_EQ(texts[output[0]["id"]], "hm, well");
    EXPECT_EQ(texts[output[1]["id"]], "I look it up.");
    EXPECT_EQ(texts[output[2]["id"]], "{\"n\":7}");
  }
}

TEST_F(Shapes, AMessageIsOfBlocks) {
  const auto prepared = Read(PrepareMessage, kMessage);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const Json whole = prepared->shape.whole({MadeUp(kAnswer, "eos")});
  ASSERT_EQ(whole["content"].size(), 3u) << whole;
  EXPECT_EQ(whole["content"][0]["thinking"], "hm, well");
  EXPECT_EQ(whole["content"][1]["text"], "I look it up.");
  EXPECT_EQ(whole["content"][2]["input"], (Json{{"n", 7}}));
  EXPECT_EQ(whole["stop_reason"], "tool_use");
  EXPECT_EQ(prepared->shape.whole({MadeUp("I look", "length")})["stop_reason"], "max_tokens");
  for (const size_t piece : {size_t{1}, size_t{9}, size_t{1000}}) {
    const auto again = Read(PrepareMessage, kMessage);
    const std::vector<Json> events = Streamed(again->shape, kAnswer, "eos", piece);
    const std::vector<std::string> block = {"content_block_start", "content_block_delta", "content_block_stop"};
    std::vector<std::string> expected = {"message_start"};
    for (int i = 0; i < 3; ++i) expected.insert(expected.end(), block.begin(), block.end());
    expected.insert(expected.end(), {"message_delta", "message_stop"});
    EXPECT_EQ(Types(events), expected) << piece;
    std::map<int, std::string> texts;
    for (const Json& event : events) {
      if (event["type"] != "content_block_delta") continue;
      for (const char* name : {"thinking", "text", "partial_json"}) {
        if (event["delta"].contains(name)) texts[event["index"]] += event["delta"][name].get<std::string>();
      }
    }
    EXPECT_EQ(texts, (std::map<int, std::string>{{0, "hm, well"}, {1, "I look it up."}, {2, "{\"n\":7}"}}));
    EXPECT_EQ(events[events.size() - 2]["delta"]["stop_reason"], "tool_use");
  }
}

TEST_F(Shapes, ItemsOfAResponseAreOneConversation) {
  Json request = kResponse;
  request["instructions"] = "Be brief.";
  request["input"] = Json::parse(R"([
      {"role": "user", "content": [{"type": "input_text", "text": "Wh"}, {"type": "input_text", "text": "ere?"}]},
      {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
      {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
      {"type": "function_call", "call_id": "c1", "name": "find", "arguments": "{\"n\": 7}"},
      {"type": "function_call", "call_id": "c2", "name": "find", "arguments": "{}"},
      {"type": "function_call_output", "call_id": "c1", "output": "there"},
      {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "nowhere"}]},
      {"role": "assistant", "content": "There."}, {"role": "user", "content": "Thanks"}])");
  EXPECT_TRUE(absl::StrContains(Asked(PrepareResponse, request),
                                "[find](system:Be brief.)(user:Where?)(assistant:I look.~hm!find{\"n\": 7}!find{})"
                                "(tool:there)(tool:nowhere)(assistant:There.)(user:Thanks)"))
      << Asked(PrepareResponse, request);
}

TEST_F(Shapes, BlocksOfMessagesAreOneConversation) {
  Json request = kMessage;
  request["system"] = Json::parse(R"([{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}])");
  request["messages"] = Json::parse(R"([
      {"role": "user", "content": "Where?"},
      {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
          {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "t1", "name": "find", "input": {"n": 7}}]},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "there"}]},
      {"role": "assistant", "content": "There."},
      {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t2"}, {"type": "text", "text": "Thanks"}]}])");
  EXPECT_TRUE(absl::StrContains(Asked(PrepareMessage, request),
                                "[find](system:Be brief.)(user:Where?)(assistant:I look.~hm!find{\"n\": 7})(tool:there)"
                                "(assistant:There.)(tool:)(user:Thanks)"))
      << Asked(PrepareMessage, request);
}

TEST_F(Shapes, AChatTakesCallsAndThoughtsAsClientsSendThem) {
  const Json request = Json::parse(R"({"messages": [
      {"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Where?"},
      {"role": "assistant", "content": null, "reasoning": "hm", "tool_calls": [
          {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{\"n\": 7}"}}]},
      {"role": "tool", "tool_call_id": "c", "content": "there"}]})");
  const std::string expected = "(system:Be brief.)(user:Where?)(assistant:~hm!find{\"n\": 7})(tool:there)";
  EXPECT_TRUE(absl::StrContains(Asked(PrepareChat, request), expected)) << Asked(PrepareChat, request);
  Json other = request;
  other["messages"][2]["reasoning_content"] = other["messages"][2]["reasoning"];
  other["messages"][2].erase("reasoning");
  EXPECT_EQ(Asked(PrepareChat, other), Asked(PrepareChat, request));
}

TEST_F(Shapes, ACallThatIsDemandedGuidesTheAnswer) {
  for (const Json& choice : {Json("required"), Json{{"type", "function"}, {"name", "find"}}}) {
    Json request = kResponse;
    request["tool_choice"] = choice;
    const auto prepared = Read(PrepareResponse, request);
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_EQ(prepared->request.ask.guide.kind, Guide::Kind::kJsonSchema);
  }
  for (const Json& choice : {Json{{"type", "any"}}, Json{{"type", "tool"}, {"name", "find"}}}) {
    Json request = kMessage;
    request["tool_choice"] = choice;
    const auto prepared = Read(PrepareMessage, request);
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_EQ(prepared->request.ask.guide.kind, Guide::Kind::kJsonSchema);
  }
  Json formed = kResponse;
  formed["text"] = {{"format", {{"type", "json_schema"}, {"name", "x"}, {"schema", kFind}}}};
  const auto prepared = Read(PrepareResponse, formed);
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->request.ask.guide.kind, Guide::Kind::kJsonSchema);
  EXPECT_EQ(prepared->shape.whole({MadeUp("{}", "eos")})["text"]["format"]["name"], "x");
}

TEST_F(Shapes, WhatIsNotThereIsRefusedByName) {
  const auto response = [](const char* text) {
    Json request = kResponse;
    request.update(Json::parse(text));
    return request;
  };
  EXPECT_EQ(Refused(PrepareResponse, response(R"({"tools": [{"type": "web_search"}]})")), "tools");
  EXPECT_EQ(Refused(PrepareResponse, response(R"({"tool_choice": {"type": "function", "name": "other"}})")),
            "tool_choice");
  EXPECT_EQ(Refused(PrepareResponse, response(R"({"input": [{"type": "item_reference", "id": "x"}]})")), "input");
  EXPECT_EQ(
      Refused(PrepareResponse, response(R"({"input": [{"role": "user", "content": [{"type": "input_image"}]}]})")),
      "input");
  EXPECT_EQ(Refused(PrepareResponse, response(R"({"text": {"format": {"type": "grammar"}}})")), "text.format");
  EXPECT_EQ(Refused(PrepareResponse, response(R"({"previous_response_id": "resp_1"})")), "previous_response_id");
  const auto message = [](const char* text) {
    Json request = kMessage;
    request.update(Json::parse(text));
    return request;
  };
  EXPECT_EQ(Refused(PrepareMessage, message(R"({"tools": [{"type": "web_search_20250305", "name": "x"}]})")), "tools");
  EXPECT_EQ(Refused(PrepareMessage, message(R"({"tool_choice": {"type": "tool", "name": "other"}})")), "tool_choice");
  EXPECT_EQ(Refused(PrepareMessage, message(R"({"thinking": true})")), "thinking");
  EXPECT_EQ(Refused(PrepareMessage, message(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})")),
            "messages");
  EXPECT_EQ(Refused(PrepareMessage, message(R"({"max_tokens": null})")), "max_tokens");
}

}  // namespace
}  // namespace duo::http
