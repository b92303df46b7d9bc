#!/usr/bin/env python3
"""One long document in company: read beside answers that are being written, and sent again whole with every question.

    long_document.py --duo build/duo [--tokens 1000000] [--beside 900000] [--seconds N] [--kv int4] [--out FILE]

A server of random weights (a byte is a token) gets the document as the prompt of a completion over HTTP. Until it has
read --beside tokens, `duo bench serve` has eight answers written on sessions of 8,000 tokens, and a ninth client asks a
short question a second; then both stop, and the rest is read alone. After that the same document comes again and again
with a new question behind it: seconds to the first token, and how many tokens were there. After --seconds the reader goes
away, and what it left is the document from then on.

What the read would take alone is not run but sampled, by `duo bench prefill --sample` on the same machine, which
times chunks at five histories; --no-alone leaves it out. Standard library only.
"""

import argparse
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import record

LETTERS = "abcdefghijklmnopqrstuvwxyz     .,"


class Server:
    """`duo serve` of random weights, until the block ends."""

    def __init__(self, args, folder):
        self.log = os.path.join(folder, "server.log")
        longest = args.tokens + 4096
        words = [args.duo, "serve", "--shape", args.shape, "--random-weights", "--kv", args.kv, "--listen", "127.0.0.1:0",
                 "--http", "127.0.0.1:0", "--log", "json", "--sessions", str(args.answers + 8),
                 "--questions", str(args.answers + 8), "--max-session-tokens", str(longest),
                 "--kv-tokens", str(longest + 20000 + (args.answers + 2) * (args.context + 2000)), *args.serve]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(words, stderr=log)
        self.grpc, self.http = self.port("listening"), self.port("listening for HTTP")

    def events(self, name):
        with open(self.log, encoding="utf-8") as log:
            whole = [json.loads(line) for line in log if line.startswith("{") and line.endswith("}\n")]
        return [event for event in whole if event["event"] == name]

    def port(self, line):
        while not (found := self.events(line)):
            assert self.process.poll() is None, open(self.log, encoding="utf-8").read()[-2000:]
            time.sleep(0.1)
        return found[0]["port"]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.terminate()
        self.process.wait(60)

    def tokens(self, kind):
        """Run through the model so far: "prefill" or "decode"."""
        name = 'duo_tokens_total{kind="' + kind + '"}'
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=30)
        connection.request("GET", "/metrics")
        for line in connection.getresponse().read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def complete(self, prompt, tokens=2):
        """Seconds to the first token, and the usage."""
        body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                           "stream_options": {"include_usage": True}})
        begun = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=3600)
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        self.asking = connection.sock
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        first = usage = None
        for line in answer:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if first is None and event["choices"]:
                first = time.perf_counter() - begun
            usage = event.get("usage") or usage
        return first, usage


    def go_away(self):
        """In the middle of the last prompt."""
        self.asking.shutdown(socket.SHUT_RDWR)


class Load:
    """`duo bench serve` until it is stopped."""

    def __init__(self, args, server, *more):
        words = [args.duo, "bench", "serve", "--server", f"127.0.0.1:{server.grpc}", "--seconds", "100000", "--json", *more]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        found, = json.loads(self.process.communicate(timeout=120)[0])["results"]
        return found


def read_it(server, document):
    try:
        server.complete(document, 1)
    except (OSError, http.client.HTTPException):
        pass  # it went away


def read_beside(args, server, document):
    """What the read and the answers were while both ran, and what the rest of the read was."""
    answers = Load(args, server, "--clients", str(args.answers), "--context", str(args.context), "--answer", "512")
    short = Load(args, server, "--clients", "1", "--rate", "1", "--context", "200", "--question", "16", "--answer", "2",
                 "--seed", "2", "--goal-first", "0.2")
    while server.tokens("decode") < 50 * args.answers:  # all are being written
        assert answers.process.poll() is None and short.process.poll() is None
        time.sleep(0.2)
    before = server.tokens("prefill")
    wall = time.strftime("%H:%M:%S", time.gmtime())
    begun, read = time.perf_counter(), threading.Thread(target=read_it, args=(server, document))
    read.start()
    while (done := server.tokens("prefill") - before) < args.beside and time.perf_counter() - begun < args.seconds:
        assert read.is_alive(), "the document was read before it was to be"
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    found = {"read_begun": wall, "beside": {"tokens": int(done), "seconds": seconds, "tokens_per_second": done / seconds},
             "answers": answers.stop(), "short_questions": short.stop()}
    begun, done = time.perf_counter(), server.tokens("prefill") - before
    if found["beside"]["tokens"] < args.beside:
        server.go_away()
        read.join()
        return found
    read.join()
    rest, seconds = args.tokens - done, time.perf_counter() - begun
    found["rest_alone"] = {"tokens": int(rest), "seconds": seconds, "tokens_per_second": rest / seconds}
    return found


def hits(args, server, document, read):
    document = document[:read]
    times, cached = [], []
    for i in range(args.hits):
        first, usage = server.complete(f"{document}\nQuestion {i}: where is number {i * 7919}?")
        times.append(first)
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    return {"tokens": len(document), "first_token_seconds": times, "median_seconds": statistics.median(times), "cached_tokens": cached}


def sampled_alone(args):
    """Seconds of --beside tokens read alone."""
    words = [args.duo, "bench", "prefill", "--shape", args.shape, "--context", str(args.beside), "--kv", args.kv, "--attention",
             "duo", "--sample", "--json"]
    row, = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)["rows"]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--shape", default="llama-3-8b")
    parser.add_argument("--kv", default="int4")
    parser.add_argument("--tokens", type=int, default=1000000)
    parser.add_argument("--beside", type=int, default=900000)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--context", type=int, default=8000)
    parser.add_argument("--hits", type=int, default=11)
    parser.add_argument("--no-alone", action="store_true")
    parser.add_argument("--serve", action="append", default=[], help="a further word of duo serve; repeatable")
    parser.add_argument("--out")
    args = parser.parse_args()
    chance = random.Random(1)
    document = "".join(chance.choices(LETTERS, k=args.tokens))
    results = {"options": {name: getattr(args, name) for name in ("shape", "kv", "tokens", "beside", "answers", "context")}}
    with tempfile.TemporaryDirectory() as folder, Server(args, folder) as server:
        results.update(read_beside(args, server, document))
        whole = results["beside"]["tokens"] >= args.beside
        results["hits"] = hits(args, server, document, args.tokens if whole else results["beside"]["tokens"])
        results["slow"] = server.events("slow")
        shorts = sorted(server.events("answered"), key=lambda e: -e["first_token_seconds"] if e["new_tokens"] == 2 else 0)
        results["slowest_short_questions"] = [
            {name: e[name] for name in ("time", "history_tokens", "queue_seconds", "first_token_seconds")} for e in shorts[:5]]
        record.show(results, args.out)
    if not args.no_alone:
        row = sampled_alone(args)
        results["alone_sampled"] = row
        results["share_of_alone"] = results["beside"]["tokens_per_second"] / row["tokens_per_second"]
    record.show(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
