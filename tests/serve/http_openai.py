"""OpenAI's routes on raw bytes: completions and chats, whole and as streams."""

import json

from http_harness import ChatModel, Server, all_input, case, check, counts, equal

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
        equal((last["choices"], counts(last["usage"])), ([], counts(usage)), "the usage chunk")
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
    """A client that is gone stops its answer within a step, streamed or not, while its prompt is read or waits, too; what it
    held is free again."""
    with Server("--questions", "1") as server:
        def requests(state):
            return server.metrics()[f'duo_requests{{state="{state}"}}']
        long = greedy(max_tokens=3000, stop=None, ignore_eos=True)
        for stream in (True, False):
            raw = server.raw()
            raw.send_request("POST", "/v1/completions", {**long, "stream": stream})
            if stream:
                raw.until(b"data: ")
            server.wait_until("the answer begins", lambda: requests("running") == 1, 60)
            raw.socket.close()
            server.wait_until("the answer stops", lambda: requests("running") == 0, 60)
        written = server.metrics()['duo_tokens_total{kind="decode"}']
        check(written < 6000, f"the two answers of 3000 tokens were not written to their end: {written}")
        before = server.metrics()['duo_tokens_total{kind="prefill"}']
        raw, behind = server.raw(), server.raw()
        raw.send_request("POST", "/v1/completions", {**long, "prompt": list(range(5, 1000)) * 24, "max_tokens": 1})
        server.wait_until("its prompt is read", lambda: requests("running") == 1)
        behind.send_request("POST", "/v1/completions", long)
        server.wait_until("another waits for its place", lambda: requests("waiting") == 1)
        behind.socket.close()
        server.wait_until("the one that waited is gone", lambda: requests("waiting") == 0)
        raw.socket.close()
        server.wait_until("the reading stops", lambda: requests("running") == 0, 60)
        equal(server.post("/v1/completions", greedy()).status, 200, "the server afterwards")
        read = server.metrics()['duo_tokens_total{kind="prefill"}'] - before
        check(read < 23880, f"the prompt of 23880 tokens was not read to its end: {read}")


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
        equal((last["choices"], counts(last["usage"])), ([], counts(body["usage"])), "the usage chunk, when asked for")
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
        equal(counted["input_tokens"], all_input(made["usage"]), "counted tokens")
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
