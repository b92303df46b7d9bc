#!/usr/bin/env python3
"""The service as its users meet it: `duo serve` as a process, clients over loopback that know only gRPC reflection.

    serve_test.py --duo build/duo [--case NAME]... [--full] [--device cuda]      (--list names the cases)

Without --full documents are short and counts small, for ctest; with it, or with a DUO_TEST_SCALE above 1 in the environment,
they are those of the acceptance list. Exits with 77 (skipped) where grpcio and grpcio-reflection are missing.
"""

import argparse
import os
import sys
import time

import harness


def main():
    if not harness.available():
        print("skipped: grpcio and grpcio-reflection are not installed")
        return 77
    from cases import ARGS, CASES
    import anchors  # noqa: F401: these fill the table
    import guarding  # noqa: F401
    import killing  # noqa: F401
    import living  # noqa: F401
    import measuring  # noqa: F401
    import reading  # noqa: F401
    import saving  # noqa: F401
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo")
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--patience", type=float, default=1, help="how many times as long to wait before giving up")
    parser.parse_args(namespace=ARGS)
    ARGS.full = ARGS.full or int(os.environ.get("DUO_TEST_SCALE", "1")) > 1
    harness.patience = ARGS.patience
    if ARGS.list:
        print("\n".join(CASES))
        return 0
    for name in ARGS.case or CASES:
        begun = time.time()
        print(f"--- {name}: {CASES[name].__doc__}", flush=True)
        CASES[name]()
        print(f"    passed in {time.time() - begun:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
