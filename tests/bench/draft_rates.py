#!/usr/bin/env python3
"""Expected tokens a second of the Llama-3-8B shape with drafts, computed: acceptances of results/h200_smollm2_drafts.json
(SmolLM2) times the steps that results/h200_draft_steps.json measured on a GPU. No answer of that shape was drafted for.

    draft_rates.py --measure build/duo [--steps FILE]     measures the steps, in about a minute on an H200
    draft_rates.py [--steps FILE] [--out tests/bench/results/draft_rates.json]

A step of a number of rows between those measured takes what lies on a straight line. A guess of the model's own takes the step
that guesses; one by page lists also its token's part of the step that makes them, every 16 tokens. A check has eight rows
at most, for more are not drawn from as alone.
"""

import argparse
import datetime
import json
import os
import subprocess

import record

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
ODDS = (0.7, 0.8, 0.9, 0.95)
DENSE_EVERY = 16  # tokens between two choices of lists
ROWS = 8          # of a check at most
SHAPE = "llama-3-8b"
# (KV, weights, contexts, more flags)
SETTINGS = [("bf16", "bf16", "100000,500000", ["--draft-weights", "int4"]), ("int4", "bf16", "1000000", ["--draft-weights", "int4"]),
            ("int4", "int4", "1000000", [])]


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def measure(duo, path):
    """Runs the settings one after another; writes what was found."""
    runs, device = [], ""
    for kv, weights, contexts, more in SETTINGS:
        words = ["bench", "drafts", "--shape", SHAPE, "--context", contexts, "--kv", kv, "--weights", weights, "--rows", "2,4,8",
                 "--steps", "16", *more]
        done = subprocess.run([duo, *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        device = found["device"]
        runs.append({"command": " ".join(["duo", *words]), "kv": kv, "weights": weights, "rows": found["rows"]})
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], stdout=subprocess.PIPE, text=True,
                            check=True).stdout.split("\n")[0]
    version = subprocess.run([duo, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n")
    record.show({"device": device, "date": datetime.date.today().isoformat(), "commit": version[1].removeprefix("commit "),
                 "versions": {"driver": driver, "built": version[2]}, "shape": SHAPE, "steps": runs}, path)


class Steps:
    """Milliseconds of the steps of one measured context."""

    def __init__(self, rows):
        found = {row["what"].split(" ", 4)[4]: row for row in rows}  # behind "drafts duo kv FORMAT "
        self.ms = {what: 1000 * row["seconds"] for what, row in found.items()}
        self.plain = self.ms["plain"]
        checks = {int(what.split()[2]): ms for what, ms in self.ms.items() if what.startswith("check of")}
        self.by_rows = sorted({1: self.plain, **{rows: ms for rows, ms in checks.items() if rows <= ROWS}}.items())
        self.density = max((row.get("list_density", 0) for row in rows), default=0)

    def of(self, rows):
        """rows: the mean, any number from 1 on."""
        for (low, low_ms), (high, high_ms) in zip(self.by_rows, self.by_rows[1:]):
            if rows <= high:
                return low_ms + (high_ms - low_ms) * (rows - low) / (high - low)
        return self.by_rows[-1][1]

    def guesses(self):
        """(name, milliseconds of a guess, of a token's part of what it needs besides)"""
        for what, ms in self.ms.items():
            if what.startswith("guess by lists"):
                yield what, ms, (self.ms["lists made"] - self.plain) / DENSE_EVERY
            elif what.startswith("guess by ends"):
                yield what, ms, 0


def best_guesses(steps, guess, beside, odds):
    """(tokens a second, guesses before a check) where so many guesses behind right ones are right."""
    best = (1000 / steps.plain, 0)
    for count in range(1, ROWS):
        tokens = sum(odds ** i for i in range(count + 1))
        ms = count * guess + steps.of(1 + count) + tokens * beside
        best = max(best, (1000 * tokens / ms, count))
    return {"tokens_per_second": round(best[0], 1), "guesses": best[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--measure", metavar="DUO", help="measure the steps with this program")
    parser.add_argument("--steps", default=os.path.join(RESULTS, "h200_draft_steps.json"), metavar="FILE")
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.steps)
        return
    measured, answers = load(options.steps), load(os.path.join(RESULTS, "h200_smollm2_drafts.json"))
    rows = []
    for run in measured["steps"]:
        for context in dict.fromkeys(row["context"] for row in run["rows"]):
            steps = Steps([row for row in run["rows"] if row["context"] == context])
            row = {"context": context, "kv": run["kv"], "weights": run["weights"], "one_row_ms": round(steps.plain, 2),
                   "eight_rows": round(steps.of(8) / steps.plain, 3), "off": round(1000 / steps.plain, 1), "text": {},
                   "pages_of_a_list": round(steps.density, 3), "guesses": {}}
            for name, kind in answers["kinds"].items():
                text = kind["text"]
                mean_rows = 1 + text["drafted"] / max(text["draw_steps"], 1)
                row["text"][name] = round(1000 * text["tokens_a_step"] / steps.of(mean_rows), 1)
            for name, guess, beside in steps.guesses():
                row["guesses"][name] = {"ms": round(guess, 2), "of_a_step": round(guess / steps.plain, 3),
                                        **{f"{odds:g} right": best_guesses(steps, guess, beside, odds) for odds in ODDS}}
            rows.append(row)
    record.show({"computed": __doc__.split("\n\n", maxsplit=1)[0].replace("\n", " "), "device": measured["device"],
                 "commits": {"steps": measured["commit"], "acceptances": answers["commit"]},
                 "shape": "Llama-3-8B, duo attention at 50 %", "rows": rows}, options.out)


if __name__ == "__main__":
    main()
