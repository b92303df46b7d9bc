#!/usr/bin/env python3
"""What goes to stdout and what to stderr, apart for programs and together for people.

    outputs_test.py --duo build/duo [--source DIR]

`duo generate` with two questions: on stdout one answer a line and nothing else; where both streams go to one place, each
answer behind its question and the statistics on a line of their own. The same of `duo client ask`. Standard library only.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

from checks import Checks, arguments, demo_model

FACTS = [("amber falcon", "402113"), ("quiet harbor", "118025")]
FILLER = "The road goes on along the river, and nothing of note is to be seen there.\n" * 20


def main():
    args = arguments(__doc__, "--duo").parse_args()
    model = demo_model(args.source)
    checks = Checks()
    expect = checks.expect

    # Whatever takes longer than two seconds says how far it is, and not on stdout; a quick machine has nothing to say.
    start = time.monotonic()
    bench = subprocess.run([args.duo, "bench", "attention", "--kernels", "decode", "--context", "50K", "--device", "cpu"],
                           capture_output=True, text=True, check=True)
    expect(time.monotonic() - start < 5 or re.search(r"timing \d+%: \d+ of 20 kernels", bench.stderr), f"no progress: {bench.stderr!r}")
    expect("timing" not in bench.stdout, bench.stdout)

    asks = [f"\nQuestion: What is the passcode for the {key}?\nAnswer: " for key, _ in FACTS]
    with tempfile.TemporaryDirectory() as work:
        document = os.path.join(work, "document.txt")
        with open(document, "w", encoding="utf-8") as file:
            file.write(FILLER.join(["", *(f"Note: the passcode for the {key} is {value}.\n" for key, value in FACTS), ""]))
        command = [args.duo, "generate", "--model", model, "--prompt-file", document, "--stop", "\n", "--max-new-tokens", "12"]
        command += [word for ask in asks for word in ("--ask", ask)]
        apart = subprocess.run(command, capture_output=True, text=True, check=True)
        answers = apart.stdout.splitlines()
        expect(len(answers) == 2 and answers[0].startswith("402113"), f"answers: {apart.stdout!r}")
        expect("passcode" not in apart.stderr, f"questions among the notes: {apart.stderr!r}")
        together = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
        question = "> Question: What is the passcode for the {}?\nAnswer:\n"
        shown = "\n".join(question.format(key) + answer + "\n" for (key, _), answer in zip(FACTS, answers))
        at = together.find(shown)
        expect(at >= 0, f"answers behind their questions: {together!r}")
        expect(re.fullmatch(r"\n[\d,]+ tokens read in [^\n]+\n", together[at + len(shown):]), f"statistics: {together!r}")

        server = subprocess.Popen([args.duo, "serve", "--model", model, "--listen", "127.0.0.1:0", "--device", "cpu",
                                   "--kv-tokens", "4000", "--sessions", "2", "--save-dir", os.path.join(work, "saved")], stderr=subprocess.PIPE, text=True)
        try:
            address = None
            for line in server.stderr:
                if found := re.search(r"listening .*port=(\d+)", line):
                    address = f"127.0.0.1:{found.group(1)}"
                    break
            expect(address is not None, "the server did not say where it listens")

            def client(*words):
                return subprocess.run([args.duo, "client", *words, "--server", address], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, check=True).stdout

            client("create", "book", "--max-tokens", "2000")
            appended = client("append", "book", "--file", document)
            expect(re.fullmatch(r"(reading [^\n]+\n)*[\d,]+ tokens: waited [^\n]+\nbook: [^\n]+\n", appended), f"client append: {appended!r}")
            asked = client("ask", "book", asks[0], "--stop", "\n")
            expect(re.fullmatch(r"402113[^\n]*\n\n[\d,]+ tokens of history, [^\n]+\n", asked), f"client ask: {asked!r}")
            expect(client("list").splitlines()[-1].startswith("1 session; "), "the list does not count one session")
            drained = client("drain")
            expect(re.fullmatch(r"drained: 1 session saved, 0 calls cancelled, [^\n]+\n", drained), f"client drain: {drained!r}")
        finally:
            server.terminate()
            server.communicate(timeout=60)
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
