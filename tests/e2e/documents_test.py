#!/usr/bin/env python3
"""The documents say what is there: every path that a README names exists, and the parser takes every command line in it.

    documents_test.py --duo build/duo [--source DIR]

Standard library only.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys

MADE = re.compile(r"^(build|/|MODEL/|PREFIX/|SAVE_DIR/|OUT|DIR|PATH|GEN-|http|gpu/)|\*|<|\.\.\.|NAME|=")  # not in the tree


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--source", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    args = parser.parse_args()
    failures, paths, commands = [], 0, 0
    documents = []
    for folder, below, files in os.walk(args.source):
        below[:] = [name for name in below if not name.startswith((".", "build")) and name not in ("shared", "node_modules")]
        documents += [os.path.join(folder, name) for name in files if name == "README.md"]
    for document in documents:
        with open(document, encoding="utf-8") as file:
            text = file.read()
        name, own = os.path.relpath(document, args.source), os.path.dirname(document)
        named = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`([\w.{},/*-]+(?:/|\.[a-z]+))`", text)
        named += [word for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for word in re.findall(r"(?:launcher|tests)/\S+", block)]
        for path in named:
            if MADE.search(path) or "/" not in path:
                continue
            paths += 1
            # As seen from the document, or from the root.
            if not any(os.path.exists(os.path.join(base, path)) for base in (own, args.source)):
                failures.append(f"{name}: {path} does not exist")
        lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        lines += re.findall(r"^    (duo .*)$", text, re.MULTILINE)
        for line in lines:
            found = re.match(r"(?:mpirun -n \d+ )?duo (?!.*\.\.\.)(.*)$", line.strip())
            if not found:
                continue
            words = shlex.split(found.group(1).replace("$'", "'"), comments=True)
            commands += 1
            # With a flag that does not exist the parser names only that flag, if all the rest is right.
            said = subprocess.run([args.duo] + [word for word in words if word != "&"] + ["--no-such-flag"], capture_output=True,
                                  text=True, check=False)
            if said.returncode != 2 or "--no-such-flag" not in said.stderr:
                failures.append(f"{name}: {line.strip()!r} is refused: {said.stderr!r}")
    if paths < 30 or commands < 10:
        failures.append(f"only {paths} paths and {commands} commands were found")
    print("\n".join(failures) or f"{paths} paths and {commands} commands are well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
