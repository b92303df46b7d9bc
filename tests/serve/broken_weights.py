"""A model whose weights hold a NaN: answers that meet it end with an error that says so, and nothing else is disturbed."""

import json
import os
import struct
import subprocess
import sys
import tempfile

import grpc
import harness
import http_harness
from cases import ARGS, case, check, equal, free_counters
from harness import code_of

sys.path.insert(0, os.path.join(harness.SOURCE, "tests", "anchors"))
import tiny_model  # noqa: E402

SAYS = "is no number (NaN or infinity): its weights are damaged"


def token_of(model, text):
    done = subprocess.run([ARGS.duo, "tokenize", "--model", model, "--json", "--text", text], capture_output=True, text=True,
                          check=True, timeout=60)
    return json.loads(done.stdout)["ids"][-1]


def break_embedding(model, token):
    path = os.path.join(model, "model.safetensors")
    with open(path, "r+b") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(length))["model.embed_tokens.weight"]
        file.seek(8 + length + entry["data_offsets"][0] + 4 * token * entry["shape"][1])
        file.write(struct.pack("<f", float("nan")))


@case
def broken_weights():
    """One token's embedding is a NaN. Texts with it end with INTERNAL, or 500, and why; texts without it are answered as ever."""
    good, bad = "What did the harbour master write down?", "What did the harbour master write down? zebra"
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "tiny")
        tiny_model.write(model)
        token = token_of(model, bad)
        break_embedding(model, token)
        with http_harness.Server("--max-session-tokens", "600", model=model, threads=1, device=ARGS.device) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=500)
            client.append("doc", b"The harbour master wrote down the names of forty boats, and went home. " * 4)
            tokens = client.Get(session_id="doc").tokens
            client.Rewind(session_id="doc", tokens=tokens)  # to where a rewind leads again: without the text's tail
            free = free_counters(client)
            answer, _ = client.ask("doc", good, stop=[])
            check(answer, "a text without it has an answer")

            for keep in (False, True):
                code, said = code_of(lambda: client.Ask(session_id="doc", text=bad, max_new_tokens=5, keep=keep))
                check(code == grpc.StatusCode.INTERNAL and SAYS in said, f"{code} {said}")
                if keep:
                    client.Rewind(session_id="doc", tokens=tokens)
            run = subprocess.run([ARGS.duo, "client", "ask", "doc", bad, "--server", server.address], capture_output=True, text=True,
                                 check=False, timeout=60)
            check(run.returncode == 1 and SAYS in run.stderr and run.stderr.count("error: ") == 1, run)
            refused = server.post("/v1/completions", {"model": "tiny", "prompt": bad, "max_tokens": 5})
            check(refused.status == 500 and SAYS in refused.error()["message"], refused)
            scored = server.post("/v1/completions", {"model": "tiny", "prompt": bad + " " + good, "max_tokens": 1, "echo": True,
                                                     "logprobs": 2})
            check(scored.status == 500 and SAYS in scored.error()["message"], scored)

            equal(client.ask("doc", good, stop=[])[0], answer, "what a text without it is answered afterwards")
            equal(client.Get(session_id="doc").tokens, tokens, "the session's tokens")
            equal(free_counters(client), free, "what is free when all is over")
            check(server.post("/v1/completions", {"model": "tiny", "prompt": good, "max_tokens": 5}).status == 200, "over HTTP")
