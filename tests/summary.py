#!/usr/bin/env python3
"""Sums up what ctest wrote with --output-junit: the ten slowest tests, what was skipped and why, and one line that counts.

    summary.py [--name NAME] [--note NOTE]... [--json FILE] JUNIT.xml...

NAME begins the last line, each NOTE is a line in front of it, FILE takes the counts and all tests' seconds. Exits with 1 if a
test failed or none was run. Standard library only.
"""

import argparse
import collections
import json
import os
import re
import sys
import xml.etree.ElementTree as ElementTree


def reason(output):
    """Why a test says that it was skipped: Python tests and scripts print "skipped: ..", GoogleTest "Skipped" and a line."""
    found = re.search(r"^skipped: (.+)$", output, re.MULTILINE) or re.search(r": Skipped\n(.+)$", output, re.MULTILINE)
    return found.group(1).strip().rstrip(".") if found else "it gives no reason"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="tests")
    parser.add_argument("--note", action="append", default=[])
    parser.add_argument("--json")
    parser.add_argument("junit", nargs="+")
    args = parser.parse_args()
    tests = []
    for path in args.junit:
        for test in ElementTree.parse(path).getroot().findall("testcase"):
            name = re.sub(r" +# GetParam.*", "", test.get("name"))
            if len(args.junit) > 1:  # the same test in several builds
                name = os.path.basename(os.path.dirname(path)).removeprefix("build-") + ": " + name
            test.set("name", name)
            tests.append(test)
    if not tests:
        sys.exit("error: no test was run")

    slowest = sorted(((float(test.get("time")), test.get("name")) for test in tests), reverse=True)[:10]
    print("the ten slowest:")
    for seconds, name in slowest:
        print(f"  {seconds:7.1f} s  {name}")

    skipped, failed = collections.Counter(), []
    for test in tests:
        if test.find("skipped") is not None:
            skipped[reason(test.findtext("system-out") or "")] += 1
        elif test.get("status") != "run":
            failed.append(test.get("name"))
    if failed:
        print("failed: " + ", ".join(failed))
    print("skipped: " + ("; ".join(f"{n} ({why})" for why, n in skipped.most_common()) or "none"))
    for note in args.note:
        print(note)
    count = sum(skipped.values())
    passed = len(tests) - len(failed) - count
    print(f"{args.name}: {passed} passed, {len(failed)} failed, {count} skipped, {len(tests)} in all")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"passed": passed, "failed": failed, "skipped": skipped,
                       "slowest": [[name, round(seconds, 1)] for seconds, name in slowest]}, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
