"""How a server begins and ends: what start-up refuses, signals, drains, and what room sessions take."""

import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time

import grpc
import harness
from cases import ARGS, case, check, equal, serve
from harness import code_of, needles

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
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                f.write(text)
            os.chmod(f.name, 0o600)
            return f.name
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
        tokens = os.path.join(folder, "tokens")

        def write(text):
            with open(tokens, "w", encoding="utf-8") as f:
                f.write(text)
            os.chmod(tokens, 0o600)
        write("the-old-token-of-anna anna\n")
        with serve(*SMALL, "--token-file", tokens) as server:
            old, new = server.client(token="the-old-token-of-anna"), server.client(token="the-new-token-of-anna")
            old.Create(id="book")
            old.append("book", b"some words of a book")
            equal(code_of(lambda: old.Drain())[0], grpc.StatusCode.PERMISSION_DENIED, "a drain by a user")
            write("")
            server.signal(signal.SIGHUP)
            check("holds no token" in server.wait_for("not reloaded")["status"], "an empty file is refused")
            held = old.Get(session_id="book").tokens
            write("the-new-token-of-anna anna\n")
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
