"""What the HTTP tests share: `duo serve` with an HTTP port, and a client of raw bytes, so that every byte of a request
and of an answer is the test's own business. The standard library alone."""

import json
import os
import socket
import tempfile
import time

import harness
from cases import ARGS, CASES, case, check, equal  # noqa: F401: the table is of whichever program runs


def counts(usage):
    """Without what was there before, which depends on what was asked earlier and on what reading costs at the moment."""
    return {name: count for name, count in usage.items() if name != "prompt_tokens_details"}


def all_input(usage):
    """A message's tokens: Anthropic's input_tokens are those that were read for it."""
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


class Server(harness.Server):
    """`duo serve` that listens for HTTP on a free port."""

    def __init__(self, *more, **options):
        if "--http" not in more:
            more = ("--http", "127.0.0.1:0", *more)
        super().__init__(ARGS.duo, *more, **options)
        self.http = self.wait_for("listening for HTTP")["port"]

    def raw(self, **options):
        return Raw(self.http, **options)

    def request(self, method, path, body=None, **headers):
        """One request on a connection of its own; body: bytes, or a value that goes as JSON."""
        with self.raw() as raw:
            raw.send_request(method, path, body, **headers)
            return raw.answer(method)

    def get(self, path, **headers):
        return self.request("GET", path, **headers)

    def post(self, path, body, **headers):
        return self.request("POST", path, body, **headers)

    def stream(self, path, body, **headers):
        """The events of a POST's answer, as they were written; the status."""
        answer = self.post(path, body, **headers)
        return answer, events_of(answer.body)

    def metrics(self):
        """name{labels} -> value."""
        lines = self.get("/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def wait_until(self, what, condition, timeout=240):
        """Fails as soon as the server has ended without it; the time is for one that hangs, on however busy a machine."""
        deadline = time.time() + timeout * harness.patience
        while not condition():
            check(self.process.poll() is None, f"the server ended before: {what}")
            check(time.time() < deadline, f"{timeout} s without: {what}")
            time.sleep(0.02)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:400]!r}>"


class Raw:
    """One TCP connection."""

    def __init__(self, port, timeout=240, receive_buffer=0):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout * harness.patience)
        self.socket.connect(("127.0.0.1", port))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def send_request(self, method, path, body=None, **headers):
        self.send(request_bytes(method, path, body, **headers))

    def more(self):
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, mark):
        while mark not in self.buffer:
            check(self.more(), f"the connection ended in {self.buffer[:300]!r}")
        head, self.buffer = self.buffer.split(mark, 1)
        return head

    def exactly(self, count):
        while len(self.buffer) < count:
            check(self.more(), f"the connection ended {count - len(self.buffer)} bytes early")
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def head(self):
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status = lines[0].split(" ")[:2]
        check(version == "HTTP/1.1", f"the status line: {lines[0]}")
        headers = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            check(name.lower() not in headers, f"{name} comes twice")
            headers[name.lower()] = value
        return int(status), headers

    def answer(self, method="GET"):
        """The next final answer, whole."""
        status, headers = self.head()
        while status < 200:
            status, headers = self.head()
        if method == "HEAD" or status == 204:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self.chunks()))
        if "content-length" in headers:
            return Answer(status, headers, self.exactly(int(headers["content-length"])))
        while self.more():
            pass
        body, self.buffer = self.buffer, b""
        return Answer(status, headers, body)

    def chunks(self):
        while True:
            size = int(self.until(b"\r\n"), 16)
            data = self.exactly(size)
            equal(self.exactly(2), b"\r\n", "a chunk's end")
            if size == 0:
                return
            yield data

    def ended(self):
        """Has the server closed the connection?"""
        try:
            while self.more():
                pass
        except ConnectionError:
            pass
        return True


def request_bytes(method, path, body=None, **headers):
    """Header names are given with _ for -; None leaves one out."""
    fields = {"Host": "127.0.0.1"}
    if body is not None:
        if not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
        fields["Content-Type"] = "application/json"
        fields["Content-Length"] = str(len(body))
    for name, value in headers.items():
        fields["-".join(part.capitalize() for part in name.split("_"))] = value
    lines = [f"{method} {path} HTTP/1.1"] + [f"{n}: {v}" for n, v in fields.items() if v is not None]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


def events_of(body):
    """The data of a stream's events; everything else must be a comment."""
    events = []
    for block in body.split(b"\n\n")[:-1]:
        if block.startswith(b":"):
            continue
        check(block.startswith(b"data: "), f"an event begins with {block[:60]!r}")
        events.append(block[6:])
    check(body.endswith(b"\n\n"), f"a stream ends with {body[-60:]!r}")
    return events


TEMPLATE = "{% for m in messages %}{{ m['content'] if m['content'] else '' }}{% endfor %}"


class ChatModel:
    """A folder with the demo model and a chat template, which it does not have: a conversation is its texts, joined."""

    def __init__(self, template=None):
        self.template = template

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "needle-chat")
        os.mkdir(path)
        for name in os.listdir(harness.MODEL):
            os.symlink(os.path.abspath(os.path.join(harness.MODEL, name)), os.path.join(path, name))
        with open(os.path.join(path, "chat_template.jinja"), "w", encoding="utf-8") as file:
            file.write(self.template or TEMPLATE)
        return path

    def __exit__(self, *exc):
        self.folder.cleanup()
