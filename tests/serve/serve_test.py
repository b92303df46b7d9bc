#!/usr/bin/env python3
"""The service as its users meet it: `duo serve` as a process, clients over loopback that know only gRPC reflection.

    serve_test.py --duo build/duo [--case NAME]... [--full] [--device cuda]      (--list names the cases)

Without --full documents are short and counts small, for ctest; with it, or with a DUO_TEST_SCALE above 1 in the environment,
they are those of the acceptance list. Exits with 77 (skipped) where grpcio and grpcio-reflection are missing.
"""

import argparse
import sys

import harness


def main():
    if not harness.available():
        print("skipped: grpcio and grpcio-reflection are not installed")
        return 77
    from cases import ARGS, CASES
    import anchors  # noqa: F401: these fill the table
    import broken_weights  # noqa: F401
    import damaging  # noqa: F401
    import guarding  # noqa: F401
    import killing  # noqa: F401
    import living  # noqa: F401
    import loading  # noqa: F401
    import measuring  # noqa: F401
    import packages  # noqa: F401
    import reading  # noqa: F401
    import saving  # noqa: F401
    import sources  # noqa: F401
    import tails  # noqa: F401
    import unfinished  # noqa: F401
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return harness.run_cases(CASES, ARGS, parser)


if __name__ == "__main__":
    sys.exit(main())
