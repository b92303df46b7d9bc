#!/usr/bin/env python3
"""Made tests/anchors/saved: sessions as the program of commit e33224f saved them (format version 2), and its answers.

    make_saved.py --duo FOLDER/build-cpu/duo     (that program, and mpirun; the Python packages of tests/requirements.txt)

NAME/ is a server's save directory with one session, "doc"; saved.json has for each how it was made and the token ids of the
answers. They are written once: later programs are held to them (tests/serve/anchors.py), so none is ever made anew. What a
later version saves in another way is added beside them, under other names.

  f32-1, bf16-1, int4-1    saved by one rank
  f32-3, bf16-3, int4-3    by three, which have both retrieval heads split among them
  unfinished               durable, bf16, one rank, killed while it read the append "a": some of it is in the session
"""

import argparse
import json
import os
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "serve"))
sys.path.insert(0, HERE)
import grpc  # noqa: E402
import tiny_model  # noqa: E402
from harness import Client, Server  # noqa: E402,F401

QUESTIONS = [" What is it?", " The licensor says", "\nNobody may", " of the year"]
NEW_TOKENS = 8
OPTIONS = ["--threshold", "0.5", "--sessions", "2", "--max-session-tokens", "4000"]


def document():
    with open(os.path.join(tiny_model.ROOT, "LICENSE"), encoding="utf-8") as file:
        return " ".join(file.read().split())


def start(duo, model, folder, kv, ranks, more=()):
    strategy = ["--strategy", "split"] if ranks > 1 else []
    return Server(duo, *OPTIONS, "--save-dir", folder, "--kv", kv, *strategy, *more, model=model, ranks=ranks, threads=1)


def answers(client):
    found = []
    for question in QUESTIONS:
        ids = []
        for part in client.Ask(session_id="doc", text=question, max_new_tokens=NEW_TOKENS, ignore_end_tokens=True):
            ids += part.tokens
        found.append(ids)
    return found


def finished(duo, model, kv, ranks):
    folder = os.path.join(HERE, "saved", f"{kv}-{ranks}")
    os.makedirs(folder)
    text = document()[:1000]
    with start(duo, model, folder, kv, ranks) as server:
        client = server.client()
        client.Create(id="doc", max_tokens=1000)
        session = client.append("doc", text.encode()).session
        made = {"kv": kv, "ranks": ranks, "tokens": session.tokens, "answers": answers(client)}
        client.Save(session_id="doc")
        client.Close(session_id="doc")
        client.Drain()
        server.process.wait(60)
    return made


def unfinished(duo, model):
    """Killed with some of its 2,400 tokens in checkpoints, but at most 1,024."""
    text = document()[:8000].encode()
    for attempt in range(40):
        folder = os.path.join(HERE, "saved", "unfinished")
        os.makedirs(folder, exist_ok=True)
        with start(duo, model, folder, "bf16", 1, ["--checkpoint-tokens", "128", "--chunk", "128"]) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=4000, durable=True)
            try:
                for progress in client.call("Append", iter([client.message("Append", session_id="doc", append_id="a",
                                                                          text=text)])):
                    if progress.total_tokens:
                        break
                while not 128 <= client.Get(session_id="doc").durable_tokens:
                    time.sleep(0.0005)
            except grpc.RpcError as error:
                print(error.code())
            server.kill()
        with open(os.path.join(folder, "doc", "manifest"), encoding="utf-8") as file:
            manifest = json.loads(file.read().rpartition("crc32c")[0])
        print(f"attempt {attempt}: killed at {manifest['tokens']} tokens")
        if 128 <= manifest["tokens"] <= 1024:
            return {"kv": "bf16", "ranks": 1, "tokens": manifest["tokens"], "append_id": "a", "text_bytes": len(text)}
        os.rename(folder, tempfile.mkdtemp() + "/rejected")
    sys.exit("no attempt was killed early enough")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(scratch, "tiny")
        tiny_model.write(model)
        made = {f"{kv}-{ranks}": finished(args.duo, model, kv, ranks) for ranks in (1, 3) for kv in ("f32", "bf16", "int4")}
        made["unfinished"] = unfinished(args.duo, model)
        # What the whole of that document answers, read without an interruption.
        with tempfile.TemporaryDirectory() as folder, start(args.duo, model, folder, "bf16", 1) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=4000)
            made["unfinished"]["total_tokens"] = client.append("doc", document()[:8000].encode()).session.tokens
            made["unfinished"]["answers"] = answers(client)
    out = {"commit": "e33224f", "questions": QUESTIONS, "new_tokens": NEW_TOKENS, "sessions": made}
    with open(os.path.join(HERE, "saved", "saved.json"), "w", encoding="utf-8") as file:
        json.dump(out, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
