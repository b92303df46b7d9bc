"""`--help` of duo and of every subcommand below it: it exits 0, has an example and fits 100 columns; every example in it is
accepted by the parser. And what a usage error says: one line, exit code 2.
  help_test.py --duo PATH"""
import argparse
import os
import re
import shlex
import subprocess
import sys


def run(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:  # something was started that should have been refused
        return subprocess.CompletedProcess(command, 124, "", "still running after 60 s")


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
        if run([duo, "help"] + path).stdout != help_.stdout:
            failures.append(f"duo help {' '.join(path)}: is not {name} --help")
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
    for words, path in ((["help", "help"], []), (["client", "help", "plan"], ["client", "plan"]), (["bench", "help", "drafts"], ["bench", "drafts"])):
        if run([duo] + words).stdout != run([duo] + path + ["--help"]).stdout:
            failures.append(f"duo {' '.join(words)}: is not the help of duo {' '.join(path)}")
    if "duo help SUBCOMMAND" not in run([duo, "--help"]).stdout:
        failures.append("duo --help does not name duo help")
    if seen < 20:
        failures.append(f"only {seen} helps were found")
    # What is wrong by itself, whatever is in files and on the network: exit 2, before anything is opened.
    demo = ["--model", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "demo", "needle-6m")]
    for words, named in (
            (["inf"], 'unknown command "inf"; did you mean "info"?'), (["bench", "deco"], 'did you mean "decode"?'),
            (["client", "lst"], 'did you mean "list"?'), (["generate", "--modle", "x"], 'did you mean "--model"?'),
            (["zebra"], "expected one of generate"), (["generate", *demo, "--prompt", "x", "--rank-weights", "-1"], "above 0"),
            (["generate", *demo, "--prompt", "x", "--sink", "5000000"], "--sink"),
            (["generate", *demo, "--prompt", "x", "--recent", "0"], "--recent"),
            (["plan", *demo, "--world", "2", "--rank-weights", "1"], "each of 2 ranks"),
            (["plan", *demo, "--world", "2", "--rank-weights", "1,-1"], "above 0"),
            (["plan", *demo, "--world", "2", "--simulate", "4"], "--world excludes --simulate"), (["plan", *demo], "--world or --simulate"),
            (["plan", *demo, "--world", "2", "--host-link", "5GB"], "--host-link requires --simulate"),
            (["plan", *demo, "--simulate", "2", "--host-link", "-1GB"], "expected a number above 0, found -1GB"),
            (["plan", *demo, "--world", "2", "--context", "1.5Q"], "as 100K, found the unit Q"),
            (["bench", "prefill", "--context", "1e3"], "as 100K, found the unit e3"),
            (["generate", *demo, "--prompt", "x", "--temperature", "-1"], "a number from 0 to 100, found -1"),
            (["help", "plam"], 'did you mean "plan"?'), (["help", "plan", "bogus"], "duo help plan: expected no more words, found bogus"),
            (["bench", "perplexity", *demo, "--text", "x", "--tokens", "1K", "--window", "1Q"], "found the unit Q"),
            (["bench", "gradients", "--tokens", "1Q"], "found the unit Q"), (["bench", "capacity", "--most", "1Q"], "found the unit Q"),
            (["identify", *demo, "--out", "x", "--perplexity-tokens", "1"], "a number from 2"),
            (["identify", *demo, "--out", "x", "--perplexity-tokens", "1Q"], "found the unit Q"),
            (["client", "create", "book", "--max-tokens", "-1K"], "a number of at least 0, found -1K"),
            (["identify", *demo, "--out", "x", "--min-length", "900", "--max-length", "600"], "--max-length 600"),
            (["identify", *demo, "--out", "x", "--lr", "-1"], "expected a number above 0, found -1"),
            (["bench", "decode", "--shape", "elephant"], "llama-3-8b"), (["bench", "identify", "--shape", "elephant"], "llama-3-8b"),
            (["bench", "decode", "--simulate-rank", "3/2"], "0/4"), (["bench", "prefill", "--context", "0"], "found 0"),
            (["plan", "--model", "m", "--world", "2", "--gpu-memory", "80"], "80GB"),
            (["bench", "comm"], "mpirun"), (["serve", *demo, "--listen", "nowhere"], "HOST:PORT"),
            (["serve", *demo, "--listen", "127.0.0.1:99999"], "65535"), (["serve", *demo, "--metrics", "9090"], "HOST:PORT"),
            (["serve", *demo, "--idle-out", "5"], "--save-dir"), (["client", "ask", "book"], "a question or --file"),
            (["client", "append", "book"], "--file or --text"), (["client", "tokenize"], "a text or --file"),
            (["client", "ask", "book", "x", "--temperature", "-1"], "--temperature"),
            (["client", "ask", "book", "x", "--top-p", "7"], "--top-p"), (["client", "list", "--timeout", "-1"], "--timeout"),
            (["client", "rewind", "book", "-5"], "tokens"), (["client", "list", "--tls-cert", "x"], "--tls-ca")):
        said = run([duo] + words)
        if said.returncode != 2 or not re.fullmatch(r"error: .*--help.*\n", said.stderr) or named not in said.stderr or said.stdout:
            failures.append(f"duo {' '.join(words)}: expected exit 2 and {named!r}, found {said.returncode}, {said.stderr!r}")
    for words in ([], ["nothing"], ["generate"], ["generate", "--model", "x", "--prompt", "x", "--kv", "int5"], ["bench"],
                  ["client", "rewind", "book"], ["plan", "--model", "x"]):
        said = run([duo] + words)
        if said.returncode != 2 or not re.fullmatch(r"error: .*--help.*\n", said.stderr) or said.stdout:
            failures.append(f"duo {' '.join(words)}: expected exit 2 and one error line, found {said.returncode}, {said.stderr!r}")
    print("\n".join(failures) or f"{seen} helps are well")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
