#!/usr/bin/env python3
"""The service over HTTP as its users meet it: `duo serve` as a process, raw bytes over loopback, and the usual clients.

    http_test.py --duo build/duo [--case NAME]...      (--list names the cases)

A DUO_TEST_SCALE above 1 gives the counts of the acceptance list. Exits with 77 (skipped) where a case's packages are missing.
"""

import argparse
import sys

import harness


def main():
    from http_harness import ARGS, CASES
    import http_answers  # noqa: F401: these fill the table
    import http_clients  # noqa: F401
    import http_limits  # noqa: F401
    import http_openai  # noqa: F401
    import http_page  # noqa: F401
    import http_prefixes  # noqa: F401
    import http_replays  # noqa: F401
    import http_sessions  # noqa: F401
    import http_watching  # noqa: F401
    import http_wire  # noqa: F401
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    return harness.run_cases(CASES, ARGS, parser)


if __name__ == "__main__":
    sys.exit(main())
