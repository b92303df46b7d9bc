#!/usr/bin/env python3
"""What HTTP costs: memory of 1,000 streams at once, CPU of its threads beside the engine's, milliseconds to a first token.

    http_front.py --duo build/duo [--out tests/bench/results/http.json]

One server on loopback with the demo model. Memory is what the process grows by from 16 running answers to 16 running and
984 waiting ones, all connected and streaming; CPU is that of the server's threads while 16 answers are written, by
/proc; the added time is what a client waits for the first event of an answer less what the engine says it took.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import record

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "serve"))
import http_harness  # noqa: E402
from http_harness import Server  # noqa: E402


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def cpu(pid):
    """Seconds of CPU by thread name."""
    seconds, tick = {}, os.sysconf("SC_CLK_TCK")
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
            name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        fields = rest.split()
        seconds[name] = seconds.get(name, 0) + (int(fields[11]) + int(fields[12])) / tick
    return seconds


def kv(server):
    return sum(value for name, value in server.metrics().items() if name.startswith("duo_kv_bytes")) / 2 ** 20


def stream(server, tokens):
    raw = server.raw(timeout=600)
    raw.send_request("POST", "/v1/completions", {"prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True})
    return raw


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--out")
    parser.add_argument("--streams", type=int, default=1000)
    args = parser.parse_args(namespace=http_harness.ARGS)
    results = {"commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                                        cwd=os.path.dirname(os.path.abspath(__file__))).stdout.strip(),
               "cores": os.cpu_count(), "load_before": os.getloadavg()[0], "streams": args.streams}
    with Server("--max-queue", "2000", "--questions", "16", threads=1) as server:
        pid = server.process.pid
        running = [stream(server, 8000) for _ in range(16)]
        for raw in running:
            raw.until(b"data: ")
        time.sleep(2)
        before, kv_before = resident(pid), kv(server)
        waiting = [stream(server, 1) for _ in range(args.streams - 16)]
        waiting[-1].until(b":\n\n")  # all are taken, and told to wait
        time.sleep(1)
        results["grown_mib"] = round(resident(pid) - before, 1)
        results["of_that_kv_mib"] = round(kv(server) - kv_before, 1)  # of the 16 answers that go on
        used, begun = cpu(pid), time.time()
        time.sleep(10)
        seconds = time.time() - begun
        used = {name: value - used.get(name, 0) for name, value in cpu(pid).items()}
        results["cpu_share_of_one_core"] = {name: round(value / seconds, 3) for name, value in sorted(used.items()) if value > 0}
        for raw in running + waiting:
            raw.socket.close()
        server.wait_until("all have stopped", lambda: server.metrics()['duo_requests{state="waiting"}'] == 0, 60)
        server.post("/duo/v1/sessions", {"id": "s", "max_tokens": 1000})
        server.request("PUT", "/duo/v1/sessions/s/text", b"some words to begin with", content_type="text/plain")
        added = []
        with server.raw() as raw:
            for _ in range(200):
                begun = time.perf_counter()
                raw.send_request("POST", "/duo/v1/sessions/s/ask", {"text": "x", "max_new_tokens": 2, "stream": True})
                raw.head()
                chunks = raw.chunks()
                body = next(chunks)
                first = time.perf_counter() - begun
                body += b"".join(chunks)
                stats = json.loads(http_harness.events_of(body)[-1])["stats"]
                added.append(1e3 * (first - stats["first_token_seconds"]))
        results["added_ms_to_first_token"] = {"median": round(statistics.median(added), 3),
                                              "p90": round(sorted(added)[int(0.9 * len(added))], 3)}
    record.show(results, args.out)


if __name__ == "__main__":
    main()
