"""How a server begins and ends: what start-up refuses, signals, drains, and what room sessions take."""

import os
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import grpc
import harness
from cases import ARGS, case, check, equal, serve
from harness import code_of, needles, write_tokens
from http_harness import Server, request_bytes

SMALL = ("--max-session-tokens", "2000", "--sessions", "3")


@case
def room():
    """Sessions of the default length open beside each other on an empty server; what does not fit is refused in numbers."""
    document, questions = needles(1500, 2)
    with serve("--kv-tokens", "4096", "--sessions", "4", "--questions", "2") as server:
        client = server.client()
        for name in ("first", "second"):
            made = client.Create(id=name)
            equal((made.max_tokens, made.reserved_tokens), (4096, 0), f"the room of {name}")
        done = client.append("first", document)
        check(done.session.reserved_tokens >= done.session.tokens, "what it holds is its own")
        client.ask("first", questions[0][0])
        client.ask("first", questions[1][0], keep=True)
        before = client.Stats().pages_available
        client.Create(id="third", reserved_tokens=256)
        equal(client.Stats().pages_available, before - 2, "pages that were left when two were asked for")
        most = client.Stats().pages_available * 128
        code, sentence = code_of(lambda: client.append("second", b"a b c d e f g h " * (most // 4)))
        check(code == grpc.StatusCode.RESOURCE_EXHAUSTED and any(c.isdigit() for c in sentence), f"{code} {sentence}")
        found = client.Get(session_id="second")
        check(found.tokens == 0 and not found.HasField("append"), f"a refused append leaves nothing: {found}")


@case
def starting():
    """What can be known to be wrong is said before the model is loaded, with numbers; a client says that nobody answers."""
    def refused(code, said, *more):
        ended = subprocess.run([ARGS.duo, "serve", "--model", harness.MODEL, "--device", ARGS.device, *more],
                               capture_output=True, text=True, timeout=120 * harness.patience, check=False)
        check(ended.returncode == code and all(s in ended.stderr for s in said),
              f"{more}: {ended.returncode}: {ended.stderr[-300:]}")
        check("model loaded" not in ended.stderr, f"{more}: the model was loaded before")
    with tempfile.TemporaryDirectory() as folder:
        def file(name, text):
            return write_tokens(text, folder, name)
        free = ("--listen", "127.0.0.1:0")
        refused(2, ["--kv-tokens 5", "500"], "--kv-tokens", "5", "--max-session-tokens", "500")
        refused(2, ["--save-dir"], "--idle-out", "5")
        refused(2, ["--save-dir"], "--take-over")
        refused(2, ["http://HOST", "https://x"], "--otlp-endpoint", "https://x")
        refused(1, ["--save-dir"], *free, "--save-dir", file("plain", "no directory"))
        refused(1, ["tokens:1"], *free, "--token-file", file("tokens", "short\n"))
        refused(1, ["--tls-cert"], *free, "--tls-cert", file("cert", "x"), "--tls-key", file("key", "y"))
        refused(1, ["nothing"], *free, "--tls-cert", folder + "/nothing", "--tls-key", folder + "/nothing")
        with serve(*SMALL) as server:
            refused(1, [server.address], "--listen", server.address)
            refused(1, [server.address], *free, "--metrics", server.address)
    begun = time.time()
    ended = subprocess.run([ARGS.duo, "client", "append", "doc", "--text", "x", "--server", server.address],
                           capture_output=True, text=True, timeout=120, check=False)
    check(ended.returncode == 1 and "no server answers at" in ended.stderr and "--wait" in ended.stderr, ended.stderr)
    check("trying again" not in ended.stderr, ended.stderr)
    print(f"    the client gave up after {time.time() - begun:.1f} s")


@case
def signals():
    """HUP reads the tokens again and ends nobody; TERM without a save directory says which sessions are gone."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens("the-old-token-of-anna anna\n", folder, "tokens")
        with serve(*SMALL, "--token-file", tokens) as server:
            old, new = server.client(token="the-old-token-of-anna"), server.client(token="the-new-token-of-anna")
            old.Create(id="book")
            old.append("book", b"some words of a book")
            equal(code_of(lambda: old.Drain())[0], grpc.StatusCode.PERMISSION_DENIED, "a drain by a user")
            write_tokens("", tokens)
            server.signal(signal.SIGHUP)
            check("holds no token" in server.wait_for("not reloaded")["status"], "an empty file is refused")
            held = old.Get(session_id="book").tokens
            write_tokens("the-new-token-of-anna anna\n", tokens)
            server.signal(signal.SIGHUP)
            equal(server.wait_for("reloaded")["tokens"], 1, "tokens that were read")
            equal(code_of(lambda: old.List())[0], grpc.StatusCode.UNAUTHENTICATED, "the old token")
            equal(new.Get(session_id="book").tokens, held, "a new token's view of its name's session")
            equal(server.stop(), 0, "exit code")
            server.reader.join(5)
            log = "".join(server.lines)
            check('"session dropped", "session": "book"' in log.replace('":"', '": "').replace('","', '", "')
                  and f"{held}" in log, f"the session that is gone is named: {log[-600:]}")
            check('"drained"' not in log, "nothing was drained")


class Running:
    """An answer and an append by gRPC and the same over HTTP, the appends half sent; and the server's events."""

    WORDS, TOKENS = b"some words of a book. " * 40, 1500

    def __init__(self, server, token):
        self.client, self.half, self.told = server.client(token=token), threading.Event(), {}
        self.client.Create(id="book")
        self.client.append("book", self.WORDS)
        for name in ("grpc", "http"):
            self.client.Create(id=name)
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self.ask, self.append)]
        for thread in self.threads:
            thread.start()
        allowed = {"authorization": f"Bearer {token}"}
        self.asked, self.put, self.events = (server.raw() for _ in range(3))
        self.asked.send_request("POST", "/duo/v1/sessions/book/ask", {
            "text": "And then?", "max_new_tokens": self.TOKENS, "ignore_end_tokens": True}, **allowed)
        request = request_bytes("PUT", "/duo/v1/sessions/http/text", self.WORDS, **{**allowed, "content_type": "text/plain"})
        self.put.send(request[:-len(self.WORDS) // 2])
        self.events.send_request("GET", "/duo/v1/events", **allowed)
        equal(self.events.head()[0], 200, "the server's events")
        self.event = self.events.chunks()

    def ask(self):
        for self.told["asked"] in self.client.Ask(session_id="book", text="And then?", max_new_tokens=self.TOKENS,
                                                  ignore_end_tokens=True):
            pass

    def append(self):
        def pieces():
            middle = len(self.WORDS) // 2
            yield self.client.message("Append", session_id="grpc", text=self.WORDS[:middle])
            self.half.wait(60 * harness.patience)
            yield self.client.message("Append", offset=middle, text=self.WORDS[middle:])
        for self.told["appended"] in self.client.call("Append", pieces()):
            pass

    def end(self):
        """The other half of the appends; what all four ended with."""
        self.half.set()
        self.put.send(self.WORDS[len(self.WORDS) // 2:])
        for thread in self.threads:
            thread.join(60 * harness.patience)
        put, asked, told = self.put.answer(), self.asked.answer(), self.told["asked"]
        equal((put.status, put.json()["received_bytes"]), (200, len(self.WORDS)), "the append over HTTP")
        equal((self.told["appended"].done, self.told["appended"].received_bytes), (True, len(self.WORDS)), "that by gRPC")
        equal((asked.status, asked.json()["finish"], len(asked.json()["tokens"])), (200, "length", self.TOKENS), "the answer over HTTP")
        equal((told.done, told.finish, told.stats.new_tokens), (True, "length", self.TOKENS), "that by gRPC")


@case
def reload_beside_calls():
    """HUP with new tokens while calls run: an old token is refused from then on, and what it began goes on to its end."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_tokens("the-old-token-of-anna anna\n", folder, "tokens")
        with Server(*SMALL, "--token-file", tokens, device=ARGS.device) as server:
            running = Running(server, "the-old-token-of-anna")
            old, new = ({"authorization": f"Bearer the-{age}-token-of-anna"} for age in ("old", "new"))

            def calls(token):
                return sorted(call["method"] for call in server.get("/duo/v1/state", **token).json()["calls"])
            every = ["Append", "Append", "Ask", "Ask"]
            server.wait_until("four calls run", lambda: calls(old) == every)
            write_tokens("the-new-token-of-anna anna\n", tokens)
            server.signal(signal.SIGHUP)
            server.wait_for("reloaded")
            equal(calls(new), every, "what goes on")
            equal(code_of(lambda: running.client.List())[0], grpc.StatusCode.UNAUTHENTICATED, "the old token by gRPC")
            for method, path, body in (("GET", "/duo/v1/sessions", None), ("POST", "/v1/completions", {"prompt": "x"})):
                equal(server.request(method, path, body, **old).status, 401, f"the old token, {path}")
            check(any(b"invalid_api_key" in event for event in running.event), "the events end with a refusal")
            running.end()
            equal(server.client(token="the-new-token-of-anna").Get(session_id="grpc").tokens,
                  server.get("/duo/v1/sessions/http", **new).json()["tokens"], "what was appended")


@case
def certificates():
    """HUP reads certificates again, gRPC's and HTTP's, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        made = harness.Certificates(folder)

        def take(name, key=None):
            for suffix, source in (("pem", name), ("key", key or name)):
                with open(f"{folder}/used.{suffix}", "wb") as file:
                    file.write(made.read(f"{source}.{suffix}"))
        for name in ("one", "two"):
            made.sign(name)
        take("one")
        with serve(*SMALL, "--tls-cert", f"{folder}/used.pem", "--tls-key", f"{folder}/used.key", "--http", "127.0.0.1:0") as server:
            http = server.wait_for("listening for HTTP")["port"]

            def seen(name):
                harness.Client(server.address, credentials=grpc.ssl_channel_credentials(made.read(f"{name}.pem"))).List()
                trusts = ssl.create_default_context(cafile=f"{folder}/{name}.pem")
                with socket.create_connection(("127.0.0.1", http), 20) as plain, trusts.wrap_socket(plain, server_hostname="localhost"):
                    pass
            seen("one")
            take("two", key="one")
            server.signal(signal.SIGHUP)
            check("--tls-key" in server.wait_for("not reloaded")["status"], "a key of another certificate is refused")
            seen("one")
            take("two")
            server.signal(signal.SIGHUP)
            server.wait_for("reloaded")
            seen("two")


@case
def forced_end():
    """TERM where a session cannot be saved: it says which and serves on; a second TERM ends with exit code 1, naming it."""
    with tempfile.TemporaryDirectory() as folder, serve(*SMALL, "--save-dir", folder) as server:
        client = server.client()
        for name in ("held", "fine"):
            client.Create(id=name)
            client.append(name, b"some words of a book")
        with open(os.path.join(folder, "held"), "wb"):  # where its folder would be
            pass
        told = subprocess.run([ARGS.duo, "client", "drain", "--server", server.address], capture_output=True, text=True,
                              timeout=60 * harness.patience, check=False)
        check(told.returncode == 1 and "held (" in told.stderr and "saved" not in told.stdout, f"a client that drains: {told}")
        check("held (" in server.wait_for("drain failed")["status"], "the log names what could not be saved")
        server.signal(signal.SIGTERM)
        server.wait_for("drain failed")
        deadline = time.time() + 60 * harness.patience
        while (client.health(), client.Stats().draining) != (1, False):  # which follows the line
            check(server.process.poll() is None and time.time() < deadline, "it serves on")
            time.sleep(0.01)
        client.ask("held", "And then?", max_new_tokens=2, stop=[])
        server.signal(signal.SIGTERM)
        equal(server.process.wait(60 * harness.patience), 1, "exit code of an end that loses a session")
        server.reader.join(5)
        check("error: " in server.lines[-1] and "held (" in server.lines[-1], f"its last line: {server.lines[-1]}")
    for _ in range(3):  # nothing to lose: many of them end it no worse, also while it ends already
        with tempfile.TemporaryDirectory() as folder, serve(*SMALL, "--save-dir", folder) as server:
            server.client().Create(id="empty")
            while server.process.poll() is None:
                server.signal(signal.SIGTERM)
            equal(server.process.returncode, 0, "exit code")
