#!/usr/bin/env python3
"""The quickstart's scripts, with stand-ins for the build and for duo: what they print and what they ask.

    quickstart_test.py [--source DIR]

A build prints a line a tenth and keeps its exit code and its output; --model smollm2 FILE says what it leaves out of a long
file and asks about that text, not about licences; sparsity is explained; at the end stands how to call duo. Standard library
only.
"""

import json
import os
import subprocess
import sys
import tempfile

from checks import Checks, arguments

STAND_IN = """#!/usr/bin/env python3
import json, os, sys
args = sys.argv[1:]
asks = [args[i + 1] for i, a in enumerate(args) if a == "--ask"]
with open(args[args.index("--prompt-file") + 1], "rb") as file:
    prompt = file.read()
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps({"asks": asks, "prompt_bytes": len(prompt)}) + "\\n")
if len(prompt) > int(os.environ.get("MOST_BYTES", 1 << 30)):
    sys.exit("error: the prompt has 8357 tokens with its longest question; MODEL has 8192 positions, and ..")
full = "full" in args
print(json.dumps({"answers": [{"text": " 1"} for _ in asks], "retrieval_heads": 24 if full else 6,
                  "streaming_heads": 0 if full else 18, "kv_bytes": 100 if full else 26, "prefill_seconds": 1.0,
                  "prompt_tokens": 10, "device": "a stand-in", "decode_tokens_per_second": 1.0}))
"""


def main():
    launcher = os.path.join(arguments(__doc__).parse_args().source, "launcher")
    checks = Checks()
    expect = checks.expect

    with tempfile.TemporaryDirectory() as work:
        # The build.
        log = os.path.join(work, "log")
        for code in (0, 3):
            build = f'for i in $(seq 1 40); do echo "[$i/40] Building $i"; done; exit {code}'
            done = subprocess.run([os.path.join(launcher, "build_quietly.sh"), log, "sh", "-c", build], capture_output=True,
                                  text=True, check=False)
            lines = [line for line in done.stderr.splitlines() if "% built" in line]
            expect(done.returncode == code, f"the build ended with {code}, build_quietly.sh with {done.returncode}")
            expect(len(lines) == 10 and lines[0].strip() == "10 % built (4 of 40 steps)", f"lines of a build: {lines}")
            with open(log, encoding="utf-8") as file:
                expect(file.read().count("\n") == 40, "the log does not hold the 40 lines of the build")
            expect(("[40/40]" in done.stderr) == (code != 0), f"the end of the output after exit code {code}: {done.stderr}")

        # The demo, with a duo that says what it was asked.
        duo, record = os.path.join(work, "duo"), os.path.join(work, "record")
        with open(duo, "w", encoding="utf-8") as file:
            file.write(STAND_IN)
        os.chmod(duo, 0o755)
        document = os.path.join(work, "letters.txt")
        with open(document, "w", encoding="utf-8") as file:
            file.write("My dear friend, the summer here is long.\n" * 2000)

        def quickstart(kind, *more, most_bytes=1 << 30):
            if os.path.exists(record):
                os.remove(record)
            done = subprocess.run([sys.executable, os.path.join(launcher, "demo", "quickstart.py"), "--duo", duo, "--model",
                                   "MODEL", "--kind", kind, *more], capture_output=True, text=True, check=False,
                                  env=dict(os.environ, RECORD=record, MOST_BYTES=str(most_bytes)))
            expect(not done.stderr, f"{kind} {more}: {done.stderr}")
            with open(record, encoding="utf-8") as file:
                return done.stdout, json.loads(file.readlines()[-1])

        said, asked = quickstart("smollm2", "--document", document)
        expect(asked["prompt_bytes"] == 27000 and "82,000 bytes" in said and "first 27,000 of them" in said, f"a long file is cut: {said}")
        expect(asked["asks"] and not any("licen" in ask or "copyleft" in ask for ask in asked["asks"]),
               f"questions on a letter: {asked['asks']}")
        expect(all(f"Question: {ask}\n" in said for ask in asked["asks"]), f"questions are not shown: {said}")
        expect(f"export PATH={work}:$PATH" in said, f"how to call duo: {said}")
        said, asked = quickstart("smollm2", "--document", document, "--ask=Who writes?", "--ask=To whom?")
        expect(asked["asks"] == ["Who writes?", "To whom?"], f"own questions: {asked['asks']}")
        said, asked = quickstart("smollm2", "--document", document, most_bytes=22000)
        expect(asked["prompt_bytes"] == 20250 and "first 20,250 of them" in said, f"a text of many tokens is cut until it fits: {said}")
        said, asked = quickstart("smollm2")
        expect("Does this license offer a warranty?" in asked["asks"], f"questions on the licence: {asked['asks']}")
        said, asked = quickstart("needle", "--document", document)
        expect("--sparsity 0.75" in said and "50 % stream unless told otherwise" in said, f"sparsity is not explained: {said}")

        # What the script refuses before it installs or builds anything.
        for words, code, word in ((["--model"], 2, "--model"), (["--ask", "x"], 2, "--ask"), (["--wings"], 2, "--wings"),
                                      (["a", "b"], 2, "one document"), (["--model", "gpt"], 2, "gpt"),
                                      ([os.path.join(work, "none.txt")], 1, "none.txt")):
            done = subprocess.run([os.path.join(launcher, "quickstart.sh"), *words], capture_output=True, text=True, check=False)
            expect(done.returncode == code and done.stderr.startswith("error: ") and word in done.stderr,
                   f"quickstart.sh {words}: {done.returncode}, {done.stderr}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
