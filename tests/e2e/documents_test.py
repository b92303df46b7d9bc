#!/usr/bin/env python3
"""The documents say what is there: every file that a README names exists, every flag is one of duo's, of a script in the
tree or of a tool that is not ours, every test that is named is in a CMakeLists.txt, and the parser takes every command line.

    documents_test.py --duo build/duo [--source DIR]

Standard library only.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys

from checks import Checks, arguments
from help_test import run, subcommands

MADE = re.compile(r"^(build|/|MODEL/|PREFIX/|SAVE_DIR/|OUT|DIR|PATH|GEN-|http|gpu/)|\*|<|\.\.\.|NAME|=")  # not in the tree
# Of models and sessions, which are folders of the user's, and of other systems.
ELSEWHERE = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
             "model.safetensors", "nightly.json"}
FOREIGN_FLAGS = {"--build", "--preset", "--mca", "--target", "--install", "--prefix", "--local-dir", "--cacert", "--now"}
SOURCES = (".py", ".sh", ".cc", ".h", ".cu", ".cuh", ".json", ".md", ".txt", ".tsv", ".proto", ".svg", ".jinja", ".tmpl", ".in")


def expanded(path):
    """a/{b,c}/d as a/b/d and a/c/d."""
    parts = [part.split(",") for part in re.split(r"[{}]", path)]
    parts = [[",".join(part)] if i % 2 == 0 else [word.strip() for word in part] for i, part in enumerate(parts)]
    return ["".join(words) for words in itertools.product(*parts)]


def tree(source):
    for folder, below, files in os.walk(source):
        below[:] = [name for name in below if not name.startswith((".", "build")) and name not in ("shared", "node_modules")]
        yield from (os.path.join(folder, name) for name in files)


def flags_of(duo, files):
    """The flags of every subcommand, and those that scripts of the tree take."""
    flags, todo = set(), [[]]
    while todo:
        words = todo.pop()
        text = run([duo, *words, "--help"]).stdout
        todo += [words + [word] for word in subcommands(text)]
        flags.update(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    for name in files:
        if name.endswith((".py", ".sh")):
            with open(name, encoding="utf-8") as file:
                flags.update(re.findall(r"(?<![\w-])--[a-z][\w-]*", file.read()))
    return flags


def main():
    args = arguments(__doc__, "--duo").parse_args()
    checks = Checks()
    files = list(tree(args.source))
    names = {os.path.basename(name) for name in files}
    flags = flags_of(args.duo, files) | FOREIGN_FLAGS
    tests = ""
    for name in files:
        if os.path.basename(name) == "CMakeLists.txt":
            with open(name, encoding="utf-8") as file:
                tests += file.read()
    paths, commands = 0, 0
    for document in (name for name in files if os.path.basename(name) == "README.md"):
        with open(document, encoding="utf-8") as file:
            text = file.read()
        name, own = os.path.relpath(document, args.source), os.path.dirname(document)
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        named = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r"`([\w.{}, /*-]+(?:/|\.[a-z]+))`", text)
        named += [word for block in blocks for word in re.findall(r"(?:launcher|tests)/\S+", block)]
        for path in itertools.chain(*map(expanded, named)):
            if MADE.search(path) or " " in path or ("/" not in path and not path.endswith(SOURCES)) or path in ELSEWHERE:
                continue
            paths += 1
            # As seen from the document, or from the root; a file without a folder may be of the folder that is spoken of.
            there = any(os.path.exists(os.path.join(base, path)) for base in (own, args.source))
            checks.expect(there or path in names, f"{name}: {path} does not exist")
        for flag in set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)):
            checks.expect(flag in flags, f"{name}: no program here has the flag {flag}")
        for test in re.findall(r"`(?:serve|ranks)\.(\w+)`", text):
            checks.expect(re.search(rf"\b{test}\b", tests), f"{name}: no CMakeLists.txt names the test {test}")
        lines = [line for block in blocks for line in block.splitlines()]
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
            checks.expect(said.returncode == 2 and "--no-such-flag" in said.stderr,
                          f"{name}: {line.strip()!r} is refused: {said.stderr!r}")
    checks.expect(paths >= 60 and commands >= 10, f"only {paths} paths and {commands} commands were found")
    print(f"{paths} paths, {commands} commands and {len(flags)} flags were looked at")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
