#!/usr/bin/env python3
"""The service as its users meet it: `duo serve` as a process, clients over loopback that know only gRPC reflection.

    serve_test.py --duo build/duo --case NAME [--full]      (--list names the cases)

Without --full documents are short and counts small, for ctest; with it they are those of the acceptance list. Exits with
77 (skipped) where grpcio and grpcio-reflection are missing.
"""

import argparse
import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import harness
from harness import Client, Server, code_of, needles

try:
    import grpc
except ImportError:
    grpc = None

ARGS = None
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(found, expected, what):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def serve(*more, **options):
    return Server(ARGS.duo, *more, **options)


def ask_all(client, session, questions):
    return [client.ask(session, q)[0] for q, _ in questions]


def free_counters(client):
    s = client.Stats()
    return {"pages_free": s.pages_free, "pages_available": s.pages_available, "split_pages_free": s.split_pages_free,
            "rings_free": s.rings_free, "sessions_open": s.sessions_open, "running": s.requests_running,
            "waiting": s.requests_waiting}


@case
def reflection():
    """A client that knows nothing lists services, ingests a document, asks 8 questions on forks."""
    tokens = 32000 if ARGS.full else 6000
    document, questions = needles(tokens)
    with serve("--sessions", "12", "--max-session-tokens", str(2 * tokens)) as server:
        client = server.client()
        for name in ("duo.v1.Sessions", "duo.v1.Cluster", "grpc.health.v1.Health"):
            check(name in client.services, f"{name} is not among {client.services}")
        equal(client.health("duo.v1.Sessions"), 1, "health")
        client.Create(id="book", max_tokens=tokens + tokens // 4)
        seen = []
        done = client.append("book", document, on_progress=lambda p: seen.append(p.tokens))
        check(seen == sorted(seen) and len(seen) >= 3, f"progress {seen}")
        equal(done.session.tokens, done.total_tokens, "tokens of the session")
        answers = []
        for i, (question, _) in enumerate(questions):
            client.Fork(session_id="book", new_id=f"fork-{i}")
            answers.append(client.ask(f"fork-{i}", question)[0])
        right = sum(a.startswith(e) for a, (_, e) in zip(answers, questions))
        print(f"{done.total_tokens} tokens, {right} of {len(questions)} right, read in {done.stats.read_seconds:.1f} s")
        equal(right, len(questions), f"right answers ({answers})")
        equal(server.stop(), 0, "exit code")


@case
def append_retry():
    """Pieces repeated at their offset are added once; an append that is complete answers at once; pieces are one text."""
    document, questions = needles(2000, 4)
    long_document, _ = needles(12000, 1, seed=5)
    with serve("--sessions", "4", "--max-session-tokens", "40000") as server:
        client = server.client()
        client.Create(id="whole", max_tokens=40000)
        client.append("whole", document)
        expected = ask_all(client, "whole", questions)
        client.Create(id="pieces", max_tokens=6000)

        def broken():
            yield client.message("Append", session_id="pieces", append_id="a", text=document[:1001])
            yield client.message("Append", offset=1001, text=document[1001:1777])
            time.sleep(1)
            raise RuntimeError("the client breaks")
        code_of(lambda: client.call("Append", broken()))
        deadline = time.time() + 20
        while client.Get(session_id="pieces").append.received_bytes != 1777:
            check(time.time() < deadline, "the server kept what it had")
            time.sleep(0.1)
        state = client.Get(session_id="pieces")
        equal(state.tokens, 0, "nothing is read before all is there")
        done = client.append("pieces", document, append_id="a", piece=333, offset=1500)
        equal(done.session.tokens, client.Get(session_id="whole").tokens, "tokens, however cut")
        again = client.append("pieces", document, append_id="a")
        equal(again.session.tokens, done.session.tokens, "tokens after repeating a complete append")
        equal(ask_all(client, "pieces", questions), expected, "answers")

        def gap():
            yield client.message("Append", session_id="pieces", append_id="b", offset=5, text=b"later")
        equal(code_of(lambda: client.call("Append", gap()))[0], grpc.StatusCode.INVALID_ARGUMENT, "a gap")

        def differs():
            yield client.message("Append", session_id="pieces", append_id="c", text=b"abcdef")
            yield client.message("Append", offset=3, text=b"xyz")
        code, sentence = code_of(lambda: client.call("Append", differs()))
        equal(code, grpc.StatusCode.INVALID_ARGUMENT, f"other text at a known offset ({sentence})")
        # A cancelled append without an id leaves nothing behind; with an id it goes on where it stopped.
        before = client.Get(session_id="whole").tokens
        for name in ("", "again"):
            def slow():
                yield client.message("Append", session_id="whole", append_id=name, text=long_document)
            call = client.call("Append", slow())
            for progress in call:
                if progress.total_tokens:
                    call.cancel()
                    break
            deadline = time.time() + 30
            while client.Get(session_id="whole").pending_calls:
                check(time.time() < deadline, "the cancelled append stops")
                time.sleep(0.05)
            session = client.Get(session_id="whole")
            if not name:
                equal(session.tokens, before, "tokens after an anonymous append was cancelled")
        check(before < session.tokens or session.append.total_tokens > 0, "what was read of a named append stays")
        equal(code_of(lambda: client.ask("whole", "x"))[0], grpc.StatusCode.FAILED_PRECONDITION, "a half-read document")
        done = client.append("whole", long_document, append_id="again")
        equal(done.session.tokens - before, len(client.Tokenize(text=long_document.decode()).tokens), "tokens of the text")


@case
def many():
    """16 sessions of different lengths at once, 4 ingesting: each answer is as when asked alone, and none waits long."""
    unit, count = (1500, 16) if ARGS.full else (400, 8)
    long_tokens, max_wait = (20000, 0.5) if ARGS.full else (6000, 0.5)
    room = 10 * unit + long_tokens + 4000
    with serve("--sessions", str(count), "--max-session-tokens", str(room), "--max-wait", str(max_wait), "--kv-tokens",
               str(room * (count + 8))) as server:
        client = server.client()
        questions, alone = {}, {}
        for i in range(count):
            document, asked = needles(unit * (1 + i % 8), 3, seed=i + 1)
            name = f"s{i}"
            client.Create(id=name, max_tokens=room)
            client.append(name, document)
            questions[name] = asked
            alone[name] = ask_all(client, name, asked)
        alone_first = [client.ask("s0", questions["s0"][0][0])[1].stats.first_token_seconds for _ in range(3)]
        long_text, _ = needles(long_tokens, 1, seed=99)
        ingesting = [f"s{i}" for i in range(0, count, 4)]
        stop = threading.Event()

        def ingest(name):
            c = server.client()
            client_done = c.append(name, long_text)
            return client_done.total_tokens

        def questioner(name):
            c, first = server.client(), []
            for _ in range(4):
                for (question, _), expected in zip(questions[name], alone[name]):
                    answer, last = c.ask(name, question)
                    equal(answer, expected, f"{name}: answer beside others")
                    first.append(last.stats)
                if stop.is_set():
                    break
            return first

        asking = [n for n in questions if n not in ingesting]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            reads = [pool.submit(ingest, n) for n in ingesting]
            time.sleep(0.5)
            asks = [pool.submit(questioner, n) for n in asking]
            stats = [s for a in asks for s in a.result()]
            stop.set()
            for r in reads:
                r.result()
        waits = sorted(s.queue_seconds for s in stats)
        print(f"{len(stats)} answers beside {len(ingesting)} ingests, as alone; queue median "
              f"{waits[len(waits) // 2]:.3f} s, longest {waits[-1]:.3f} s; first token alone {min(alone_first):.3f} s, "
              f"beside: median {sorted(s.first_token_seconds for s in stats)[len(stats) // 2]:.3f} s")
        # One question beside one long ingest: the bound itself.
        client.Close(session_id="s1")
        client.Create(id="long", max_tokens=room)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            read = pool.submit(ingest, "long")
            time.sleep(1)
            first = []
            while not read.done():
                first.append(client.ask("s2", questions["s2"][0][0])[1].stats)
            read.result()
        check(first, "a question was answered while the long text was read")
        if first:
            longest = max(s.queue_seconds for s in first)
            check(longest <= 4 * max_wait + 1, f"a question waited {longest:.2f} s, --max-wait is {max_wait} s")
            print(f"beside one ingest: {len(first)} questions, waited at most {max(s.queue_seconds for s in first):.3f} s, "
                  f"first token after at most {max(s.first_token_seconds for s in first):.3f} s")


def start_durable(folder, *more):
    return serve("--sessions", "4", "--max-session-tokens", "80000", "--save-dir", folder, "--checkpoint-tokens", "1024",
                 *more)


@case
def crash():
    """kill -9 while reading: the session is there up to its last checkpoint, goes on, and answers as if nothing was."""
    rounds, tokens = (10, 32000) if ARGS.full else (2, 8000)
    document, questions = needles(tokens)
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder, start_durable(folder) as server:
        client = server.client()
        client.Create(id="ref", max_tokens=tokens * 2)
        done = client.append("ref", document)
        expected = ask_all(client, "ref", questions)
        total = done.total_tokens
    for round_number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            with start_durable(folder) as server:
                client = server.client()
                client.Create(id="doc", max_tokens=tokens * 2, durable=True)
                failed = concurrent.futures.ThreadPoolExecutor(1).submit(
                    lambda: code_of(lambda: client.append("doc", document, append_id="a")))
                moment, killed_at = rng.uniform(0.02, 0.95) * total, 0
                while killed_at < moment:
                    killed_at = client.Get(session_id="doc").tokens
                    time.sleep(rng.uniform(0, 0.05))
                server.kill()
                failed.exception()
            begun = time.time()
            with start_durable(folder) as server:
                client = server.client()
                found = client.Get(session_id="doc")
                check(found.tokens >= killed_at - 2 * 1024, f"killed at {killed_at} tokens, found {found.tokens}")
                done = client.append("doc", document, append_id="a")  # attaches to what goes on by itself
                equal(done.session.tokens, total, "tokens after the restart")
                equal(ask_all(client, "doc", questions), expected, "answers after the restart")
                print(f"round {round_number}: killed at {killed_at}, found {found.durable_tokens}, done "
                      f"{time.time() - begun:.1f} s after the restart")


@case
def ranks():
    """Saved on one rank, restored on three, and back: the same answers."""
    tokens = 12000 if ARGS.full else 3000
    document, questions = needles(tokens)
    with tempfile.TemporaryDirectory() as folder:
        def run(count, names, save_as=None):
            with serve("--sessions", "3", "--max-session-tokens", str(tokens * 2), "--save-dir", folder, ranks=count,
                       threads=1) as server:
                client = server.client()
                if names is None:
                    client.Create(id="one", max_tokens=tokens + 2000)
                    client.append("one", document)
                    result = ask_all(client, "one", questions)
                    saved = client.Save(session_id="one")
                    print(f"1 rank: {saved.bytes_total} B in {saved.seconds:.2f} s")
                    client.Close(session_id="one")
                    return result
                restored = client.Restore(session_id=names, new_id=save_as or "")
                print(f"{count} ranks: {restored.bytes_read} B read in {restored.seconds:.2f} s")
                result = ask_all(client, save_as or names, questions)
                if save_as:
                    client.Save(session_id=save_as)
                    client.Close(session_id=save_as)
                client.Drain()
                equal(server.process.wait(60), 0, "exit code")
                return result
        expected = run(1, None)
        equal(run(3, "one", "three"), expected, "answers on 3 ranks")
        equal(run(1, "three"), expected, "answers back on 1 rank")


@case
def damage():
    """Every flipped bit of a saved session is found; so are missing and foreign files, and nothing else is disturbed."""
    flips = 200 if ARGS.full else 30
    document, questions = needles(3000, 3)
    rng = random.Random(11)
    with tempfile.TemporaryDirectory() as folder:
        with serve("--sessions", "3", "--max-session-tokens", "8000", "--save-dir", folder) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=6000)
            client.append("doc", document)
            expected = ask_all(client, "doc", questions)
            client.Save(session_id="doc")
            client.Close(session_id="doc")
            free = free_counters(client)
            path = os.path.join(folder, "doc")
            files = sorted(os.listdir(path))
            manifest = open(os.path.join(path, "manifest"), encoding="utf-8").read()
            places = []
            body = json.loads(manifest[:manifest.rindex("crc32c")])
            sections = next(v for k, v in body.items() if k.startswith("sections ["))
            page_bytes = 128 * 2 * 64 * 4
            for s in sections:  # one place in every section
                size = s[4] * (page_bytes + 4)
                places.append((f"{s[5]}-pages-{s[2] // 512:05d}", s[6] + rng.randrange(size)))
            while len(places) < flips:
                name = rng.choice(files)
                places.append((name, rng.randrange(os.path.getsize(os.path.join(path, name)))))
            found = 0
            for name, at in places:
                full = os.path.join(path, name)
                with open(full, "r+b") as f:
                    f.seek(at)
                    byte = f.read(1)[0]
                    f.seek(at)
                    f.write(bytes([byte ^ (1 << rng.randrange(8))]))
                code, sentence = code_of(lambda: client.Restore(session_id="doc"))
                check(code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.FAILED_PRECONDITION),
                      f"{name} at {at}: {code} {sentence}")
                found += 1
                with open(full, "r+b") as f:
                    f.seek(at)
                    f.write(bytes([byte]))
            equal(free_counters(client), free, "counters after refused restores")
            for name in files:
                full = os.path.join(path, name)
                os.rename(full, full + ".away")
                code, _ = code_of(lambda: client.Restore(session_id="doc"))
                check(code in (grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND), f"{name} missing: {code}")
                os.rename(full + ".away", full)
            client.Restore(session_id="doc")
            equal(ask_all(client, "doc", questions), expected, "answers of the undamaged session")
            print(f"{found} flipped bits in {len(sections)} sections and {len(files)} files, all found")
            # Another choice of heads, and a newer format.
            client.Close(session_id="doc")
        with serve("--sparsity", "0.25", "--max-session-tokens", "8000", "--save-dir", folder) as server:
            code, sentence = code_of(lambda: server.client().Restore(session_id="doc"))
            equal(code, grpc.StatusCode.FAILED_PRECONDITION, f"other heads ({sentence})")
        with serve("--kv", "bf16", "--max-session-tokens", "8000", "--save-dir", folder) as server:
            code, sentence = code_of(lambda: server.client().Restore(session_id="doc"))
            equal(code, grpc.StatusCode.FAILED_PRECONDITION, f"other KV format ({sentence})")


@case
def disk_trouble():
    """A directory that cannot be written, a full disk: a clear error, the session unharmed, nothing half-written."""
    document, questions = needles(3000, 3)
    with tempfile.TemporaryDirectory() as folder:
        with serve("--sessions", "3", "--max-session-tokens", "8000", "--save-dir", folder) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=6000)
            client.append("doc", document)
            expected = ask_all(client, "doc", questions)
            # No file may grow beyond 64 KiB from now on: as a full disk, but for root too.
            limit = subprocess.run(["prlimit", "--pid", str(server.process.pid), "--fsize=65536:unlimited"], check=False)
            if limit.returncode == 0:
                code, sentence = code_of(lambda: client.Save(session_id="doc"))
                equal(code, grpc.StatusCode.RESOURCE_EXHAUSTED, f"no space ({sentence})")
                equal([s.residence for s in client.List().sessions], [1], "sessions after a failed save")
                check(not os.path.exists(os.path.join(folder, "doc", "manifest")), "no half-written session is visible")
                subprocess.run(["prlimit", "--pid", str(server.process.pid), "--fsize=unlimited"], check=True)
            os.rmdir(os.path.join(folder, "doc")) if os.path.isdir(os.path.join(folder, "doc")) else None
            with open(os.path.join(folder, "doc"), "w", encoding="utf-8") as blocking:
                blocking.write("in the way")
            code, sentence = code_of(lambda: client.Save(session_id="doc"))
            check(code != grpc.StatusCode.OK and "doc" in sentence, f"{code} {sentence}")
            equal(ask_all(client, "doc", questions), expected, "answers after failed saves")
            os.unlink(os.path.join(folder, "doc"))
            client.Save(session_id="doc")
            client.append("doc", b" A little more text.")
            saved = client.Save(session_id="doc")
            check(saved.bytes_written < saved.bytes_total, "the second save writes what is new only")


@case
def rewind():
    """Rewound to random positions, then appended to and asked: as a session that never went further."""
    count, tokens = (20, 8000) if ARGS.full else (4, 2500)
    document, _ = needles(tokens, 4, seed=3)
    tail, questions = needles(600, 2, seed=4)
    rng = random.Random(8)
    with serve("--sessions", "3", "--max-session-tokens", str(tokens * 2)) as server:
        client = server.client()
        ids = list(client.Tokenize(text=document.decode(), begin_of_text=True).tokens)
        client.Create(id="doc", max_tokens=tokens * 2)
        client.append("doc", document)
        for _ in range(count):
            at = rng.randrange(1, len(ids))
            client.Create(id="fresh", max_tokens=tokens * 2)

            def as_tokens():
                yield client.message("Append", session_id="fresh", tokens=ids[1:at] if at > 1 else ids[:1])
            list(client.call("Append", as_tokens()))
            at = client.Get(session_id="fresh").tokens
            client.Fork(session_id="doc", new_id="cut")
            client.Rewind(session_id="cut", tokens=at)
            for name in ("fresh", "cut"):
                client.append(name, tail)
            equal(ask_all(client, "cut", questions), ask_all(client, "fresh", questions), f"answers at {at}")
            for name in ("fresh", "cut"):
                client.Close(session_id=name)
        equal(code_of(lambda: client.Rewind(session_id="doc", tokens=len(ids) + 1))[0],
              grpc.StatusCode.INVALID_ARGUMENT, "rewinding beyond the end")
        print(f"{count} positions")


@case
def admission():
    """Sessions are opened until memory is full; the next is refused with the numbers; closing one makes room."""
    with serve("--sessions", "64", "--max-session-tokens", "4096", "--kv-tokens", "16384") as server:
        client = server.client()
        before = free_counters(client)
        opened = []
        while True:
            try:
                opened.append(client.Create(max_tokens=4000).id)
            except grpc.RpcError as error:
                equal(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, "the code of a refusal")
                check(any(c.isdigit() for c in error.details()), f"no numbers in: {error.details()}")
                print(f"{len(opened)} sessions, then: {error.details()}")
                break
        check(2 <= len(opened) < 64, f"{len(opened)} sessions were opened")
        text, questions = needles(1000, 2)
        client.append(opened[0], text)
        client.ask(opened[0], questions[0][0], keep=True)
        client.Close(session_id=opened[1])
        opened[1] = client.Create(max_tokens=4000).id
        for session in opened:
            client.Close(session_id=session)
        equal(free_counters(client), before, "counters when all are closed")
        code, sentence = code_of(lambda: client.Create(max_tokens=5000))
        equal(code, grpc.StatusCode.INVALID_ARGUMENT, f"too long a session ({sentence})")


@case
def churn():
    """Random calls by 8 clients, cancelled and abandoned in the middle: no session, page or ring set is lost."""
    total, clients = (1000, 8) if ARGS.full else (160, 4)
    text, questions = needles(900, 3, seed=2)
    with tempfile.TemporaryDirectory() as folder, \
            serve("--sessions", "24", "--max-session-tokens", "4096", "--save-dir", folder) as server:
        client = server.client()
        before = free_counters(client)

        def work(number):
            rng, c, own = random.Random(number), server.client(), []
            for step in range(total // clients):
                what = rng.randrange(8)
                try:
                    if what == 0 or not own:
                        own.append(c.Create(max_tokens=3000).id)
                    elif what in (1, 2):
                        name = rng.choice(["", f"a{step}"])

                        def pieces():
                            yield c.message("Append", session_id=rng.choice(own), append_id=name, text=text[:1000])
                            yield c.message("Append", offset=1000, text=text[1000:1000 + rng.randrange(1500)])
                        call = c.call("Append", pieces(), timeout=rng.choice([0.05, 0.5, 60]))
                        for _ in call:
                            if rng.random() < 0.3:
                                call.cancel()
                    elif what in (3, 4):
                        call = c.Ask(timeout=rng.choice([0.05, 0.3, 60]), session_id=rng.choice(own),
                                     text=rng.choice(questions)[0], max_new_tokens=12, keep=rng.random() < 0.3)
                        for _ in call:
                            if rng.random() < 0.2:
                                call.cancel()
                    elif what == 5:
                        own.append(c.Fork(session_id=rng.choice(own), timeout=rng.choice([0.02, 60])).id)
                    elif what == 6:
                        session = rng.choice(own)
                        c.Rewind(session_id=session, tokens=rng.randrange(c.Get(session_id=session).tokens + 1))
                    else:
                        session = own.pop(rng.randrange(len(own)))
                        rng.random() < 0.3 and c.Save(session_id=session, timeout=rng.choice([0.01, 60]))
                        c.Close(session_id=session, delete_saved=True)
                except grpc.RpcError as error:
                    check(error.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL),
                          f"{error.code()}: {error.details()}")
                except ValueError:
                    pass
            c.channel.close()

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            for done in [pool.submit(work, n) for n in range(clients)]:
                done.result()
        deadline = time.time() + 60
        while any(s.pending_calls for s in client.List().sessions):
            check(time.time() < deadline, "calls of clients that are gone end")
            time.sleep(0.1)
        left = client.List().sessions
        for session in left:
            client.Close(session_id=session.id, delete_saved=True)
        equal(free_counters(client), before, "counters when all are closed")
        print(f"{total} calls by {clients} clients; {len(left)} sessions were left to close")


@case
def speed():
    """A follow-up costs its own tokens; a fork no time to speak of; a restore runs at the rate of the disk."""
    tokens = 32000 if ARGS.full else 8000
    document, questions = needles(tokens)
    with tempfile.TemporaryDirectory(dir=ARGS.disk) as folder, \
            serve("--sessions", "6", "--max-session-tokens", str(tokens * 2), "--save-dir", folder) as server:
        client = server.client()
        client.Create(id="doc", max_tokens=tokens + 4000)
        done = client.append("doc", document)
        _, last = client.ask("doc", questions[0][0])
        check(last.stats.prompt_tokens < 64, f"a follow-up read {last.stats.prompt_tokens} tokens")
        equal(last.stats.history_tokens, done.total_tokens, "history")
        forks = []
        for size in (tokens // 16, tokens):
            name = f"f{size}"
            client.Create(id=name, max_tokens=tokens + 4000)
            client.append(name, document[:int(size * 3)])
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                fork = client.Fork(session_id=name).id
                times.append(time.perf_counter() - begun)
                client.Close(session_id=fork)
            forks.append(sorted(times)[2])
            client.Close(session_id=name)
        saved = client.Save(session_id="doc")
        client.Close(session_id="doc")
        path, rates = os.path.join(folder, "doc"), []
        for _ in range(3):  # the disk's rate: the same files, read the same way
            begun, size = time.perf_counter(), 0
            for name in os.listdir(path):
                with open(os.path.join(path, name), "rb", buffering=0) as f:
                    while chunk := f.read(1 << 22):
                        size += len(chunk)
            rates.append(size / (time.perf_counter() - begun))
        restores = []
        for _ in range(3):
            restored = client.Restore(session_id="doc")
            restores.append(restored.bytes_read / restored.seconds)
            client.Close(session_id="doc")
        print(f"follow-up on {done.total_tokens} tokens: first token after {last.stats.first_token_seconds:.3f} s, the "
              f"document took {done.stats.read_seconds:.1f} s; fork {forks[0] * 1e3:.1f} ms at {tokens // 16}, "
              f"{forks[1] * 1e3:.1f} ms at {tokens} tokens; save {saved.bytes_written / saved.seconds / 1e6:.0f} MB/s; "
              f"read {max(rates) / 1e6:.0f} MB/s, restore {max(restores) / 1e6:.0f} MB/s = "
              f"{max(restores) / max(rates) * 100:.0f} %")


@case
def hostile():
    """Malformed and hostile calls: all refused, the server healthy."""
    count = 10000 if ARGS.full else 600
    rng = random.Random(1)
    with serve("--sessions", "4", "--max-session-tokens", "4096", "--max-message-bytes", "65536", "--max-append-bytes",
               "100000") as server:
        client = server.client()
        client.Create(id="doc", max_tokens=2000)
        before = free_counters(client)
        raw = {name: client.channel.unary_unary(f"/{service}/{name}") for name, (service, _) in client.methods.items()}
        codes = {}

        def garbage(n):
            return bytes(rng.randrange(256) for _ in range(n))
        def bad_id():
            return rng.choice(["", ".", "..", "../x", "a/b", "a" * 65, "\u00e9", "a b", "nobody", "\x00"])
        valid = [
            lambda: client.Create(id=rng.choice(["..", "a/b", "a" * 65, " "]), max_tokens=10),
            lambda: client.Create(max_tokens=rng.choice([-1, 4097, 1 << 62, -(1 << 63)])),
            lambda: client.Create(id="doc", max_tokens=10),
            lambda: client.Create(max_tokens=10, durable=True),
            lambda: client.Get(session_id=bad_id()),
            lambda: client.Close(session_id=bad_id()),
            lambda: client.Save(session_id="doc"),
            lambda: client.Restore(session_id=bad_id()),
            lambda: client.Fork(session_id=bad_id()),
            lambda: client.Fork(session_id="doc", new_id=rng.choice(["..", "doc", "a/b"])),
            lambda: client.Fork(session_id="doc", max_tokens=rng.choice([-5, 1 << 60])),
            lambda: client.Rewind(session_id="doc", tokens=rng.choice([-1, 1, 1 << 62])),
            lambda: client.ask("doc", ""),
            lambda: client.ask(bad_id(), "x"),
            lambda: client.ask("doc", "x", max_new_tokens=rng.choice([-1, 65537, 1 << 60])),
            lambda: client.ask("doc", "x", temperature=rng.choice([-1.0, float("nan"), float("inf"), 1e9])),
            lambda: client.ask("doc", "x", top_p=rng.choice([-0.1, 1.5, float("nan")])),
            lambda: client.ask("doc", "x", stop=rng.choice([[""], ["a"] * 17, ["b" * 257]])),
            lambda: client.ask("doc", "", tokens=rng.choice([[-1], [4096], [1 << 30]])),
            lambda: client.ask("doc", "x", tokens=[5]),
            lambda: client.ask("doc", "x " * 30000),
            lambda: client.append("doc", garbage(70000), piece=70000),
            lambda: client.append("doc", b"x" * 120000, piece=60000),
            lambda: client.append("doc", b""),
            lambda: list(client.call("Append", iter([]))),
            lambda: list(client.call("Append", iter([client.message("Append", offset=7)]))),
            lambda: list(client.call("Append", iter([client.message("Append", session_id="doc", text=b"a", tokens=[1])]))),
            lambda: list(client.call("Append", iter([client.message("Append", session_id="doc", tokens=[-3])]))),
            lambda: list(client.call("Append", iter([client.message("Append", session_id="doc", append_id="i" * 65)]))),
            lambda: list(client.call("Append", iter([client.message("Append", session_id="doc", offset=-1, text=b"q")]))),
            lambda: client.channel.unary_unary("/duo.v1.Sessions/Nothing")(b"", timeout=10),
            lambda: client.Drain(grace_seconds=rng.choice([-1.0, float("nan"), 1e12])),
        ]
        for i in range(count):
            if i % 3 == 0:
                name = rng.choice([n for n in raw if n not in ("List", "Plan", "Stats", "Drain", "Watch", "Check", "Tokenize")])
                call = lambda: raw[name](b"\xff" + garbage(rng.randrange(200)), timeout=20)
            else:
                call = rng.choice(valid)
            code, _ = code_of(call)
            codes[code.name] = codes.get(code.name, 0) + 1
            check(code != grpc.StatusCode.DEADLINE_EXCEEDED, f"call {i} was not answered")
        equal(client.health(), 1, "health")
        equal(free_counters(client), before, "counters afterwards")
        equal(client.Get(session_id="doc").tokens, 0, "tokens of the session that was aimed at")
        print(f"{count} calls refused: {codes}")
        equal(server.stop(), 0, "exit code")


@case
def drain():
    """TERM to one process, the Drain call, TERM under mpirun: everything drained and saved, and there after a restart."""
    document, questions = needles(3000, 3)
    for ranks, how in ((1, "TERM"), (1, "Drain"), (2, "Drain"), (2, "TERM")):
        with tempfile.TemporaryDirectory() as folder:
            options = ("--sessions", "4", "--max-session-tokens", "60000", "--save-dir", folder)
            with serve(*options, ranks=ranks, threads=1) as server:
                client = server.client()
                for name in ("a", "b"):
                    client.Create(id=name, max_tokens=40000)
                    client.append(name, document)
                expected = ask_all(client, "a", questions)
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    running = pool.submit(lambda: client.ask("a", questions[0][0]))
                    reading = pool.submit(lambda: code_of(lambda: server.client().append("b", document * 5, append_id="x")))
                    time.sleep(0.7)
                    if how == "Drain":
                        result = client.Drain()
                        equal(result.saved, 2, "sessions saved")
                    else:
                        server.signal(15)
                    running.result()
                    code, sentence = reading.result()
                    check(code == grpc.StatusCode.UNAVAILABLE, f"a running append: {code} {sentence}")
                equal(server.process.wait(60), 0, "exit code")
            with serve(*options, ranks=ranks, threads=1) as server:
                client = server.client()
                equal([s.residence for s in client.List().sessions], [2, 2], "residence after the restart")
                equal(ask_all(client, "a", questions), expected, "answers after the restart")
                begun = client.Get(session_id="b")
                done = client.append("b", document * 5, append_id="x")
                print(f"{ranks} ranks, {how}: \"b\" had {begun.tokens} tokens, now {done.session.tokens}")
                client.Drain()
                server.process.wait(60)


@case
def idle():
    """An idle session is moved out and its memory is free; the next question brings it back with the same answers."""
    document, questions = needles(2500, 3)
    with tempfile.TemporaryDirectory() as folder, \
            serve("--sessions", "4", "--max-session-tokens", "8000", "--save-dir", folder, "--idle-out", "1") as server:
        client = server.client()
        before = free_counters(client)
        client.Create(id="doc", max_tokens=6000)
        client.append("doc", document)
        expected = ask_all(client, "doc", questions)
        for _ in range(2):
            deadline = time.time() + 30
            while client.Get(session_id="doc").residence != 2:
                check(time.time() < deadline, "it is moved out")
                time.sleep(0.2)
            equal(free_counters(client), before, "counters while it is out")
            equal(ask_all(client, "doc", questions), expected, "answers when it is back")
        stats = client.Stats()
        print(f"{stats.saved_bytes} B out, {stats.restored_bytes} B back")


@case
def auth():
    """Tokens, TLS and mTLS are asked for; a public address without them is refused."""
    bad = subprocess.run([ARGS.duo, "serve", "--model", harness.MODEL, "--listen", "0.0.0.0:0", "--device", "cpu",
                          "--max-session-tokens", "2000"], capture_output=True, text=True, timeout=120, check=False)
    check(bad.returncode == 1 and "--token-file" in bad.stderr, f"{bad.returncode}: {bad.stderr[-300:]}")
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens")
        with open(tokens, "w", encoding="utf-8") as f:
            f.write("# two\nsecret-token-number-one\nsecret-token-number-two\n")
        os.chmod(tokens, 0o600)
        with serve("--token-file", tokens, "--max-session-tokens", "2000") as server:
            for token in (None, "secret-token-number-on", "secret-token-number-onx", "x" * 2000):
                c = server.client(token=token)
                for call in (lambda: c.List(), lambda: c.Stats(), lambda: c.ask("x", "y"), lambda: c.append("x", b"y"),
                             lambda: c.Tokenize(text="a")):
                    equal(code_of(call)[0], grpc.StatusCode.UNAUTHENTICATED, f"with token {token!r:.30}")
            server.client(token="secret-token-number-two").List()
        if shutil.which("openssl") is None:
            return
        def sign(name, *more):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout",
                            f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost,IP:127.0.0.1", *more], check=True, capture_output=True)
        sign("server")
        sign("client")
        read = lambda name: open(f"{folder}/{name}", "rb").read()
        with serve("--tls-cert", f"{folder}/server.pem", "--tls-key", f"{folder}/server.key", "--tls-client-ca",
                   f"{folder}/client.pem", "--max-session-tokens", "2000") as server:
            good = grpc.ssl_channel_credentials(read("server.pem"), read("client.key"), read("client.pem"))
            server.client(credentials=good).List()
            for wrong in (grpc.ssl_channel_credentials(read("server.pem")), None):
                try:
                    Client(server.address, credentials=wrong).List(timeout=5)
                    raise AssertionError("a client without a certificate was let in")
                except grpc.RpcError as error:
                    equal(error.code(), grpc.StatusCode.UNAVAILABLE, "without a certificate")


@case
def metrics():
    """The numbers are there for Prometheus, and agree with the calls made."""
    import urllib.request
    with serve("--max-session-tokens", "4000", "--metrics", "127.0.0.1:0") as server:
        client = server.client()
        client.Create(id="doc", max_tokens=3000)
        text, questions = needles(800, 2)
        client.append("doc", text)
        client.ask("doc", questions[0][0])
        port = server.wait_for("metrics")["port"]
        time.sleep(0.6)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        for line in ('duo_calls_total{code="OK",method="Ask"} 1', 'duo_sessions{residence="open"} 1',
                     "duo_first_token_seconds_count 1", "duo_steps_total", 'duo_kv_bytes{class="streaming"}',
                     "duo_rank_retrieval_heads"):
            check(line in page, f"{line} is not in the page")


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--disk", default=None, help="folder on the disk whose rate counts in `speed`")
    ARGS = parser.parse_args()
    if ARGS.list:
        print("\n".join(CASES))
        return 0
    if not harness.available():
        print("skipped: grpcio and grpcio-reflection are not installed")
        return 77
    for name in ARGS.case or CASES:
        begun = time.time()
        print(f"--- {name}: {CASES[name].__doc__}", flush=True)
        CASES[name]()
        print(f"    passed in {time.time() - begun:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
