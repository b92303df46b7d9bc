"""What the server says of itself, and what a follow-up, a fork and a save cost."""

import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import grpc
import harness
from cases import ARGS, case, check, equal, serve
from harness import code_of, needles

PAGE = 128  # tokens
HEADS = {"retrieval": 6, "streaming": 18}  # of needle-6m by its pattern, at sparsity 0.75
HEAD_BYTES = {"f32": 512, "bf16": 256}  # K and V of a token, head_dim 64
RING_TOKENS = 64 + 256 + 1


def scrape(port):
    """{name{labels}: value} of the metrics page, once it has what happened before the call."""
    time.sleep(0.6)  # the server sets counters and gauges four times a second
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    values = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    return values


def asked(port, request, patience=20):
    """What the metrics' port answers to raw bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@case
def metrics_page():
    """The page of metrics as Prometheus fetches it; other requests are refused, and a silent client stops nobody."""
    with serve("--max-session-tokens", "2000", "--kv-tokens", "4000", "--metrics", "127.0.0.1:0") as server:
        port = server.wait_for("metrics")["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics?name=all", timeout=20) as page:
            equal(page.headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8", "type of the page")
            check(b"# TYPE duo_steps_total counter" in page.read(), "types are told")
        for request, status in ((b"GET / HTTP/1.1\r\n\r\n", b"404"), (b"GET /metricsx HTTP/1.1\r\n\r\n", b"404"),
                                (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"), (b"\r\n\r\n", b"405"),
                                (b"\xff" * 8192, b"405")):
            check(asked(port, request).startswith(b"HTTP/1.1 " + status), f"{request[:20]!r}: expected {status}")
        with socket.create_connection(("127.0.0.1", port)):
            check(asked(port, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200"), "behind a silent client")
        taken = subprocess.run([ARGS.duo, "serve", "--model", harness.MODEL, "--device", ARGS.device, "--listen",
                                "127.0.0.1:0", "--max-session-tokens", "2000", "--kv-tokens", "4000", "--metrics",
                                f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=120, check=False)
        check(taken.returncode == 1 and "Address already in use" in taken.stderr, taken.stderr[-300:])
        equal(server.stop(), 0, "exit code")


@case
def metrics():
    """Every number for Prometheus moves by what was done, and those that Stats has too agree with it."""
    text, questions = needles(800, 2)
    long_text, _ = needles(16000 if ARGS.device == "cpu" else 600000, 1, seed=3)
    token_bytes = HEAD_BYTES["f32" if ARGS.device == "cpu" else "bf16"]
    with tempfile.TemporaryDirectory() as folder, \
            serve("--sparsity", "0.75", "--max-session-tokens", str(len(long_text) // 2), "--kv-tokens", str(len(long_text)),
                  "--sessions", "4", "--questions", "2", "--metrics", "127.0.0.1:0", "--save-dir", folder,
                  "--checkpoint-tokens", "256") as server:
        client = server.client()
        port = server.wait_for("metrics")["port"]
        before = scrape(port)

        def grew(name, now):
            return now.get(name, 0) - before.get(name, 0)

        def counted(name, what, now, expected):
            check(abs(grew(name, now) - expected) <= 1e-6 * max(1, abs(expected)),
                  f"{what}: {name} grew by {grew(name, now)}, expected {expected}")

        def kv_bytes(what, now, tokens, sequences):
            pages = sum(-(-t // PAGE) for t in tokens)
            retrieval = pages * PAGE * HEADS["retrieval"] * token_bytes
            slack = 15 if ARGS.device == "cpu" else 0  # of a ring, for drafts
            streaming = sequences * HEADS["streaming"] * (RING_TOKENS + slack) * token_bytes
            equal(now['duo_kv_bytes{class="retrieval"}'], retrieval, f"{what}: bytes of retrieval heads")
            equal(now['duo_kv_bytes{class="streaming"}'], streaming, f"{what}: bytes of streaming heads")
            equal(now['duo_rank_kv_bytes{rank="0"}'], retrieval + streaming, f"{what}: bytes of the rank")

        kv_bytes("at first", before, [], 0)
        equal(before['duo_rank_retrieval_heads{rank="0"}'], HEADS["retrieval"], "retrieval heads of the rank")
        equal(before['duo_balance_ratio{of="time"}'], 1, "balance of one rank")

        # A document, read with a checkpoint at 256, 512, .. tokens and at its end.
        client.Create(id="doc", max_tokens=3000, durable=True)
        read = client.append("doc", text)
        tokens = read.total_tokens
        now = scrape(port)
        counted('duo_tokens_total{kind="prefill"}', "an append", now, tokens)
        counted('duo_tokens_total{kind="decode"}', "an append", now, 0)
        counted("duo_checkpoints_total", "an append", now, -(-tokens // 256))
        equal(read.stats.checkpoints, -(-tokens // 256), "checkpoints in the append's statistics")
        counted("duo_append_seconds_count", "an append", now, 1)
        counted("duo_append_seconds_sum", "an append", now, read.stats.queue_seconds + read.stats.read_seconds)
        check(grew("duo_saved_bytes_total", now) >= tokens * HEADS["retrieval"] * token_bytes, "bytes of the checkpoints")
        counted('duo_sessions{residence="open"}', "an append", now, 1)
        kv_bytes("a session", now, [tokens], 1)

        # A question. Its last token is drawn, but not run through the model.
        before = now
        _, last = client.ask("doc", questions[0][0])
        now = scrape(port)
        drawn = grew('duo_tokens_total{kind="decode"}', now) + 1
        check(last.stats.new_tokens <= drawn <= last.stats.new_tokens + 2, f"{drawn} tokens drawn, {last.stats} answered")
        counted('duo_tokens_total{kind="prefill"}', "a question", now, last.stats.prompt_tokens)
        counted("duo_queue_seconds_count", "a question", now, 1)
        counted("duo_queue_seconds_sum", "a question", now, last.stats.queue_seconds)
        counted("duo_first_token_seconds_count", "a question", now, 1)
        counted("duo_first_token_seconds_sum", "a question", now, last.stats.first_token_seconds)
        counted("duo_token_seconds_count", "a question", now, 1)
        counted("duo_token_seconds_sum", "a question", now, last.stats.decode_seconds / (drawn - 1))
        counted('duo_step_seconds_count{kind="rows"}', "a question", now, grew("duo_steps_total", now))
        counted('duo_calls_total{code="OK",method="Ask"}', "a question", now, 1)
        kv_bytes("after a question", now, [tokens], 1)

        # Refusals, a fork, and what a restore reads.
        before = now
        equal(code_of(lambda: client.Get(session_id="nobody"))[0], grpc.StatusCode.NOT_FOUND, "nobody")
        client.Fork(session_id="doc", new_id="fork")
        client.ask("fork", "And more.", keep=True, max_new_tokens=2, stop=[], ignore_end_tokens=True)
        fork_tokens = client.Get(session_id="fork").tokens
        now = scrape(port)
        counted('duo_calls_total{code="NOT_FOUND",method="Get"}', "a refusal", now, 1)
        counted('duo_sessions{residence="open"}', "a fork", now, 1)
        shared = tokens // PAGE * PAGE
        kv_bytes("a fork", now, [tokens, fork_tokens - shared], 2)
        client.Close(session_id="fork")
        client.Close(session_id="doc")
        restored = client.Restore(session_id="doc")
        now = scrape(port)
        counted("duo_restored_bytes_total", "a restore", now, restored.bytes_read)
        kv_bytes("a restored session", now, [tokens], 1)

        # While a long text is read and a question waits behind it.
        client.Create(id="long", max_tokens=len(long_text) // 2)
        reading = threading.Thread(target=lambda: client.append("long", long_text))
        reading.start()
        asking = threading.Thread(target=lambda: client.ask("long", questions[0][0]))
        seen, waiting = [], False
        while reading.is_alive():
            if client.Stats().requests_running and not waiting:
                asking.start()
                waiting = True
            seen.append(scrape(port))
        asking.join()
        check(any(m['duo_requests{state="running"}'] == 1 and m["duo_calls_in_progress"] == 2 for m in seen),
              "a request that ran, and a call that waited for it")
        now = scrape(port)
        for name in ('duo_requests{state="running"}', 'duo_requests{state="waiting"}', "duo_calls_in_progress"):
            equal(now[name], 0, name)

        # All of it against Stats, and steps by kind add up.
        stats = client.Stats()
        equal(now["duo_steps_total"], stats.steps, "steps")
        equal(now['duo_tokens_total{kind="prefill"}'], stats.prefill_tokens, "tokens read")
        equal(now['duo_tokens_total{kind="decode"}'], stats.decode_tokens, "tokens written")
        equal(now["duo_checkpoints_total"], stats.checkpoints, "checkpoints")
        equal(now['duo_pages{state="promised"}'] + now['duo_pages{state="available"}'], stats.pages_free, "free pages")
        equal(now['duo_pages{state="available"}'], stats.pages_available, "available pages")
        kinds = [f'{{kind="{kind}"}}' for kind in ("chunk", "rows")]
        equal(sum(now["duo_step_seconds_count" + k] for k in kinds), stats.steps, "steps of both kinds")
        check(abs(sum(now["duo_step_seconds_sum" + k] for k in kinds) - stats.busy_seconds) < 1e-3, "seconds of both kinds")
        for name in ("doc", "long"):
            client.Close(session_id=name)
        now = scrape(port)
        kv_bytes("at last", now, [], 0)
        equal(now['duo_sessions{residence="open"}'], 0, "sessions at last")


@case
def balance():
    """Three ranks: what they hold adds up to the whole, and the busiest is as far above the mean as the plan says."""
    text, _ = needles(2000, 2)
    with serve("--sparsity", "0.75", "--max-session-tokens", "4000", "--sessions", "2", "--questions", "2", "--strategy",
               "split", "--metrics", "127.0.0.1:0", ranks=3, threads=1) as server:
        client = server.client()
        port = server.wait_for("metrics")["port"]
        client.Create(id="doc", max_tokens=3000)
        client.append("doc", text)
        now, plan = scrape(port), client.Plan()
        heads = [now[f'duo_rank_retrieval_heads{{rank="{r}"}}'] for r in range(3)]
        check(abs(sum(heads) - HEADS["retrieval"]) < 1e-9, f"retrieval heads of the ranks: {heads}")
        for rank, held in zip(plan.ranks, heads):
            check(abs(rank.whole + rank.split - held) < 1e-9, f"rank {rank.rank}: {held} heads, the plan has {rank}")
        equal([(one.format, one.share) for one in plan.weight_formats], [("bf16", 1)], "the weights' formats")
        equal(now['duo_balance_ratio{of="memory"}'], plan.balance_memory, "balance of memory")
        check(abs(max(heads) / (sum(heads) / 3) - plan.balance_memory) < 1e-9, f"{heads} against {plan.balance_memory}")
        of_ranks = sum(now[f'duo_rank_kv_bytes{{rank="{r}"}}'] for r in range(3))
        of_classes = sum(v for k, v in now.items() if re.match("duo_kv_bytes{", k))
        equal(of_ranks, of_classes, "KV bytes of ranks and of classes")
        check(now['duo_kv_bytes{class="retrieval_split"}'] > 0, "split heads hold something")
        client.Drain()
        equal(server.process.wait(60), 0, "exit code")


@case
def costs():
    """A follow-up reads its own tokens only, a fork takes a page at most, a second save writes what is new."""
    tokens = 32000 if ARGS.full else 8000
    document, questions = needles(tokens)
    with tempfile.TemporaryDirectory() as folder, \
            serve("--sessions", "6", "--max-session-tokens", str(tokens * 2), "--save-dir", folder) as server:
        client = server.client()
        client.Create(id="doc", max_tokens=tokens + 4000)
        done = client.append("doc", document)
        before = client.Stats()
        _, last = client.ask("doc", questions[0][0])
        after = client.Stats()
        whole = client.Tokenize(text=document.decode() + questions[0][0], begin_of_text=True).tokens
        equal(last.stats.history_tokens + last.stats.prompt_tokens, len(whole), "tokens of document and question")
        check(last.stats.prompt_tokens < 100, "a follow-up reads its own and the document's last words only")
        equal(after.prefill_tokens - before.prefill_tokens, last.stats.prompt_tokens, "tokens that the server read for it")
        equal(last.stats.history_tokens, done.total_tokens, "history")
        client.Fork(session_id="doc", new_id="fork")
        check(after.pages_free - client.Stats().pages_free <= 1, "pages that a fork takes")
        saved = client.Save(session_id="doc")
        client.append("doc", b"One more sentence.")
        again = client.Save(session_id="doc")
        check(again.bytes_written < saved.bytes_written / 4, f"{again.bytes_written} B written again")
        equal(sum(os.path.getsize(os.path.join(folder, "doc", f)) for f in os.listdir(os.path.join(folder, "doc"))
                  if f != "manifest") >= again.bytes_total, True, "the files hold what the session is said to take")
        print(f"a follow-up on {done.total_tokens} tokens read {last.stats.prompt_tokens}; saved {saved.bytes_written} B, then "
              f"{again.bytes_written} B more")
