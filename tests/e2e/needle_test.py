#!/usr/bin/env python3
"""needle-6m finds what a long document says once: full attention, DuoAttention with the shipped pattern, every KV format.

    needle_test.py --duo build/launcher/duo [--tokens 8000] [--documents 1] [--device cpu] [--source DIR]

Runs the program as a user would, one prefill a document and every question with --ask, and holds it to: full attention
misses at most one question in 24, duo finds no fewer than full, streaming alone at most two, and kv_bytes
is tokens * retrieval bytes + rings. Standard library only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

LAYERS, KV_HEADS, DIM, SINK, RECENT = 6, 4, 64, 64, 256
BYTES = {"f32": 8 * DIM, "bf16": 4 * DIM, "int8": 2 * DIM + 8, "int4": DIM + 8}  # K and V of a token and head


def run(duo, model, document, asks, more):
    command = [duo, "generate", "--model", model, "--prompt-file", document, "--json", "--max-new-tokens", "12",
               "--stop", "\n", *more]
    for ask in asks:
        command += ["--ask", ask]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command[:8])} ... exited with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def expected_kv_bytes(result, kv):
    """The ring of a streaming head has sink + recent + 1 tokens, in f32 beside f32 pages, else in bf16."""
    ring = BYTES["f32" if kv == "f32" else "bf16"] * (SINK + RECENT + 1)
    tokens = result["prompt_tokens"] + result["new_tokens"] - 1
    return tokens * result["retrieval_heads"] * BYTES[kv] + result["streaming_heads"] * ring


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--source", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--documents", type=int, default=1, help="times DUO_TEST_SCALE of the environment")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    args.documents *= int(os.environ.get("DUO_TEST_SCALE", "1"))
    demo = os.path.join(args.source, "launcher", "demo")
    sys.path.insert(0, demo)
    from needle_document import BYTES_PER_TOKEN, build, read_text
    text = read_text(["/usr/share/common-licenses"])
    native = "f32" if args.device == "cpu" else "bf16"
    cases = [("full", ["--attention", "full"], native, 24),
             ("streaming", ["--attention", "streaming", "--sink", str(SINK), "--recent", str(RECENT)], native, 0)]
    for kv in (native, "int8", "int4"):
        for sparsity, kept in (("0.75", 6), ("0.5", 12)):
            cases.append((f"duo {sparsity} {kv}", ["--sparsity", sparsity, "--kv", kv], kv, kept))
    found, failures, total = {}, [], 0
    for seed in range(args.documents):
        built = build(text, round(args.tokens * BYTES_PER_TOKEN), 8, seed)
        asks = [q["ask"] for q in built["questions"]]
        total += len(asks)
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
            file.write(built["document"])
            file.flush()
            for name, more, kv, kept in cases:
                more = more + ["--device", args.device]
                if args.threads:
                    more += ["--threads", str(args.threads)]
                result = run(args.duo, os.path.join(demo, "needle-6m"), file.name, asks, more)
                right = sum(answer["text"].strip() == q["answer"] + "." for answer, q in zip(result["answers"], built["questions"]))
                found[name] = found.get(name, 0) + right
                print(f"document {seed}, {result['prompt_tokens']} tokens, {name}: {right} of {len(asks)}, "
                      f"KV {result['kv_bytes']:,} of {result['kv_bytes_full']:,} bytes, prefill {result['prefill_seconds']:.1f} s",
                      flush=True)
                if result["retrieval_heads"] != kept or result["streaming_heads"] != LAYERS * KV_HEADS - kept:
                    failures.append(f"{name}: {result['retrieval_heads']} retrieval heads, expected {kept}")
                if result["kv_bytes"] != expected_kv_bytes(result, kv):
                    failures.append(f"{name}: kv_bytes {result['kv_bytes']}, expected {expected_kv_bytes(result, kv)}")
    if found["full"] < total - total // 24:
        failures.append(f"full attention found {found['full']} of {total}")
    if found["streaming"] > 2:
        failures.append(f"streaming alone found {found['streaming']} of {total}, so the questions prove nothing")
    for name, right in found.items():
        print(f"{name}: {right} of {total}")
        if name.startswith("duo") and right < found["full"]:
            failures.append(f"{name} found {right}, full attention {found['full']}")
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
