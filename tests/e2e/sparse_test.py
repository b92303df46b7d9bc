#!/usr/bin/env python3
"""Reading and writing sparsely as a user does it: what is said of it, what it does not depend on, and that off is as without the flags."""

import json
import os
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model


def main():
    parser = arguments(__doc__, "--duo")
    parser.add_argument("--mpirun", default="")
    args = parser.parse_args()
    checks = Checks()
    model = demo_model(args.source)
    with tempfile.TemporaryDirectory() as folder:
        document, questions = os.path.join(folder, "document.txt"), os.path.join(folder, "questions.json")
        subprocess.run([sys.executable, os.path.join(args.source, "launcher/demo/needle_document.py"), "--tokens", "8000",
                        "--facts", "4", "--out", document, "--json", questions], check=True, capture_output=True)
        with open(questions, encoding="utf-8") as file:
            asked = json.load(file)["questions"]
        flags = ["generate", "--model", model, "--device", "cpu", "--pattern", os.path.join(args.source, "attn_patterns/needle-6m"),
                 "--sparsity", "0.75", "--prompt-file", document, "--stop", "\n", "--max-new-tokens", "12", "--json"]
        for question in asked:
            flags += ["--ask", question["ask"]]

        def run(*more, before=()):
            done = subprocess.run([*before, args.duo, *flags, *more], capture_output=True, text=True, timeout=280, check=False)
            checks.expect(done.returncode == 0, f"{more}: exit {done.returncode}: {done.stderr[-300:]}")
            return (json.loads(done.stdout) if done.returncode == 0 else {}), done.stderr

        dense, said = run()
        checks.expect(dense.get("prefill_sparsity") == "off" and "sparse" not in dense, "without the flag it is off")
        checks.expect("NOT exactly" not in said, "nothing is said of it then")
        off, _ = run("--prefill-sparsity", "off", "--decode-sparsity", "off")
        checks.expect(off.get("token_ids") == dense.get("token_ids"), "off is as without the flag")

        sparse, said = run("--prefill-sparsity", "0.1")
        report = sparse.get("sparse", {})
        checks.expect(sparse.get("prefill_sparsity") == "0.1" and report.get("setting") == "0.1", f"what was read how: {report}")
        checks.expect(report.get("audits", 0) >= 2 and 0.1 < report.get("mass", 0) < 0.999 and report.get("error", 0) > 0,
                      f"audits found that something was left out: {report}")
        checks.expect("NOT exactly: --prefill-sparsity 0.1 kept" in said, f"the line of statistics says so: {said[-300:]}")
        chunks, _ = run("--prefill-sparsity", "0.1", "--chunk", "300")
        checks.expect(chunks.get("token_ids") == sparse.get("token_ids"), "chunks change nothing")
        checks.expect(abs(chunks.get("sparse", {}).get("mass", 0) - report.get("mass", 0)) < 1e-3, "nor what is kept")
        if args.mpirun:
            ranks, _ = run("--prefill-sparsity", "0.1", "--strategy", "heads", before=[args.mpirun, "-n", "2", "--oversubscribe"])
            checks.expect(ranks.get("token_ids") == sparse.get("token_ids"), "nor do ranks, where heads are whole")
            checks.expect(ranks.get("sparse", {}).get("audits") == report.get("audits"), "and their audits reach rank 0")
            checks.expect(abs(ranks.get("sparse", {}).get("mass", 0) - report.get("mass", 0)) < 1e-3, "with what they found")

        auto, _ = run("--prefill-sparsity", "auto")
        checks.expect(auto.get("prefill_sparsity") == "auto:0.98", "auto aims at 0.98")
        checks.expect(auto.get("sparse", {"mass": 1})["mass"] >= 0.97, f"and keeps about that, or reads densely: {auto.get('sparse')}")
        checks.expect(dense.get("decode_sparsity") == "off" and "listed" not in dense, "answers are exact without the flag")
        # One answer: several at once read their document together where their lists would be longer.
        del flags[len(flags) - 2 * (len(asked) - 1):]
        flags += ["--speculate", "off"]
        listed, said = run("--decode-sparsity", "0.3")
        report = listed.get("listed", {})
        checks.expect(listed.get("decode_sparsity") == "0.3" and report.get("setting") == "0.3", f"what was written how: {report}")
        checks.expect(report.get("listed_tokens", 0) >= 3 and 0 < report.get("density", 1) < 0.95, f"from a part of the pages: {report}")
        checks.expect("NOT exactly: --decode-sparsity 0.3, " in said, f"the line of statistics says so: {said[-300:]}")
        again, _ = run("--decode-sparsity", "0.3", "--threads", "1")
        checks.expect(again.get("token_ids") == listed.get("token_ids") and again.get("listed") == report, "threads change nothing")
        done = subprocess.run([args.duo, *flags, "--decode-sparsity", "1"], capture_output=True, text=True, check=False)
        checks.expect(done.returncode == 2, f"--decode-sparsity 1 is a usage error: {done.returncode}")
        for value in ("1", "0", "1.5", "on", "auto:2", "0.12345"):
            done = subprocess.run([args.duo, *flags, "--prefill-sparsity", value], capture_output=True, text=True, check=False)
            checks.expect(done.returncode == 2, f"--prefill-sparsity {value} is a usage error: {done.returncode}")
        small = subprocess.run([args.duo, *flags, "--prefill-sparsity", "0.5", "--chunk", "200"], capture_output=True, text=True, check=False)
        checks.expect(small.returncode == 1 and "--chunk of at least 256" in small.stderr, f"a chunk without a block: {small.stderr}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
