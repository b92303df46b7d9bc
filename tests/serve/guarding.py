"""Who and what is refused, and that nothing is lost by it."""

import concurrent.futures
import json
import os
import random
import shutil
import subprocess
import tempfile
import time

import grpc
import harness
from cases import ARGS, case, check, equal, free_counters, serve
from harness import Client, Server, code_of, needles


@case
def admission():
    """Sessions are opened until memory is full; the next is refused with the numbers; closing one makes room."""
    with serve("--sessions", "64", "--max-session-tokens", "4096", "--kv-tokens", "16384") as server:
        client = server.client()
        before = free_counters(client)
        opened = []
        while True:
            try:
                opened.append(client.Create(max_tokens=4000, reserved_tokens=4000).id)
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
        opened[1] = client.Create(max_tokens=4000, reserved_tokens=4000).id
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
            lambda: client.Pin(session_id=bad_id(), pinned=True),
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
            lambda: list(client.call("TokenizeText", iter([]))),
            lambda: list(client.call("TokenizeText", iter([client.message("TokenizeText", text=b"x" * 60000)] * 2))),
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
def limits():
    """Limits hold and say so: sessions, calls that wait, an append's size, deadlines; and what they stop leaves nothing."""
    long_text, _ = needles(12000 if ARGS.device == "cpu" else 600000, 1, seed=5)
    with serve("--sessions", "2", "--max-queue", "3", "--max-session-tokens", str(len(long_text) // 2), "--kv-tokens",
               str(len(long_text)), "--max-append-bytes", str(len(long_text))) as server:
        client = server.client()
        before = free_counters(client)
        client.Create(id="a", max_tokens=len(long_text) // 2)
        client.Create(id="b", max_tokens=2000)
        code, sentence = code_of(lambda: client.Create(id="c", max_tokens=10))
        check(code == grpc.StatusCode.RESOURCE_EXHAUSTED and "2 sessions" in sentence, f"a third session: {code} {sentence}")
        code, sentence = code_of(lambda: client.append("b", long_text + b"x"))
        check(code == grpc.StatusCode.RESOURCE_EXHAUSTED and "--max-append-bytes" in sentence, f"{code} {sentence}")
        client.append("b", b"A short text. ")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            reading = pool.submit(lambda: client.append("a", long_text))
            deadline = time.time() + 60
            while not client.Stats().requests_running:
                check(time.time() < deadline, "the long text is being read")
            # Two more wait behind it; the queue is full then, until they are given up.
            waiting = [client.Ask(session_id="a", text="x") for _ in range(2)]
            while client.Get(session_id="a").pending_calls < 3:
                check(not reading.done(), "the long text is read before two questions can wait")
                time.sleep(0.01)
            code, sentence = code_of(lambda: client.ask("b", "x"))
            check(code == grpc.StatusCode.RESOURCE_EXHAUSTED and "--max-queue" in sentence, f"{code} {sentence}")
            for call in waiting:
                call.cancel()
            while client.Get(session_id="a").pending_calls > 1:
                check(time.time() < deadline + 60, "questions that were given up no longer wait")
                time.sleep(0.01)
            code, _ = code_of(lambda: client.ask("a", "x", timeout=0.2))
            equal(code, grpc.StatusCode.DEADLINE_EXCEEDED, "a question whose time ran out as it waited")
            client.ask("b", "x")
            reading.result()
        # A deadline in the middle of an answer.
        code, _ = code_of(lambda: client.ask("b", "y", max_new_tokens=1900, stop=[], ignore_end_tokens=True, timeout=0.3))
        equal(code, grpc.StatusCode.DEADLINE_EXCEEDED, "an answer that took too long")
        for name in ("a", "b"):
            client.Close(session_id=name)
        deadline = time.time() + 20
        while free_counters(client) != before:
            check(time.time() < deadline, f"counters: {free_counters(client)}, before {before}")
            time.sleep(0.05)


@case
def auth():
    """Tokens, TLS and mTLS are asked for; what is public needs one of them or --insecure."""
    def refused(option, *more):
        bad = subprocess.run([ARGS.duo, "serve", "--model", harness.MODEL, "--device", ARGS.device, "--max-session-tokens",
                              "2000", "--kv-tokens", "4000", *more], capture_output=True, text=True, timeout=120, check=False)
        check(bad.returncode == 1 and option in bad.stderr, f"{more}: {bad.returncode}: {bad.stderr[-300:]}")
    def listed(server, *more):
        """What duo client says on stderr."""
        return subprocess.run([ARGS.duo, "client", "list", "--server", server.address, *more], capture_output=True, text=True,
                              timeout=60, check=False).stderr
    refused("--tls-cert", "--listen", "0.0.0.0:0")
    refused("--insecure", "--listen", "127.0.0.1:0", "--metrics", "0.0.0.0:0")
    small = ("--max-session-tokens", "2000")
    with serve(*small, "--listen", "0.0.0.0:0", "--insecure") as server:
        server.client().List()
    with tempfile.TemporaryDirectory() as folder:
        with serve(*small, "--listen", f"unix:{folder}/socket") as server:
            Client(f"unix:{folder}/socket").List()
        tokens = os.path.join(folder, "tokens")
        with open(tokens, "w", encoding="utf-8") as f:
            f.write("# two\nsecret-token-number-one\nsecret-token-number-two\n")
        os.chmod(tokens, 0o644)
        refused("chmod", "--listen", "127.0.0.1:0", "--token-file", tokens)
        os.chmod(tokens, 0o600)
        refused("--insecure", "--listen", "0.0.0.0:0", "--token-file", tokens)  # they would be sent in clear
        with serve(*small, "--listen", "0.0.0.0:0", "--token-file", tokens, "--insecure") as server:
            for token in (None, "secret-token-number-on", "secret-token-number-onx", "x" * 2000):
                c = server.client(token=token)
                for call in (lambda: c.List(), lambda: c.Stats(), lambda: c.ask("x", "y"), lambda: c.append("x", b"y"),
                             lambda: c.Tokenize(text="a"), lambda: c.Drain()):
                    equal(code_of(call)[0], grpc.StatusCode.UNAUTHENTICATED, f"with token {token!r:.30}")
                equal(c.health(), 1, "health, which needs no token")
            server.client(token="secret-token-number-two").List()
            equal(listed(server, "--token-file", tokens), "", "duo client with the server's own token file")
            check("--token-file FILE" in listed(server), "a client without a token is told of the flag")
            load = subprocess.run([ARGS.duo, "bench", "serve", "--server", server.address, "--token-file", tokens, "--clients", "1",
                                   "--requests", "1", "--context", "50", "--answer", "2", "--json"], capture_output=True, text=True,
                                  timeout=120, check=False)
            check(load.returncode == 0 and not json.loads(load.stdout)["results"][0]["errors"], f"a load with that file: {load}")
        if shutil.which("openssl") is None:
            print("    TLS is not tested: there is no openssl to make certificates with")
            return

        made = harness.Certificates(folder)

        def kept_out(server, credentials, what):
            try:
                Client(server.address, credentials=credentials).List(timeout=5)
                raise AssertionError(f"{what} was let in")
            except grpc.RpcError as error:
                equal(error.code(), grpc.StatusCode.UNAVAILABLE, what)
        made.sign("server")
        made.sign("client")
        made.sign("stranger")
        tls = ("--tls-cert", f"{folder}/server.pem", "--tls-key", f"{folder}/server.key")
        with serve(*small, *tls) as server:
            server.client(credentials=grpc.ssl_channel_credentials(made.read("server.pem"))).List()
            kept_out(server, None, "a client without TLS")
            check("--tls-ca FILE" in listed(server), "duo client without TLS is told of the flag")
            kept_out(server, grpc.ssl_channel_credentials(made.read("stranger.pem")), "a client that expects another server")
        with serve(*small, *tls, "--tls-client-ca", f"{folder}/client.pem") as server:
            good = grpc.ssl_channel_credentials(made.read("server.pem"), made.read("client.key"), made.read("client.pem"))
            server.client(credentials=good).List()
            stranger = grpc.ssl_channel_credentials(made.read("server.pem"), made.read("stranger.key"), made.read("stranger.pem"))
            kept_out(server, stranger, "a client whose certificate others signed")
            kept_out(server, grpc.ssl_channel_credentials(made.read("server.pem")), "a client without a certificate")
            kept_out(server, None, "a client without TLS")


@case
def dead_server():
    """The tests' own waits: they end when the server does, also while something it started holds its log open."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "duo")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nsleep 30 &\necho '{\"event\": \"model loaded\"}' >&2\nexit 3\n")
        os.chmod(path, 0o755)
        begun = time.time()
        try:
            Server(path)
        except AssertionError as error:
            check("ended with 3 before 'listening'" in str(error) and "model loaded" in str(error), str(error))
        else:
            raise AssertionError("a server that ended was taken for one that listens")
        check(time.time() - begun < 15, f"noticed after {time.time() - begun:.1f} s")
