"""What the routes refuse, what they wait for, and what slow and silent clients cost the others."""

import json

from http_harness import ARGS, ChatModel, Server, case, check, equal, events_of
from http_openai import chat, greedy

WRONG = [17, -1, 1.5, True, "text", "", [], {}, ["a"], [1], [[1]], {"a": 1}, [None], 1e300, -2 ** 63, 2 ** 64, [[], "a"],
         {"type": "json_schema"}, "\u0000", "x" * 5000]


# Of each route: its fields, and a request that is right.
ANSWER_FIELDS = ["model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options",
                 "n", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "top_k", "min_p", "min_tokens",
                 "stop_token_ids", "ignore_eos", "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
                 "structured_outputs", "user"]
TALK = [{"role": "user", "content": "a b"}]
SWEEP = {
    "/v1/completions": (["prompt", "best_of", "logprobs", "echo", "suffix", "add_special_tokens", *ANSWER_FIELDS],
                        {"prompt": "a b", "max_tokens": 1}),
    "/v1/chat/completions": (["messages", "tools", "tool_choice", "logprobs", "top_logprobs", "chat_template_kwargs",
                              "add_generation_prompt", "functions", "modalities", "audio", *ANSWER_FIELDS],
                             {"messages": TALK, "max_tokens": 1}),
    "/v1/responses": (["input", "instructions", "max_output_tokens", "tools", "tool_choice", "text", "previous_response_id", "stream",
                       "background", "truncation", "parallel_tool_calls", "temperature"], {"input": "a b", "max_output_tokens": 1}),
    "/v1/messages": (["messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice", "thinking", "stream", "top_k"],
                     {"messages": TALK, "max_tokens": 1}),
    "/v1/messages/count_tokens": (["messages", "system", "tools"], {"messages": TALK}),
    "/tokenize": (["prompt", "add_special_tokens", "return_token_strs"], {"prompt": "a"}),
    "/detokenize": (["tokens"], {"tokens": [1]}),
    "/duo/v1/sessions": (["id", "max_tokens", "durable"], {"id": "other"}),
    "/duo/v1/sessions/s/ask": (["text", "tokens", "max_new_tokens", "temperature", "top_p", "seed", "stop", "keep", "special", "stream"],
                               {"text": "a", "max_new_tokens": 1}),
    "/duo/v1/sessions/s/fork": (["new_id", "max_tokens"], {"new_id": "s"}),
    "/duo/v1/sessions/s/rewind": (["tokens"], {"tokens": 0}),
}
NEEDED = ("prompt", "messages", "input", "tokens")  # null where they are not is another error


@case
def wrong_types():
    """Wrong types in every field of every route: each answer is one of the field's own or a 400 that names a field, and null
    means absent."""
    codes = {}
    with ChatModel() as model, Server("--max-session-tokens", "4096", model=model) as server, server.raw() as raw:
        server.post("/duo/v1/sessions", {"id": "s", "max_tokens": 1000})

        def ask(path, body, what):
            raw.send_request("POST", path, body)
            answer = raw.answer("POST")
            codes[answer.status] = codes.get(answer.status, 0) + 1
            own = (201, 409, 429) if path.startswith("/duo") else ()  # sessions are made, and their names taken
            check(answer.status in (200, 400, *own), f"{path} {what}: {answer}")
            if answer.status == 400:
                error = answer.error()
                check(error["type"] == "invalid_request_error" and error["message"], f"{path} {what}: {error}")
                check(error["param"] or path.startswith("/duo"), f"{path} {what} names no field: {error}")
            return answer
        for path, (fields, base) in SWEEP.items():
            for field in fields:
                for value in WRONG:
                    ask(path, {**base, field: value}, f"{field}={value!r}")
                if field not in NEEDED and field not in base:
                    check(ask(path, {**base, field: None}, f"{field}=null").status != 400, f"{path} {field}: null")
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
        busy, seen = [], []

        def one_more():
            busy.append(server.raw())
            busy[-1].send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
            seen.append(server.post("/v1/completions", {"prompt": "not even looked at", "max_tokens": -1}))
            return seen[-1].status == 429
        server.wait_until("the queue is full", one_more)
        full = seen[-1]
        equal(full.error()["code"], "queue_full", full)
        check(1 <= int(full.headers["retry-after"]) <= 120, full)
        for raw in busy:
            raw.socket.close()
        server.wait_until("their places are free", lambda: server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 200)
        with server.raw() as one:  # answers count as calls each
            one.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True})
            one.until(b"data: ")
            more = {"prompt": "x", "max_tokens": 1}
            equal(server.post("/v1/completions", {**more, "n": 3}).status, 429, "three answers where there is place for two")
            equal(server.post("/v1/completions", {**more, "n": 2}).status, 200, "two answers")
        equal(server.post("/v1/completions", {**more, "n": 4}).error()["param"], "n", "more answers than may ever wait")
        server.wait_until("its place is free", lambda: server.post("/v1/completions", {**more, "n": 3}).status == 200)
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
def waiting():
    """What waits for a place is told so by comments, and answered when there is one."""
    with Server("--http-comments", "0.2", "--questions", "1") as server:
        first, second = server.raw(), server.raw()
        first.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True})
        first.until(b"data: ")
        second.send_request("POST", "/v1/completions", greedy(stream=True))  # waits for the first one's place
        second.until(b":\n\n")
        first.socket.close()
        second.until(b"data: [DONE]\n\n")


@case
def slow_readers():
    """A client that does not read pauses its own answer, whose place it keeps, and no other; when it reads, nothing is lost.
    One that never reads is dropped."""
    asked = {"prompt": "x", "max_tokens": 1000, "temperature": 5, "seed": 3, "ignore_eos": True, "logprobs": 20}

    def running():
        return server.metrics()['duo_requests{state="running"}']

    with Server("--questions", "2", "--reader-idle", "600") as server:  # so that the late one is late however long others take
        late = server.raw(receive_buffer=4096)
        late.send_request("POST", "/v1/completions", {**asked, "stream": True})
        server.wait_until("the answer is written", lambda: running() == 1)
        for _ in range(2):  # as long, of a client that reads: had the first gone on, it would be done by now
            whole = server.post("/v1/completions", asked).json()
        server.wait_until("the count is told", lambda: running() <= 1)
        equal(running(), 1, "the first answer waits for its reader")
        body = late.answer("POST").body
        events = [json.loads(event) for event in events_of(body)[:-1]]
        equal("".join(event["choices"][0]["text"] for event in events), whole["choices"][0]["text"], "a late reader's text")
    with Server("--questions", "1", *(() if ARGS.full else ("--reader-idle", "1"))) as server:
        never = server.raw(receive_buffer=4096)
        never.send_request("POST", "/v1/completions", {**asked, "stream": True})
        never.until(b"data: ")

        def dropped():  # begun, as the same page tells, and not there any more
            told = server.metrics()
            return told['duo_tokens_total{kind="decode"}'] > 0 and told['duo_requests{state="running"}'] == 0
        server.wait_until("it is dropped", dropped)
        never.ended()
        check(b"[DONE]" not in never.buffer, "it was cut off")


@case
def idle_streams():
    """Many streams that wait at once: each is told so, they cost little, the server answers beside them, and all of it is
    free again when they go."""
    count = 1000 if ARGS.full else 200
    with Server("--http-comments", "0.5", "--questions", "2", "--max-queue", "2000") as server:
        def memory():
            with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
        asked = {"prompt": "x", "max_tokens": 6000, "ignore_eos": True, "stream": True}
        busy = [server.raw() for _ in range(2)]
        for raw in busy:
            raw.send_request("POST", "/v1/completions", asked)
            raw.until(b"data: ")
        before = memory()
        raws = [server.raw() for _ in range(count)]
        for raw in raws:
            raw.send_request("POST", "/v1/completions", {**asked, "max_tokens": 1})
        for raw in raws:
            raw.until(b":\n\n")
        grown = memory() - before
        equal(server.get("/health").status, 200, "health beside them")
        check(grown < 50 * max(count, 400) / 1000, f"{count} idle streams cost {grown:.1f} MiB")
        print(f"{count} idle streams: {grown:.1f} MiB")
        for raw in raws + busy:
            raw.socket.close()
        server.wait_until("all of them are gone", lambda: server.metrics()['duo_requests{state="waiting"}'] == 0)
        equal(server.post("/v1/completions", greedy()).status, 200, "an answer afterwards")
