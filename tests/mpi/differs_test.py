#!/usr/bin/env python3
"""Ranks that were started unlike each other, as happens on several hosts: all must end with one sentence.

    differs_test.py --duo build/duo --mpirun mpirun

One rank cannot open its device, or has another --comm, --kv, --weights, --chunk, --strategy, --experts, --key-means, another config.json or
another fine-tune of the same model under its path. Every job must end by itself, with exit code 1 and exactly one line
"error: " that names the rank and what differs. Standard library only.
"""

import argparse
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "launcher", "demo", "needle-6m")
LIMIT = 60  # seconds; five are promised, and this machine may be busy


def another_config(folder):
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    config["rope_theta"] = 10000.0
    with open(path, "w") as file:
        json.dump(config, file)


def another_fine_tune(folder):
    """The same names and shapes, the rows of two layers in another order."""
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    shuffle = random.Random(1).shuffle
    for name, tensor in json.loads(data[8:begin]).items():
        if "layers.2." in name or "layers.3." in name:
            first, end = (begin + offset for offset in tensor["data_offsets"])
            rows = [data[i : min(i + 512, end)] for i in range(first, end, 512)]
            shuffle(rows)
            data[first:end] = b"".join(rows)
    with open(path, "wb") as file:
        file.write(data)


def model(work, name, change):
    folder = os.path.join(work, name, "needle-6m")
    shutil.copytree(MODEL, folder)
    os.chmod(folder, 0o755)
    for file in os.listdir(folder):
        os.chmod(os.path.join(folder, file), 0o644)
    change(folder)
    return folder


def another_build(work, duo):
    """The program with another build id."""
    path = os.path.join(work, "duo")
    with open(duo, "rb") as file:
        data = bytearray(file.read())
    note = struct.pack("<III4s", 4, 20, 3, b"GNU")  # a name of 4 bytes, an id of 20, which is a build id
    assert data.count(note) == 1, data.count(note)
    data[data.index(note) + len(note)] ^= 0xFF
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o755)
    return path


def run(args, first, second, program=None):
    """Rank 0 with the words `first`, rank 1 with `second`, of another program perhaps: exit code and lines of stderr."""
    common = ["generate", "--prompt", "hello", "--max-new-tokens", "4", "--threads", "1", "--pattern",
              os.path.join(ROOT, "attn_patterns", "needle-6m")]
    mpirun = [args.mpirun, "--oversubscribe", "--allow-run-as-root"]
    command = [*mpirun, "-n", "1", args.duo, *common, *first, ":", "-n", "1", program or args.duo, *common, *second]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    return done.returncode, done.stderr.splitlines()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--mpirun", required=True)
    args = parser.parse_args()
    host = socket.gethostname()
    rank1 = f"rank 1 on {host}"
    with tempfile.TemporaryDirectory() as work:
        cpu = ["--device", "cpu"]
        base = ["--model", MODEL, *cpu]
        cases = [
            # what, rank 0's words, rank 1's, what the error line must hold
            ("a device that rank 1 cannot open", base, ["--model", MODEL, "--device", "cuda"], [rank1 + ": "]),
            ("a device that rank 0 cannot open", ["--model", MODEL, "--device", "cuda"], base, ["CUDA"]),
            ("--comm", base, [*base, "--comm", "nccl"], ["--comm", rank1, "has nccl", "has auto"]),
            ("--kv", base, [*base, "--kv", "int8"], ["--kv", rank1, "has int8", "has auto"]),
            ("--kv that the device cannot do", base, [*base, "--kv", "fp8"], ["--kv", rank1, "has fp8"]),
            ("--weights", base, [*base, "--weights", "int4"], ["--weights", rank1, "has int4"]),
            ("--chunk", base, [*base, "--chunk", "64"], ["--chunk", rank1, "has 64"]),
            ("--strategy", base, [*base, "--strategy", "split"], ["--strategy", rank1, "has split"]),
            ("--experts", base, [*base, "--experts", "whole"], ["--experts", rank1, "has whole"]),
            ("--key-means", base, [*base, "--key-means", "on"], ["--key-means", rank1, "has on", "has off"]),
            ("config.json", base, ["--model", model(work, "config", another_config), *cpu], ["config.json", rank1]),
            ("weights", base, ["--model", model(work, "weights", another_fine_tune), *cpu], ["weights", rank1]),
            ("the plan of heads", base, [*base, "--threshold", "0.9"], [rank1]),
            ("the program", base, base, ["build id", rank1], another_build(work, args.duo)),
        ]
        failures = 0
        for what, first, second, wanted, *program in cases:
            try:
                code, lines = run(args, first, second, *program)
            except subprocess.TimeoutExpired:
                code, lines = "none", [f"still running after {LIMIT} s"]
            errors = [line for line in lines if line.startswith("error: ")]
            good = code == 1 and len(errors) == 1 and all(w in errors[0] for w in wanted)
            print(f"{'ok  ' if good else 'FAIL'} {what}: exit {code}; {errors or lines[:3]}", flush=True)
            failures += not good
        # Alike, they answer.
        code, lines = run(args, base, base)
        if code != 0:
            print(f"FAIL ranks that are alike: exit {code}; {lines[:3]}")
            failures += 1
        for weights in ("1,1e-9", "1,1e-4"):
            code, lines = run(args, [*base, "--rank-weights", weights], [*base, "--rank-weights", weights])
            errors = [line for line in lines if line.startswith("error: ")]
            good = code == 1 and len(errors) == 1 and "--rank-weights: rank 1" in errors[0]
            print(f"{'ok  ' if good else 'FAIL'} --rank-weights {weights}: exit {code}; {errors or lines[:3]}")
            failures += not good
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
