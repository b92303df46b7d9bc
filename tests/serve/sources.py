"""Where answers looked, by gRPC, HTTP and `duo client`: sentences of what was appended, in bytes as it was sent."""

import json
import os
import subprocess

from cases import ARGS, case, check, equal
from http_harness import ChatModel, Server

TEMPLATE = ("{% for m in messages %}{{ m.role + ': ' + (m.content | trim) + '<|end_of_text|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
FIRST = ("Gr\u00fc\u00dfe, \u4f60\u597d! Licences follow.\r\n" + "This program is distributed in the hope that it will be useful.\r\n" * 30 +
         "Note: the passcode for the rapid tower is 499748.\r\n" + "You may copy and distribute it.\r\n" * 20).encode()
SECOND = ("Note: the passcode for the rapid towel is 118830.\n" + "Nothing is said about warranty.\n" * 20 +
          "Note: the passcode for the amber falcon is 402113.\n" + "The end of it.\n" * 20).encode()
SESSIONS = "/duo/v1/sessions"


def question(key):
    return f"\nQuestion: What is the passcode for the {key}?\nAnswer: "


def looked(server, name, key, document, **more):
    """The answer to a question on the key, whose sources must be the document's bytes."""
    body = {"text": question(key), "stop": ["\n"], "max_new_tokens": 12, "sources": 3, **more}
    told = server.post(f"{SESSIONS}/{name}/ask", body).json()
    for s in told["provenance"]:
        equal(document[s["start"]:s["end"]].decode(), s["text"], "the bytes of a source")
        equal(s["line"], 1 + document[:s["start"]].count(b"\n"), "its line")
    return told


def expect_first(told, answer, sentence):
    check(answer in told["text"], told)
    check(sentence in told["provenance"][0]["text"], told["provenance"])


def expect_some(told, *_):
    """Of a conversation: the demo model was not made for them and finds little there, but where it looked is said."""
    check(told["provenance"], told)


@case
def sources():
    """Appends in pieces, cut in a character; a kept question between them; forks, rewinds, conversations; refusals."""
    tower, falcon = "passcode for the rapid tower is 499748", "passcode for the amber falcon is 402113"
    with ChatModel(TEMPLATE) as model, Server("--sources", "--max-session-tokens", "6000", model=model,
                                              device=ARGS.device) as server:
        for chat, name in ((False, "plain"), (True, "talk")):
            server.post(SESSIONS, {"id": name, "chat": chat, "system": "Be brief." if chat else ""})

            def put(text, to=name):
                answer = server.request("PUT", f"{SESSIONS}/{to}/text", text, content_type="application/octet-stream")
                equal(answer.status, 200, answer)
                return answer.json()["session"]["tokens"]

            for piece in (FIRST[:3], FIRST[3:700], FIRST[700:]):
                before = put(piece)
            expect = expect_some if chat else expect_first
            expect(looked(server, name, "rapid tower", FIRST), "499748", tower)
            if not chat:  # a conversation's next text would begin another turn
                kept = server.post(f"{SESSIONS}/{name}/ask", {"text": question("rapid tower"), "keep": True, "stop": ["\n"],
                                                             "max_new_tokens": 12})
                equal(kept.status, 200, kept)
            put(SECOND)
            both = FIRST + SECOND
            expect(looked(server, name, "amber falcon", both), "402113", falcon)
            told = looked(server, name, "rapid tower", both, token_sources=True)
            expect(told, "499748", tower)
            equal(len(told["token_provenance"]), len(told["tokens"]), "sources of each token")
            equal(server.post(f"{SESSIONS}/{name}/fork", {"new_id": name + "-fork"}).status, 201, "a fork")
            expect(looked(server, name + "-fork", "amber falcon", both), "402113", falcon)
            equal(server.post(f"{SESSIONS}/{name}/rewind", {"tokens": before}).status, 200, "a rewind")
            expect(looked(server, name, "rapid tower", both), "499748", tower)
        quiet = server.post(f"{SESSIONS}/plain/ask", {"text": question("rapid tower"), "max_new_tokens": 4}).json()
        check("provenance" not in quiet, quiet)
        for wrong in ({"sources": -1}, {"sources": 100000}, {"sources": 1.5}, {"token_sources": True}):
            refused = server.post(f"{SESSIONS}/plain/ask", {"text": "x", **wrong})
            equal(refused.status, 400, refused)
        # The same by gRPC and by the program.
        client = server.client()
        last = [m for m in client.Ask(session_id="plain", text=question("rapid tower"), stop=["\n"], max_new_tokens=12, sources=2)
                ][-1]
        check(last.done and tower in last.provenance[0].text, last)
        equal(FIRST[last.provenance[0].start:last.provenance[0].end].decode(), last.provenance[0].text, "bytes by gRPC")
        run = subprocess.run([ARGS.duo, "client", "ask", "plain", question("rapid tower"), "--stop", "\n", "--sources", "1",
                              "--server", server.address], capture_output=True, text=True, check=False,
                             env={**os.environ, **dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")})
        equal(run.returncode, 0, run.stderr)
        check("where the model looked" in run.stderr and tower in run.stderr and tower not in run.stdout, run)
        equal(server.stop(), 0, "exit code")
    with Server(device=ARGS.device) as server:
        server.post(SESSIONS, {"id": "plain"})
        refused = server.post(f"{SESSIONS}/plain/ask", {"text": "x", "sources": 1})
        check(refused.status >= 400 and "--sources" in json.dumps(refused.json()), refused)
