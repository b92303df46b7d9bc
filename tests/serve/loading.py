"""The service under load, by `duo bench serve`, and on made-up weights."""

import json
import os
import subprocess
import tempfile
import time

import harness
from cases import ARGS, case, check, equal, free_counters, serve


def bench(server, *more):
    """The results of `duo bench serve`, one for each number of clients."""
    ended = subprocess.run([ARGS.duo, "bench", "serve", "--server", server.address, "--json", *more], capture_output=True,
                           text=True, check=False)
    check(ended.returncode == 0, f"bench serve {more}: {ended.returncode}: {ended.stderr[-300:]}")
    return json.loads(ended.stdout)["results"]


def comes_back(client, before):
    """Cancelled answers end before the next step; then everything is as it was."""
    deadline = time.time() + 30 * harness.patience
    while free_counters(client) != before and time.time() < deadline:
        time.sleep(0.1)
    equal(free_counters(client), before, "pages, rings, sessions and requests after the load")


@case
def load_mixed():
    """Chats, reads, forks, cancels, lost connections and bad calls at once: no error but the meant, and nothing is lost."""
    clients, asked = (64, ("--seconds", "120")) if ARGS.full else (12, ("--requests", "8"))
    with serve("--sessions", str(3 * clients), "--questions", str(clients), "--max-session-tokens", "4000", "--kv-tokens",
               str(2000 * clients), "--max-queue", str(8 * clients)) as server:
        client = server.client()
        before = free_counters(client)
        found, = bench(server, "--mix", "mixed", "--clients", str(clients), "--context", "50-300", "--answer", "~24",
                       "--document", "500-1500", "--readers", "2", *asked)
        equal(found["errors"], {}, "errors that were not meant")
        check(found["requests"] > 0 and found["reads"]["count"] > 0, f"answers and documents: {found}")
        intended = found["intended"]
        refused = intended.get("INVALID_ARGUMENT", 0) + intended.get("NOT_FOUND", 0)
        check(min(refused, intended.get("cancelled", 0), intended.get("disconnected", 0)) > 0, f"each kind of end: {found}")
        equal(set(found["left_behind"].values()), {0}, "what is left behind")
        check(found["engine"]["decode_tokens"] > 0, f"the engine's own count: {found}")
        comes_back(client, before)


@case
def load_many():
    """More questions than run at once: all are answered, each as alone."""
    with serve("--sessions", "2", "--questions", "300", "--max-session-tokens", "2000", "--kv-tokens", "120000") as server:
        client = server.client()
        before = free_counters(client)
        check(before["rings_free"] < 300, f"rings for those that run: {before}")
        found, = bench(server, "--mix", "document", "--clients", "300", "--context", "400", "--answer", "4", "--requests", "1")
        equal((found["errors"], found["requests"], found["tokens"]), ({}, 300, 1200), "errors, answers and their tokens")
        comes_back(client, before)


@case
def random_weights():
    """Made-up weights serve a shape without a checkpoint: a loud label, a byte a token, and a load with a picture."""
    with serve("--shape", "needle-6m", "--random-weights", "--sessions", "8", "--max-session-tokens", "1000",
               model=None) as server:
        check(any("RANDOM WEIGHTS" in line for line in server.lines), "".join(server.lines))
        client = server.client()
        client.Create(id="a")
        client.append("a", b"abc d")  # no place in it is certain to this tokenizer: it is read with the question
        answer, last = client.ask("a", "e", max_new_tokens=6, stop=[])
        equal(last.stats.prompt_tokens, 6, "tokens of six bytes")
        check(last.stats.new_tokens == 6 and answer, f"an answer of six tokens: {answer!r} {last}")
        client.Close(session_id="a")
        with tempfile.TemporaryDirectory() as folder:
            picture = os.path.join(folder, "load.svg")
            found = bench(server, "--clients", "1,3", "--context", "40", "--answer", "8", "--requests", "2", "--svg", picture)
            with open(picture, encoding="utf-8") as file:
                check(file.read().startswith("<svg "), "a picture")
        equal([r["clients"] for r in found], [1, 3], "results")
        for result in found:
            equal((result["errors"], result["requests"], result["tokens"]), ({}, 2 * result["clients"], 16 * result["clients"]),
                  "errors, answers and their tokens")
            check(0 < result["gap_seconds"]["p50"] <= result["gap_seconds"]["worst"], f"gaps: {result}")
    for more, said in ((("--random-weights",), "--shape"), (("--shape", "needle-6m"), "--random-weights"),
                       (("--shape", "huge", "--random-weights"), "needle-6m"), ((), "--model"),
                       (("--shape", "needle-6m", "--random-weights", "--save-dir", "x"), "--save-dir"),
                       (("--shape", "needle-6m", "--random-weights", "--model", harness.MODEL), "--model")):
        ended = subprocess.run([ARGS.duo, "serve", *more], capture_output=True, text=True, check=False)
        check(ended.returncode == 2 and said in ended.stderr, f"{more}: {ended.returncode}: {ended.stderr[-300:]}")
    ended = subprocess.run([ARGS.duo, "bench", "serve", "--server", "127.0.0.1:1"], capture_output=True, text=True, check=False)
    check(ended.returncode == 1 and "duo serve" in ended.stderr, f"nobody answers: {ended.stderr[-300:]}")
