"""The HTTP server itself on raw bytes: what it refuses, what it waits for, and whom it lets in."""

import json
import os
import random
import socket
import subprocess
import tempfile

from harness import write_tokens
from http_harness import ARGS, Raw, Server, case, check, equal, events_of, request_bytes


def refused(server, data, status, what):
    """These bytes are answered with this code, and the connection is closed."""
    with server.raw(timeout=10) as raw:
        raw.send(data)
        answer = raw.answer()
        equal(answer.status, status, what)
        check(answer.error()["message"], f"{what}: a sentence in {answer}")
        check(raw.ended(), f"{what}: the connection is closed")


@case
def skeleton():
    """Health, liveness, readiness, version and metrics; 404 and 405; HEAD; pipelined and one-byte requests."""
    with Server() as server:
        for path in ("/health", "/ready", "/live"):
            answer = server.get(path)
            equal((answer.status, answer.json()), (200, {"status": "ok"}), path)
        check(server.get("/version").json()["version"], "the version")
        check("duo_sessions{residence=\"open\"}" in server.metrics(), "the metrics")
        equal(server.get("/nothing").status, 404, "an unknown path")
        equal(server.get("/nothing").error()["type"], "not_found_error", "an unknown path")
        answer = server.post("/health", {})
        equal((answer.status, answer.headers["allow"]), (405, "GET, HEAD"), "a method that a path does not have")
        with server.raw() as raw:
            raw.send_request("HEAD", "/health")
            raw.send_request("GET", "/version")
            equal(raw.answer("HEAD").status, 200, "HEAD")
            equal(raw.answer().status, 200, "what comes behind HEAD")
        with server.raw() as raw:  # pipelining: all answers, in order
            paths = ["/health", "/version", "/nothing", "/live"] * 10
            raw.send(b"".join(request_bytes("GET", path) for path in paths))
            equal([raw.answer().status for _ in paths], [200, 200, 404, 200] * 10, "pipelined requests")
        with server.raw() as raw:  # a client that sends everything, then closes its side
            raw.send(request_bytes("GET", "/version") * 3)
            raw.socket.shutdown(socket.SHUT_WR)
            equal([raw.answer().status for _ in range(3)], [200] * 3, "answers to a half-closed connection")
            check(raw.ended(), "then it is closed")
        with server.raw() as raw:
            for byte in request_bytes("GET", "/version"):
                raw.send(bytes([byte]))
            equal(raw.answer().status, 200, "a request in single bytes")
        with server.raw() as raw:
            raw.send(b"GET /version HTTP/1.0\r\n\r\n")
            equal(raw.answer().status, 200, "HTTP/1.0 without Host")
            check(raw.ended(), "HTTP/1.0 closes")
        with server.raw() as raw:
            raw.send(b"\r\nGET http://localhost/version HTTP/1.1\r\nHost: other\r\n\r\n")
            equal(raw.answer().status, 200, "a whole address as target, behind an empty line")
        equal(server.get("/versio%6e").status, 200, "an escape in a path")
        equal(server.get("/version%2f").status, 404, "an escaped slash is no slash")
        equal(server.get("/versio%256e").status, 404, "a path is decoded once")
        equal(server.get("/version", x_request_id="abc-1").headers["x-request-id"], "abc-1", "a request's id comes back")
        check("x-request-id" not in server.get("/version", x_request_id="a b").headers, "but not whatever it holds")
        check("access-control-allow-origin" not in server.get("/version").headers, "CORS is off")


@case
def smuggling():
    """Requests that two readers could read in two ways are refused, and their connections closed."""
    post = b"POST /version HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with Server() as server:
        refused(server, post + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, "two lengths")
        refused(server, post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "two different lengths")
        refused(server, post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400, "length and encoding")
        refused(server, post + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400, "and reversed")
        refused(server, post + b"Content-Length: -2\r\n\r\n{}", 400, "a negative length")
        refused(server, post + b"Content-Length: +2\r\n\r\n{}", 400, "a length with a sign")
        refused(server, post + b"Content-Length: 2, 2\r\n\r\n{}", 400, "a list of lengths")
        refused(server, post + b"Content-Length: 99999999999999999999\r\n\r\n{}", 400, "a length beyond numbers")
        refused(server, post + b"Transfer-Encoding: gzip\r\n\r\n{}", 501, "another encoding")
        refused(server, post + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501, "chunked twice")
        refused(server, post.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "in HTTP/1.0")
        refused(server, b"GET /version HTTP/1.1\r\n\r\n", 400, "no Host")
        refused(server, b"GET /version HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400, "two Hosts")
        refused(server, b"GET version HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "a target that is no path")
        refused(server, b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "an escape that is none")
        refused(server, b"GET /%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "a zero byte")
        refused(server, b"GET /version HTTP/2.0\r\nHost: localhost\r\n\r\n", 400, "another version")
        refused(server, b"GET /version HTTP/1.1\r\nHost : localhost\r\n\r\n", 400, "a space before a colon")
        refused(server, b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "TLS on a plain port")
        refused(server, b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431, "a long header")
        refused(server, post + b"Expect: cake\r\nContent-Length: 2\r\n\r\n", 417, "another expectation")
        equal(server.get("/health").status, 200, "the server afterwards")


@case
def strangers():
    """Pages of other sites, names that point here from outside, and forms are kept away; --cors-origin lets one in."""
    with Server() as server:
        for host in ("localhost", "127.0.0.1", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1"):
            equal(server.get("/version", host=host).status, 200, f"Host: {host}")
        for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil"):
            equal(server.get("/version", host=host).status, 403, f"Host: {host}")
        equal(server.get("/health", host="evil.example").status, 403, "health, too")
        equal(server.get("/version", origin="http://evil.example").status, 403, "a foreign Origin")
        equal(server.get("/version", origin="null").status, 403, "an Origin of nowhere")
        equal(server.get("/version", host="localhost:99", origin="http://localhost:99").status, 200, "its own Origin")
        equal(server.get("/version", sec_fetch_site="cross-site").status, 403, "Sec-Fetch-Site")
        equal(server.get("/version", sec_fetch_site="same-origin").status, 200, "Sec-Fetch-Site of its own")
        equal(server.request("OPTIONS", "/version", origin="http://evil.example").status, 403, "a foreign preflight")
    with Server("--cors-origin", "http://ui.example") as server:
        answer = server.get("/version", origin="http://ui.example", sec_fetch_site="cross-site")
        equal((answer.status, answer.headers["access-control-allow-origin"]), (200, "http://ui.example"), "an allowed one")
        answer = server.request("OPTIONS", "/v1/chat/completions", origin="http://ui.example")
        equal(answer.status, 204, "its preflight")
        check("POST" in answer.headers["access-control-allow-methods"], answer)
        equal(server.get("/version", origin="http://evil.example").status, 403, "another Origin")


@case
def tokens():
    """A bearer token is asked for on every path but health, before a byte of the body is read."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_tokens("correct-horse-battery\n", folder, "tokens")
        with Server("--token-file", file) as server:
            for path in ("/health", "/ready", "/live"):
                equal(server.get(path).status, 200, path)
            for path in ("/version", "/metrics", "/v1/models", "/nothing", "/duo/v1/sessions", "/health/x"):
                answer = server.get(path)
                equal((answer.status, answer.error()["code"]), (401, "invalid_api_key"), path)
                equal(answer.headers["www-authenticate"], "Bearer", path)
            equal(server.get("/version", authorization="Bearer wrong-horse-battery").status, 401, "a wrong token")
            equal(server.get("/version", authorization="Bearer correct-horse-battery").status, 200, "the right one")
            with server.raw(timeout=10) as raw:  # the body never comes: the answer does not wait for it
                raw.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 1000\r\n\r\n")
                equal(raw.answer().status, 401, "a body that is on its way")


@case
def tls():
    """TLS with the options of gRPC's port, client certificates included."""
    import ssl
    with tempfile.TemporaryDirectory() as folder:
        def make(*arguments):
            subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
        make("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca",
             "-days", "2")
        for name in ("server", "client"):
            make("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
                 f"/CN={name}")
            with open(os.path.join(folder, "names"), "w", encoding="ascii") as out:
                out.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            make("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                 f"{name}.pem", "-days", "2", "-extfile", "names")

        def path(name):
            return os.path.join(folder, name)

        def ask(port, context):
            with Raw(port, timeout=10) as raw:
                raw.socket = context.wrap_socket(raw.socket, server_hostname="localhost")
                raw.send(request_bytes("GET", "/version") * 2)
                return [raw.answer().status, raw.answer().status]
        flags = ("--tls-cert", path("server.pem"), "--tls-key", path("server.key"))
        context = ssl.create_default_context(cafile=path("ca.pem"))
        with Server(*flags) as server:
            equal(ask(server.http, context), [200, 200], "two requests through TLS")
            with server.raw(timeout=10) as raw:
                raw.send(request_bytes("GET", "/version"))
                check(raw.ended() and b"200" not in raw.buffer, "plain bytes on a port with TLS")
        with Server(*flags, "--tls-client-ca", path("ca.pem")) as server:
            try:
                ask(server.http, context)
                raise AssertionError("a client without a certificate was served")
            except (ssl.SSLError, OSError, AssertionError) as error:
                check("was served" not in str(error), error)
            context.load_cert_chain(path("client.pem"), path("client.key"))
            equal(ask(server.http, context), [200, 200], "a client with a certificate")


@case
def loading():
    """The port answers while the model loads; one that is taken is an error with a way out, or a line in the log."""
    with Server() as server:
        address = f"127.0.0.1:{server.http}"
        command = [ARGS.duo, "serve", "--model", os.path.join(os.path.dirname(__file__), "..", "..", "launcher", "demo",
                                                              "needle-6m"), "--listen", "127.0.0.1:0"]
        ended = subprocess.run([*command, "--http", address], capture_output=True, text=True, timeout=60, check=False)
        equal(ended.returncode, 1, "a taken port")
        check("--http none" in ended.stderr and ended.stderr.count("error:") == 1, ended.stderr)
        ended = subprocess.run([*command, "--http", "0.0.0.0:0"], capture_output=True, text=True, timeout=60, check=False)
        equal(ended.returncode, 1, "a public address without protection")
        check("--http 0.0.0.0:0" in ended.stderr, ended.stderr)


@case
def idle():
    """Many idle connections cost little, and the server answers beside them."""
    count = 1000 if ARGS.full else 300
    with Server() as server:
        def memory():
            with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
                return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
        before = memory()
        raws = [server.raw() for _ in range(count)]
        try:
            for raw in raws:
                raw.send(b"GET /version HTT")
            equal(server.get("/health").status, 200, "health beside idle connections")
            grown = memory() - before
            check(grown < 50 * count / 1000, f"{count} idle connections cost {grown:.1f} MiB")
            print(f"{count} idle connections: {grown:.1f} MiB")
            for raw in raws[:20]:
                raw.send(b"P/1.1\r\nHost: localhost\r\n\r\n")
                equal(raw.answer().status, 200, "one of them goes on")
        finally:
            for raw in raws:
                raw.socket.close()


@case
def hostile():
    """Random bytes, broken requests and connections that end anywhere: every answer is a refusal, none a crash."""
    count, rng = (10000 if ARGS.full else 1000), random.Random(5)
    good = request_bytes("POST", "/v1/completions", {"model": "m", "prompt": "x" * 50, "max_tokens": 1, "stream": True})
    codes = {}
    with Server() as server:
        for number in range(count):
            data = bytearray(good)
            kind = number % 5
            if kind == 0:
                data = bytearray(rng.randbytes(rng.randrange(1, 400)))
            elif kind == 1:
                for _ in range(rng.randrange(1, 6)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
            elif kind == 2:
                del data[rng.randrange(len(data)):]
            elif kind == 3:
                at = rng.randrange(len(data))
                data[at:at] = rng.choice([b"\r\n", b"\0", b"\r\n\r\n", b"Content-Length: 5\r\n", b"%00", b"{" * 100, b"\xff"])
            else:
                data = bytearray(request_bytes(rng.choice(["GET", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"]),
                                               rng.choice(["/../../etc/passwd", "//", "/v1", "/?" + "a=b&" * 50, "/%2e%2e/x",
                                                           "/duo/v1/sessions/..%2f..", "/v1/models/" + "x" * 3000])))
            with server.raw(timeout=20) as raw:
                try:
                    raw.send(bytes(data))
                    raw.socket.shutdown(socket.SHUT_WR)
                    while raw.more():
                        pass
                except OSError:
                    pass
                code = int(raw.buffer[9:12]) if raw.buffer.startswith(b"HTTP/1.1 ") else 0
                codes[code] = codes.get(code, 0) + 1
                check(code < 500 or code in (501, 503), f"{code} for {bytes(data)!r}: {raw.buffer!r}")
        equal(server.get("/health").status, 200, "health afterwards")
        print(f"{count} hostile requests:", dict(sorted(codes.items())))


@case
def pieces():
    """Answers do not depend on how their requests come: byte by byte, several at once, in odd chunks, from a client that has
    closed its side."""
    asked = {"prompt": "a b c", "max_tokens": 5, "temperature": 0, "stream": True}
    whole = request_bytes("POST", "/v1/completions", asked)
    with Server() as server:
        def text(raw):
            answer = raw.answer("POST")
            equal(answer.status, 200, answer)
            check(answer.body.endswith(b"data: [DONE]\n\n"), answer)
            return "".join(json.loads(event)["choices"][0]["text"] for event in events_of(answer.body)[:-1])
        with server.raw() as raw:
            raw.send(whole)
            expected = text(raw)
        with server.raw() as raw:
            for byte in whole:
                raw.send(bytes([byte]))
            equal(text(raw), expected, "byte by byte")
        with server.raw() as raw:
            raw.send(whole * 3 + request_bytes("GET", "/version"))
            equal([text(raw) for _ in range(3)], [expected] * 3, "three streams that were asked for at once")
            equal(raw.answer().status, 200, "and what came behind them")
        with server.raw() as raw:
            raw.send(whole)
            raw.socket.shutdown(socket.SHUT_WR)
            equal(text(raw), expected, "a stream to a half-closed connection")
            check(raw.ended(), "which is then closed")
        with server.raw() as raw:
            body = json.dumps(asked).encode()
            raw.send(request_bytes("POST", "/v1/completions", transfer_encoding="chunked", content_type="application/json"))
            for at in range(0, len(body), 7):
                raw.send(b"%x;odd=yes\r\n%b\r\n" % (len(body[at:at + 7]), body[at:at + 7]))
            raw.send(b"0\r\nTrailer: x\r\n\r\n")
            equal(text(raw), expected, "a body in chunks")
        with server.raw() as raw:  # a body that ends early is no request, and costs nothing
            raw.send(whole[:-3])
            raw.socket.shutdown(socket.SHUT_WR)
            check(raw.ended() and not raw.buffer, f"a body without its end: {raw.buffer!r}")
        server.wait_until("nothing runs", lambda: server.metrics()['duo_requests{state="running"}'] == 0)
