#!/usr/bin/env python3
"""What prompts that begin alike are worth, and what they tell: times on one server with the demo model.

    prefixes.py --duo build/duo [--lookup build/tests/bench/prefix_lookup] [--out tests/bench/results/prefixes.json] [--only NAME]..

first_token   a question behind a document of 32,000 tokens that is sent whole over HTTP, and the same by gRPC's Ask on
              the open session: seconds to the first token of pairs, in turn one or the other first
callers       a text that another caller has sent, and one that nobody has: 200 pairs, in random order; whether their
              times differ is judged by Wilcoxon's signed-rank test. The same for a caller's own text
saved         a document that comes back from disk: its rate, that of reading the same files plainly, and how long
              reading the text again takes. Its files are put out of the page cache first (POSIX_FADV_DONTNEED), which
              says nothing of caches below that
lookup        what finding a prompt among many takes (prefix_lookup.cc), by CPU time
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

import record

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "serve"))
import harness  # noqa: E402
import http_harness  # noqa: E402
from http_harness import Server  # noqa: E402

MINE, YOURS = "a-token-that-is-mine", "a-token-that-is-yours"
WORDS = "the of and a to in is river tower house light under stone green rapid quiet seven letter window paper".split()


def first_of_http(server, prompt, token=None, **more):
    """Seconds from the request to the first token, and the tokens that were there."""
    with server.raw(timeout=600) as raw:
        headers = {"authorization": "Bearer " + token} if token else {}
        begun = time.perf_counter()
        raw.send_request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True,
                                                     "stream": True, "stream_options": {"include_usage": True}, **more}, **headers)
        status, _ = raw.head()
        assert status == 200, status
        chunks, seen, first = raw.chunks(), b"", None
        for chunk in chunks:
            seen += chunk
            if first is None and b"data: " in seen:
                first = time.perf_counter() - begun
        usage = json.loads(http_harness.events_of(seen)[-2])["usage"]
    return first, usage["prompt_tokens_details"]["cached_tokens"]


def first_of_grpc(client, session, text):
    begun = time.perf_counter()
    first = None
    for update in client.Ask(session_id=session, text=text, max_new_tokens=2, ignore_end_tokens=True):
        if first is None and (update.text or update.done):
            first = time.perf_counter() - begun
    return first


def first_token(args):
    text, questions = harness.needles(args.tokens, facts=8, seed=3)
    with Server("--kv-tokens", str(2 * args.tokens), threads=os.cpu_count()) as server:
        client = server.client()
        client.Create(id="book", max_tokens=args.tokens + 2000)
        client.append("book", text)
        http, grpc, cached = [], [], 0
        for i in range(args.pairs + 2):
            ask = f"\nQuestion {i}: {questions[i % len(questions)][0].strip()}"  # each a new one
            for kind in (0, 1) if i % 2 else (1, 0):
                if kind:
                    seconds, cached = first_of_http(server, text.decode() + ask)
                    http.append(seconds)
                else:
                    grpc.append(first_of_grpc(client, "book", ask))
        http, grpc = http[2:], grpc[2:]
        return {"tokens": args.tokens, "cached_tokens": cached, "pairs": args.pairs,
                "http_ms": round(1e3 * statistics.median(http), 2), "grpc_ms": round(1e3 * statistics.median(grpc), 2),
                "ratio_of_pairs": round(statistics.median(h / g for h, g in zip(http, grpc)), 3)}


def signed_rank(pairs):
    """Wilcoxon's two-sided p that the pairs do not differ; normal approximation, ties at their mean rank."""
    differences = sorted((a - b for a, b in pairs if a != b), key=abs)
    n = len(differences)
    ranks, i = [0.0] * n, 0
    while i < n:
        j = i
        while j < n and abs(differences[j]) == abs(differences[i]):
            j += 1
        for k in range(i, j):
            ranks[k] = (i + j + 1) / 2
        i = j
    above = sum(rank for rank, d in zip(ranks, differences) if d > 0)
    z = (above - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return math.erfc(abs(z) / math.sqrt(2))


def callers(args):
    """Pairs of times to the first token of my text: one that `first` has sent, one that nobody has."""
    chance = random.Random(7)

    def text(words):
        return " ".join(chance.choice(WORDS) for _ in range(words)) + f" {chance.random()}\n"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "tokens")
        with open(file, "w", encoding="ascii") as out:
            out.write(f"{MINE} me\n{YOURS} you\n")
        os.chmod(file, 0o600)
        # With rings, going on behind a text that is this short is as much work as to read it, and no hit would be found.
        with Server("--token-file", file, "--kv-tokens", "60000", "--attention", "full", threads=os.cpu_count()) as server:
            for name, first in (("anothers", YOURS), ("own", MINE)):
                pairs, cached = [], []
                for i in range(args.callers_pairs + 5):
                    sent, new = text(args.words), text(args.words)
                    first_of_http(server, sent, first)
                    order = [sent, new]
                    chance.shuffle(order)
                    times = {}
                    for each in order:
                        times[each], hit = first_of_http(server, each, MINE)
                        cached.append(hit if each is sent else 0)
                    if i >= 5:
                        pairs.append((times[sent], times[new]))
                found[name] = {"pairs": len(pairs), "p": signed_rank(pairs), "cached_tokens": max(cached),
                               "sent_ms": round(1e3 * statistics.median(a for a, _ in pairs), 2),
                               "new_ms": round(1e3 * statistics.median(b for _, b in pairs), 2)}
    return found


def files_below(folder):
    return [os.path.join(path, name) for path, _, names in os.walk(folder) for name in names]


def forget(folder):
    os.sync()
    for name in files_below(folder):
        with open(name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(folder):
    """Bytes and seconds of reading every file from its beginning to its end."""
    forget(folder)
    size, buffer, begun = 0, bytearray(8 << 20), time.perf_counter()
    for name in files_below(folder):
        with open(name, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                size += count
    return size, time.perf_counter() - begun


def saved(args):
    text, questions = harness.needles(args.tokens, facts=8, seed=3)
    text = text.decode()
    rates, plain, reads, sizes = [], [], [], 0
    with tempfile.TemporaryDirectory(dir=args.disk) as folder:
        flags = ("--save-dir", folder, "--prefix-disk", "4000000000", "--kv-tokens", str(2 * args.tokens))
        with Server(*flags, threads=os.cpu_count()) as server:
            seconds, _ = first_of_http(server, text + questions[0][0])
            reads.append(seconds)
            server.wait_for("prefix saved", 600)
            server.kill()
        for i in range(args.restores):
            size, seconds = plain_read(folder)
            plain.append(size / seconds)
            forget(folder)
            with Server(*flags, threads=os.cpu_count()) as server:
                forget(folder)
                first, cached = first_of_http(server, text + questions[1 + i % 7][0])
                event = server.wait_for("prefix restored")
                assert cached > args.tokens - 200, cached
                rates.append(event["bytes"] / event["seconds"])
                sizes = event["bytes"]
                reads.append(first)
                server.kill()
    return {"tokens": args.tokens, "bytes": sizes, "restores": len(rates), "restored_mb_per_second": round(statistics.median(rates) / 1e6),
            "plain_mb_per_second": round(statistics.median(plain) / 1e6),
            "share_of_plain": round(statistics.median(r / p for r, p in zip(rates, plain)), 3),
            "first_token_read_s": round(reads[0], 2), "first_token_restored_s": round(statistics.median(reads[1:]), 2)}


def lookup(args):
    done = subprocess.run([args.lookup], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--lookup")
    parser.add_argument("--out")
    parser.add_argument("--only", action="append", choices=["first_token", "callers", "saved", "lookup"])
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--callers-pairs", type=int, default=200)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--restores", type=int, default=5)
    parser.add_argument("--disk", help="a folder on the disk that is meant")
    args = parser.parse_args(namespace=http_harness.ARGS)
    results = {}
    if args.out and os.path.exists(args.out):
        with open(args.out, encoding="utf-8") as file:
            results = json.load(file)
    names = args.only or ["first_token", "callers", "saved"] + (["lookup"] if args.lookup else [])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                            cwd=os.path.dirname(os.path.abspath(__file__))).stdout.strip()
    for name in names:
        load = os.getloadavg()[0]
        results[name] = {"commit": commit, "device": "cpu", "cores": os.cpu_count(), "load_before": round(load, 2), **globals()[name](args)}
    record.show(results, args.out)


if __name__ == "__main__":
    main()
