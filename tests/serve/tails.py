"""Texts in pieces: what comes behind the last certain place stays text, over restarts and every way in, until the rest is there."""

import json
import os
import subprocess
import tempfile

from cases import ARGS, case, check, equal
from harness import needles
from http_harness import ChatModel, Server

TEMPLATE = ("{% for m in messages %}{{ m.role + ': ' + (m.content | trim) + '<|end_of_text|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")


def duo(*arguments, stdin=None):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")  # this machine needs none
    done = subprocess.run([ARGS.duo, *arguments], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env={**os.environ, **nowhere})
    equal(done.returncode, 0, f"{arguments}: {done.stderr.decode()}")
    return done.stdout.decode()


@case
def tails():
    """Pieces, turns and questions by gRPC, HTTP and `duo client`, kill -9 between them: the answers of `duo generate`."""
    document, questions = needles(600, 2)
    document += " \U0001f600".encode()
    question = questions[0][0]
    with tempfile.TemporaryDirectory() as folder, ChatModel(TEMPLATE) as model:
        saved = os.path.join(folder, "saved")
        path = os.path.join(folder, "document")
        with open(path, "wb") as file:
            file.write(document)
        answers = {}
        for chat in (False, True):
            more = ["--chat", "--system", "Be brief."] if chat else []
            out = json.loads(duo("generate", "--model", model, "--prompt-file", path, "--ask", question, "--json",
                                 "--max-new-tokens", "12", "--device", ARGS.device, *more))
            answers[chat] = out["answers"][0]["token_ids"]
        flags = ("--save-dir", saved, "--max-session-tokens", "4000")
        pieces = (document[:1001], document[1001:len(document) - 2], document[len(document) - 2:])
        with Server(*flags, model=model, device=ARGS.device) as server:
            client = server.client()
            for chat, name in ((False, "plain"), (True, "talk")):
                more = ["--chat", "--system", "Be brief."] if chat else []
                duo("client", "create", name, "--durable", "--server", server.address, *more)
                for piece in pieces[:2]:
                    told = duo("client", "append", name, "--file", "-", "--server", server.address, stdin=piece)
                check("to be read with what comes next" in told and ("chat" in told) == chat, told)
                check(client.Get(session_id=name).tail_bytes >= 2, "half of a character stays text")
            server.kill()
        with Server(*flags, model=model, device=ARGS.device) as server:
            client = server.client()
            for chat, name in ((False, "plain"), (True, "talk")):
                client.append(name, pieces[2])
                session = client.Get(session_id=name)
                equal(session.chat, chat, "whether it is a conversation")
                told = json.loads(duo("client", "ask", name, question, "--max-new-tokens", "12", "--json", "--server",
                                      server.address))
                equal(told["tokens"], answers[chat], f"duo client's answer on {name}")
                asked = {"text": question, "max_new_tokens": 12}
                there = "/duo/v1/sessions"
                equal(server.post(f"{there}/{name}/ask", asked).json()["tokens"], answers[chat], f"HTTP's answer on {name}")
                made = server.post(there, {"id": name + "-http", "chat": chat, "system": "Be brief." if chat else ""})
                equal(made.status, 201, made)
                for piece in pieces:
                    put = server.request("PUT", f"{there}/{name}-http/text", piece, content_type="application/octet-stream")
                equal(put.json()["session"]["tail_bytes"], session.tail_bytes, "bytes of text behind the tokens")
                equal(server.post(f"{there}/{name}-http/ask", asked).json()["tokens"], answers[chat], "the same by HTTP alone")
            equal(server.stop(), 0, "exit code")
