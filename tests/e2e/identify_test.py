#!/usr/bin/env python3
"""`duo identify` as a user runs it, on the demo model and short documents.

    identify_test.py --duo build/duo [--mpirun mpirun] [--source DIR]

The strongest retrieval head of needle-6m (layer 5, head 1: without it the loss on answers rises by 0.57 nats, see
attn_patterns/needle-6m) keeps its gate while the others fall; the report shows that its half of the heads is as good as all
and that none is not; the pattern that was written evaluates to the same figures; two ranks give the gates of one with twice
the samples. Standard library only.
"""

import json
import os
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model

LAYERS, KV_HEADS, STRONGEST = 6, 4, (5, 1)


def run(command, code=0):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != code:
        sys.exit(f"FAILED: {' '.join(command[:10])} ... exited with {done.returncode}: {done.stderr[-2000:]}")
    return done


def gates_of(folder):
    with open(os.path.join(folder, "full_attention_heads.tsv"), encoding="utf-8") as file:
        return [[float(value) for value in line.split("\t")] for line in file]


def main():
    parser = arguments(__doc__, "--duo")
    parser.add_argument("--mpirun", default="")
    args = parser.parse_args()
    model = demo_model(args.source)
    checks = Checks()
    expect = checks.expect

    with tempfile.TemporaryDirectory() as work:
        out = os.path.join(work, "out")
        short = ["--min-length", "520", "--max-length", "700", "--device", "cpu"]
        report_flags = ["--documents", "1", "--perplexity-tokens", "512", "--sparsity", "0.5"]
        done = run([args.duo, "identify", "--model", model, "--out", out, "--steps", "24", "--lr", "0.1", "--json", *short,
                    *report_flags])
        gates = gates_of(out)
        expect([len(row) for row in gates] == [KV_HEADS] * LAYERS, f"gates {gates}")
        flat = sorted((gate, layer, head) for layer, row in enumerate(gates) for head, gate in enumerate(row))
        expect(flat[-1][1:] == STRONGEST, f"the highest gate is of {flat[-1]}")
        expect(flat[-1][0] > 0.8 and flat[len(flat) // 2][0] < 0.3, f"gates did not part: {flat}")
        report = json.loads(done.stdout)
        expect(report["task"] == "needle", f"task {report['task']}")
        found = {row["name"]: row["found_where_full_attention_finds_80_percent"] for row in report["rows"]}
        expect(found["full"] >= 0.9 and found["duo 0.5"] >= found["full"] - 0.1, f"found {found}")
        expect(found["streaming"] <= 0.6, f"found {found}, so the questions prove nothing")
        for name in ("config.json", "report.json", "report.txt", "heads.svg", "sparsity.svg", "identify_state.json"):
            expect(os.path.getsize(os.path.join(out, name)) > 0, f"{name} is missing")
        with open(os.path.join(out, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        expect((config["sink_size"], config["recent_size"], config["models"]) == (64, 256, ["needle-6m"]), f"config {config}")

        # The same command again trains nothing and changes nothing.
        before = gates_of(out)
        again = run([args.duo, "identify", "--model", model, "--out", out, "--steps", "24", "--lr", "0.1", *short[:-2],
                     *report_flags])
        expect(gates_of(out) == before, "a finished run was changed by running it again")
        # It opens an engine a measurement, and --device auto has a reason for the CPU: that is said once.
        expect(again.stderr.count("running on the CPU") <= 1, f"the device is named several times: {again.stderr}")
        # Another run does not go on from its state.
        refused = run([args.duo, "identify", "--model", model, "--out", out, "--steps", "25", *short, *report_flags], code=1)
        expect(refused.stderr.count("error: ") == 1 and "--out" in refused.stderr, f"refusal: {refused.stderr}")

        evaluated = json.loads(run([args.duo, "identify", "--model", model, "--evaluate", out, "--json", *short,
                                    *report_flags]).stdout)
        expect([row["recall"] for row in evaluated["rows"]] == [row["recall"] for row in report["rows"]],
               "--evaluate finds other figures than the report")
        mass = evaluated["attention_mass_outside_window"]
        expect([len(row) for row in mass] == [KV_HEADS] * LAYERS and all(0 <= m <= 1 for row in mass for m in row),
               f"attention mass {mass}")

        # Keys without their mean: measured on one text, used on another, and nothing is answered otherwise.
        text = os.path.join(work, "text.txt")
        with open(text, "w", encoding="utf-8") as file:
            file.write("The lighthouse keeper counted the ships that passed before dawn and wrote their names down. " * 60)
        said = run([args.duo, "identify", "--model", model, "--key-means", text, "--out", out, "--device", "cpu"]).stdout
        with open(os.path.join(out, "key_means.tsv"), encoding="utf-8") as file:
            lines = file.read().splitlines()
        expect(lines[0].startswith(f"duo key means 1\t{LAYERS}\t{KV_HEADS}\t") and len(lines) == 1 + LAYERS * KV_HEADS, lines[0])
        expect("mean keys of 24 KV heads" in said, f"what it says: {said}")
        ask = [args.duo, "generate", "--model", model, "--device", "cpu", "--pattern", out, "--kv", "f32", "--json",
               "--prompt", "What the keeper wrote down was", "--max-new-tokens", "12"]
        plain, shifted, folder = (json.loads(run([*ask, *more]).stdout)
                                  for more in ([], ["--key-means", "on"], ["--key-means", out]))
        expect(plain["text"] == shifted["text"] == folder["text"], f"{plain['text']}, without the mean {shifted['text']}")
        expect(plain["key_means"] == "" and shifted["key_means"] == folder["key_means"] != "", "it says which means are on")
        refused = run([*ask, "--key-means", work], code=1)
        expect("duo identify --model DIR --key-means TEXT" in refused.stderr, f"refusal: {refused.stderr}")
        run([args.duo, "identify", "--model", model, "--key-means", text, "--quick", "--out", out], code=2)
        run([args.duo, "identify", "--model", model, "--key-means", text], code=2)

        if args.mpirun:
            few = ["--model", model, "--steps", "2", "--threads", "1", *short, *report_flags]
            one, two = os.path.join(work, "one"), os.path.join(work, "two")
            run([args.duo, "identify", "--out", one, "--samples", "2", *few])
            run([args.mpirun, "-n", "2", "--oversubscribe", "--allow-run-as-root", args.duo, "identify", "--out", two, *few])
            expect(gates_of(one) == gates_of(two), f"two ranks give {gates_of(two)}, one gives {gates_of(one)}")

        run([args.duo, "identify", "--model", model], code=2)
        bad = run([args.duo, "identify", "--model", model, "--out", out, "--max-length", "100", "--device", "cpu"], code=1)
        expect(bad.stderr.count("error: ") == 1, f"refusal: {bad.stderr}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
