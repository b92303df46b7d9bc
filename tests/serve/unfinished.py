"""Uploads that never finish: what they may hold in all, over connections and transports, and that they end."""

import os
import select
import socket
import struct
import tempfile
import time

import grpc
from cases import case, check, equal, serve
from harness import code_of

MB = 1 << 20
DATA, HEADERS, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9


def reflected(server, seconds=10):
    """A client, which asks by reflection. gRPC lets its last call's thread go a moment after the call's end is on the wire."""
    end = time.monotonic() + seconds
    while True:
        try:
            return server.client()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED or time.monotonic() > end:
                raise
            time.sleep(0.1)


class Wire:
    """HTTP/2 by hand, for messages that no client library would leave half-sent."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.received, self.windows, self.first_window, self.room, self.most = b"", {}, 65535, 65535, None
        self.ended, self.said, self.next = set(), {}, 1
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(SETTINGS, 0, 0, b""))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def pump(self):
        """Takes what the server has sent; False where that is nothing."""
        if not select.select([self.socket], [], [], 0.05)[0]:
            return False
        more = self.socket.recv(1 << 20)
        check(more, "the server keeps the connection")
        self.received += more
        while len(self.received) >= 9:
            size = int.from_bytes(self.received[:3], "big")
            if len(self.received) < 9 + size:
                break
            kind, flags, stream = self.received[3], self.received[4], int.from_bytes(self.received[5:9], "big")
            payload, self.received = self.received[9:9 + size], self.received[9 + size:]
            self.take(kind, flags, stream, payload)
        return True

    def take(self, kind, flags, stream, payload):
        if kind in (HEADERS, CONTINUATION):
            self.said[stream] = self.said.get(stream, b"") + payload
        if kind == RST or (kind == HEADERS and flags & 1):
            self.ended.add(stream)
        if kind == SETTINGS and not flags & 1:
            for name, value in struct.iter_unpack(">HI", payload):
                self.most = value if name == 3 else self.most  # streams at once
                if name == 4:
                    self.windows = {s: room + value - self.first_window for s, room in self.windows.items()}
                    self.first_window = value
            self.socket.sendall(self.frame(SETTINGS, 1, 0, b""))
        if kind == PING and not flags & 1:
            self.socket.sendall(self.frame(PING, 1, 0, payload))
        if kind == WINDOW and stream == 0:
            self.room += int.from_bytes(payload, "big")
        elif kind == WINDOW:
            self.windows[stream] = self.windows.get(stream, 0) + int.from_bytes(payload, "big")

    def begin(self, path):
        """A call without a token; the number of its stream."""
        stream, self.next = self.next, self.next + 2
        self.windows[stream] = self.first_window
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers"),
                  ("content-type", "application/grpc")]
        block = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields)
        self.socket.sendall(self.frame(HEADERS, 4, stream, block))
        return stream

    def send(self, stream, data):
        """As much of it as the server takes; how many bytes that was."""
        sent, idle = 0, 0
        while sent < len(data) and idle < 2 and stream not in self.ended:
            size = min(len(data) - sent, self.room, self.windows[stream], 16384)
            if size <= 0:
                idle += not self.pump()
                continue
            self.socket.sendall(self.frame(DATA, 0, stream, data[sent:sent + size]))
            self.room -= size
            self.windows[stream] -= size
            sent += size
        return sent

    def flood(self, path, streams, size):
        """Streams that announce 4 MB and send `size` of it."""
        data = b"\0" + (4_194_000).to_bytes(4, "big") + b"x" * size
        return sum(self.send(self.begin(path), data) for _ in range(streams))

    def wait(self, streams, what):
        """Until the server has ended all of them."""
        deadline = time.time() + 30
        while len(self.ended) < streams:
            check(time.time() < deadline, f"{what}: {len(self.ended)} of {streams} streams ended")
            self.pump()


def held(server):
    """Its memory, in MB."""
    with open(f"/proc/{server.process.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


@case
def unfinished():
    """Messages that are never whole: without a token none is taken, with one all together hold little, and they end."""
    paths = ["/duo.v1.Sessions/Tokenize", "/duo.v1.Sessions/Ask", "/duo.v1.Sessions/Append", "/duo.v1.Cluster/Stats"]
    with tempfile.TemporaryDirectory() as folder:
        tokens = os.path.join(folder, "tokens")
        with open(os.open(tokens, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write("secret-token-number-one\n")
        with serve("--max-session-tokens", "2000", "--token-file", tokens) as server:
            before = held(server)
            wire = Wire(server.port)
            for path in paths:
                wire.flood(path, 25, 2 * MB)
            equal(wire.most, 100, "streams that a connection may have at once")
            wire.wait(100, "without a token")
            check(held(server) < before + 40, f"{before:.0f} MB, and {held(server):.0f} MB after streams without a token")
            check(all(b"grpc-status\x0216" in wire.said[s] for s in wire.ended), f"UNAUTHENTICATED: {wire.said[1]}")
            server.client(token="secret-token-number-one").List()
    # Of 256 MB a quarter for messages on their way: 16 of 4 MB, and 4 of one connection.
    with serve("--max-session-tokens", "2000", "--max-upload-bytes", str(256 * MB), "--upload-idle", "3") as server:
        before = held(server)
        wires = [Wire(server.port) for _ in range(4)]
        for wire, path in zip(wires, [*paths[:3], "/grpc.health.v1.Health/Check"]):
            wire.flood(path, 60, 2 * MB)
        check(held(server) < before + 140, f"{before:.0f} MB, and {held(server):.0f} MB beside half-sent messages")
        client = server.client()
        client.List(timeout=5)
        equal(client.health(), 1, "health beside them")
        said = b""
        for wire in wires:
            wire.wait(60, "half-sent messages")
            said += b"".join(wire.said.values())
        # Reflection is gRPC's own: it has few threads, and none of them for long.
        wires = [Wire(server.port) for _ in range(2)]
        for wire in wires:
            wire.flood("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 20, 2 * MB)
        check(held(server) < before + 180, f"{before:.0f} MB, and {held(server):.0f} MB beside half-sent reflection")
        for wire in wires:
            wire.wait(20, "half-sent reflection")
        reflected(server).List(timeout=5)
        check(b"messages of up to 4194304 bytes" in said, "those that found no place hear the numbers")
        check(b"did not come whole in 3 seconds" in said, "those that were begun hear how long they had")
        equal(server.stop(), 0, "exit code")


@case
def upload_budget():
    """One budget for appends over gRPC and bodies over HTTP, counted as bytes arrive, refused with the numbers."""
    with serve("--max-session-tokens", "40000", "--max-upload-bytes", str(64 * MB), "--http", "127.0.0.1:0") as server:
        port = server.wait_for("listening for HTTP")["port"]
        client = server.client()
        client.Create(id="doc", max_tokens=30000)

        def post(announced, sent):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.settimeout(20)
            connection.sendall(b"POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                               b"Content-Length: %d\r\n\r\n" % announced)
            try:
                connection.sendall(b"x" * sent)
            except ConnectionError:
                pass  # refused by its header
            return connection

        silent = [post(60 * MB, 0) for _ in range(8)]  # who sends nothing holds nothing
        half = [post(21 * MB, 21 * MB - 1000) for _ in range(3)]
        time.sleep(0.5)
        answer = post(30 * MB, 0).recv(4096)
        check(b" 503 " in answer and b"Retry-After" in answer and str(64 * MB).encode() in answer, f"one too many: {answer}")

        def pieces():
            yield client.message("Append", session_id="doc")
            for at in range(0, 2 * MB, MB):
                yield client.message("Append", offset=at, text=b"x" * MB)
        code, sentence = code_of(lambda: client.call("Append", pieces()))
        equal(code, grpc.StatusCode.RESOURCE_EXHAUSTED, f"an append beside them ({sentence})")
        check("--max-upload-bytes" in sentence and str(64 * MB) in sentence, sentence)
        for connection in [*silent, *half]:
            connection.close()
        client.append("doc", b"A short text. ")
        equal(server.stop(), 0, "exit code")
