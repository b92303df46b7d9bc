"""What the service's tests share: a client that knows nothing of the project but its address (gRPC reflection, no
generated code), and servers started as a user would start them, on loopback.

Needs pip packages grpcio, grpcio-reflection, protobuf; `available()` says whether they are there.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

try:
    import grpc
    from google.protobuf import descriptor_pool, message_factory
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
except ImportError:
    grpc = None

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MODEL = os.path.join(SOURCE, "launcher", "demo", "needle-6m")
sys.path.insert(0, os.path.join(SOURCE, "launcher", "demo"))
patience = 1.0  # waits that a case sets no time of its own for are given up after so many times theirs


def write_tokens(text, *path):
    """A file of secrets, which nobody else may read; its path."""
    path = os.path.join(*path)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    os.chmod(path, 0o600)
    return path


def available():
    return grpc is not None


class Client:
    """Every method of every service that reflection lists, as a Python method: client.Create(id="x", max_tokens=9)."""

    def __init__(self, address, token=None, credentials=None):
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = (grpc.secure_channel(address, credentials, options) if credentials
                        else grpc.insecure_channel(address, options))
        self.metadata = [("authorization", "Bearer " + token)] if token else []
        database = ProtoReflectionDescriptorDatabase(self.channel)
        self.services = list(database.get_services())
        self.pool = pool = descriptor_pool.DescriptorPool(database)
        self.methods = {}
        for name in self.services:
            if not name.startswith("duo."):
                continue  # gRPC's own are called by hand
            for method in pool.FindServiceByName(name).methods:
                self.methods[method.name] = (name, method)

    def described(self, service):
        """The names of a service's methods, as reflection describes it."""
        return [method.name for method in self.pool.FindServiceByName(service).methods]

    def call(self, name, requests, timeout=None):
        """The raw gRPC call; requests: a message, or an iterator of them where the client streams."""
        service, method = self.methods[name]
        kind = (("stream" if method.client_streaming else "unary") + "_" +
                ("stream" if method.server_streaming else "unary"))
        multi = getattr(self.channel, kind)(
            f"/{service}/{name}", request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString)
        return multi(requests, timeout=300 * patience if timeout is None else timeout, metadata=self.metadata)

    def message(self, name, **fields):
        return message_factory.GetMessageClass(self.methods[name][1].input_type)(**fields)

    def __getattr__(self, name):
        if name.startswith("_") or name not in self.methods:
            raise AttributeError(name)
        return lambda timeout=None, **fields: self.call(name, self.message(name, **fields), timeout)

    def health(self, service=""):
        """grpc.health.v1.Health/Check by hand: 1 is SERVING, 2 NOT_SERVING."""
        request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
        return self.channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=10)[1]

    def append(self, session, text, append_id="", piece=1 << 16, timeout=None, offset=0, on_progress=None):
        def pieces():
            yield self.message("Append", session_id=session, append_id=append_id)
            for at in range(offset, len(text), piece):
                yield self.message("Append", offset=at, text=text[at:at + piece])
        last = None
        for last in self.call("Append", pieces(), 600 * patience if timeout is None else timeout):
            if on_progress:
                on_progress(last)
        assert last is not None and last.done, last
        return last

    def ask(self, session, text, timeout=None, **fields):
        fields.setdefault("max_new_tokens", 12)
        fields.setdefault("stop", ["\n"])
        answer, last = "", None
        for last in self.Ask(timeout=timeout, session_id=session, text=text, **fields):
            answer += last.text
        assert last is not None and last.done, last
        return answer, last


def code_of(call):
    """The gRPC code and sentence of a call that must fail."""
    try:
        result = call()
        if hasattr(result, "__iter__") and not hasattr(result, "DESCRIPTOR"):
            list(result)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")


def descendants(pid):
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            for child in map(int, file.read().split()):
                found += [child, *descendants(child)]
    except OSError:
        pass
    return found


class Server:
    """`duo serve` on a free port of 127.0.0.1, its log read line by line. user: who runs it, a number."""

    def __init__(self, duo, *more, ranks=1, model=MODEL, threads=2, device="cpu", user=None):
        command = [duo, "serve", "--log", "json", "--threads", str(threads), "--device", device, *more]
        if model is not None:
            command += ["--model", model]
        if "--listen" not in more:
            command += ["--listen", "127.0.0.1:0"]
        if "--http" not in more:
            command += ["--http", "none"]
        env = dict(os.environ)
        if ranks > 1:  # by the script that users have; on one GPU they share it
            env["DUO"] = duo
            command = [os.path.join(SOURCE, "launcher", "mpi", "serve.sh"), str(ranks), "--allow-run-as-root",
                       "--oversubscribe", "--", *command[2:], "--comm", "mpi"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env,
                                        user=user)
        self.events, self.lines = queue.Queue(), []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self.port = self.wait_for("listening")["port"]
        except BaseException:
            self.kill()
            raise
        self.address = f"127.0.0.1:{self.port}"

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            try:
                self.events.put(json.loads(line))
            except ValueError:
                pass

    def wait_for(self, event, timeout=120):
        """The next event of this name. Fails as soon as the process has ended without it, whoever still holds its stderr."""
        deadline = time.time() + timeout * patience
        while True:
            ended = self.process.poll() is not None
            if ended:
                self.reader.join(2)  # what it wrote last
            try:
                found = self.events.get(block=not ended, timeout=0.2)
            except queue.Empty:
                what = f"the server ended with {self.process.returncode} before" if ended else f"{timeout} s without"
                if ended or time.time() > deadline:
                    raise AssertionError(f"{what} '{event}':\n" + "".join(self.lines[-20:])) from None
                continue
            if found["event"] == event:
                return found

    def client(self, **more):
        return Client(self.address, **more)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        """At once, and with it the mpirun and the ranks that a script started."""
        started = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        for pid in started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def stop(self, timeout=60):
        """TERM, and the exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(timeout * patience)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.kill()
        if exc[0] is not None:
            sys.stderr.write("".join(self.lines[-40:]))


class Certificates:
    """Certificates of localhost, each signed by itself: NAME.pem and NAME.key in a folder. Needs openssl."""

    def __init__(self, folder):
        self.folder = folder

    def sign(self, name):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout",
                        f"{self.folder}/{name}.key", "-out", f"{self.folder}/{name}.pem", "-subj", "/CN=localhost", "-addext",
                        "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)

    def read(self, name):
        with open(f"{self.folder}/{name}", "rb") as file:
            return file.read()


def run_cases(table, args, parser):
    """Reads the command line into `args`, and runs the cases that it names, or lists them. Returns the exit status."""
    global patience
    parser.add_argument("--duo")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--patience", type=float, default=1, help="how many times as long to wait before giving up")
    args.full = False
    parser.parse_args(namespace=args)
    args.full = args.full or int(os.environ.get("DUO_TEST_SCALE", "1")) > 1
    patience = args.patience
    if args.list:
        print("\n".join(table))
        return 0
    for name in args.case or table:
        begun = time.time()
        print(f"--- {name}: {table[name].__doc__}", flush=True)
        try:
            table[name]()
        except ModuleNotFoundError as error:
            print(f"skipped: {error.name} is not installed")
            return 77
        print(f"    passed in {time.time() - begun:.1f} s", flush=True)
    return 0


def needles(tokens, facts=8, seed=0):
    """A document with facts, and (question, answer) pairs."""
    from needle_document import BYTES_PER_TOKEN, build, read_text
    made = build(read_text(["/usr/share/common-licenses"]), int(tokens * BYTES_PER_TOKEN), facts, seed)
    return made["document"].encode(), [(q["ask"], q["answer"]) for q in made["questions"]]
