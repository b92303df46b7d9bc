"""OpenAI's routes on raw bytes: completions and chats, whole and as streams, their errors and limits."""

import json
import tempfile
import time

from http_harness import ChatModel, Server, case, check, equal, events_of, request_bytes

QUESTION = "The passcode for the rapid tower is 499748. The sky is blue.\nQuestion: What is the passcode for the rapid tower?\nAnswer: "


def greedy(**more):
    return {"model": "any", "prompt": QUESTION, "max_tokens": 12, "temperature": 0, "stop": "\n", **more}


@case
def completions():
    """Texts, token ids and lists of both, whole and streamed, give one answer; usage and finish say what was done."""
    with Server() as server:
        model = server.get("/v1/models").json()["data"][0]
        equal((model["id"], model["object"]), ("needle-6m", "model"), "the model")
        check(model["max_model_len"] > 1000, model)
        equal(server.get("/v1/models/needle-6m").json(), model, "one model")
        equal(server.get("/v1/models/org/other").error()["code"], "model_not_found", "another model")
        answer = server.post("/v1/completions", greedy())
        equal(answer.status, 200, answer)
        body = answer.json()
        text = body["choices"][0]["text"]
        check("499748" in text, body)
        equal(body["object"], "text_completion", "the object")
        equal(body["choices"][0]["finish_reason"], "stop", "the finish")
        usage = body["usage"]
        equal(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"], "usage")
        answer, events = server.stream("/v1/completions", greedy(stream=True))
        equal(answer.headers["content-type"], "text/event-stream", "a stream's type")
        equal(events[-1], b"[DONE]", "a stream's end")
        chunks = [json.loads(event) for event in events[:-1]]
        equal("".join(c["choices"][0]["text"] for c in chunks), text, "the streamed text")
        equal(len({c["id"] for c in chunks}), 1, "ids of a stream")
        check(all(c["object"] == "text_completion" and "usage" not in c and c["created"] for c in chunks), chunks)
        finishes = [c["choices"][0]["finish_reason"] for c in chunks]
        equal((finishes[-1], set(finishes[:-1])), ("stop", {None}), "finishes")
        _, events = server.stream("/v1/completions", greedy(stream=True, stream_options={"include_usage": True}))
        last = json.loads(events[-2])
        equal((last["choices"], last["usage"]), ([], usage), "the usage chunk")
        _, events = server.stream("/v1/completions", greedy(stream=True, stream_options={"continuous_usage_stats": True}))
        check(all("usage" in json.loads(event) for event in events[:-1]), "usage on each chunk")
        both = server.post("/v1/completions", greedy(prompt=[QUESTION, "Question: What"])).json()
        equal([c["index"] for c in both["choices"]], [0, 1], "two prompts")
        equal(both["choices"][0]["text"], text, "the first of two prompts")
        _, events = server.stream("/v1/completions", greedy(prompt=[QUESTION, QUESTION], stream=True))
        texts = ["", ""]
        for event in events[:-1]:
            choice = json.loads(event)["choices"][0]
            texts[choice["index"]] += choice["text"]
        equal(texts, [text, text], "two streamed prompts")
        cut = server.post("/v1/completions", greedy(max_tokens=1, stop=None)).json()
        equal((cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]), ("length", 1), "a cut answer")


@case
def disconnects():
    """A client that is gone stops its answer within a step, streamed or not, and what it held is free again."""
    with Server() as server:
        for stream in (True, False):
            raw = server.raw()
            raw.send_request("POST", "/v1/completions", greedy(max_tokens=3000, stop=None, ignore_eos=True, stream=stream))
            if stream:
                raw.until(b"data: ")
            server.wait_until("the answer begins", lambda: server.metrics()['duo_requests{state="running"}'] == 1)
            begun = time.time()
            raw.socket.close()
            server.wait_until("the answer stops", lambda: server.metrics()['duo_requests{state="running"}'] == 0, 5)
            print(f"stream={stream}: stopped within {time.time() - begun:.2f} s")
        equal(server.post("/v1/completions", greedy()).status, 200, "the server afterwards")


def chat(**more):
    return {"model": "any", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0,
            "stop": ["\n"], **more}


@case
def chats():
    """A chat, whole and streamed: one id, the role once and with the first text, no nulls in deltas, usage when asked."""
    with ChatModel() as model, Server(model=model) as server:
        body = server.post("/v1/chat/completions", chat()).json()
        message = body["choices"][0]["message"]
        check("499748" in message["content"] and message["role"] == "assistant", body)
        equal((body["object"], body["choices"][0]["finish_reason"]), ("chat.completion", "stop"), "the object")
        parts = [{"type": "text", "text": QUESTION[:30]}, {"type": "text", "text": QUESTION[30:]}]
        for messages in ([{"role": "user", "content": parts}],
                         [{"role": "developer", "content": ""}, {"role": "assistant", "content": None},
                          {"role": "user", "content": QUESTION}]):
            same = server.post("/v1/chat/completions", chat(messages=messages)).json()
            equal(same["choices"][0]["message"]["content"], message["content"], f"the answer to {messages}")
        answer, events = server.stream("/v1/chat/completions", chat(stream=True, max_tokens=None, max_completion_tokens=12))
        equal(answer.status, 200, answer)
        equal(events[-1], b"[DONE]", "the end")
        chunks = [json.loads(event) for event in events[:-1]]
        for chunk in chunks:
            equal(chunk["object"], "chat.completion.chunk", "the object of a chunk")
            check(chunk["created"] and chunk["model"] == "needle-chat" and "usage" not in chunk, chunk)
            delta = chunk["choices"][0]["delta"]
            check(None not in delta.values() and set(delta) <= {"role", "content"}, delta)
        equal(len({chunk["id"] for chunk in chunks}), 1, "ids")
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        check(deltas[0]["role"] == "assistant" and deltas[0]["content"], f"the role comes with the first text: {deltas[0]}")
        check(all("role" not in delta for delta in deltas[1:]), "the role comes once")
        equal("".join(delta.get("content", "") for delta in deltas), message["content"], "the streamed text")
        equal([c["choices"][0]["finish_reason"] for c in chunks], [None] * (len(chunks) - 1) + ["stop"], "finishes")
        _, events = server.stream("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
        last = json.loads(events[-2])
        equal((last["choices"], last["usage"]), ([], body["usage"]), "the usage chunk, when asked for")
        cut = server.post("/v1/chat/completions", chat(max_completion_tokens=2, max_tokens=None, stop=None)).json()
        equal((cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]), ("length", 2), "max_completion_tokens")
        free = server.post("/v1/chat/completions", chat(max_tokens=None)).json()
        equal(free["choices"][0]["message"]["content"], message["content"], "an answer without a limit")
        made = server.post("/v1/responses", {"input": QUESTION, "temperature": 0, "max_output_tokens": 12}).json()
        check("499748" in made["output"][0]["content"][0]["text"] and made["object"] == "response", made)
        answer = server.post("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
                                               "temperature": 0, "max_output_tokens": 12, "stream": True})
        kinds = [line[7:].decode() for line in answer.body.splitlines() if line.startswith(b"event: ")]
        equal((kinds[0], kinds[-1]), ("response.created", "response.incomplete"), "the events of a response")
        numbers = [json.loads(line[6:])["sequence_number"] for line in answer.body.splitlines() if line.startswith(b"data: ")]
        equal(numbers, list(range(len(kinds))), "their numbers")
        equal(server.post("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}).error()["param"],
              "previous_response_id", "a response that is not stored")
        made = server.post("/v1/messages", {"max_tokens": 12, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0,
                                            "stop_sequences": ["\n"]}).json()
        check("499748" in made["content"][0]["text"], made)
        equal((made["stop_reason"], made["stop_sequence"]), ("stop_sequence", "\n"), "why a message stopped")
        counted = server.post("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": QUESTION}]}).json()
        equal(counted["input_tokens"], made["usage"]["input_tokens"], "counted tokens")
        answer = server.post("/v1/messages", {"max_tokens": 4, "messages": [{"role": "user", "content": QUESTION}],
                                              "temperature": 0, "stream": True})
        kinds = [line[7:].decode() for line in answer.body.splitlines() if line.startswith(b"event: ")]
        equal((kinds[0], kinds[-1]), ("message_start", "message_stop"), "the events of a message")
    with Server() as server:
        error = server.post("/v1/chat/completions", chat()).error()
        check("chat template" in error["message"] and error["param"] == "messages", error)


@case
def tokenizing():
    """/tokenize, /detokenize and /tokenizer_info agree with what completions count, and split characters come whole."""
    text = "Ünï¢öde 日本 🎉 the rapid tower\n"
    with Server() as server:
        made = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
        equal((made["count"], len(made["token_strs"])), (len(made["tokens"]),) * 2, "counts")
        back = server.post("/detokenize", {"tokens": made["tokens"]}).json()["prompt"]
        check(back.endswith(text), f"there and back: {back!r}")
        usage = server.post("/v1/completions", {"prompt": text, "max_tokens": 1}).json()["usage"]
        equal(usage["prompt_tokens"], made["count"], "what a completion counts")
        usage = server.post("/v1/completions", {"prompt": made["tokens"], "max_tokens": 1}).json()["usage"]
        equal(usage["prompt_tokens"], made["count"], "the same by token ids")
        check("eos_token" in server.get("/tokenizer_info").json(), "tokenizer_info")
        equal(server.post("/detokenize", {"tokens": [10 ** 6]}).error()["param"], "tokens", "a token that is none")
        equal(server.post("/tokenize", {}).status, 400, "nothing to tokenize")
        # Random tokens at a high temperature make broken characters: every chunk is text all the same, and all chunks
        # together are the whole answer.
        request = {"prompt": "日本", "max_tokens": 200, "temperature": 50, "seed": 7, "ignore_eos": True}
        whole = server.post("/v1/completions", request).json()["choices"][0]["text"]
        _, events = server.stream("/v1/completions", {**request, "stream": True})
        streamed = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
        equal(streamed, whole, "a streamed answer of odd tokens")
        # A stop text that lies over tokens: nothing of it is shown, wherever it begins.
        base = server.post("/v1/completions", {**request, "temperature": 1, "max_tokens": 60}).json()["choices"][0]["text"]
        for start in range(2, min(len(base) - 6, 40), 5):
            stop = base[start:start + 5]
            _, events = server.stream("/v1/completions", {**request, "temperature": 1, "max_tokens": 60, "stop": [stop], "stream": True})
            streamed = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
            equal(streamed, base[:base.index(stop)], f"an answer that stops at {stop!r}")


SCHEMA = {"type": "object", "properties": {"code": {"type": "integer", "minimum": 0, "maximum": 999999},
                                           "color": {"enum": ["red", "blue"]}, "ok": {"type": "boolean"}},
          "required": ["code", "color"], "additionalProperties": False}


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
    template = ("{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}"
                "{# <tool_call> </think> #}")
    offered = [{"type": "function", "function": {"name": "look_up", "parameters": {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"],
        "additionalProperties": False}}}]
    with ChatModel(template) as model, Server(model=model) as server:
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


WRONG = [17, -1, 1.5, True, "text", "", [], {}, ["a"], [1], [[1]], {"a": 1}, [None], 1e300, -2 ** 63, 2 ** 64, [[], "a"],
         {"type": "json_schema"}, "\u0000", "x" * 5000]


@case
def wrong_types():
    """Wrong types in every field: each answer is one of the field's own or a 400 that names it, and null means absent."""
    fields = ["prompt", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
              "stream_options", "n", "best_of", "logprobs", "echo", "suffix", "logit_bias", "presence_penalty",
              "frequency_penalty", "repetition_penalty", "top_k", "min_p", "min_tokens", "stop_token_ids", "ignore_eos",
              "add_special_tokens", "response_format", "user"]
    chat_fields = ["messages", "tools", "tool_choice", "top_logprobs", "chat_template_kwargs", "add_generation_prompt",
                   "functions", "modalities", "audio"]
    codes = {}
    with ChatModel() as model, Server("--max-session-tokens", "4096", model=model) as server, server.raw() as raw:
        def ask(path, body, field, value):
            raw.send_request("POST", path, body)
            answer = raw.answer("POST")
            codes[answer.status] = codes.get(answer.status, 0) + 1
            check(answer.status in (200, 400), f"{field}={value!r}: {answer}")
            if answer.status == 400:
                error = answer.error()
                check(error["param"] and error["type"] == "invalid_request_error" and error["message"], f"{field}={value!r}: {error}")
            return answer
        for path, names, base in (("/v1/completions", fields, {"prompt": "a b", "max_tokens": 1}),
                                  ("/v1/chat/completions", fields[1:] + chat_fields,
                                   {"messages": [{"role": "user", "content": "a b"}], "max_tokens": 1})):
            for field in names:
                for value in WRONG:
                    ask(path, {**base, field: value}, field, value)
                if field not in ("prompt", "messages"):
                    equal(ask(path, {**base, field: None}, field, None).status, 200, f"{field}: null")
        for body, status in ((b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b'{"prompt": "\xff"}', 400),
                             (b'{"prompt": "\\ud800"}', 400), (b'{"a":' * 100 + b"1" + b"}" * 100, 400),
                             (b'{"prompt": NaN}', 400), (b'{"prompt": 1e999}', 400),
                             (b"{" + b",".join(b'"k%d":1' % i for i in range(3000)) + b"}", 400)):
            equal(server.post("/v1/completions", body).status, status, f"the body {body[:40]}")
        equal(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "unheard_of": {"x": 1}}).status, 200, "an unknown field")
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "unheard_of": 2})
        server.wait_until("the log names it", lambda: any("unheard_of" in line for line in server.lines))
        equal(sum("unheard_of" in line for line in server.lines), 1, "it is logged once")
        for field, value in (("tools", [{"type": "function"}]), ("audio", {"voice": "x"}), ("use_beam_search", True)):
            error = server.post("/v1/chat/completions", chat(**{field: value})).error()
            equal(error["param"], field, "what is not there is named")
    print("answers:", codes)


@case
def overflow():
    """Too long is refused with both numbers, never cut; what can never fit is 413; a full queue is 429 before tokens are
    made; a drain is 503."""
    with Server("--max-session-tokens", "2000", "--kv-tokens", "4096", "--max-queue", "3", "--questions", "1", "--max-body", "100000") as server:
        long = server.post("/v1/completions", {"prompt": [1] * 2500, "max_tokens": 1})
        equal((long.status, long.error()["code"]), (400, "context_length_exceeded"), long)
        check("maximum context length is 2000 tokens" in long.error()["message"] and "2500" in long.error()["message"], long)
        long = server.post("/v1/completions", {"prompt": [1] * 700, "max_tokens": 1400})
        equal((long.status, long.error()["code"]), (400, "context_length_exceeded"), long)
        server.post("/duo/v1/sessions", {"id": "small", "max_tokens": 20})
        never = server.request("PUT", "/duo/v1/sessions/small/text", b"far too many words " * 50, content_type="text/plain")
        equal((never.status, never.error()["code"]), (413, "kv_capacity_exceeded"), never)
        check("20" in never.error()["message"] and never.headers["x-should-retry"] == "false", never)
        big = server.post("/v1/completions", {"prompt": "x" * 200000, "max_tokens": 1})
        equal((big.status, big.error()["code"]), (413, "body_too_large"), big)
        check("200" in big.error()["message"] and "100000" in big.error()["message"], big)
        busy = [server.raw() for _ in range(3)]
        for raw in busy:
            raw.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
        busy[0].until(b"data: ")
        full = server.post("/v1/completions", {"prompt": "not even looked at", "max_tokens": -1})
        equal((full.status, full.error()["code"]), (429, "queue_full"), full)
        check(1 <= int(full.headers["retry-after"]) <= 120, full)
        for raw in busy:
            raw.socket.close()
        server.wait_until("their places are free", lambda: server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 200)
        raw = server.raw()
        raw.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1900, "ignore_eos": True, "stream": True})
        raw.until(b"data: ")
        server.signal(15)
        server.wait_for("draining")
        drains = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
        equal((drains.status, "retry-after" in drains.headers), (503, True), drains)
        equal((server.get("/ready").status, server.get("/live").status), (503, 200), "readiness and liveness in a drain")
        while raw.more():
            pass
        check(raw.buffer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "a running answer is finished in a drain")
        equal(server.stop(), 0, "the end")


@case
def slow_readers():
    """A client that does not read pauses its own answer alone, and is dropped in the end; one that reads late loses
    nothing; comments come while there is nothing to say."""
    with Server("--http-comments", "0.2", "--questions", "1") as server:
        first, second = server.raw(), server.raw()
        first.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True})
        first.until(b"data: ")
        second.send_request("POST", "/v1/completions", greedy(stream=True))  # waits for the first one's place
        second.until(b":\n\n")
        first.socket.close()
        second.until(b"data: [DONE]\n\n")
        late = server.raw(receive_buffer=4096)
        late.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 3000, "temperature": 5, "seed": 3,
                                                      "ignore_eos": True, "stream": True})
        server.wait_until("the answer is written", lambda: server.metrics()['duo_requests{state="running"}'] == 1)
        server.wait_until("and done, though nobody reads", lambda: server.metrics()['duo_requests{state="running"}'] == 0, 120)
        body = late.answer("POST").body
        whole = server.post("/v1/completions", {"prompt": "x", "max_tokens": 3000, "temperature": 5, "seed": 3, "ignore_eos": True})
        events = [json.loads(event) for event in events_of(body)[:-1]]
        equal("".join(event["choices"][0]["text"] for event in events), whole.json()["choices"][0]["text"], "a late reader's text")


@case
def uploads():
    """Sessions over REST: a document PUT as raw text, in pieces after a break, asked, forked, rewound, saved, closed."""
    with tempfile.TemporaryDirectory() as folder, Server("--save-dir", folder, "--max-append-bytes", "50000") as server:
        document = QUESTION.split("Question")[0].encode() * 20
        made = server.post("/duo/v1/sessions", {"id": "book", "max_tokens": 8000})
        equal((made.status, made.json()["id"]), (201, "book"), made)
        equal(server.post("/duo/v1/sessions", {"id": "book"}).status, 409, "a name that is taken")
        equal(server.post("/duo/v1/sessions", {"id": "../x"}).status, 400, "an id that is none")
        for path in ("/duo/v1/sessions/..%2f..%2fetc", "/duo/v1/sessions/%2e%2e"):
            check(server.get(path).status in (400, 404), path)
        put = server.request("PUT", "/duo/v1/sessions/book/text", document, content_type="text/plain")
        equal(put.status, 200, put)
        tokens = put.json()["session"]["tokens"]
        equal(put.json()["received_bytes"], len(document), "bytes")
        equal(server.request("PUT", "/duo/v1/sessions/book/text", b"{}", content_type="application/json").status, 415, "JSON as a text")
        equal(server.request("PUT", "/duo/v1/sessions/none/text", b"x", content_type="text/plain").status, 404, "no session")
        equal(server.request("PUT", "/duo/v1/sessions/book/text", b"x" * 60000, content_type="text/plain").status, 413, "too long a text")
        # The same in pieces: the connection breaks, GET says how far it came, and the rest follows.
        with server.raw() as raw:
            raw.send(request_bytes("PUT", "/duo/v1/sessions/parts/text?create=true&append=a1", document,
                                   content_type="application/octet-stream")[:-len(document) // 2])
            server.wait_until("half of it is there", lambda: server.get("/duo/v1/sessions/parts").json().get("append", {})
                              .get("received_bytes", 0) > 0)
        have = server.get("/duo/v1/sessions/parts").json()["append"]["received_bytes"]
        check(0 < have < len(document), have)
        middle = (have + len(document)) // 2
        piece = server.request("PUT", "/duo/v1/sessions/parts/text?append=a1", document[have:middle], content_type="text/plain",
                               content_range=f"bytes {have}-{middle - 1}/{len(document)}")
        equal((piece.status, piece.json()["received_bytes"]), (202, middle), piece)
        last = server.request("PUT", f"/duo/v1/sessions/parts/text?append=a1&offset={middle}", document[middle:], content_type="text/plain")
        equal((last.status, last.json()["session"]["tokens"]), (200, tokens), last)
        wrong = server.request("PUT", "/duo/v1/sessions/parts/text?append=a2&offset=7", b"x", content_type="text/plain")
        equal(wrong.status, 400, wrong)
        ask = {"text": "Question: What is the passcode for the rapid tower?\nAnswer: ", "stop": ["\n"], "max_new_tokens": 12}
        answers = {}
        for name in ("book", "parts"):
            answers[name] = server.post(f"/duo/v1/sessions/{name}/ask", ask).json()
            check("499748" in answers[name]["text"], answers)
        equal(answers["book"]["tokens"], answers["parts"]["tokens"], "the same answer")
        answer, events = server.stream("/duo/v1/sessions/book/ask", {**ask, "stream": True})
        equal(answer.headers["content-type"], "text/event-stream", "a streamed answer")
        events = [json.loads(event) for event in events]
        equal("".join(event["text"] for event in events), answers["book"]["text"], "its text")
        equal((events[-1]["done"], events[-1]["finish"]), (True, "stop"), "its end")
        equal(server.post("/duo/v1/sessions/book/fork", {"new_id": "copy"}).status, 201, "a fork")
        equal(server.post("/duo/v1/sessions/copy/rewind", {"tokens": 10}).json()["tokens"], 10, "a rewind")
        equal(server.post("/duo/v1/sessions/book/save", {}).json()["session"]["durable_tokens"], tokens, "a save")
        equal(sorted(s["id"] for s in server.get("/duo/v1/sessions").json()["sessions"]), ["book", "copy", "parts"], "the list")
        equal(server.request("DELETE", "/duo/v1/sessions/book").status, 200, "closed")
        equal(server.get("/duo/v1/sessions/book").json()["residence"], "saved", "and still saved")
        equal(server.post("/duo/v1/sessions/book/restore", {}).json()["session"]["tokens"], tokens, "restored")
        equal(server.request("DELETE", "/duo/v1/sessions/book?delete_saved=true").status, 200, "deleted")
        equal(server.get("/duo/v1/sessions/book").status, 404, "gone")
