#!/usr/bin/env python3
"""How long a mask takes: JSON schemas over a real vocabulary, before each token of answers that satisfy them.

    tests/bench/masks.py --driver build/tests/grammar/grammar --tokenizer DIR/tokenizer.json [--schemas 100] [--out FILE]

Schemas and answers are those of tests/grammar (hypothesis-jsonschema makes the answers). Prints the median, the 99th and the
worst of all masks, in microseconds.
"""

import argparse
import json
import os
import subprocess
import sys

import record

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "grammar"))
from json_schema_test import instances  # noqa: E402
from schemas import random_schema  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--schemas", type=int, default=100)
    parser.add_argument("--out")
    args = parser.parse_args()
    driver = subprocess.Popen([args.driver, "--bench", args.tokenizer], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    times = []
    for seed in range(args.schemas):
        schema, flat = random_schema(seed)
        texts = [json.dumps(value, ensure_ascii=False) for value in instances(flat, 3, seed)]
        for kind, text in (("json_schema", json.dumps(schema)), ("json_object", "")):
            driver.stdin.write(json.dumps({"kind": kind, "text": text, "tries": texts}) + "\n")
            driver.stdin.flush()
            times += json.loads(driver.stdout.readline()).get("microseconds", [])
    driver.stdin.close()
    driver.wait()
    times.sort()
    result = {"masks": len(times), "median_us": times[len(times) // 2], "p99_us": times[len(times) * 99 // 100], "worst_us": times[-1]}
    record.show(result, args.out)


if __name__ == "__main__":
    main()
