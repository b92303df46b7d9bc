"""duo's own routes: sessions over REST."""

import json
import tempfile

from http_harness import Server, case, check, equal, request_bytes
from http_openai import QUESTION


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
