#!/usr/bin/env python3
"""lm-eval's local-completions against `duo serve`, on a task of its own in local JSONL files: facts hidden in texts, once as
a choice by log-likelihood and once as a text that is written. Needs the package lm_eval; tests/nightly.sh has an environment
for it.

    lm_eval_local.py --duo build/duo [--record lm_eval_requests.json]

With --record what it asked is written down beside what it made of the answers; http.lm_eval_requests replays that.
"""

import argparse
import glob
import http.client
import http.server
import json
import os
import random
import subprocess
import sys
import tempfile
import threading

import http_harness
from http_harness import Server, check, equal

WORDS = ["rapid tower", "quiet harbour", "silver bridge", "old garden", "narrow street", "green valley", "last station", "north gate"]
FILLER = "The harbour lay still in the morning light. Two boats were missing from their places at the quay. "
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "{{{{text}}}}"
target_delimiter: ""
num_fewshot: 0
metadata: {{version: 1.0}}
"""
CHOICE = """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: right
metric_list: [{metric: acc}]
"""
WRITTEN = """output_type: generate_until
doc_to_target: "{{choices[right]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def documents():
    rng = random.Random(4)
    for number, word in enumerate(WORDS):
        codes = [str(rng.randrange(100000, 1000000)) for _ in range(4)]
        right = number % 4
        fact = f"The passcode for the {word} is {codes[right]}. "
        text = FILLER + fact + FILLER * 2 + f"\nQuestion: What is the passcode for the {word}?\nAnswer: "
        yield {"text": text, "choices": codes, "right": right}


class Recorder(http.server.BaseHTTPRequestHandler):
    """Passes everything on to the server and keeps the completions that go by."""
    port, kept = 0, []
    protocol_version = "HTTP/1.1"

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        upstream.request(self.command, self.path, body or None, {"Content-Type": "application/json"} if body else {})
        answer = upstream.getresponse()
        data = answer.read()
        if self.path.endswith("/completions"):
            self.kept.append((json.loads(body), json.loads(data)))
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = pass_on

    def log_message(self, *_):
        pass


def scores(logprobs, tokens):
    """The log-likelihood of the last `tokens` of the prompt, as lm-eval reads it: the last token of all was drawn."""
    own = slice(-1 - tokens, -1)
    is_greedy = all(token == max(best.values())
                    for token, best in zip(logprobs["token_logprobs"][own], logprobs["top_logprobs"][own]))
    return {"tokens": tokens, "loglikelihood": round(sum(logprobs["token_logprobs"][own]), 5), "is_greedy": is_greedy}


def record(kept, server, path):
    """What was asked, and what there is to be said of the answers."""
    codes = {code for document in documents() for code in document["choices"]}
    lengths = {code: server.post("/tokenize", {"prompt": code, "add_special_tokens": False}).json()["count"] for code in codes}
    entries = []
    for request, answer in kept:
        answers = []
        for choice in sorted(answer["choices"], key=lambda choice: choice["index"]):
            if not request.get("echo"):
                answers.append({"text": choice["text"]})
                continue
            code = next(code for code in codes if "".join(choice["logprobs"]["tokens"][:-1]).endswith(code))
            answers.append(scores(choice["logprobs"], lengths[code]))
        entries.append({"request": request, "answers": answers})
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


def run(base, folder):
    """lm-eval as its users start it; the results of each task."""
    data = os.path.join(folder, "documents.jsonl")
    with open(data, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(document) + "\n" for document in documents())
    for name, more in (("duo_choice", CHOICE), ("duo_written", WRITTEN)):
        with open(os.path.join(folder, name + ".yaml"), "w", encoding="utf-8") as file:
            file.write(TASK.format(name=name, data=data) + more)
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args",
               f"model=needle-6m,base_url={base}/v1/completions,tokenizer_backend=remote,num_concurrent=1,max_retries=1",
               "--tasks", "duo_choice,duo_written", "--include_path", folder, "--batch_size", "4", "--output_path",
               os.path.join(folder, "results")]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": os.path.join(folder, "home"),
           "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900, check=False)
    equal(done.returncode, 0, done.stderr[-4000:])
    found, = glob.glob(os.path.join(folder, "results", "**", "results*.json"), recursive=True)
    with open(found, encoding="utf-8") as file:
        return json.load(file)["results"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--record")
    args = parser.parse_args(namespace=http_harness.ARGS)
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        Recorder.port = server.http
        proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        results = run(f"http://127.0.0.1:{proxy.server_address[1]}", folder)
        proxy.shutdown()
        choice, written = results["duo_choice"]["acc,none"], results["duo_written"]["exact_match,none"]
        print(f"{len(Recorder.kept)} requests; the right code is chosen {choice:.2f} and written {written:.2f} of the time")
        check(Recorder.kept, "lm-eval asked nothing")
        equal((choice, written), (1.0, 1.0), "what lm-eval makes of the answers")
        if args.record:
            record(Recorder.kept, server, args.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
