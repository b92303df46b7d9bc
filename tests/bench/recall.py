#!/usr/bin/env python3
"""What sparse reading and writing cost in answers: the tasks of recall_tasks.py over lengths and settings, beside dense.

    recall.py --duo build/duo --model tests/bench/recall-6m [--lengths 4000:64,32000:8,128000:4,512000:2] [--out FILE.json] [--svg FILE.svg]

Makes so many documents of each length (the same for the same seed) and has `duo bench recall` judge, for each of --prefill, the
questions inside them, by what is predicted while they are read, and those asked behind them; and for each of --decode those asked
behind them, one at a time. Prints accuracy by task, length and setting and, beside dense, the net loss with the bound above which
it is not (95 %, one side; questions count as independent). Standard library only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import recall_tasks as tasks

PARTS = {"inside": "read inside the document", "behind": "asked behind it", "written": "asked, and written sparsely"}
COLOURS = ("#222222", "#1f77b4", "#2ca02c", "#d69e00", "#d62728", "#9467bd", "#8c564b", "#17becf")


def judged(args, names, flags):
    command = [args.duo, "bench", "recall", "--model", args.model, "--questions", *names, "--json", *flags, *args.flags.split()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command[:3])}: {done.stderr[-1000:]}")
    return json.loads(done.stdout)


def cell_of(tokens, documents, part, out):
    rows = []
    for row in out["rows"]:
        found = row["inside" if part == "inside" else "asked"]
        rows.append({"setting": row["setting"], "tasks": {task: {k: v for k, v in got.items() if k != "which"} for task, got in found.items()},
                     **{key: row[key] for key in ("kv", "attention", "retrieval_heads", "streaming_heads", "read_seconds", "ask_seconds",
                                                  "reading", "writing") if key in row}})
    return {"tokens": tokens, "longest": out["longest"], "documents": documents, "part": part, "device": out["device"], "rows": rows}


def run(args, save):
    results = []
    for tokens, count in (map(int, length.split(":")) for length in args.lengths.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            names = tasks.write(folder, tokens, count, args.seed)
            sparse = [("inside", "--prefill-sparsity", args.prefill), ("behind", "--prefill-sparsity", args.prefill),
                      ("written", "--decode-sparsity", args.decode)]
            out = {flag: judged(args, names, ["--asked", str(args.asked), flag, targets]) for _, flag, targets in sparse[1:] if targets}
            for part, flag, targets in sparse:
                if targets:
                    results.append(cell_of(tokens, count, part, out[flag]))
                    table(results[-1])
            save(results)


def table(cell):
    print(f"\n{cell['tokens']:,} tokens, {cell['documents']} documents, questions {cell['part']}")
    for row in cell["rows"]:
        found = "   ".join(f"{task} {100 * got['right'] / got['questions']:6.2f} of {got['questions']}" + (
            "" if row["setting"] == "dense" else f" ({-100 * got['net_loss']:+.2f}, {-100 * got['net_loss_bound']:+.2f})")
            for task, got in sorted(row["tasks"].items()))
        print(f"  {row['setting']:<18} {found}", flush=True)


def picture(results):
    """A chart for each part and task: accuracy over length, a line for each setting."""
    parts = [(part, task) for part in PARTS for task in tasks.TASKS if any(cell["part"] == part for cell in results)]
    lengths = sorted({cell["tokens"] for cell in results})
    width, height, left, top = 250, 150, 46, 34
    columns = len(tasks.TASKS)
    rows = -(-len(parts) // columns)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" width="{columns * (width + left + 14)}" '
           f'height="{rows * (height + top + 60) + 10}">', '<rect width="100%" height="100%" fill="white"/>']
    for number, (part, task) in enumerate(parts):
        x0, y0 = left + (number % columns) * (width + left + 14), top + (number // columns) * (height + top + 60)
        cells = [cell for cell in results if cell["part"] == part]
        out.append(f'<text x="{x0}" y="{y0 - 12}" font-size="13">{task}, {PARTS[part]}</text>')
        for share in (0, 25, 50, 75, 100):
            y = y0 + height * (1 - share / 100)
            out.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y}" y2="{y}" stroke="#ddd"/><text x="{x0 - 5}" y="{y + 4}" text-anchor="end">{share} %</text>')
        places = {tokens: x0 + 14 + (width - 28) * (i / max(1, len(lengths) - 1)) for i, tokens in enumerate(lengths)}
        for tokens, x in places.items():
            out.append(f'<text x="{x}" y="{y0 + height + 15}" text-anchor="middle">{tokens // 1000} K</text>')
        settings = list(dict.fromkeys(row["setting"] for cell in cells for row in cell["rows"]))
        for i, setting in reversed(list(enumerate(settings))):
            points = [(places[cell["tokens"]], y0 + height * (1 - row["tasks"][task]["right"] / row["tasks"][task]["questions"]))
                      for cell in cells for row in cell["rows"] if row["setting"] == setting and task in row["tasks"]]
            colour = COLOURS[i % len(COLOURS)]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="{3 if i == 0 else 1.5}" points="{line}"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in points]
        for i, setting in enumerate(settings):
            out.append(f'<text x="{x0 + (i % 2) * width / 2}" y="{y0 + height + 31 + 12 * (i // 2)}" fill="{COLOURS[i % len(COLOURS)]}">{setting}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--lengths", default="4000:64,32000:8,128000:4,512000:2", help="tokens:documents; several: a:b,c:d")
    parser.add_argument("--prefill", default="auto:0.9,auto:0.95,auto:0.98,auto:0.99", help="targets and densities; empty: none")
    parser.add_argument("--decode", default="0.9,0.95,0.98,0.99", help="targets; empty: none")
    parser.add_argument("--asked", type=int, default=40, help="questions of each task behind a document at most")
    parser.add_argument("--flags", default="", help="more flags for duo")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", help="write the results here, JSON")
    parser.add_argument("--svg", help="write a picture here")
    args = parser.parse_args()
    version = subprocess.run([args.duo, "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()

    def save(results):  # after each length: what was measured stays where a later one fails
        if args.out:
            with open(args.out, "w", encoding="utf-8") as file:
                json.dump({"bench": "recall", "device": results[0]["device"], "duo": version, "model": os.path.basename(os.path.normpath(args.model)),
                           "seed": args.seed, "flags": args.flags, "cells": results}, file, indent=1)
                file.write("\n")
        if args.svg:
            with open(args.svg, "w", encoding="utf-8") as file:
                file.write(picture(results))

    run(args, save)


if __name__ == "__main__":
    main()
