"""What of an answer can be asked for over HTTP: how it is drawn, what it is to be, how many, and its log-probabilities."""

import json
import os

from http_harness import ChatModel, Server, all_input, case, check, equal
from http_openai import QUESTION, chat, greedy

SCHEMA = {"type": "object", "properties": {"code": {"type": "integer", "minimum": 0, "maximum": 999999},
                                           "color": {"enum": ["red", "blue"]}, "ok": {"type": "boolean"}},
          "required": ["code", "color"], "additionalProperties": False}

FIND = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"],
        "additionalProperties": False}
ENOUGH = 800  # tokens for a call of it, with all the blanks that a small model may write between
TOOLS_TEMPLATE = ("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
                  "{% if enable_thinking %}<think>{% endif %}{# <tool_call> </think> #}")


@case
def sampling():
    """n, log-probabilities, echo, penalties and answers that are what response_format and its like ask for."""
    with ChatModel() as model, Server(model=model) as server:
        body = server.post("/v1/completions", greedy(n=3, temperature=2, seed=5, stop=None)).json()
        equal([c["index"] for c in body["choices"]], [0, 1, 2], "three answers")
        equal(len({c["text"] for c in body["choices"]}), 3, "they differ")
        alone = server.post("/v1/completions", greedy(temperature=2, seed=6, stop=None)).json()
        equal(alone["choices"][0]["text"], body["choices"][1]["text"], "the second has the next seed")
        for max_tokens in (1, 5):
            body = server.post("/v1/completions", greedy(echo=True, logprobs=2, max_tokens=max_tokens, stop=None)).json()
            choice, usage = body["choices"][0], body["usage"]
            logprobs = choice["logprobs"]
            check(choice["text"].startswith(QUESTION), choice["text"])
            equal({len(logprobs[name]) for name in logprobs}, {usage["total_tokens"]}, "one of each a token")
            equal(logprobs["token_logprobs"][0], None, "the first token has none")
            check(all(x <= 0 for x in logprobs["token_logprobs"][1:]), logprobs)
            check(all(2 <= len(top) <= 3 for top in logprobs["top_logprobs"][1:]), logprobs)
            equal("".join(logprobs["tokens"][1:]), choice["text"], "behind the token that begins it the tokens are the text")
            # lm-eval reads the prompt's and leaves the last one.
            equal(logprobs["top_logprobs"][-1][logprobs["tokens"][-1]], max(logprobs["top_logprobs"][-1].values()), "greedy")
        body = server.post("/v1/chat/completions", chat(logprobs=True, top_logprobs=4)).json()
        content = body["choices"][0]["logprobs"]["content"]
        text = body["choices"][0]["message"]["content"]
        spelled = b"".join(bytes(t["bytes"]) for t in content).decode()  # without the token that holds the stop text
        check(len(spelled) >= 6 and text.startswith(spelled), (spelled, text))
        check(all(len(t["top_logprobs"]) == 4 and t["top_logprobs"][0]["logprob"] == t["logprob"] for t in content), content)
        _, events = server.stream("/v1/chat/completions", chat(logprobs=True, top_logprobs=4, stream=True))
        streamed = [t for event in events[:-1] for c in json.loads(event)["choices"] if c["logprobs"] for t in c["logprobs"]["content"]]
        equal([t["token"] for t in streamed], [t["token"] for t in content], "the same streamed")
        for field, asked, right in (
                ("guided_regex", "(yes|no), [0-9]{3}", lambda text: text[:2] in ("ye", "no") and text[-3:].isdigit()),
                ("guided_choice", ["blue \"", "red\n"], lambda text: text in ("blue \"", "red\n")),
                ("guided_grammar", 'root ::= "x"{2,4} | "yy"', lambda text: text in ("xx", "xxx", "xxxx", "yy"))):
            for seed in range(3):
                body = server.post("/v1/completions", greedy(temperature=1, seed=seed, stop=None, **{field: asked})).json()
                check(right(body["choices"][0]["text"]), (field, body))
                equal(body["choices"][0]["finish_reason"], "stop", f"{field} ends its answer")
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
        whole = 0
        for seed in range(6):
            body = server.post("/v1/chat/completions", chat(temperature=1, seed=seed, stop=None, max_tokens=700, response_format=form)).json()
            if body["choices"][0]["finish_reason"] == "length":
                continue
            made = json.loads(body["choices"][0]["message"]["content"])
            check(0 <= made["code"] <= 999999 and made["color"] in ("red", "blue") and set(made) <= {"code", "color", "ok"}, made)
            whole += 1
        check(whole >= 3, "answers end")
        for form, word in (({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}, "not"),
                           ({"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "("}}}, "pattern")):
            error = server.post("/v1/chat/completions", chat(response_format=form)).error()
            check(error["param"] == "response_format" and word in error["message"], error)
        banned = server.post("/v1/completions", greedy(logit_bias={str(t): -100 for t in range(200)}, stop=None)).json()
        check(banned["choices"][0]["text"] != "", banned)


@case
def tools():
    """Tools go to the template; a call that is asked for comes as one, whole and streamed; thinking is told apart."""
    offered = [{"type": "function", "function": {"name": "look_up", "parameters": FIND}}]
    with ChatModel(TOOLS_TEMPLATE) as model, Server(model=model) as server:
        plain = server.post("/v1/chat/completions", chat()).json()
        told = server.post("/v1/chat/completions", chat(tools=offered)).json()
        check(told["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"], "the template sees the tools")
        for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
            asked = chat(tools=offered, tool_choice=choice, temperature=1, seed=2, stop=None, max_tokens=150)
            made = server.post("/v1/chat/completions", asked).json()["choices"][0]
            if made["finish_reason"] == "length":
                continue
            equal(made["finish_reason"], "tool_calls", "the finish")
            call = made["message"]["tool_calls"][0]
            equal((call["type"], call["function"]["name"], made["message"]["content"]), ("function", "look_up", None), "a call")
            check(0 <= json.loads(call["function"]["arguments"])["n"] <= 99, call)
            _, events = server.stream("/v1/chat/completions", {**asked, "stream": True})
            chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
            calls = [c for chunk in chunks for c in chunk["delta"].get("tool_calls", [])]
            equal([c["function"] for c in calls], [call["function"]], "the same call streamed")
            equal((calls[0]["index"], chunks[-1]["finish_reason"]), (0, "tool_calls"), "its index and the finish")
        error = server.post("/v1/chat/completions", chat(tools=offered, tool_choice={"function": {"name": "other"}})).error()
        equal(error["param"], "tool_choice", "a tool that is not offered")
    with ChatModel() as model, Server(model=model) as server:
        equal(server.post("/v1/chat/completions", chat(tools=offered)).error()["param"], "tools", "a template without tools")


def joined(events, choices):
    """Texts and log-probabilities of a stream of completions, by choice."""
    texts, scores = [""] * choices, [{} for _ in range(choices)]
    for event in events[:-1]:
        for choice in json.loads(event)["choices"]:
            texts[choice["index"]] += choice["text"]
            for name, values in (choice["logprobs"] or {}).items():
                scores[choice["index"]].setdefault(name, []).extend(values)
    return texts, scores


@case
def defaults():
    """What a request leaves out is as the model's generation_config.json has it, unless that is not asked."""
    with ChatModel() as model:
        with open(os.path.join(model, "generation_config.json"), "w", encoding="ascii") as file:
            json.dump({"temperature": 0.0, "top_k": 5}, file)
        for flags, same in (((), True), (("--generation-config", "none"), False)):
            with Server(*flags, model=model) as server:
                asked = {"prompt": "The sky is", "max_tokens": 24, "ignore_eos": True}
                texts = {server.post("/v1/completions", {**asked, "seed": seed}).json()["choices"][0]["text"] for seed in range(4)}
                equal(len(texts) == 1, same, f"answers with {flags}: {texts}")


@case
def several():
    """n answers are of one reading of the prompt: its tokens are read and counted once, and each answer has its seed."""
    prompt = QUESTION.split("\n")[0] * 20 + "\n" + QUESTION.split("\n", 1)[1]
    with Server("--questions", "4", "--prefix-cache", "off") as server:
        def read():
            return server.metrics()['duo_tokens_total{kind="prefill"}']
        asked = greedy(prompt=prompt, temperature=2, seed=5, stop=None)
        alone = [server.post("/v1/completions", {**asked, "seed": 5 + i}).json() for i in range(6)]
        server.wait_until("the counts are told", lambda: read() >= 6 * alone[0]["usage"]["prompt_tokens"])
        before = read()
        made = server.post("/v1/completions", {**asked, "n": 6}).json()
        equal([c["text"] for c in made["choices"]], [a["choices"][0]["text"] for a in alone], "the same answers")
        length = alone[0]["usage"]["prompt_tokens"]
        equal(made["usage"]["prompt_tokens"], length, "the prompt is counted once")
        equal(made["usage"]["completion_tokens"], 6 * alone[0]["usage"]["completion_tokens"], "the answers each")
        server.wait_until("the counts are told", lambda: read() >= before + length + 5)
        equal(read() - before, length + 5, "tokens that were read: the prompt's, and its last one by each answer")
        _, events = server.stream("/v1/completions", {**asked, "n": 6, "stream": True})
        equal(joined(events, 6)[0], [c["text"] for c in made["choices"]], "the same streamed")
        two = server.post("/v1/completions", {**asked, "prompt": [prompt, prompt[50:]], "n": 2}).json()
        equal([c["index"] for c in two["choices"]], [0, 1, 2, 3], "two answers to each of two prompts")
        equal([c["text"] for c in two["choices"]][:2], [c["text"] for c in made["choices"]][:2], "those to the first")
        raw = server.raw()  # a client that goes away stops all of them
        raw.send_request("POST", "/v1/completions", {**asked, "n": 6, "max_tokens": 3000, "ignore_eos": True, "stream": True})
        raw.until(b"data: ")
        raw.socket.close()
        server.wait_until("all stop", lambda: server.metrics()['duo_requests{state="running"}'] == 0)
        equal(server.metrics()['duo_requests{state="waiting"}'], 0, "those that had no place yet, too")


@case
def echoes():
    """echo in a stream: the prompt comes with the first token, once, and with logprobs the chunks' lists are the whole's."""
    with Server() as server:
        for more in ({}, {"logprobs": 2}, {"logprobs": 0, "n": 2}, {"logprobs": 1, "max_tokens": 1}, {"stop": "9"}):
            asked = greedy(echo=True, temperature=1, seed=3, **{"stop": None, **more})
            whole = server.post("/v1/completions", asked).json()["choices"]
            _, events = server.stream("/v1/completions", {**asked, "stream": True})
            texts, scores = joined(events, len(whole))
            equal(texts, [c["text"] for c in whole], f"the texts with {more}")
            check(all(text.startswith(QUESTION) and text.count(QUESTION) == 1 for text in texts), texts)
            for choice, streamed in zip(whole, scores):
                equal(streamed, choice["logprobs"] or {}, f"the log-probabilities with {more}")
        words = "naïve 日本 🎉 words"  # offsets are characters
        made = server.post("/v1/completions", greedy(prompt=words, echo=True, logprobs=0, max_tokens=3, stop=None)).json()
        logprobs = made["choices"][0]["logprobs"]
        for token, offset, after in zip(logprobs["tokens"], logprobs["text_offset"], logprobs["text_offset"][1:]):
            equal(after - offset, len(token), f"the length of {token!r}")


def named_events(answer):
    """The events of a stream with names: the name is that of their data."""
    events = []
    for block in answer.body.split(b"\n\n")[:-1]:
        if block.startswith(b":"):
            continue
        name, data = block.split(b"\n")
        events.append(json.loads(data[6:]))
        equal(name, b"event: " + events[-1]["type"].encode(), "an event's name")
    return events


@case
def responses():
    """/v1/responses: text.format, tools, thinking; a stream's events end in the response that is given whole."""
    ask = {"input": QUESTION, "max_output_tokens": ENOUGH, "temperature": 1, "seed": 1}
    with ChatModel(TOOLS_TEMPLATE) as model, Server(model=model) as server:
        formed = server.post("/v1/responses", {**ask, "text": {"format": {"type": "json_schema", "name": "n", "schema": FIND}}}).json()
        check(0 <= json.loads(formed["output"][0]["content"][0]["text"])["n"] <= 99, formed)
        tool = {"type": "function", "name": "look_up", "parameters": FIND}
        for choice in ("required", {"type": "function", "name": "look_up"}):
            called = server.post("/v1/responses", {**ask, "tools": [tool], "tool_choice": choice}).json()
            call, = called["output"]
            equal((call["type"], call.get("name"), called["status"]), ("function_call", "look_up", "completed"), f"a call: {called}")
            check(0 <= json.loads(call["arguments"])["n"] <= 99 and call["call_id"], call)
        streamed = named_events(server.post("/v1/responses", {**ask, "tools": [tool], "tool_choice": choice, "stream": True}))
        equal([e["type"] for e in streamed], ["response." + name for name in (
            "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
            "output_item.done", "completed")], "the events of a call")
        equal(streamed[-1]["response"]["output"][0]["arguments"], call["arguments"], "its arguments")
        told = server.post("/v1/responses", {**ask, "tools": [tool], "input": [
            {"role": "user", "content": QUESTION}, {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "here"}]})
        equal(told.status, 200, told)
        refused = server.post("/v1/responses", {**ask, "tools": [{"type": "web_search"}]})
        equal((refused.status, refused.error()["param"]), (400, "tools"), "a tool that would have to be run here")


@case
def messages():
    """/v1/messages: tools, results of tools, thinking; whole and as events."""
    ask = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 12}
    tool = {"name": "look_up", "input_schema": FIND}
    with ChatModel(TOOLS_TEMPLATE) as model, Server(model=model) as server:
        for choice in ({"type": "any"}, {"type": "tool", "name": "look_up"}):
            made = server.post("/v1/messages", {**ask, "max_tokens": ENOUGH, "temperature": 1, "tools": [tool], "tool_choice": choice}).json()
            call, = made["content"]
            equal((call["type"], call.get("name"), made["stop_reason"]), ("tool_use", "look_up", "tool_use"), f"a call: {made}")
            check(0 <= call["input"]["n"] <= 99, call)
        counted = server.post("/v1/messages/count_tokens", {"messages": ask["messages"], "tools": [tool]}).json()
        equal(counted["input_tokens"], all_input(made["usage"]), "tokens with tools")
        back = [*ask["messages"], {"role": "assistant", "content": [call]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "here"}]}]
        equal(server.post("/v1/messages", {**ask, "messages": back, "tools": [tool]}).status, 200, "a call and its result")
        ended = server.post("/v1/messages", {**ask, "stop_sequences": ["never", "7", "."]}).json()
        equal((ended["stop_reason"], ended["stop_sequence"]), ("stop_sequence", "7"), "which of several it stopped at")
        thinking = {**ask, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        whole = server.post("/v1/messages", thinking).json()
        equal([block["type"] for block in whole["content"]], ["thinking"], "a thought that was cut")
        events = named_events(server.post("/v1/messages", {**thinking, "stream": True}))
        thought = "".join(e["delta"]["thinking"] for e in events if e["type"] == "content_block_delta")
        equal(thought, whole["content"][0]["thinking"], "the thought streamed")
        equal([e["type"] for e in events if e["type"] != "content_block_delta"],
              ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"], "its events")
        both = server.post("/v1/chat/completions", chat(chat_template_kwargs={"enable_thinking": True})).json()["choices"][0]["message"]
        check(both["reasoning_content"] and both["reasoning"] == both["reasoning_content"], f"under both names: {both}")
