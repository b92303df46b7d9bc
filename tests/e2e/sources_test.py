#!/usr/bin/env python3
"""Answers that say where they looked: `duo generate --sources` on the demo model.

    sources_test.py --duo build/duo [--source TREE] [--mpirun mpirun]

A document with facts, distractors, CRLF lines and characters of several bytes. The reported text is the document's bytes
at its offsets, the asked fact's sentence comes first, the same for ranks, formats and chunks, and asking changes nothing
of the answers. Then which heads are trusted: `duo identify --provenance-only`, and a pattern by `--quick`.
Standard library only.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import checks

ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def document(source):
    """About 2,500 tokens, and (key, sentence) of the facts in it."""
    sys.path.append(os.path.join(source, "launcher", "demo"))
    import needle_document  # pylint: disable=import-outside-toplevel
    text = needle_document.read_text(["/usr/share/common-licenses"])
    lines = [line.rstrip("\n") for line in text.split("\n") if line.strip()][40:140]
    facts = {"rapid tower": "499748", "amber falcon": "402113", "calm otter": "118830"}
    others = {"rapid towel": "402113", "amber raven": "499748", "calm river": "777123"}
    notes = [f"Note: the passcode for the {key} is {value}." for key, value in list(facts.items()) + list(others.items())]
    for place, note in zip((88, 71, 55, 37, 20, 9), notes):
        lines.insert(place, note)
    lines.insert(30, "Gr\u00fc\u00dfe aus K\u00f6ln, \u4f60\u597d, \U0001f600!")
    joined = "".join(line + ("\r\n" if i % 3 == 0 else "\n") for i, line in enumerate(lines))
    return joined.encode() + b"bytes \xff\xfe that are no text\n", list(zip(facts, notes[:len(facts)]))


def main():
    parser = checks.arguments(__doc__, "--duo")
    parser.add_argument("--mpirun")
    options = parser.parse_args()
    test = checks.Checks()
    model = checks.demo_model(options.source)
    raw, facts = document(options.source)
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "document.txt")
        with open(path, "wb") as file:
            file.write(raw)
        asks = [f"\nQuestion: What is the passcode for the {key}?\nAnswer: " for key, _ in facts]

        def generate(*flags, launch=(), sources=("--sources", "3"), asks=asks):
            command = [*launch, options.duo, "generate", "--model", model, "--prompt-file", path, "--stop", "\n",
                       "--max-new-tokens", "10", "--device", "cpu", *sources, *flags]
            for ask in asks:
                command += ["--ask", ask]
            run = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
            test.expect(run.returncode == 0, f"{' '.join(command)}: {run.stderr}")
            return run

        def spans(run):
            answers = json.loads(run.stdout)["answers"]
            for answer in answers:
                for s in answer["provenance"]:
                    found = raw[s["start"]:s["end"]].decode(errors="replace")
                    test.expect(found == s["text"], f"bytes {s['start']} to {s['end']} are {found!r}, not {s['text']!r}")
                    test.expect(s["line"] == 1 + raw[:s["start"]].count(b"\n"), f"line {s['line']} of {s}")
                    test.expect(0 < s["score"] <= 1, f"a score of {s['score']}")
            return [[s["text"] for s in answer["provenance"]] for answer in answers]

        first = generate("--json", "--token-sources")
        found = spans(first)
        for (key, sentence), named in zip(facts, found):
            test.expect(named and sentence in named[0], f"{key}: the first source is {named[:1]}")
        for answer in json.loads(first.stdout)["answers"]:
            test.expect(len(answer["token_provenance"]) == answer["new_tokens"], "sources of each token")
        quiet = json.loads(generate("--json", sources=()).stdout)["answers"]
        test.expect("provenance" not in quiet[0], "no provenance where nobody asks")
        test.expect([a["token_ids"] for a in quiet] == [a["token_ids"] for a in json.loads(first.stdout)["answers"]],
                    "asking changes an answer")
        printed = generate()
        test.expect(len(printed.stdout.splitlines()) == len(facts), "stdout has more than the answers")
        test.expect(printed.stderr.count("where the model looked") == len(facts), "a list of each answer on stderr")
        test.expect(f"{path}:" in printed.stderr, "lines are of the file")
        for ask in asks:
            test.expect(f'where the model looked for "{" ".join(ask.split())}":\n' in printed.stderr, f"a question in one line: {printed.stderr}")
        again = json.loads(generate("--json", "--replay", "2").stdout)["answers"]
        for (key, sentence), answer in zip(facts, again):
            test.expect(sentence[-7:-1] in answer["text"], f"{key}, behind its sources: {answer['text']!r}")
            test.expect(len(answer["replayed"]) == 2 and any(sentence in s["text"] for s in answer["replayed"]),
                        f"{key}: asked behind {answer['replayed']}")
        by_hand = [f"\n{''.join(s['text'].strip() + chr(10) for s in a['replayed'])}{ask}" for a, ask in zip(again, asks)]
        told = [a["token_ids"] for a in json.loads(generate("--json", sources=(), asks=by_hand).stdout)["answers"]]
        test.expect([a["token_ids"] for a in again] == told, f"asked by hand behind them: {told}")
        same = {"chunks of 100": generate("--json", "--chunk", "100"), "int4": generate("--json", "--kv", "int4"),
                "full attention": generate("--json", "--attention", "full")}
        if options.mpirun:
            for ranks in ("2", "3"):
                launch = (options.mpirun, "-n", ranks, "--oversubscribe")
                same[f"{ranks} ranks"] = generate("--json", launch=launch)
        for name, run in same.items():
            test.expect([s[:1] for s in spans(run)] == [s[:1] for s in found], f"{name}: {spans(run)}")
        run = subprocess.run([options.duo, "generate", "--model", model, "--prompt", "a", "--sources", "1", "--attention",
                              "streaming", "--device", "cpu"], capture_output=True, text=True, check=False)
        test.expect(run.returncode == 1 and "keep everything" in run.stderr, f"streaming heads alone: {run.stderr}")

        pattern = os.path.join(work, "pattern")
        shutil.copytree(os.path.join(options.source, "attn_patterns", "needle-6m"), pattern)

        def identify(*flags):
            run = subprocess.run([options.duo, "identify", "--model", model, "--device", "cpu", "--task", "needle",
                                  "--documents", "1", "--max-length", "1200", "--facts", "4", *flags],
                                 capture_output=True, text=True, check=False)
            test.expect(run.returncode == 0, f"identify {' '.join(flags)}: {run.stderr}")
            return run

        def config(folder):
            with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
                return json.load(file)

        before = config(pattern)
        identify("--provenance-only", pattern)
        after = config(pattern)
        heads = after.pop("provenance_heads", [])
        before.pop("provenance_heads", None)
        test.expect(after == before, "another key of the pattern changed")
        test.expect(0 < len(heads) <= 32 and all(w > 0 for _, _, w in heads), f"heads {heads}")
        named = spans(generate("--json", "--pattern", pattern))
        test.expect([s[:1] for s in named] == [s[:1] for s in found], f"by the heads that were found: {named}")
        quick = os.path.join(work, "quick")
        said = identify("--quick", "--out", quick)
        test.expect("rank correlation" in said.stdout, f"no comparison: {said.stdout}")
        answers = json.loads(generate("--json", "--pattern", quick).stdout)["answers"]
        test.expect([a["text"].strip(".") for a in answers] == ["499748", "402113", "118830"],
                    f"with the quick pattern: {[a['text'] for a in answers]}")
    return test.exit_code()


if __name__ == "__main__":
    sys.exit(main())
