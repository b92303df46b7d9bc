#!/usr/bin/env python3
"""Whether `--sources` names the sentence that an answer needs, and how other ways of choosing one compare.

    provenance.py --duo build/duo [--tokens 32000] [--documents 10] [--facts 10] [--rows NAME,..] [--replay 2] [--out FILE.json]
    provenance.py --duo build/duo --model SMOLLM2 --pattern attn_patterns/SmolLM2-135M-Instruct --chat --tokens 2000 ..

needle-6m, which is in the tree, or another model answers from documents with --facts facts that are asked for and as many
distractors (or --distractors): the same sentence about another key, every other one with the very digits of a fact that is
asked for. A row is a way of choosing spans:

    pattern   the pattern's provenance heads with their weights
    equal     all query heads of retrieval heads, alike
    shuffled  the pattern's weights dealt out at random over all query heads of retrieval heads, anew for each document
    random    as many of these heads as the pattern names, drawn at random for each document, alike
    window    what a streaming head sees, the last 256 tokens: no choice, only whether the sentence lies there
    bm25      BM25 (Okapi, k1 1.5, b 0.75) of the question over the document's lines
    replay    the pattern's heads again, each question asked behind the --replay sentences that it looks at (any of these
              counts, not which is first); only where named

Counted are all answers, and those that are right and wrong apart: whether the first span, and whether any of the first
three, is the asked key's sentence; with 95 % intervals of Wilson. Every reported span must be the document's bytes at its
offsets.
"""

import argparse
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

import record

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
DEMO = os.path.join(ROOT, "launcher", "demo")
PATTERN = os.path.join(ROOT, "attn_patterns", "needle-6m")
sys.path.append(DEMO)
import needle_document  # noqa: E402


def wilson(hits, n, z=1.96):
    """The interval of a share that was found hits times in n."""
    if n == 0:
        return [0.0, 1.0]
    p, d = hits / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [max(0.0, round((middle - half) / d, 4)), min(1.0, round((middle + half) / d, 4))]


def question(options, key):
    return f"What is the passcode for the {key}?" if options.chat else needle_document.question(key)


def document(text, options, seed):
    """needle_document's, with distractors among the facts; {document, asked: [{key, ask, answer, sentence}]}."""
    rng = random.Random(seed)
    facts, more = options.facts, options.facts if options.distractors is None else options.distractors
    keys = rng.sample([f"{a} {n}" for a in needle_document.ADJECTIVES for n in needle_document.NOUNS], facts + more)
    asked = [(key, f"{rng.randrange(10**6):06d}") for key in keys[:facts]]
    others = [(key, asked[i % facts][1] if i % 2 == 0 else f"{rng.randrange(10**6):06d}") for i, key in enumerate(keys[facts:])]
    notes = asked + others
    rng.shuffle(notes)
    sentences = [f"Note: the passcode for the {key} is {value}.\n" for key, value in notes]
    size = int(options.tokens * options.bytes_per_token) - sum(len(s) for s in sentences)
    lines = needle_document.cut(text, size, rng.randrange(len(text)))
    places = sorted(rng.sample(range(1, len(lines)), len(sentences)), reverse=True)
    for place, sentence in zip(places, sentences):
        lines.insert(place, sentence)
    return {"document": "".join(lines),
            "asked": [{"key": key, "ask": question(options, key), "answer": value,
                       "sentence": f"Note: the passcode for the {key} is {value}."} for key, value in asked]}


def bm25(text, query, most):
    """The lines of the text that say most about the query."""
    lines = [line for line in text.split("\n") if line.strip()]
    words = [re.findall(r"\w+", line.lower()) for line in lines]
    mean = sum(len(w) for w in words) / len(words)
    asked = set(re.findall(r"\w+", query.lower()))
    idf = {}
    for word in asked:
        n = sum(word in w for w in words)
        idf[word] = math.log((len(words) - n + 0.5) / (n + 0.5) + 1)

    def score(line):
        total = 0
        for word in asked:
            f = line.count(word)
            total += idf[word] * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(line) / mean))
        return total
    order = sorted(range(len(lines)), key=lambda i: -score(words[i]))
    return [lines[i] for i in order[:most]]


def pattern_with(options, folder, heads):
    """A copy of the pattern with these provenance heads; None: with none."""
    shutil.copytree(options.pattern, folder)
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.pop("provenance_heads", None)
    if heads is not None:
        config["provenance_heads"] = heads
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return folder


def retrieval_heads(options):
    """[layer, query head] of all heads that keep everything at the sparsity that is measured."""
    plan = json.loads(subprocess.run(
        [options.duo, "plan", "--model", options.model, "--pattern", options.pattern, "--sparsity", str(options.sparsity),
         "--world", "1", "--json"], capture_output=True, text=True, check=True).stdout)
    heads, group = [], options.group
    for number, layer in enumerate(plan["layers"]):
        for kv in layer["ranks"][0]["retrieval"]:
            heads += [[number, kv * group + g] for g in range(group)]
    return heads


def head_sets(options, every, number):
    """The rows that are ways of weighing heads, for document `number`; None: without named heads, which is all alike."""
    with open(os.path.join(options.pattern, "config.json"), encoding="utf-8") as file:
        named = json.load(file).get("provenance_heads")
    if not named:
        sys.exit("error: the pattern names no provenance heads; make them: duo identify --provenance-only")
    rng = random.Random(1000 * options.seed + number)
    weights = [w for _, _, w in named]
    shuffled = [[*head, w] for head, w in zip(rng.sample(every, len(every)), weights)]
    drawn = [[*head, 1] for head in rng.sample(every, min(len(weights), len(every)))]
    return {"pattern": named, "equal": None, "shuffled": shuffled, "random": drawn}


def ask(options, pattern, text, asked, work, replay=0):
    path = os.path.join(work, "document.txt")
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    command = [options.duo, "generate", "--model", options.model, "--pattern", pattern, "--sparsity",
               str(options.sparsity), "--prompt-file", path, "--json", "--sources", "3", "--stop", "\n",
               "--max-new-tokens", "32" if options.chat else "10", "--device", options.device]
    if options.chat:
        command.append("--chat")
    if options.kv:
        command += ["--kv", options.kv]
    if replay > 0:
        command += ["--replay", str(replay)]
    for fact in asked:
        command += ["--ask", fact["ask"]]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    answers = json.loads(run.stdout)["answers"]
    raw = text.encode()
    for answer in answers:
        for source in answer["provenance"]:
            if raw[source["start"]:source["end"]].decode() != source["text"]:
                sys.exit(f"error: the document's bytes at {source['start']} are not {source['text']!r}")
    return answers


def hits(spans, sentence):
    return [sentence in span for span in spans]


def measure(options, text):
    rows = {name: {"answers": 0, "right": 0, "first": 0, "any_of_three": 0, "first_of_right": 0, "first_of_wrong": 0}
            for name in options.rows}
    documents = [document(text, options, options.seed + i) for i in range(options.documents)]
    with tempfile.TemporaryDirectory() as work:
        every = retrieval_heads(options)
        for number, d in enumerate(documents):
            patterns = {name: pattern_with(options, os.path.join(work, f"{name}{number}"), heads)
                        for name, heads in head_sets(options, every, number).items()}
            raw = d["document"]
            for name, row in rows.items():
                right = [False] * len(d["asked"])
                if name in patterns or name == "replay":
                    named = patterns["pattern" if name == "replay" else name]
                    answers = ask(options, named, raw, d["asked"], work, options.replay if name == "replay" else 0)
                    found = [[s["text"] for s in a["replayed" if name == "replay" else "provenance"]] for a in answers]
                    right = [f["answer"] in a["text"] for f, a in zip(d["asked"], answers)]
                elif name == "bm25":
                    found = [bm25(raw, f["ask"], 3) for f in d["asked"]]
                else:
                    seen = raw[-int(256 * options.bytes_per_token):]
                    found = [[f["sentence"]] if f["sentence"] in seen else [] for f in d["asked"]]
                for fact, spans, good in zip(d["asked"], found, right):
                    hit = hits(spans, fact["sentence"])
                    row["answers"] += 1
                    row["right"] += good
                    row["first_of_right" if good else "first_of_wrong"] += any(hit[:1])
                    row["first"] += any(hit[:1])
                    row["any_of_three"] += any(hit if name == "replay" else hit[:3])
            print(f"document {number + 1} of {len(documents)}: " +
                  ", ".join(f"{n} {r['first']}/{r['answers']}" for n, r in rows.items()), file=sys.stderr)
    for name, row in rows.items():
        row["right_95"] = wilson(row["right"], row["answers"])
        row["first_95"] = wilson(row["first"], row["answers"])
        row["any_of_three_95"] = wilson(row["any_of_three"], row["answers"])
        if name in ("bm25", "window"):
            for key in ("right", "right_95", "first_of_right", "first_of_wrong"):
                del row[key]
        elif name == "replay":
            for key in ("first", "first_95", "first_of_right", "first_of_wrong"):
                del row[key]
        else:
            row["first_of_right_95"] = wilson(row["first_of_right"], row["right"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--model", default=os.path.join(DEMO, "needle-6m"))
    parser.add_argument("--pattern", default=PATTERN)
    parser.add_argument("--group", type=int, default=2, help="query heads of a KV head")
    parser.add_argument("--chat", action="store_true", help="an instruct model, asked in its turns")
    parser.add_argument("--distractors", type=int, help="as many as facts, unless given")
    parser.add_argument("--bytes-per-token", type=float, default=needle_document.BYTES_PER_TOKEN)
    parser.add_argument("--text", action="append", help="files or folders to hide facts in")
    parser.add_argument("--tokens", type=int, default=32000)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--kv", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", default="pattern,equal,shuffled,random,window,bm25", type=lambda s: s.split(","))
    parser.add_argument("--replay", type=int, default=2, help="sentences, in row replay")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out")
    options = parser.parse_args()
    text = needle_document.read_text(options.text or ["/usr/share/common-licenses"])
    rows = measure(options, text)
    print(f"{'':10} answers  right  first span  any of three; first of right, of wrong answers")
    for name, row in rows.items():
        print(f"{name:10} {row['answers']:7} {row.get('right', '-'):>6} {row.get('first', '-'):>6} {row.get('first_95', '-')}"
              f" {row['any_of_three']:6} {row['any_of_three_95']} {row.get('first_of_right', '-'):>4}"
              f" {row.get('first_of_wrong', '-'):>4}")
    version = subprocess.run([options.duo, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    record.show({"version": version[0], "commit": version[1] if len(version) > 1 else "", "device": options.device,
                 "model": os.path.basename(os.path.normpath(options.model)), "chat": options.chat, "tokens": options.tokens, "documents": options.documents, "facts": options.facts,
                 "distractors": options.facts if options.distractors is None else options.distractors,
                 "sparsity": options.sparsity, "replay": options.replay, "kv": options.kv or "auto", "seed": options.seed,
                 "rows": rows}, options.out)


if __name__ == "__main__":
    main()
