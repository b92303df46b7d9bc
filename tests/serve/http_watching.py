"""What operators see of a server besides its page: names of requests, lines of the log, metrics."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import harness
from http_harness import Server, case, check, equal
from http_openai import QUESTION

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def events(server, name):
    """The log's lines of one event."""
    found = [json.loads(line) for line in list(server.lines) if line.startswith("{")]
    return [one for one in found if one["event"] == name]


@case
def request_names():
    """x-request-id and traceparent come back and are in the log: a line a question, one a request, none for probes."""
    with Server("--access-log") as server:
        body = {"prompt": QUESTION, "max_tokens": 8, "temperature": 0}
        answer = server.post("/v1/completions?secret=1", body, x_request_id="job-17", traceparent=TRACE)
        equal((answer.status, answer.headers["x-request-id"], answer.headers["traceparent"]), (200, "job-17", TRACE), "names come back")
        bad = server.get("/v1/models", x_request_id="two\twords", traceparent="00-XYZ")
        check("x-request-id" not in bad.headers and "traceparent" not in bad.headers, f"names that are none: {bad.headers}")
        for path in ("/live", "/ready", "/health", "/metrics"):
            equal(server.get(path).status, 200, path)
        equal(server.get("/nothing", x_request_id="lost").status, 404, "a path that is not there")
        server.wait_until("the lines are written", lambda: len(events(server, "request")) >= 3)
        lines = {(one["method"], one["path"]): one for one in events(server, "request")}
        equal(sorted(lines), [("GET", "/nothing"), ("GET", "/v1/models"), ("POST", "/v1/completions")], "what has a line")
        equal(lines["GET", "/nothing"]["status"], 404, "a refusal's status")
        asked = lines["POST", "/v1/completions"]
        equal((asked["status"], asked["request"], asked["trace"]), (200, "job-17", TRACE), "the request's line")
        check("secret" not in "".join(server.lines), "what stands behind the question mark is nobody's business")
        (line,) = events(server, "answered")
        equal((line["request"], line["trace"], line["new_tokens"], line["finish"]), ("job-17", TRACE, 8, "length"), "the question's line")
        put = server.request("PUT", "/duo/v1/sessions/book/text?create=true", b"some text", content_type="text/plain", x_request_id="job-18", traceparent=TRACE)
        equal((put.status, server.post("/duo/v1/sessions/none/ask", {"text": "x"}, x_request_id="job-19", traceparent=TRACE).status), (200, 404), "an append and a refusal")
        server.wait_until("their lines", lambda: events(server, "append done") and events(server, "call refused"))
        for event, name in (("append done", "job-18"), ("call refused", "job-19")):
            found = [(one["request"], one["trace"]) for one in events(server, event)]
            check((name, TRACE) in found, f"names in the line of {event}: {found}")
        check(line["prompt_tokens"] > 10 and line["seconds"] >= line["first_token_seconds"] > 0, f"its numbers: {line}")


@case
def promtool():
    """Metrics by Prometheus' own rules; build_info and process_ metrics are there, states of pages do not overlap."""
    with Server() as server:
        def pages_of(metrics):
            return [value for name, value in metrics.items() if name.startswith("duo_pages{")]
        server.wait_until("the engine has told its counts", lambda: sum(pages_of(server.metrics())) > 0)
        metrics = server.metrics()
        for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"):
            check(metrics[name] > 0, f"{name} is {metrics.get(name)}")
        check(any(name.startswith("duo_build_info{") and 'version="' in name for name in metrics), "duo_build_info")
        equal(len(pages_of(metrics)), 3, "states of pages")
        check(metrics['duo_kv_room_bytes{class="retrieval"}'] > metrics['duo_kv_bytes{class="retrieval"}'], "room for more")
        page = server.get("/metrics").body
        if shutil.which("promtool") is None:
            raise ModuleNotFoundError(name="promtool")
        said = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=60, check=False)
        equal((said.returncode, said.stdout + said.stderr), (0, b""), "what promtool says")


def set_level(folder, level):
    path = os.path.join(folder, "serve.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'log-level = "{level}"\n')
    return path


def ask(server):
    equal(server.post("/v1/completions", {"prompt": QUESTION, "max_tokens": 4, "temperature": 0}).status, 200, "a question")


@case
def log_levels():
    """--log-level leaves out what is below it; HUP reads it again from the file, and leaves it where the file is wrong."""
    with tempfile.TemporaryDirectory() as folder, Server("--config", set_level(folder, "debug")) as server:
        ask(server)
        server.wait_until("a line of each step", lambda: events(server, "step"))
        check(all("level" in json.loads(line) for line in server.lines), "every line has its level")

        def hup(level, says):
            set_level(folder, level)
            seen = len(events(server, says))
            server.process.send_signal(signal.SIGHUP)
            server.wait_until(f"{says} after HUP", lambda: len(events(server, says)) > seen)

        hup("warning", "reloaded")
        counted = len(events(server, "answered"))
        ask(server)
        server.get("/v1/none")
        equal(server.post("/duo/v1/sessions", {"id": "a b"}).status, 400, "a bad name")
        hup("loud", "not reloaded")
        check("loud" in events(server, "not reloaded")[-1]["status"], "it says what is wrong with the file")
        equal(len(events(server, "answered")), counted, "lines of answers at level warning")
        hup("info", "reloaded")
        ask(server)
        server.wait_until("a line of the answer", lambda: len(events(server, "answered")) == counted + 1)
        steps = len(events(server, "step"))
        ask(server)
        server.wait_until("another", lambda: len(events(server, "answered")) == counted + 2)
        equal(len(events(server, "step")), steps, "lines of steps at level info")
    with tempfile.TemporaryDirectory() as folder, Server("--config", set_level(folder, "error"), "--log-level", "info") as server:
        for count in (1, 2):
            ask(server)
            server.wait_until("a line of the answer", lambda: len(events(server, "answered")) == count)
            server.process.send_signal(signal.SIGHUP)  # the command line stands above the file, afterwards too
            server.wait_until("it has read again", lambda: len(events(server, "reloaded")) == count)


@case
def json_log():
    """--log json: whatever clients do to either port, and whatever is reloaded or loaded, each line is one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        harness.Certificates(folder).sign("server")
        certificate = os.path.join(folder, "server.pem")
        with Server("--tls-cert", certificate, "--tls-key", os.path.join(folder, "server.key"), "--log-level", "debug") as server:
            for port in (server.port, server.http):
                for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x02\x01\x00", b"\0" * 70000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
                    with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
                        try:
                            one.sendall(data)
                            one.settimeout(1)
                            one.recv(100)
                        except OSError:
                            pass
            with open(certificate, "w", encoding="ascii") as file:
                file.write("no certificate\n")
            server.process.send_signal(signal.SIGHUP)
            server.wait_until("the bad certificate is refused", lambda: events(server, "not reloaded"))
            server.process.terminate()
            equal(server.process.wait(60), 0, "its end")
            server.reader.join(10)
            foreign = [line for line in server.lines if not line.startswith("{")]
            equal(foreign, [], "lines that are no JSON")


class Collector:
    """An OpenTelemetry collector: the spans that came, by name. status: what it answers."""

    def __init__(self, status=200, port=0):
        collector, self.spans, self.status, self.resources, self.types = self, [], status, [], set()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if collector.status == 200:
                    collector.types.add((self.path, self.headers["Content-Type"]))
                    for of in body["resourceSpans"]:
                        collector.resources.append({a["key"]: a["value"] for a in of["resource"]["attributes"]})
                        collector.spans += [span for scope in of["scopeSpans"] for span in scope["spans"]]
                self.send_response(collector.status)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name):
        return [span for span in self.spans if span["name"] == name]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def check_span(collector, span, parts):
    """The span's children are the parts, one after another, and inside of it."""
    children = [one for one in collector.spans if one.get("parentSpanId") == span["spanId"]]
    equal([one["name"] for one in children], parts, f"parts of {span['name']}")
    at = int(span["startTimeUnixNano"])
    for one in children:
        equal(one["traceId"], span["traceId"], "a part's trace")
        check(int(one["startTimeUnixNano"]) >= at - 1000, f"{one['name']} begins before the part before it has ended")
        at = int(one["endTimeUnixNano"])
        check(at <= int(span["endTimeUnixNano"]) + 1_000_000, f"{one['name']} is longer than its call")


@case
def spans():
    """--otlp-endpoint: a question, a read, a save and a refusal as spans, in the caller's trace, also after the collector was away."""
    collector = Collector()
    with tempfile.TemporaryDirectory() as folder, \
            Server("--otlp-endpoint", f"http://127.0.0.1:{collector.port}", "--save-dir", folder) as server:
        answer = server.request("PUT", "/duo/v1/sessions/book/text?create=true", QUESTION.encode() * 40, content_type="text/plain", traceparent=TRACE)
        equal(answer.status, 200, "an append")
        equal(server.post("/duo/v1/sessions/book/ask", {"text": QUESTION, "max_new_tokens": 6}, traceparent=TRACE, x_request_id="job-3").status, 200, "a question")
        equal(server.post("/duo/v1/sessions/book/save", {}, traceparent=TRACE).status, 200, "a save")
        equal(server.post("/duo/v1/sessions/none/ask", {"text": "x"}, traceparent=TRACE).status, 404, "a session that is not there")
        ask(server)
        server.post("/v1/completions", {"prompt": QUESTION, "max_tokens": 1}, traceparent=TRACE[:-1] + "0")
        server.wait_until("the spans are there", lambda: len(collector.named("Ask")) >= 3 and collector.named("Save"))
        equal(collector.types, {("/v1/traces", "application/json")}, "how they come")
        check(collector.resources[0]["service.name"] == {"stringValue": "duo"}, f"the resource: {collector.resources[0]}")
        (read,), (saved,) = collector.named("Append"), collector.named("Save")
        check_span(collector, read, ["receive", "queue", "read"])
        check_span(collector, saved, ["queue", "save"])
        asked = {len(span.get("parentSpanId", "")): span for span in collector.named("Ask") if span["status"]["code"] == 1}
        equal(sorted(asked), [0, 16], "questions within the caller's trace and without; one is not sampled")
        for span in (read, saved, asked[16]):
            equal((span["traceId"], span["parentSpanId"]), (TRACE[3:35], TRACE[36:52]), f"{span['name']} is in its caller's trace")
        check_span(collector, asked[16], ["queue", "read", "decode"])
        fields = {one["key"]: one["value"] for one in asked[16]["attributes"]}
        equal((fields["duo.session"], fields["gen_ai.usage.output_tokens"], fields["duo.request"]),
              ({"stringValue": "book"}, {"intValue": "6"}, {"stringValue": "job-3"}), "its attributes")
        (refused,) = [span for span in collector.named("Ask") if span["status"]["code"] == 2]
        check("none" in refused["status"]["message"], f"a refusal's sentence: {refused}")
        port = collector.port
        collector.close()
        ask(server)
        server.wait_until("the log says so", lambda: events(server, "spans not sent"))
        ask(server)
        back = Collector(port=port)
        server.wait_until("both come when it is back", lambda: len(back.named("Ask")) == 2, timeout=40)
        back.close()
