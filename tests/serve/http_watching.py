"""What operators see of a server besides its page: names of requests, lines of the log, metrics."""

import json
import shutil
import subprocess

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
