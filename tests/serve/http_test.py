#!/usr/bin/env python3
"""The service over HTTP as its users meet it: `duo serve` as a process, raw bytes over loopback, and the usual clients.

    http_test.py --duo build/duo [--case NAME]...      (--list names the cases)

A DUO_TEST_SCALE above 1 gives the counts of the acceptance list. Exits with 77 (skipped) where a case's packages are missing.
"""

import argparse
import os
import sys
import time

import harness


def main():
    from http_harness import ARGS, CASES
    import http_clients  # noqa: F401: these fill the table
    import http_openai  # noqa: F401
    import http_wire  # noqa: F401
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--patience", type=float, default=1, help="how many times as long to wait before giving up")
    parser.parse_args(namespace=ARGS)
    ARGS.full = int(os.environ.get("DUO_TEST_SCALE", "1")) > 1
    harness.patience = ARGS.patience
    if ARGS.list:
        print("\n".join(CASES))
        return 0
    for name in ARGS.case or CASES:
        begun = time.time()
        print(f"--- {name}: {CASES[name].__doc__}", flush=True)
        try:
            CASES[name]()
        except ModuleNotFoundError as error:
            print(f"skipped: {error.name} is not installed")
            return 77
        print(f"    passed in {time.time() - begun:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
