#!/usr/bin/env python3
"""What users of `duo serve` wait for, in seconds: a short question beside a long ingest, a follow-up, a fork, a restore.

    serve.py --duo build/duo [--device cuda] [--tokens 32000] [--folder DIR] [--out tests/bench/results/serve_cpu.json]

The demo model on loopback. --folder: on the disk that is measured. Restores are compared with the disk's read rate in the
same run: the saved files read with O_DIRECT in blocks of 4 MiB, by one thread and by two, the better of both; before each
restore the files are dropped from the page cache. Needs grpcio and grpcio-reflection, as tests/serve does.
"""

import argparse
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import record

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "serve"))
from harness import Server, needles  # noqa: E402

BLOCK = 1 << 22
MAX_WAIT = 0.5


def direct_rate(files, threads):
    """Bytes a second past the page cache."""
    blocks = [(f, at) for f in files for at in range(0, os.path.getsize(f), BLOCK)]
    lock, read = threading.Lock(), [0]

    def work():
        buffer = mmap.mmap(-1, BLOCK)
        opened = {f: os.open(f, os.O_RDONLY | os.O_DIRECT) for f in files}
        while True:
            with lock:
                if not blocks:
                    break
                file, at = blocks.pop(0)
            size = os.preadv(opened[file], [buffer], at)
            with lock:
                read[0] += size
        for fd in opened.values():
            os.close(fd)
    begun = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return read[0] / (time.perf_counter() - begun)


def drop(files):
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def restoring(client, folder, results):
    """The session "doc", saved and restored three times."""
    saved = client.Save(session_id="doc")
    client.Close(session_id="doc")
    files = [os.path.join(folder, "doc", f) for f in os.listdir(os.path.join(folder, "doc"))]
    disk = {1: [], 2: []}
    cold, warm = [], []
    for _ in range(3):
        for threads, rates in disk.items():
            drop(files)
            rates.append(direct_rate(files, threads))
        for rates in (cold, warm):
            if rates is cold:
                drop(files)
            restored = client.Restore(session_id="doc")
            rates.append(restored.bytes_read / restored.seconds)
            client.Close(session_id="doc")
    best = max(max(r) for r in disk.values())
    results["restore"] = {
        "bytes": saved.bytes_total, "save_mb_per_second": round(saved.bytes_written / saved.seconds / 1e6),
        "disk_mb_per_second": {f"{n} thread{'s' if n > 1 else ''}": round(max(r) / 1e6) for n, r in disk.items()},
        "restore_mb_per_second": round(max(cold) / 1e6), "share_of_disk": round(max(cold) / best, 3),
        "restore_from_page_cache_mb_per_second": round(max(warm) / 1e6)}


def forking(client, document, tokens, results):
    rows = {}
    for size in (tokens // 16, tokens):
        client.Create(id="grown", max_tokens=tokens + 4000)
        client.append("grown", document[:int(len(document) * size / tokens)])
        times = []
        for _ in range(15):
            begun = time.perf_counter()
            fork = client.Fork(session_id="grown").id
            times.append(time.perf_counter() - begun)
            client.Close(session_id=fork)
        rows[f"{size} tokens"] = round(1e3 * statistics.median(times), 2)
        client.Close(session_id="grown")
    results["fork_milliseconds"] = rows


def waiting(client, server, session, question, text, room, results):
    """Questions on `session`, one after the other, while `text` is read into another."""
    alone = [client.ask(session, question)[1].stats for _ in range(10)]
    client.Create(id="long", max_tokens=room)
    reading = threading.Thread(target=lambda: server.client().append("long", text))
    reading.start()
    while not client.Stats().requests_running:
        pass
    beside = []
    while reading.is_alive():
        beside.append(client.ask(session, question)[1].stats)
    reading.join()
    read = client.Get(session_id="long").tokens
    client.Close(session_id="long")
    firsts = sorted(s.first_token_seconds for s in beside)
    own = statistics.median(s.first_token_seconds for s in alone)
    results["question_beside_an_ingest"] = {
        "ingest_tokens": read, "questions": len(beside), "max_wait_seconds": MAX_WAIT,
        "first_token_seconds_alone": round(own, 4),
        "first_token_seconds": {"median": round(statistics.median(firsts), 4), "longest": round(firsts[-1], 4)},
        "longest_queue_seconds": round(max(s.queue_seconds for s in beside), 4),
        "within_max_wait_and_its_own_time": sum(f <= MAX_WAIT + own for f in firsts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--ingest", type=int, default=100000, help="tokens of the ingest that questions wait for")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder")
    parser.add_argument("--out")
    args = parser.parse_args()
    document, questions = needles(args.tokens)
    long_text, _ = needles(args.ingest, 1, seed=3)
    room = int(1.1 * max(args.tokens, args.ingest)) + 6000
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, \
            Server(args.duo, "--sessions", "6", "--questions", "4", "--max-session-tokens", str(room), "--max-wait",
                   str(MAX_WAIT), "--save-dir", folder, device=args.device, threads=args.threads) as server:
        client = server.client()
        plan = client.Plan()
        results["device"], results["kv"] = plan.device, plan.kv_format
        client.Create(id="doc", max_tokens=args.tokens + 4000)
        done = client.append("doc", document)
        _, last = client.ask("doc", questions[0][0])
        results["follow_up"] = {"session_tokens": done.total_tokens, "session_read_seconds": round(done.stats.read_seconds, 3),
                                "question_tokens": last.stats.prompt_tokens,
                                "first_token_seconds": round(last.stats.first_token_seconds, 4)}
        waiting(client, server, "doc", questions[0][0], long_text, room, results)
        forking(client, document, args.tokens, results)
        restoring(client, folder, results)
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True, check=False).stdout.strip()
    if commit:
        results["commit"] = commit
    record.show(results, args.out)


if __name__ == "__main__":
    main()
