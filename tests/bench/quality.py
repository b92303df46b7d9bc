#!/usr/bin/env python3
"""What formats cost: perplexity of SmolLM2-135M-Instruct, and facts found by the demo model, per format of weights and KV.

    quality.py --duo build/duo --part needles [--tokens 32000]
    quality.py --duo build/duo --part perplexity --model smollm2-135m-instruct [--text FILE --tokens 51200] [--key-means DIR]

Writes results/quality.json beside this file, a run at a time: what is there already is not run again (--again runs it). The
model is what launcher/demo/unpack_smollm2.py makes: the dequantised 4-bit file. Standard library only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from needle_document import BYTES_PER_TOKEN, build, read_text  # noqa: E402

RESULTS = os.path.join(HERE, "results", "quality.json")
WEIGHTS = ["f32", "bf16", "fp8", "int8", "int4"]


def load():
    if not os.path.exists(RESULTS):
        return {"perplexity": {}, "needles": {}}
    with open(RESULTS, encoding="utf-8") as file:
        return json.load(file)


def save(results):
    with open(RESULTS, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command[:8])} ...: {done.stderr[-1000:]}")
    return json.loads(done.stdout)


def commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


def perplexity(args, results):
    runs = [(w, "f32", "off") for w in [*WEIGHTS, "fp8:128x128"]] + [("f32", kv, "off") for kv in ("bf16", "fp8", "int8", "int4")]
    if args.key_means:
        runs.append(("f32", "int4", args.key_means))
    for weights, kv, means in runs:
        key = f"weights {weights}, KV {kv}" + ("" if means == "off" else ", key means")
        if key in results["perplexity"] and not args.again:
            continue
        head = "f32" if weights == "f32" else "bf16"  # embedding and vocabulary head
        result = run([args.duo, "bench", "perplexity", "--device", "cpu", "--model", args.model, "--text", args.text, "--tokens",
                      str(args.tokens), "--attention", "full", "--weights", weights, "--weights-head", head, "--kv", kv, "--key-means", means,
                      "--json"])
        row = {"perplexity": round(result["perplexity"], 5), "predicted_tokens": result["predicted_tokens"],
               "window": result["window"], "text": os.path.basename(args.text), "seconds": round(result["seconds"], 1),
               "commit": commit()}
        results["perplexity"][key] = row
        print(key, row, flush=True)
        save(results)


def needles(args, results):
    built = build(read_text(["/usr/share/common-licenses"]), round(args.tokens * BYTES_PER_TOKEN), 8, 0)
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
        file.write(built["document"])
        file.flush()
        for weights in WEIGHTS:
            for kv in ("bf16", "int8", "int4"):
                for attention in (["duo", "--pattern", os.path.join(ROOT, "attn_patterns/needle-6m"), "--sparsity", "0.75"], ["full"]):
                    key = f"weights {weights}, KV {kv}, {attention[0]}"
                    if key in results["needles"] and not args.again:
                        continue
                    command = [args.duo, "generate", "--device", "cpu", "--model", os.path.join(ROOT, "launcher/demo/needle-6m"),
                               "--prompt-file", file.name, "--max-new-tokens", "12", "--stop", "\n", "--weights", weights, "--kv",
                               kv, "--json", "--attention", *attention]
                    for question in built["questions"]:
                        command += ["--ask", question["ask"]]
                    result = run(command)
                    found = sum(a["text"].strip().rstrip(".") == q["answer"]
                                for a, q in zip(result["answers"], built["questions"]))
                    row = {"found": found, "of": len(built["questions"]), "tokens": result["prompt_tokens"],
                           "kv_bytes": result["kv_bytes"], "commit": commit()}
                    results["needles"][key] = row
                    print(key, row, flush=True)
                    save(results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--part", required=True, choices=["perplexity", "needles"])
    parser.add_argument("--model", help="SmolLM2's folder")
    parser.add_argument("--text", default="/usr/share/perl/5.36.0/pod/perldiag.pod")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--key-means", help="folder of duo identify --key-means, of another text: int4 KV with it, too")
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    args.tokens = args.tokens or (51200 if args.part == "perplexity" else 32000)
    results = load()
    (perplexity if args.part == "perplexity" else needles)(args, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
