#!/usr/bin/env python3
"""The first minute of somebody with a model: whatever its folder is called and whether or not it has a pattern.

    first_minute_test.py --duo build/duo

A copy of the demo model in a folder named by a hash, as in the Hugging Face cache, is known by its weights; a model that
nobody has a pattern for answers with full attention and says so once, in generate, plan, info and serve alike; whoever
asks for a pattern's heads by a flag is refused instead. Standard library only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "launcher", "demo", "needle-6m")
SENTENCE = "full attention: no pattern says which heads"
failures = 0


def check(what, good, seen):
    global failures
    failures += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)}", flush=True)


def copy_model(folder, unknown):
    """unknown: some weights changed, so that no pattern lists them."""
    os.makedirs(folder)
    for name in os.listdir(MODEL):
        if os.path.isfile(os.path.join(MODEL, name)):
            shutil.copyfile(os.path.join(MODEL, name), os.path.join(folder, name))
    if not unknown:
        return folder
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    for name, tensor in json.loads(data[8:begin]).items():
        if "layers.3." in name and "proj" in name:
            first, end = (begin + offset for offset in tensor["data_offsets"])
            rows = [data[i : min(i + 512, end)] for i in range(first, end, 512)]
            random.Random(1).shuffle(rows)
            data[first:end] = b"".join(rows)
    with open(path, "wb") as file:
        file.write(data)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    args = parser.parse_args()

    def duo(*words):
        done = subprocess.run([args.duo, *words], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, done.stderr

    def generate(model, *words):
        code, out, err = duo("generate", "--model", model, "--device", "cpu", "--threads", "1", "--prompt", "hello",
                             "--max-new-tokens", "2", "--json", *words)
        return code, json.loads(out) if code == 0 else {}, err

    with tempfile.TemporaryDirectory() as work:
        hashed = copy_model(os.path.join(work, "hub", "0123456789abcdef"), unknown=False)
        code, out, err = generate(hashed)
        check("a folder named by a hash finds its pattern",
              code == 0 and out["attention"] == "duo" and out["streaming_heads"] == 12 and SENTENCE not in err,
              (code, out, err))
        code, out, err = duo("info", "--model", hashed, "--json")
        check("info finds it too", code == 0 and json.loads(out)["attention"] == "duo", (code, out, err))

        cached = copy_model(os.path.join(work, "hub", "models--someone--needle-6m", "snapshots", "89ab"), unknown=True)
        code, out, err = generate(cached)
        check("a folder of the cache is known by its model", code == 0 and out["attention"] == "duo", (code, out, err))

        unknown = copy_model(os.path.join(work, "nobody-knows-it"), unknown=True)
        code, out, err = generate(unknown)
        check("a model without a pattern answers with full attention and says so",
              code == 0 and out["attention"] == "full" and out["streaming_heads"] == 0 and err.count(SENTENCE) == 1 and
              f"duo identify --model {unknown}" in err, (code, out, err))
        code, out, err = generate(unknown, "--attention", "full")
        check("nothing is said to whoever asked for it", code == 0 and SENTENCE not in err, (code, err))
        for words in (["--attention", "duo"], ["--sparsity", "0.5"], ["--threshold", "0.5"]):
            code, out, err = generate(unknown, *words)
            check(f"with {' '.join(words)} it is refused, with how to get a pattern",
                  code == 1 and "duo identify" in err and err.count("error: ") == 1, (code, err))
        code, out, err = duo("plan", "--model", unknown, "--world", "2", "--json")
        plan = json.loads(out) if code == 0 else {}
        check("plan does the same", code == 0 and plan["streaming_heads"] == 0 and err.count(SENTENCE) == 1, (code, err))
        check("plan's context is the model's own length", plan.get("context") == 1048576, plan.get("context"))
        code, out, err = duo("info", "--model", unknown, "--json")
        check("info does the same", code == 0 and json.loads(out)["attention"] == "full", (code, out))

        server = subprocess.Popen([args.duo, "serve", "--model", unknown, "--listen", "127.0.0.1:0", "--device", "cpu",
                                   "--threads", "1", "--max-session-tokens", "1000"], stderr=subprocess.PIPE, text=True,
                                  stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        lines = []
        for line in server.stderr:  # ends with the process, whatever it does
            lines.append(line)
            if "listening" in line:
                server.send_signal(signal.SIGTERM)
        server.wait(60)
        check("serve does the same", sum(SENTENCE in line for line in lines) == 1 and server.returncode == 0,
              (server.returncode, lines))

        for memory, word in (("1MB", "does NOT fit"), ("80GB", ": fits")):
            code, out, err = duo("plan", "--model", MODEL, "--world", "1", "--gpu-memory", memory)
            check(f"plan says of {memory} '{word}'", code == 0 and word in out, out[-200:])
        held = []  # bytes of the weights
        for weights in ("int8", "int8:128", "int8:16", "bf16"):
            code, out, err = duo("plan", "--model", MODEL, "--world", "1", "--weights", weights, "--json")
            held.append(json.loads(out)["memory"]["weights"] if code == 0 else err)
        check("plan knows eight bits in groups: smaller groups have more scales", held == sorted(set(held)), held)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
