#!/usr/bin/env python3
"""What drafts bring: tokens a second and tokens a step with `--speculate off`, `text` and `self`, by kind of work.

    drafts.py --duo build/duo --smollm2 DIR [--only KIND].. [--rounds 3] [--answers 4] [--device cpu] [--out FILE.json]
              [--model DIR --draft-model DIR] [--int4] [--weights bf16] [--minutes 10]

DIR is what launcher/demo/unpack_smollm2.py makes. Kinds of work: SmolLM2 repeats a passage (quote), answers questions about a
text (question), also one behind a text that is long enough for page lists (long), and continues prose at temperature 0.8
(prose); needle-6m, which is in the tree, answers questions on 32,000 tokens (needle). The modes take turns, so that all meet
the same machine, and their answers must be the same to the last token: exits with 1 where they are not. On a CPU rates are by
processor time, so that others on the machine count for little. Of the passages only those count that were repeated word for
word; answers that end in a loop are counted as work of their own. --model is asked in SmolLM2's place. --draft-model adds a mode
`model`, of guesses by that one, and --int4 a mode `int4`, which is `self` with --draft-weights int4. With --out a kind that is not run stays as it was.
With --minutes every kind has a turn of its first answer, then of the others and further turns, as long as they fit; a quarter of
the time at most goes to the search for passages that SmolLM2 repeats, which begins with those that --out names.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import record

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "..", "..", "launcher", "demo")
sys.path.append(DEMO)
import needle_document  # noqa: E402

QUESTIONS = ["Does this license offer a warranty?", "Who may copy this license document?", "What is source code?",
             "What must be done to convey object code?"]
PROSE = ["The lighthouse keeper had not spoken to anyone for eleven days when the boat came.",
         "When the two brothers sold their father's house, neither of them told the other about the letters.",
         "The last train of the day was late again, and on the platform stood only a woman with a blue suitcase.",
         "In the village they said that the old miller could hear the river change its mind."]
KINDS = ["quote", "question", "long", "prose", "needle"]
MODES = ["off", "text", "self"]
INT4 = ["--speculate", "self", "--draft-weights", "int4"]


def generate(options, mode, arguments):
    flags = INT4 if mode == "int4" else ["--speculate", mode]
    if mode == "model":
        flags += ["--draft-model", options.draft_model]
    command = [options.duo, "generate", "--json", "--device", options.device] + flags + arguments
    if options.weights:
        command += ["--weights", options.weights]
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


def passages(text, size):
    """Runs of about `size` bytes that begin and end with a sentence, each from another place."""
    found = []
    for part in text.split("\n\n"):
        words, passage = " ".join(part.split()), ""
        for sentence in words.split(". "):
            passage += sentence.rstrip(".") + ". "
            if len(passage) >= size:
                break
        if size <= len(passage) < 2 * size:
            found.append(passage.strip())
    return found


def quotes(options, text, known, seconds):
    """Numbers of passages that SmolLM2 repeats word for word, as many as are asked for; how many were tried. known: are tried first."""
    found, exact, tried, end = passages(text, options.quote_bytes), [], 0, time.monotonic() + seconds
    for number in sorted(range(len(found)), key=lambda number: number not in known):
        if len(exact) == options.answers or tried == 12 * options.answers or time.monotonic() > end:
            break
        tried += 1
        if " ".join(generate(options, "text", quoting(options, found[number]))["text"].split()) == found[number]:
            exact.append(number)
        print(f"quote: {len(exact)} of {tried} passages are repeated, {max(0, end - time.monotonic()):.0f} s are left for more",
              file=sys.stderr, flush=True)
    return exact, tried


def quoting(options, passage):
    return ["--model", options.smollm2, "--chat", "--max-new-tokens", "250", "--prompt",
            f"Repeat this text word for word, and write nothing else.\n\n{passage}"]


def works(options, folder, notes, known):
    """(kind, arguments) of each answer. known: numbers of passages that were repeated before."""
    with open(options.text, encoding="utf-8", errors="replace") as file:
        text = file.read()
    smollm2 = ["--model", options.smollm2]

    def about(name, size):
        document = os.path.join(folder, name)
        with open(document, "w", encoding="utf-8") as file:
            file.write(text[:size])
        return smollm2 + ["--chat", "--prompt-file", document, "--max-new-tokens", "120", "--ask"]
    if "quote" in options.only:
        exact, notes["passages tried"] = quotes(options, text, known, 15 * options.minutes or math.inf)
        notes["passages"] = exact
        for number in exact:
            yield "quote", quoting(options, passages(text, options.quote_bytes)[number])
    if "question" in options.only:
        for question in QUESTIONS[:options.answers]:
            yield "question", about("text.txt", 9000) + [question]
    if "prose" in options.only:
        for seed, opening in enumerate(PROSE[:options.answers]):
            yield "prose", smollm2 + ["--prompt", opening, "--max-new-tokens", "200", "--temperature", "0.8", "--seed", str(seed)]
    if "needle" in options.only:
        made, facts = os.path.join(folder, "doc.txt"), os.path.join(folder, "facts.json")
        subprocess.run([sys.executable, os.path.join(DEMO, "needle_document.py"), options.text, "--tokens",
                        str(options.needle_tokens), "--facts", "8", "--out", made, "--json", facts], check=True,
                       stdout=subprocess.DEVNULL)
        with open(facts, encoding="utf-8") as file:
            questions = json.load(file)["questions"]
        asks = [word for question in questions for word in ("--ask", question["ask"])]
        pattern = os.path.join(HERE, "..", "..", "attn_patterns", "needle-6m")
        yield "needle", ["--model", os.path.join(DEMO, "needle-6m"), "--pattern", pattern, "--sparsity", "0.75", "--prompt-file",
                         made, "--max-new-tokens", "8"] + asks
    if "long" in options.only:  # last, for it takes longest
        yield "long", about("long.txt", options.long_bytes) + [QUESTIONS[0]]


class Kind:
    """What the answers of one kind took, by mode."""

    def __init__(self):
        self.answers = 0
        self.tokens, self.seconds, self.counts, self.pairs = {}, {}, {}, {}

    def add(self, mode, answer):
        """Returns tokens a second."""
        tokens, seconds = answer["decode_processor_tokens"], answer["decode_processor_seconds"]
        if answer["device"].lower().find("nvidia") >= 0 or answer["world"] > 1:  # a processor that waits says nothing
            tokens, seconds = answer["new_tokens"] - 1, (answer["new_tokens"] - 1) / answer["decode_tokens_per_second"]
        self.tokens[mode] = self.tokens.get(mode, 0) + tokens
        self.seconds[mode] = self.seconds.get(mode, 0) + seconds
        counts = self.counts.setdefault(mode, {})
        for name in ("draw_steps", "drafted_tokens", "accepted_tokens", "guess_steps"):
            counts[name] = counts.get(name, 0) + answer[name]
        return tokens / max(seconds, 1e-9)

    def turn(self, rates):
        """The modes' rates of one answer in one turn."""
        for mode in rates:
            if mode != "off":
                self.pairs.setdefault(mode, []).append(rates[mode] / rates["off"])

    def found(self):
        found = {"answers": self.answers, "tokens": self.tokens["off"]}
        for mode, counts in self.counts.items():
            found[mode] = {"tokens_per_second": round(self.tokens[mode] / self.seconds[mode], 2)}
            if mode == "off":
                continue
            pairs = sorted(self.pairs[mode])
            found[mode].update({
                "ratio": round(self.tokens[mode] / self.seconds[mode] * self.seconds["off"] / self.tokens["off"], 3),
                "ratio_of_pairs": round(statistics.median(pairs), 3), "least_and_most_of_pairs": [round(pairs[0], 3), round(pairs[-1], 3)],
                "tokens_a_step": round(1 + counts["accepted_tokens"] / max(counts["draw_steps"], 1), 3),
                "drafted": counts["drafted_tokens"] // len(pairs) * self.answers, "right": counts["accepted_tokens"] // len(pairs) * self.answers,
                "guess_steps": counts["guess_steps"] // len(pairs) * self.answers})
        return found


class Answer:
    """One answer, which is written in turns, in each by every mode."""

    def __init__(self, kind, arguments):
        self.kind, self.arguments = kind, arguments
        self.tokens = self.name = None

    def turn(self, options, modes, turn, kinds, differ):
        """Returns the device."""
        rates = {}
        for at in range(len(modes)):
            mode = modes[(turn + at) % len(modes)]
            answer = generate(options, mode, self.arguments)
            if self.tokens is None:
                self.tokens = answer["token_ids"]
                self.name = self.kind + (", in a loop" if loops(self.tokens) else "")
                kinds.setdefault(self.name, Kind()).answers += 1
            if answer["token_ids"] != self.tokens:
                differ.append(f"{self.kind} {mode}: {self.arguments}")
            rates[mode] = kinds[self.name].add(mode, answer)
        kinds[self.name].turn(rates)
        return answer["device"]


def in_turns(answers, rounds):
    """(answer, turn): one of each kind, then the others, then all again."""
    by_kind = {}
    for answer in answers:
        by_kind.setdefault(answer.kind, []).append(answer)
    most = max((len(of) for of in by_kind.values()), default=0)
    first = [of[at] for at in range(most) for of in by_kind.values() if at < len(of)]
    return [(answer, turn) for turn in range(rounds) for answer in first]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=4, help="of each kind of SmolLM2's work")
    parser.add_argument("--only", action="append", choices=KINDS)
    parser.add_argument("--quote-bytes", type=int, default=300)
    parser.add_argument("--long-bytes", type=int, default=22000)
    parser.add_argument("--needle-tokens", type=int, default=32000)
    parser.add_argument("--model", help="instead of SmolLM2 itself")
    parser.add_argument("--draft-model")
    parser.add_argument("--int4", action="store_true")
    parser.add_argument("--weights", help="of the model that answers; else as stored")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0, help="no turn is begun that would not end by then (0: all are taken)")
    parser.add_argument("--out")
    options = parser.parse_args()
    options.only = options.only or KINDS
    modes = MODES + ["int4"] * options.int4 + ["model"] * bool(options.draft_model)
    options.smollm2 = options.model or options.smollm2
    results = {"kinds": {}}
    if options.out and os.path.exists(options.out):
        with open(options.out, encoding="utf-8") as file:
            results = json.load(file)
    kinds, differ, device, notes = {}, [], "", {}
    begin, took, rounds = time.monotonic(), {}, 0  # took: seconds of the kind's last turn
    with tempfile.TemporaryDirectory() as folder:
        known = results["kinds"].get("quote", {}).get("passages", [])
        turns = in_turns([Answer(*work) for work in works(options, folder, notes, known)], options.rounds)
        for at, (answer, turn) in enumerate(turns):
            start = time.monotonic()
            left = begin + 60 * options.minutes - start
            if options.minutes and took.get(answer.kind, 0) > left:
                continue
            device = answer.turn(options, modes, turn, kinds, differ)
            rounds = max(rounds, turn + 1)
            took[answer.kind] = time.monotonic() - start
            guess = statistics.mean(took.values())
            eta = sum(took.get(other.kind, guess) for other, _ in turns[at + 1:])
            left = min(eta, left - took[answer.kind]) if options.minutes else eta
            print(f"{at + 1} of {len(turns)} turns, about {max(0, left):.0f} s left; {answer.name}: {kinds[answer.name].found()}",
                  file=sys.stderr, flush=True)
    version = subprocess.run([options.duo, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")
    made = {"version": version[0], "commit": version[1], "device": device, "threads": options.threads, "rounds": rounds,
            **({"weights": options.weights} if options.weights else {}),
            **({"draft_model": os.path.basename(options.draft_model)} if options.draft_model else {}),
            "rates": "tokens over processor seconds from the first token on, medians and sums of modes in turns"}
    for name, kind in kinds.items():
        results["kinds"][name] = {**kind.found(), **made, **(notes if name.startswith("quote") else {}),
                                  **({"needle_tokens": options.needle_tokens} if name == "needle" else {})}
    results["answers_that_differ"] = differ
    record.show(results, options.out)
    if differ:
        sys.exit("error: answers with drafts differ from those without")


if __name__ == "__main__":
    main()
