"""`--help` of duo and of every subcommand below it: it exits 0, has an example and fits 100 columns; every example in it is
accepted by the parser. And what a usage error says: one line, exit code 2.
  help_test.py --duo PATH"""
import argparse
import re
import shlex
import subprocess
import sys


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def subcommands(text):
    found = re.search(r"^Subcommands:\n((?:  .*\n)+)", text, re.MULTILINE)
    return re.findall(r"^  ([a-z]\S*)", found.group(1), re.MULTILINE) if found else []


def examples(text):
    joined = text.replace("\\\n", " ")
    return re.findall(r"^  (?:mpirun -n \d+ )?duo (.*)$", joined.split("\nExample", 1)[-1], re.MULTILINE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--duo", required=True)
    duo = parser.parse_args().duo
    failures, seen = [], 0
    todo = [[]]
    while todo:
        path = todo.pop(0)
        name = " ".join(["duo"] + path)
        help_ = run([duo] + path + ["--help"])
        seen += 1
        if help_.returncode != 0 or help_.stderr:
            failures.append(f"{name} --help: exit {help_.returncode}, {help_.stderr!r}")
        long = [line for line in help_.stdout.splitlines() if len(line) > 100]
        if long:
            failures.append(f"{name} --help: {len(long)} lines are longer than 100 columns: {long[0]!r}")
        shown = examples(help_.stdout)
        if not shown:
            failures.append(f"{name} --help: no example")
        for example in shown:
            # With a flag that does not exist the parser names only that flag, if all the rest is right.
            words = shlex.split(example.replace("$'", "'"))
            said = run([duo] + words + ["--no-such-flag"])
            if said.returncode != 2 or "--no-such-flag" not in said.stderr or said.stderr.count("\n") != 1:
                failures.append(f"{name} --help: the example 'duo {example}' is refused: {said.stderr!r}")
        todo += [path + [command] for command in subcommands(help_.stdout)]
    if seen < 20:
        failures.append(f"only {seen} helps were found")
    for words in ([], ["nothing"], ["generate"], ["generate", "--model", "x", "--prompt", "x", "--kv", "int5"], ["bench"],
                  ["client", "rewind", "book"], ["plan", "--model", "x"]):
        said = run([duo] + words)
        if said.returncode != 2 or not re.fullmatch(r"error: .*--help.*\n", said.stderr) or said.stdout:
            failures.append(f"duo {' '.join(words)}: expected exit 2 and one error line, found {said.returncode}, {said.stderr!r}")
    print("\n".join(failures) or f"{seen} helps are well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
