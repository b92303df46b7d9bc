#!/usr/bin/env python3
"""Find eight facts in documents of 32 K, 128 K and 1 M tokens with the demo model: full attention and DuoAttention.

    gpu_needles.py --duo build/duo [--ranks N --mpirun 'mpirun -n N'] [--tokens 32000,128000,1030000] [--out results.json]

Standard library only. One JSON object: the machine, and for every run the facts found, prefill and decode rates, KV bytes
and the wall time, tokenisation and loading included.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNS = (["--attention", "full", "--kv", "bf16"], ["--attention", "full", "--kv", "int4"],
        ["--pattern", os.path.join(ROOT, "attn_patterns/needle-6m"), "--sparsity", "0.75", "--kv", "bf16"], ["--pattern", os.path.join(ROOT, "attn_patterns/needle-6m"), "--sparsity", "0.75", "--kv", "int4"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--mpirun", default="", help="put before duo")
    parser.add_argument("--tokens", default="32000,128000,1030000")
    parser.add_argument("--flags", default="", help="more flags for duo")
    parser.add_argument("--runs", default="0,1,2,3", help="which of: full bf16, full int4, duo 0.75 bf16, duo 0.75 int4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", nargs="*", default=[], help="files to hide the facts in, instead of the licence texts")
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for tokens in map(int, args.tokens.split(",")):
            document, questions = os.path.join(folder, "document.txt"), os.path.join(folder, "questions.json")
            subprocess.run([sys.executable, os.path.join(ROOT, "launcher/demo/needle_document.py"), *args.text, "--tokens", str(tokens),
                            "--facts", "8", "--seed", str(args.seed), "--out", document, "--json", questions], check=True)
            with open(questions, encoding="utf-8") as file:
                asked = json.load(file)["questions"]
            for run in (RUNS[int(i)] for i in args.runs.split(",")):
                command = shlex.split(args.mpirun) + [args.duo, "generate", "--model", os.path.join(ROOT, "launcher/demo/needle-6m"),
                                                      "--prompt-file", document, "--stop", "\n", "--max-new-tokens", "12", "--json"]
                command += run + shlex.split(args.flags)
                for question in asked:
                    command += ["--ask", question["ask"]]
                start = time.time()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                wall = time.time() - start
                if done.returncode != 0:
                    print(f"{tokens} {run}: exit {done.returncode}: {done.stderr.strip()[-300:]}", flush=True)
                    rows.append({"flags": run, "tokens_asked": tokens, "exit": done.returncode, "stderr": done.stderr[-300:]})
                    continue
                out = json.loads(done.stdout)
                found = sum(a["text"].rstrip(".") == q["answer"] for a, q in zip(out["answers"], asked))
                row = {"flags": run, "found": found, "asked": len(asked), "wall_seconds": round(wall, 3),
                       "token_ids": [a["token_ids"] for a in out["answers"]]}
                row.update({key: out[key] for key in ("prompt_tokens", "prefill_seconds", "decode_tokens_per_second", "kv_bytes",
                                                      "kv_bytes_full", "kv_format", "device", "world")})
                rows.append(row)
                print(f"{out['prompt_tokens']:>9} tokens  {' '.join(run):<32} {found}/{len(asked)}  prefill {out['prefill_seconds']:.2f} s  "
                      f"wall {wall:.2f} s  world {out['world']}", flush=True)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"bench": "needles", "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
