#!/usr/bin/env python3
"""JSON schemas as grammars against jsonschema and llguidance: random schemas, instances by hypothesis-jsonschema, near misses.

    json_schema_test.py --driver build/tests/grammar/grammar [--schemas 300]

A text is accepted exactly where jsonschema finds it valid, and wherever llguidance accepts it. Without the packages the
test is skipped and says which one is missing.
"""

import argparse
import json
import random
import subprocess
import sys
import warnings

from schemas import near_miss, random_schema

MISSING = []
try:
    import hypothesis
    from hypothesis_jsonschema import from_schema
except ImportError:
    MISSING.append("hypothesis-jsonschema")
try:
    import jsonschema
except ImportError:
    MISSING.append("jsonschema")
try:
    import llguidance
except ImportError:
    llguidance = None


def instances(schema, count, seed):
    found = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
                         suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(from_schema(schema))
    def collect(value):
        found.append(value)

    collect()
    return found[:count]


def other_spelling(value, bounds):
    """A whole number written with a point, or, where the schema has bounds, an exponent: duo writes them otherwise."""
    if isinstance(value, float):
        return value.is_integer() or (bounds and "e" in repr(value))
    if isinstance(value, dict):
        return any(other_spelling(item, bounds) for item in value.values())
    return isinstance(value, list) and any(other_spelling(item, bounds) for item in value)


class Oracle:
    """llguidance on bytes; None where it does not take the schema."""

    def __init__(self):
        self.tokenizer = llguidance.LLTokenizer("byte") if llguidance else None

    def accepts(self, schema, text):
        if self.tokenizer is None:
            return None
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        matcher = llguidance.LLMatcher(self.tokenizer, grammar)
        if matcher.is_error():
            return None
        data = list(text.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--driver", required=True)
    parser.add_argument("--schemas", type=int, default=300)
    parser.add_argument("--instances", type=int, default=4)
    args = parser.parse_args()
    if MISSING:
        print("skipped: the Python package", MISSING[0], "is not installed")
        return 77
    if llguidance is None:
        print("llguidance is not installed: jsonschema alone is compared with")
    warnings.simplefilter("ignore")
    driver = subprocess.Popen([args.driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    oracle, rng = Oracle(), random.Random(1)
    refused, valid, invalid, agreed, failures = [], 0, 0, 0, []
    for seed in range(args.schemas):
        schema, flat = random_schema(seed)
        made = instances(flat, args.instances, seed)
        made += [near_miss(rng, value) for value in made for _ in range(2)]
        made = [value for value in made if not other_spelling(value, "imum" in json.dumps(schema))]
        texts = [json.dumps(value, ensure_ascii=False, separators=rng.choice([None, (",", ":")]),
                            indent=rng.choice([None, 2])) for value in made]
        driver.stdin.write(json.dumps({"kind": "json_schema", "text": json.dumps(schema), "tries": texts}) + "\n")
        driver.stdin.flush()
        answer = json.loads(driver.stdout.readline())
        if "error" in answer:
            refused.append(answer["error"])
            if "not supported" not in answer["error"] and "no text" not in answer["error"]:
                failures.append(f"seed {seed}: {answer['error']}: {schema}")
            continue
        validator = jsonschema.Draft202012Validator(schema)
        for value, text, accepted in zip(made, texts, answer["accepted"]):
            expected = validator.is_valid(value)
            valid, invalid = valid + expected, invalid + (not expected)
            if accepted != expected:
                failures.append(f"seed {seed}: {text} is {'valid' if expected else 'not valid'}, duo says otherwise: {schema}")
            theirs = oracle.accepts(schema, text)
            agreed += theirs is not None and bool(theirs) == accepted
            if theirs and not accepted:
                failures.append(f"seed {seed}: llguidance accepts {text}: {schema}")
    driver.stdin.close()
    driver.wait()
    for failure in failures[:20]:
        print("FAILED", failure)
    print(f"{args.schemas} schemas, {len(refused)} refused; {valid} valid instances and {invalid} that are not; "
          f"llguidance says the same of {agreed}; {len(failures)} failures")
    if valid < 2 * args.schemas or invalid < args.schemas // 2 or 5 * len(refused) > args.schemas:
        print("FAILED: too few instances, or too many schemas refused")
        return 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
