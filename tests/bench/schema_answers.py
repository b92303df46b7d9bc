#!/usr/bin/env python3
"""Whether answers that are to satisfy a JSON schema do: SmolLM2-135M-Instruct at temperature 1 over HTTP, random schemas.

    schema_answers.py --duo build/duo --model DIR [--schemas 100] [--tokens 150] [--out tests/bench/results/schema_answers.json]

DIR is what launcher/demo/unpack_smollm2.py makes. Schemas are those of tests/grammar; jsonschema judges. Answers that were
cut by their length are counted apart: of them one can say nothing but that what is there can be gone on with. Exits with 1
where an answer that was finished is not valid, or none was finished.
"""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys

import jsonschema

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path += [os.path.join(HERE, "..", "serve"), os.path.join(HERE, "..", "grammar")]
import http_harness  # noqa: E402
from http_harness import Server  # noqa: E402
from schemas import random_schema  # noqa: E402


def ask(server, number, tokens):
    """Of one schema: refused, cut, valid or invalid, with what was answered."""
    schema, _ = random_schema(number)
    answer = server.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "Make up an example, as JSON: " + json.dumps(schema)}], "max_tokens": tokens,
        "temperature": 1, "seed": number, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})
    if answer.status == 400:
        return "refused", answer.error()["message"]
    choice = answer.json()["choices"][0]
    text = choice["message"]["content"]
    if choice["finish_reason"] == "length":
        return "cut", text
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return "invalid", f"{schema}: {text!r}: {error}"
    return "valid", text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--schemas", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=150, help="of an answer at most")
    parser.add_argument("--out")
    args = parser.parse_args(namespace=http_harness.ARGS)
    counts = {"valid": 0, "invalid": 0, "cut": 0, "refused": 0}
    with Server("--attention", "full", "--max-session-tokens", "2048", model=args.model) as server:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for kind, what in pool.map(lambda number: ask(server, number, args.tokens), range(args.schemas)):
                counts[kind] += 1
                if kind == "invalid":
                    print("INVALID", what)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE).stdout.strip()
    result = {"commit": commit, "model": "SmolLM2-135M-Instruct", "temperature": 1, "schemas": args.schemas,
              "tokens_at_most": args.tokens, "finished": counts["valid"] + counts["invalid"], **counts}
    print(json.dumps(result))
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 1 if counts["invalid"] or not counts["valid"] else 0


if __name__ == "__main__":
    sys.exit(main())
