#!/usr/bin/env python3
"""What drafts bring on a GPU with real models and texts, and whether an answer is the same with and without them.

    gpu_drafts.py --duo build/duo --smollm2 FILE.gguf [--text FILE].. [--weights bf16] [--attention full] [--rounds 3] [--out FILE.json]
    gpu_drafts.py --duo build/duo --needle DIR [--tokens 32000,128000,1000000] [--out FILE.json]

A server for each mode: off, text, self, and int4, which is self with --draft-weights int4. They hold the same sessions and
are asked the same questions one at a time, the modes in turns; the others rest meanwhile. A first round is not timed, so
that graphs are recorded before, of all modes alike. Rates are the server's own: tokens behind an answer's first over the
seconds from then on. Every answer of every round is compared token by token with off's of the first round.

Of SmolLM2 the kinds of work are: repeats a passage word for word (quote; passages that do not come back so are left
out), answers questions on 2,000 tokens (question) and on 4,700 (long), and continues prose at temperatures 0.8 and 1. Answers
that end in a loop are work of their own. needle-6m answers eight questions behind documents of --tokens tokens, and
writes 64 tokens on. Exits with 1 where an answer parts. Standard library only.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import drafts
import record

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "..", "..", "launcher", "demo"))
import needle_document  # noqa: E402

QUESTIONS = drafts.QUESTIONS + ["What does the license say about patents?", "What are the terms for modified versions?",
                                "Can the license be revoked?", "Summarize the text in three sentences."]
PROSE = drafts.PROSE + ["The map showed a road where there had never been one, so we walked along it.",
                        "Every morning the baker put one loaf aside and never said for whom.",
                        "It took the surveyors three summers to find out that the lake was moving.",
                        "My grandmother kept her keys in a jar of salt, and when I asked her why she laughed."]
COUNTS = ("tokens", "draw_steps", "drafted", "accepted", "parted", "compared")  # the last two of all rounds, not of timed ones alone
FLAGS = {"off": ["--speculate", "off"], "text": ["--speculate", "text"], "self": ["--speculate", "self"], "int4": drafts.INT4}


class Server:
    """`duo serve` in one mode."""

    def __init__(self, options, mode, folder, model):
        self.log = os.path.join(folder, mode + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [options.duo, "serve", "--log", "json", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--device",
                 options.device, *model, *FLAGS[mode]], stderr=log)
        self.http = None

    def wait(self):
        while not self.http:
            with open(self.log, encoding="utf-8") as log:
                text = log.read()
            for line in text.splitlines():
                if '"listening for HTTP"' in line and line.endswith("}"):
                    self.http = http.client.HTTPConnection("127.0.0.1", json.loads(line)["port"], timeout=300)
            if self.process.poll() is not None:
                sys.exit(f"the server ended: {text[-2000:]}")
            time.sleep(0.05)
        while self.call("GET", "/ready", raw=True)[0] != 200:
            time.sleep(0.05)

    def call(self, method, path, body=None, raw=False):
        data, kind = (body, "text/plain") if isinstance(body, (bytes, type(None))) else (json.dumps(body).encode(), "application/json")
        self.http.request(method, path, data, {"Content-Type": kind})
        answer = self.http.getresponse()
        read = answer.read()
        self.http.close()  # the server ends idle connections; the next call opens one
        if raw:
            return answer.status, read
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status} {read[-600:]!r}")
        return json.loads(read) if read else None

    def open(self, session, document, chat):
        """A session that has read the document, if there is any; its tokens."""
        self.call("POST", "/duo/v1/sessions", {"id": session, "chat": chat})
        if document:
            self.call("PUT", f"/duo/v1/sessions/{session}/text", document.encode())
        return self.call("GET", f"/duo/v1/sessions/{session}")["tokens"]

    def ask(self, session, text, **fields):
        return self.call("POST", f"/duo/v1/sessions/{session}/ask", {"text": text, **fields})

    def end(self):
        self.process.terminate()
        self.process.wait()


class Work:
    """One answer, again and again. check: of its text, whether it counts."""

    def __init__(self, kind, session, text, check=None, **fields):
        self.kind, self.session, self.text, self.check, self.fields = kind, session, text, check, fields
        self.tokens = None  # of off's first answer


class Kind:
    """What the answers of a kind took, by mode."""

    def __init__(self):
        self.answers, self.right, self.pairs, self.modes = 0, 0, {}, {}

    def found(self):
        rows = {"answers": self.answers, "right": self.right}
        for mode, m in self.modes.items():
            rows[mode] = row = {name: m[name] for name in COUNTS}
            if m["seconds"] == 0:
                continue
            row["tokens_per_second"] = round(m["tokens"] / m["seconds"], 1)
            row["tokens_a_step"] = round(1 + m["accepted"] / max(m["draw_steps"], 1), 3)
            if mode != "off" and self.pairs.get(mode):
                row["ratio"] = round(row["tokens_per_second"] / rows["off"]["tokens_per_second"], 3)
                pairs = sorted(self.pairs[mode])
                row["ratio_of_pairs"] = round(statistics.median(pairs), 3)
                row["least_and_most_of_pairs"] = [round(pairs[0], 3), round(pairs[-1], 3)]
        return rows


def smollm2_works(options, servers):
    texts = []
    for path in options.text:
        with open(path, encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
    for server in servers.values():
        server.open("chat", "", True)
        server.open("plain", "", False)
        for number, text in enumerate(texts[:2]):
            server.open(f"question{number}", text[:9000], True)
            server.open(f"long{number}", text[:22000], True)
    works, tried = [], 0
    for passage in (passage for text in texts for passage in drafts.passages(text, options.quote_bytes)):
        if len(works) == options.answers or tried == 12 * options.answers or (options.only and "quote" not in options.only):
            break
        tried += 1
        words = f"Repeat this text word for word, and write nothing else.\n\n{passage}"
        if " ".join(servers["text"].ask("chat", words, max_new_tokens=250)["text"].split()) == passage:
            works.append(Work("quote", "chat", words, max_new_tokens=250))
    for i in range(options.answers):
        number, question = i % len(texts[:2]), QUESTIONS[i % len(QUESTIONS)]
        works.append(Work("question", f"question{number}", question, max_new_tokens=250))
        works.append(Work("long", f"long{number}", question, max_new_tokens=250))
        for heat in (0.8, 1.0):
            works.append(Work(f"prose, temperature {heat:g}", "plain", PROSE[i % len(PROSE)], max_new_tokens=300,
                              temperature=heat, seed=i))
    return [work for work in works if not options.only or work.kind in options.only], {"passages_tried": tried}


def needle_works(options, servers):
    works, notes = [], {}
    for tokens in map(int, options.tokens.split(",")):
        made = needle_document.build(needle_document.read_text(options.text), int(tokens * needle_document.BYTES_PER_TOKEN), 8, 1)
        with concurrent.futures.ThreadPoolExecutor(len(servers)) as pool:
            read = list(pool.map(lambda server, text=made["document"], name=f"doc{tokens}": server.open(name, text, False), servers.values()))
        notes[f"{tokens} tokens"] = {"read": read[0]}
        for question in made["questions"]:
            works.append(Work(f"{tokens} tokens", f"doc{tokens}", question["ask"], lambda text, q=question: text.rstrip(".") == q["answer"],
                              max_new_tokens=12, stop=["\n"]))
        works.append(Work(f"{tokens} tokens, 64 written", f"doc{tokens}", made["questions"][0]["ask"], max_new_tokens=64, ignore_end_tokens=True))
    return works, {"documents": notes}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--smollm2", help="its GGUF file, or a folder")
    parser.add_argument("--needle", help="a folder of needle-6m")
    parser.add_argument("--text", action="append", default=[])
    parser.add_argument("--tokens", default="32000,128000,1000000", help="of needle-6m's documents")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--attention", default="full")
    parser.add_argument("--kv", default="auto")
    parser.add_argument("--modes", default="off,text,self,int4")
    parser.add_argument("--answers", type=int, default=8, help="of each kind of SmolLM2's work")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="of SmolLM2's work, as the results name it")
    parser.add_argument("--quote-bytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3, help="timed ones; 0: answers are compared only")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out")
    options = parser.parse_args()
    patterns = os.path.join(HERE, "..", "..", "attn_patterns")
    if bool(options.smollm2) == bool(options.needle):
        parser.error("name --smollm2 or --needle, one of them")
    if options.smollm2:
        options.text = options.text or ["/usr/share/common-licenses/GPL-3"]
        model = ["--model", options.smollm2, "--attention", options.attention, "--weights", options.weights, "--kv-tokens", "40000"]
        if options.attention == "duo":
            model += ["--pattern", os.path.join(patterns, "SmolLM2-135M-Instruct")]
    else:
        options.text = options.text or ["/usr/share/common-licenses"]
        total = sum(map(int, options.tokens.split(",")))
        model = ["--model", options.needle, "--pattern", os.path.join(patterns, "needle-6m"), "--sparsity", "0.75", "--weights", options.weights,
                 "--kv-tokens", str(int(1.2 * total) + 20000)]
    model += ["--kv", options.kv]
    modes = options.modes.split(",")
    with tempfile.TemporaryDirectory() as folder:
        servers = {mode: Server(options, mode, folder, model) for mode in modes}
        try:
            for server in servers.values():
                server.wait()
            works, notes = (smollm2_works if options.smollm2 else needle_works)(options, servers)
            found = run(options, modes, servers, works)
        finally:
            for server in servers.values():
                server.end()
    commit = subprocess.run([options.duo, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[1]
    record.show({"commit": commit.removeprefix("commit "), "weights": options.weights, "attention": options.attention if options.smollm2 else "duo at 0.75",
                 "kv": options.kv, "rounds_timed": options.rounds, **notes, **found}, options.out)
    if found["parts"]:
        sys.exit("error: answers with drafts differ from those without")


def run(options, modes, servers, works):
    kinds, parts, compared = {}, [], {mode: 0 for mode in modes}
    for turn in range(options.rounds + 1):
        for number, work in enumerate(works):
            rates = {}
            for at in range(len(modes)):
                mode = modes[(turn + at) % len(modes)] if turn else modes[at]  # off is the first of all
                answer = servers[mode].ask(work.session, work.text, **work.fields)
                tokens, stats = answer["tokens"], answer["stats"]
                if work.tokens is None:
                    work.tokens = tokens
                    work.kind += ", in a loop" if drafts.loops(tokens) else ""
                    kind = kinds.setdefault(work.kind, Kind())
                    kind.answers += 1
                    kind.right += work.check is None or work.check(answer["text"])
                kind = kinds[work.kind]
                same = next((i for i, (a, b) in enumerate(zip(tokens, work.tokens)) if a != b), min(len(tokens), len(work.tokens)))
                compared[mode] += same
                parted = same < max(len(tokens), len(work.tokens))
                if parted:
                    parts.append({"kind": work.kind, "work": number, "mode": mode, "round": turn, "token": same,
                                  "temperature": work.fields.get("temperature", 0)})
                m = kind.modes.setdefault(mode, dict.fromkeys(("seconds", *COUNTS), 0))
                m["parted"] += parted
                m["compared"] += same
                if turn == 0 and options.rounds:
                    continue
                count, seconds = max(len(tokens) - 1, 0), stats["decode_seconds"]
                m["tokens"] += count
                m["seconds"] += seconds if turn else 0
                for name in ("draw_steps", "drafted", "accepted"):
                    m[name] += stats[name if name == "draw_steps" else name + "_tokens"]
                if turn:
                    rates[mode] = count / max(seconds, 1e-9)
            for mode, rate in rates.items():
                if mode != "off" and rates.get("off"):
                    kinds[work.kind].pairs.setdefault(mode, []).append(rate / rates["off"])
    return {"kinds": {name: kind.found() for name, kind in kinds.items()}, "tokens_compared": compared, "parts": parts}


if __name__ == "__main__":
    main()
