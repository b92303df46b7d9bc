"""Prompts that begin alike are read once: by whom, when, and what a client is told of it."""

import json
import os
import tempfile
import threading

import harness
import http_harness
from http_harness import ARGS, ChatModel, case, check, equal
from http_openai import greedy

COUNT = "duo_tokens_total{kind=\"prefill\"}"
AROUND = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"


class Server(http_harness.Server):
    """Where prompts go on follows from what steps are taken to last: here from a guess, so from the prompts alone, however
    busy the machine is."""

    def __init__(self, *more, **options):
        super().__init__("--step-times", "guessed", *more, **options)


def document():
    text, questions = harness.needles(32000 if ARGS.full else 6500, facts=8, seed=3)
    return text.decode(), questions


def told(answer):
    """(cached tokens, duo's object or None) of a whole answer; its header says the same."""
    equal(answer.status, 200, answer)
    body = answer.json()
    cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
    if "transfer-encoding" not in answer.headers:  # else its head was sent before that was known
        equal(int(answer.headers.get("x-duo-cached-tokens", "0")), cached, "the header")
    equal("duo" in body, cached > 0, "what it was is said where there was something")
    return cached, body.get("duo")


def right(answer, expected):
    check(expected in answer.json()["choices"][0]["text"], (expected, answer))


def read_by(server):
    return server.metrics()[COUNT]


@case
def prefixes():
    """A document with five questions is read once; an edit is read from where it is; salts and callers are kept apart."""
    text, questions = document()
    with tempfile.TemporaryDirectory() as folder:
        file = harness.write_tokens("a-token-that-is-mine me\na-token-that-is-yours you\n", folder, "tokens")
        with Server("--token-file", file, "--kv-tokens", "100000") as server:
            def post(prompt, token="a-token-that-is-mine", **more):
                return server.post("/v1/completions", greedy(prompt=prompt, **more), authorization="Bearer " + token)
            first = post(text + questions[0][0])
            right(first, questions[0][1])
            equal(told(first), (0, None), "nothing is there yet")
            length = first.json()["usage"]["prompt_tokens"]
            for i, (ask, answer) in enumerate(questions[1:5]):
                again = post(text + ask)
                right(again, answer)
                cached, duo = told(again)
                check(cached > length - 40, f"{cached} of {length} tokens were there")
                equal((duo["source"], duo["session"], duo["restored_bytes"]), ("open", None, 0), "where it was")
                check((duo["refed_tokens"] > 0) == (i == 0), f"its rings are rebuilt once: {duo}")
            edited = text[:-200] + " An edit is here. " + text[-100:]
            cached, _ = told(post(edited + questions[0][0]))
            check(length - 200 < cached < length - 20, f"{cached} of {length} tokens are before the edit")
            equal(told(post(text + questions[5][0], token="a-token-that-is-yours"))[0], 0, "another caller's is not met")
            equal(told(post(text + questions[5][0], cache_salt="pepper"))[0], 0, "nor what has another salt")
            check(told(post(text + questions[6][0], cache_salt="pepper"))[0] > length - 40, "the same salt meets")
            scored = post(text[:3000] + questions[0][0], echo=True, logprobs=0)
            equal(told(scored)[0], 0, "a prompt whose tokens are scored is read whole")
            error = post(text, cache_salt="x" * 2000)
            equal((error.status, error.error()["param"]), (400, "cache_salt"), "a salt that is too long")
            streamed = server.post("/v1/completions", greedy(prompt=text + questions[7][0], stream=True, stream_options={"include_usage": True}),
                                   authorization="Bearer a-token-that-is-mine")
            last = json.loads(streamed.body.split(b"data: ")[-2])
            check(last["usage"]["prompt_tokens_details"]["cached_tokens"] > length - 40, last)
            equal(last["duo"]["source"], "open", "a stream says so with its usage")
            if "transfer-encoding" in streamed.headers:
                check(int(streamed.headers["x-duo-cached-tokens"]) > length - 40, streamed.headers)
            numbers = server.get("/metrics", authorization="Bearer a-token-that-is-mine").body.decode()
            check("duo_prefix_hits_total " in numbers and "duo_prefix_evictions_total" in numbers, numbers[:200])
    for flags, kept in ((("--prefix-cache", "off"), False), (("--prefix-nodes", "1"), True)):
        with Server(*flags) as server:
            for ask, _ in questions[:2]:
                found = server.post("/v1/completions", greedy(prompt=text[-14000:] + ask))
            check((told(found)[0] > 3000) == kept, f"{flags}: {found}")


@case
def prefix_sessions():
    """An open session's text is there for its owner's prompts, and what prompts leave is no session and in nobody's way."""
    text, questions = document()
    with Server("--kv-tokens", "24000", "--max-session-tokens", "16000") as server:
        equal(server.post("/duo/v1/sessions", {"id": "book"}).status, 201, "a session")
        equal(server.request("PUT", "/duo/v1/sessions/book/text", text.encode(), content_type="text/plain").status, 200, "its text")
        tokens = server.get("/duo/v1/sessions/book").json()["tokens"]
        found = server.post("/v1/completions", greedy(prompt=text + questions[0][0]))
        right(found, questions[0][1])
        cached, duo = told(found)
        check(tokens - 5 <= cached <= tokens + 5, (cached, tokens))
        equal((duo["session"], duo["source"]), ("book", "open"), "it says which")
        equal([s["id"] for s in server.get("/duo/v1/sessions").json()["sessions"]], ["book"], "no other session is there")
        for i in range(3):  # as much room as there is beside the session
            equal(server.post("/duo/v1/sessions", {"id": f"room-{i}", "max_tokens": 5000, "reserved_tokens": 5000}).status, 201, "room is made")


@case
def prefix_joins():
    """Two clients that send a document at once have it read once; a client that goes away leaves what was read."""
    text, questions = document()
    with Server("--kv-tokens", "100000") as server:
        found = [None, None]

        def ask(i):
            found[i] = server.post("/v1/completions", greedy(prompt=text + questions[i][0]))
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(2):
            right(found[i], questions[i][1])
        length = found[0].json()["usage"]["prompt_tokens"]
        cached = sorted(told(answer)[0] for answer in found)
        check(cached[0] == 0 and cached[1] > length - 40, f"{cached} of {length} tokens were there")
        server.wait_until("the counts are told", lambda: read_by(server) >= length)
        check(read_by(server) < length + 200, f"{read_by(server)} tokens were read for two prompts of {length}")
        other = "Something else comes first. " + text
        raw = server.raw()
        raw.send_request("POST", "/v1/completions", greedy(prompt=other + questions[2][0]))
        before = read_by(server)
        server.wait_until("some of it is read", lambda: read_by(server) > before + length // 3)
        raw.socket.close()
        server.wait_until("the read stops", lambda: server.metrics()["duo_requests{state=\"running\"}"] == 0)
        stopped = read_by(server) - before
        retry = server.post("/v1/completions", greedy(prompt=other + questions[2][0]))
        right(retry, questions[2][1])
        cached, _ = told(retry)
        check(cached >= min(stopped, length) - 1100 and cached > length // 4, f"{cached} tokens of {stopped} that were read")
        # Of a short prompt nothing is left before its last token: several answers to it wait until its rings are rebuilt.
        asked = greedy(prompt=text[:1500], max_tokens=12, stop=None)
        server.post("/v1/completions", asked)
        several = server.post("/v1/completions", {**asked, "n": 3}).json()
        equal(len({choice["text"] for choice in several["choices"]}), 1, several)


@case
def prefix_chat():
    """Turns of a chat that are sent whole each time: only the new one is read, and the answer is that of a fresh server."""
    text, questions = document()
    with ChatModel(AROUND) as model, Server(model=model) as server, Server("--prefix-cache", "off", model=model) as fresh:
        messages, places = [{"role": "system", "content": text[:15000 if ARGS.full else 6000]}], [0, 0]
        for ask, _ in (questions + questions)[:10]:
            messages.append({"role": "user", "content": ask})
            body = {"model": "any", "messages": messages, "max_tokens": 10, "temperature": 0, "ignore_eos": True}
            found = server.post("/v1/chat/completions", body)
            cached, _ = told(found)
            content = found.json()["choices"][0]["message"]["content"]
            equal(content, fresh.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"], "the answer")
            usage = found.json()["usage"]
            # Where the last turn's rings are gone, the place of the turn before may cost less than to make them again.
            check(cached >= places[-2] - 12, f"{cached} of {usage} were there; turns ended at {places}")
            places.append(usage["prompt_tokens"])
            messages.append({"role": "assistant", "content": content})
        messages[1]["content"] = "Another first question."  # what was said before it is still there
        cached, _ = told(server.post("/v1/chat/completions", {**body, "messages": messages}))
        check(1000 < cached < places[-1], cached)


MOVES = """{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' and loop.index0 != messages|length - 2 -%}
{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}
{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"""


@case
def prefix_thinking():
    """A template that drops what was thought in all turns but the last: what still agrees is reused, and answers are right."""
    text, questions = document()
    with ChatModel(MOVES) as model, Server(model=model) as server, Server("--prefix-cache", "off", model=model) as fresh:
        messages, places, reused = [{"role": "system", "content": text[:12000 if ARGS.full else 6000]}], [0, 0, 0], 0
        for i, (ask, _) in enumerate((questions + questions)[:10]):
            messages.append({"role": "user", "content": ask})
            body = {"model": "any", "messages": messages, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
            found = server.post("/v1/chat/completions", body)
            cached, _ = told(found)
            content = found.json()["choices"][0]["message"]["content"]
            equal(content, fresh.post("/v1/chat/completions", body).json()["choices"][0]["message"]["content"], f"answer {i}")
            length = found.json()["usage"]["prompt_tokens"]
            # The last turn but one is not as it was: the texts part in it.
            # What agrees ends where the turn before last began to think. Its rings are gone, and to make them may cost
            # more than to read on from where the first turn ended, whose rings are there.
            check(cached >= min(places[-3], places[3] if len(places) > 3 else 0) - 12,
                  f"{cached} of {length} were there; turns ended at {places}")
            check(i < 2 or cached < places[-1], f"{cached} of {length}; turns ended at {places}")
            reused += cached
            places.append(length)
            messages.append({"role": "assistant", "content": f"<think>{content} is what I think of {i}.</think>{content}"})
        check(reused > 6 * places[3], f"{reused} tokens in ten turns of {places}")


@case
def prefix_openai():
    """openai's client asks five questions on one document: read once, killed, on three ranks, edited, by two at once."""
    import openai
    text, questions = document()
    for chat in (False, True):
        with ChatModel() as model, tempfile.TemporaryDirectory() as folder:
            flags = ("--save-dir", folder, "--prefix-disk", "1000000000", "--kv-tokens", "100000")

            def ask(server, i, document=text):
                """(cached tokens, tokens of the prompt, where they were) of question i, which must be answered."""
                client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.http}/v1", api_key="none", max_retries=0,
                                       timeout=600 * harness.patience, _strict_response_validation=True)
                common = {"model": "needle-chat", "temperature": 0, "max_tokens": 12, "stop": "\n"}
                prompt, answer = document + questions[i][0], questions[i][1]
                if chat:
                    made = client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **common)
                    check(answer in made.choices[0].message.content, (answer, made))
                else:
                    made = client.completions.create(prompt=prompt, **common)
                    check(answer in made.choices[0].text, (answer, made))
                usage = made.usage
                return usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens, (made.model_extra or {}).get("duo", {}).get("source")

            def again(server, i, source):
                cached, length, found = ask(server, i)
                check(cached > length - 40, f"question {i}: {cached} of {length} tokens were there")
                equal(found, source, f"question {i}: where")

            with Server(*flags, model=model) as server:
                cached, length, _ = ask(server, 0)
                equal(cached, 0, "nothing is there yet")
                again(server, 1, "open")
                server.wait_until("the counts are told", lambda: read_by(server) >= length)
                check(read_by(server) < length + 100, f"{read_by(server)} tokens were read for two prompts of {length}")
                server.wait_for("prefix saved")
                server.kill()
            with Server(*flags, model=model) as server:
                again(server, 2, "saved")
                again(server, 3, "open")
                check(read_by(server) < 200, f"{read_by(server)} tokens were read after a kill")
                server.kill()
            with Server(*flags, model=model, ranks=3) as server:
                again(server, 4, "saved")
                # Its last paragraph, where the last fact's words stay as they are.
                edited = text[:-300] + " This paragraph was edited." + text[-300:]
                cached, length, _ = ask(server, 0, edited)
                check(length - 300 < cached < length - 60, f"{cached} of {length} tokens are before the edit")
                before, found = read_by(server), [None, None]
                other = "Another copy of it. " + text

                def both(i):
                    found[i] = ask(server, i, other)
                threads = [threading.Thread(target=both, args=(i,)) for i in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                cached = sorted(each[0] for each in found)
                check(cached[0] < 40 and cached[1] > length - 60, f"{cached} of {length} tokens were there")
                server.wait_until("the counts are told", lambda: read_by(server) >= before + length - 60)
                check(read_by(server) < before + length + 200, f"{read_by(server) - before} tokens were read for two prompts of {length}")


@case
def prefix_kill():
    """What prompts left outlives a server that is killed, for another rank count too; so do saved and moved-out sessions."""
    text, questions = document()
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--save-dir", os.path.join(folder, "saved"), "--prefix-disk", "1000000000", "--kv-tokens", "100000")
        with Server(*flags) as server:
            for ask, answer in questions[:2]:
                found = server.post("/v1/completions", greedy(prompt=text + ask))
                right(found, answer)
            length = found.json()["usage"]["prompt_tokens"]
            server.wait_for("prefix saved")
            equal(server.get("/duo/v1/sessions").json()["sessions"], [], "it is no session")
            check(any(p["residence"] == "saved" for p in server.get("/duo/v1/sessions").json()["prefixes"]), "but a prefix")
            server.kill()
        for i, ranks in enumerate((1, 2)):
            with Server(*flags, ranks=ranks) as server:
                found = server.post("/v1/completions", greedy(prompt=text + questions[2 + i][0]))
                right(found, questions[2 + i][1])
                cached, duo = told(found)
                check(cached > length - 40, f"{cached} of {length} tokens came back")
                equal((duo["source"], duo["session"]), ("saved", None), "where from")
                check(duo["restored_bytes"] > 0, duo)
                equal(told(server.post("/v1/completions", greedy(prompt=text + questions[4][0])))[1]["source"], "open", "then it is there")
                server.kill()
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--save-dir", folder, "--kv-tokens", "40000")
        with Server(*flags, "--idle-out", "0.3") as server:
            equal(server.post("/duo/v1/sessions", {"id": "book"}).status, 201, "a session")
            equal(server.request("PUT", "/duo/v1/sessions/book/text", text.encode(), content_type="text/plain").status, 200, "its text")
            server.wait_for("session moved out")
            found = server.post("/v1/completions", greedy(prompt=text + questions[0][0]))
            right(found, questions[0][1])
            cached, duo = told(found)
            check(cached > length - 40, cached)
            equal((duo["source"], duo["session"]), ("moved_out", "book"), "a session that is moved out")
            equal(server.get("/duo/v1/sessions/book").json()["residence"], "moved_out", "it stays so")
            equal(server.stop(), 0, "the drain")
        with Server(*flags) as server:
            equal(server.request("DELETE", "/duo/v1/sessions/book").status, 200, "closed, and saved")
            found = server.post("/v1/completions", greedy(prompt=text + questions[1][0]))
            right(found, questions[1][1])
            equal((told(found)[1]["source"], told(found)[1]["session"]), ("saved", "book"), "a saved session")
