#!/usr/bin/env python3
"""Expected tokens a second of the Llama-3-8B shape with drafts, computed: acceptances of results/drafts.json (SmolLM2) times
the steps that results/h200_attention.json and h200_sparse.json measured on an H200. Nothing of this was run on a GPU.

    draft_rates.py [--out tests/bench/results/draft_rates.json]

A step of one row takes what was measured at 200,000 and 250,000 tokens, and on a straight line elsewhere (500,000 tokens of bf16:
12.26 ms, measured 12.29); 1 M tokens with int8 weights as measured. A step of more rows takes as much more as it did behind
250,000 tokens: 0.6 ms whatever the context, which is launches, and the rest in proportion to it; between 1, 8 and 16 rows on a
straight line. A guess of the model's own takes a step that visits lists, and each token its part of the step that makes them.
"""

import argparse
import json
import os

import record

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
LAUNCHES = 0.6  # ms
ODDS = (0.7, 0.8, 0.9, 0.95)
DENSE_EVERY = 16  # tokens between two choices of lists


def load(name):
    with open(os.path.join(RESULTS, name + ".json"), encoding="utf-8") as file:
        return json.load(file)


class Steps:
    """Milliseconds of a step, by rows."""

    def __init__(self, measured, kv, context, one=None):
        def ms(tokens, rows=""):
            row = next(s for s in measured if s["case"] == f"decode duo kv {kv}{rows}, {tokens:,} tokens")
            return row["before_ms"] if "older one" in row.get("note", "") else row["ms"]
        near, far = ms(200000), ms(250000)
        self.one = one or near + (far - near) * (context - 200000) / 50000
        self.more = {rows: LAUNCHES + (ms(250000, f" rows {rows}") - far - LAUNCHES) * context / 250000 for rows in (8, 16)}

    def of(self, rows):
        """rows: the mean, any number from 1 to 16."""
        if rows <= 8:
            return self.one + self.more[8] * (rows - 1) / 7
        return self.one + self.more[8] + (self.more[16] - self.more[8]) * (rows - 8) / 8


def best_guesses(steps, guess, choice, odds):
    """(tokens a second, guesses before a check) where so many guesses behind right ones are right."""
    best = (1000 / steps.one, 0)
    for count in range(1, 16):
        tokens = sum(odds ** i for i in range(count + 1))
        ms = count * guess + steps.of(1 + count) + tokens * choice / DENSE_EVERY
        best = max(best, (1000 * tokens / ms, count))
    return {"tokens_per_second": round(best[0], 1), "guesses": best[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out")
    options = parser.parse_args()
    measured, sparse, kinds = load("h200_attention")["steps"], load("h200_sparse")["decode"]["rows"], load("drafts")["kinds"]
    dense_1m, listed_1m = sparse[0], sparse[1]
    dense_500k, listed_500k = sparse[4], sparse[5]
    rows = []
    for context, kv, weights, one, listed, dense in (
            (100000, "bf16", "bf16", None, None, None), (500000, "bf16", "bf16", None, listed_500k, dense_500k),
            (1000000, "int4", "int8", 1000 * dense_1m["seconds"], listed_1m, dense_1m)):
        steps = Steps(measured, kv, context, one)
        row = {"context": context, "kv": kv, "weights": weights, "one_row_ms": round(steps.one, 2),
               "eight_rows_ms": round(steps.of(8), 2), "off": round(1000 / steps.one, 1), "text": {}}
        for name, kind in kinds.items():
            if "text" not in kind:
                continue
            text = kind["text"]
            checks = text["right"] / max(text["tokens_a_step"] - 1, 1e-9)  # draw steps
            mean_rows = 1 + text["drafted"] / max(checks, 1)
            row["text"][name] = round(1000 * text["tokens_a_step"] / steps.of(min(mean_rows, 16)), 1)
        if listed is not None:
            guess, choice = 1000 * listed["listed_step_seconds"], 1000 * (listed["slowest_seconds"] - dense["seconds"])
            row["guess_ms"], row["guess_of_a_step"] = round(guess, 2), round(guess / (1000 * dense["seconds"]), 3)
            row["pages_of_a_guess"] = round(listed["list_density"], 3)
            row["self"] = {f"{odds:g} right": best_guesses(steps, guess, choice, odds) for odds in ODDS}
        rows.append(row)
    record.show({"computed": __doc__.split("\n\n", maxsplit=1)[0].replace("\n", " "), "device": "NVIDIA H200, steps as measured there",
                 "shape": "Llama-3-8B, duo attention at 50 %", "rows": rows}, options.out)


if __name__ == "__main__":
    main()
