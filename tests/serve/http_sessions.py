"""duo's own routes: sessions over REST."""

import json
import tempfile

import harness
from http_harness import ARGS, ChatModel, Server, case, check, equal, request_bytes
from http_openai import QUESTION, greedy


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


@case
def session_questions():
    """duo.session_id in a completion: the answer of Ask on that session, its text not sent again; what cannot be is refused."""
    document, questions = harness.needles(1500, facts=2, seed=4)
    with tempfile.TemporaryDirectory() as folder:
        tokens = harness.write_tokens("a-token-that-is-mine me\na-token-that-is-yours you\n", folder, "tokens")
        with ChatModel() as model, Server("--token-file", tokens, "--max-session-tokens", "4000", model=model) as server:
            mine = {"authorization": "Bearer a-token-that-is-mine"}
            put = server.request("PUT", "/duo/v1/sessions/book/text?create=true", document, content_type="text/plain", **mine)
            equal(put.status, 200, put)
            history = put.json()["session"]["tokens"]

            def post(path="/v1/completions", headers=None, **body):
                return server.post(path, {**greedy(), **body}, **(mine if headers is None else headers))
            on = {"session_id": "book"}
            for (question, answer), prompt_tokens in zip(questions, (False, True)):
                asked = server.post("/duo/v1/sessions/book/ask", {"text": question, "max_new_tokens": 12, "stop": ["\n"]}, **mine).json()
                check(answer in asked["text"], asked)
                prompt = server.post("/tokenize", {"prompt": question, "add_special_tokens": False}, **mine).json()["tokens"]
                found = post(prompt=prompt if prompt_tokens else question, duo=on, prompt_cache_key="my-key")
                equal((found.status, found.json()["choices"][0]["text"]), (200, asked["text"]), found)
                usage = found.json()["usage"]
                stats = asked["stats"]
                if not prompt_tokens:
                    equal(usage["prompt_tokens"], history + stats["prompt_tokens"], "the prompt is the session's text, too")
                equal((usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"]), (stats["new_tokens"], history), usage)
                equal((found.json()["duo"]["session"], found.json()["duo"]["source"]), ("book", "open"), "where the text was")
                equal(found.headers["x-duo-cached-tokens"], str(history), "the header")
            answer, events = server.stream("/v1/completions", greedy(prompt=questions[0][0], duo=on, stream=True), **mine)
            check(questions[0][1] in "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]), "a stream")
            check(any('"prompt_cache_key":"my-key"' in line.replace(": ", ":") for line in server.lines), "prompt_cache_key is in the log")
            equal(server.get("/duo/v1/sessions/book", **mine).json()["tokens"], history, "nothing was kept")
            kept = post(prompt=questions[0][0], duo={**on, "keep": True})
            check(server.get("/duo/v1/sessions/book", **mine).json()["tokens"] > history + 5, kept)
            yours = {"authorization": "Bearer a-token-that-is-yours"}
            for what, status, word, found in (
                    ("no such session", 404, "there is no session", post(duo={"session_id": "none"})),
                    ("another's session", 404, "there is no session", post(headers=yours, duo=on)),
                    ("several answers", 400, "n must be 1", post(duo=on, n=2)),
                    ("several prompts", 400, "one question", post(duo=on, prompt=["a", "b"])),
                    ("an echo", 400, "echo", post(duo=on, echo=True)),
                    ("a field that is none", 400, "keeps", post(duo={**on, "keeps": True})),
                    ("a wrong type", 400, "keep", post(duo={**on, "keep": 1})),
                    ("no name", 400, "session_id", post(duo={"keep": True})),
                    ("no object", 400, "session_id", post(duo="book")),
                    ("a chat on a text", 409, "/v1/completions", post("/v1/chat/completions", duo=on, prompt=None,
                                                                      messages=[{"role": "user", "content": "x"}])),
                    ("a message of Anthropic's form", 400, "/v1/completions", post(
                        "/v1/messages", duo=on, prompt=None, stop=None, messages=[{"role": "user", "content": "x"}]))):
                check(found.status == status and word in found.body.decode(), f"{what}: {found}")


TURNS = {
    "words": "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}",
    "tokens": "{% for m in messages %}{{ '<|end_of_text|>' + m.role + '\n' + (m.content | trim) + '<|end_of_text|>\n' }}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|end_of_text|>assistant\n' }}{% endif %}",
    "thoughts": "{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' and loop.index0 != messages|length - 1 -%}"
                "{{ m['content'].split('4')[-1] }}{% else %}{{ m['content'] }}{% endif %}\n{% endfor %}"
                "{% if add_generation_prompt %}<assistant> {% endif %}",
}


@case
def session_turns():
    """Turns of a chat on a session with duo.session_id, kept: each is answered as the whole conversation sent at once is."""
    text, questions = harness.needles(1200, facts=4, seed=6)
    for name, template in TURNS.items():
        with ChatModel(template) as model, tempfile.TemporaryDirectory() as folder, Server(
                "--prefix-cache", "off", model=model) as fresh:
            flags = ("--save-dir", folder, "--max-session-tokens", "6000")
            server = Server(*flags, model=model)
            system = text.decode()
            equal(server.post("/duo/v1/sessions", {"id": "talk", "chat": True, "system": system}).status, 201, "a conversation")
            messages = [{"role": "system", "content": system}]
            for i in range(6 * (2 if ARGS.full else 1)):
                # Answers that end anywhere, in a word mostly, and answers that a stop text ended.
                body = {"temperature": 0, "max_tokens": 9 + i % 3, "ignore_eos": True, **({"stop": "\n"} if i % 2 else {})}
                messages.append({"role": "user", "content": questions[i % 4][0]})
                whole = fresh.post("/v1/chat/completions", {**body, "messages": messages})
                on = {"session_id": "talk", "keep": i != 3}
                turn = server.post("/v1/chat/completions", {**body, "messages": messages[-1:], "duo": on})
                equal((turn.status, whole.status), (200, 200), turn)
                content = whole.json()["choices"][0]["message"]["content"]
                equal(turn.json()["choices"][0]["message"]["content"], content, f"{name}: answer {i}")
                equal(turn.json()["usage"]["prompt_tokens"], whole.json()["usage"]["prompt_tokens"], f"{name}: tokens before answer {i}")
                if not on["keep"]:  # a question aside: the conversation goes on as if it had not been asked
                    messages.pop()
                    continue
                messages.append({"role": "assistant", "content": content})
                if i == 2:
                    equal(server.stop(), 0, "the drain")
                    server = Server(*flags, model=model)
                    equal(server.get("/duo/v1/sessions/talk").status, 200, "it is there again")
            refused = server.post("/v1/chat/completions", {"messages": messages, "duo": {"session_id": "talk"}})
            check(refused.status == 400 and "alone" in refused.error()["message"], refused)
            for field in ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
                          {"chat_template_kwargs": {"a": 1}}, {"add_generation_prompt": False}):
                refused = server.post("/v1/chat/completions", {"messages": messages[-2:-1], "duo": {"session_id": "talk"}, **field})
                equal((refused.status, refused.error()["param"]), (400, next(iter(field))), refused)
            equal(server.stop(), 0, "exit code")
