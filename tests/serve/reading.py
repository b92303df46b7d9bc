"""Documents go in, answers come out: whoever asks, however the text comes, whatever runs beside."""

import concurrent.futures
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time

import grpc
from cases import ARGS, ask_all, case, check, equal, serve
from harness import MODEL, code_of, needles


def read_of(client, text, session):
    """The tokens of a whole text but for those of the session's tail."""
    count = len(client.Tokenize(text=text.decode(), begin_of_text=True).tokens)
    tail = text[len(text) - session.tail_bytes:].decode()
    return count - len(client.Tokenize(text=tail).tokens)


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
        equal(sorted(client.described("grpc.health.v1.Health")), ["Check", "Watch"], "methods of Health, by reflection")
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
def tokenize_text():
    """Texts that one message cannot hold: their tokens are those of the text in one piece, and the limits are an append's."""
    document, _ = needles(3000)
    text = document.decode() * (5_000_000 // len(document) + 1)
    with tempfile.TemporaryDirectory() as folder, serve("--max-append-bytes", "6000000") as server:
        def tokens(text, *words):
            path = os.path.join(folder, "text")
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return subprocess.run([ARGS.duo, *words, "--file", path], capture_output=True, text=True, check=False, timeout=300)

        served = ("client", "tokenize", "--server", server.address)
        done = tokens(text, *served)
        equal(done.returncode, 0, done.stderr)
        local = json.loads(tokens(text, "tokenize", "--model", MODEL, "--json").stdout)["ids"]
        check(list(map(int, done.stdout.split())) == local and len(local) > 1_000_000, f"{len(done.stdout.split())} tokens, {len(local)} here")
        refused = tokens(text + text[:2_000_000], *served)
        check(refused.returncode == 1 and "--max-append-bytes" in refused.stderr, refused.stderr)
        client = server.client()
        parts = client.call("TokenizeText", iter([client.message("TokenizeText", text="\u20ac".encode()[:1]),
                                                  client.message("TokenizeText", text="\u20ac".encode()[1:])]))
        equal([token for part in parts for token in part.tokens], list(client.Tokenize(text="\u20ac").tokens), "a piece that ends in a character")


@case
def append_retry():
    """Pieces repeated at their offset are added once; an append that is complete answers at once; pieces are one text."""
    document, questions = needles(2000, 4)
    long_tokens = 12000 if ARGS.device == "cpu" else 400000
    long_document, _ = needles(long_tokens, 1, seed=5)
    room = 10000 + 2 * long_tokens
    with serve("--sessions", "4", "--max-session-tokens", str(room), "--kv-tokens", str(2 * room)) as server:
        client = server.client()
        client.Create(id="whole", max_tokens=room)
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
        equal(done.session.tokens, read_of(client, document + long_document, done.session), "tokens of the text")


@case
def interrupted():
    """Ctrl-C on `duo client append` says how to go on and how to undo it, and both work."""
    document, _ = needles(12000, 1, seed=6)
    with serve("--sessions", "4", "--max-session-tokens", "30000") as server, tempfile.NamedTemporaryFile() as file:
        file.write(document)
        file.flush()
        client = server.client()
        client.Create(id="doc", max_tokens=30000)
        client.append("doc", b"Before it.")
        before = client.Get(session_id="doc")
        command = [ARGS.duo, "client", "append", "doc", "--server", server.address, "--file", file.name]
        for way in ("to undo it: ", "to go on: "):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            deadline = time.time() + 60
            while client.Get(session_id="doc").append.tokens == 0:
                check(time.time() < deadline and process.poll() is None, "the append begins to be read")
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=60)[1]
            equal(process.returncode, 1, f"exit code ({told})")
            check(told.count("error: ") == 1 and way in told, told)
            while client.Get(session_id="doc").pending_calls:
                check(time.time() < deadline, "the append stops")
                time.sleep(0.02)
            advice = told.split(way)[1].split(";")[0].split()
            equal(advice[:2], ["duo", "client"], "a command")
            subprocess.run([ARGS.duo, *advice[1:], "--server", server.address], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            if "undo" in way:
                undone = client.Get(session_id="doc")
                equal((undone.tokens, undone.tail_bytes), (before.tokens, before.tail_bytes), "tokens and the text behind")
        session = client.Get(session_id="doc")
        equal(session.tokens, read_of(client, b"Before it." + document, session), "tokens after going on")


@case
def many():
    """16 sessions of different lengths at once, 4 ingesting: each answer is as when asked alone."""
    unit, count = (1500, 16) if ARGS.full else (400, 8)
    long_tokens = 20000 if ARGS.full else 6000
    room = 10 * unit + long_tokens + 4000
    with serve("--sessions", str(count), "--max-session-tokens", str(room), "--kv-tokens",
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
        check(all(s.history_tokens > 0 for s in stats), "the statistics of each question")
        print(f"{len(stats)} answers beside {len(ingesting)} ingests, as alone; they waited {waits[len(waits) // 2]:.3f} s "
              f"in the median, {waits[-1]:.3f} s at most")


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
