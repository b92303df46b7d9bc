#!/usr/bin/env python3
"""Hide facts in a real document, and write the questions and the answers that go with them.

    needle_document.py [FILE...] --tokens 32000 --facts 8 --seed 0 --out doc.txt --json questions.json

The text of the files (folders are read whole; the default is /usr/share/common-licenses, which every Debian and Ubuntu
carries) is cut to about --tokens tokens of 3.1 bytes, or to --bytes, from a line that the seed chooses on, and starts
over when it is too short. The facts, such as

    Note: the passcode for the amber falcon is 402113.

stand on lines of their own at evenly spread depths. The JSON holds document, bytes, and for each question its text
(`ask`, what `duo generate --ask` takes), its answer and its depth from 0 to 1. The same arguments give the same bytes.

Standard library only. `build()` and `read_text()` are what other scripts import.
"""

import argparse
import json
import os
import random
import sys

ADJECTIVES = ("amber azure brave bronze calm cobalt coral crimson dapper dusty eager emerald fabled frosty gentle golden "
              "hidden hollow humble indigo ivory jolly keen lively lunar mellow misty nimble noble opal pale quiet rapid "
              "rustic scarlet silent silver solar stormy sunny tidy velvet violet vivid wandering wise").split()
NOUNS = ("anchor badger beacon bridge canyon castle cedar comet condor dolphin eagle ember falcon forest garden glacier "
         "harbor heron island jaguar kettle lantern lion maple meadow mirror mountain oak orchid otter panther pebble "
         "pigeon planet quarry raven river saddle salmon sparrow tiger tower turtle valley walrus whale willow wolf").split()

BYTES_PER_TOKEN = 3.1  # licence texts under needle-6m's tokenizer; near enough to size a document


def question(key):
    return f"\nQuestion: What is the passcode for the {key}?\nAnswer: "


def read_text(paths):
    """The files' text, one after another; a folder stands for its plain files in name order, links left out."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            inside = sorted(os.path.join(path, name) for name in os.listdir(path))
            files += [f for f in inside if os.path.isfile(f) and not os.path.islink(f)]
        else:
            files.append(path)
    texts = []
    for path in files:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            texts.append(file.read())
    return "\n".join(texts)


def cut(text, size, start):
    """Whole lines of `text` from the line at or after `start` on, about `size` bytes, starting over at the end."""
    lines = text[start:].splitlines(keepends=True)[1 if start else 0:] + text[:start].splitlines(keepends=True)
    taken, length = [], 0
    while length < size:
        for line in lines:
            line = line if line.endswith("\n") else line + "\n"
            taken.append(line)
            length += len(line.encode())
            if length >= size:
                break
    return taken


def build(text, size, facts=8, seed=0):
    """Returns {document, bytes, questions: [{ask, answer, key, depth}]}; `size` in bytes, facts included; None: all."""
    if not text.strip():
        raise ValueError("the text is empty")
    if facts > len(ADJECTIVES) * len(NOUNS) // 4:
        raise ValueError(f"at most {len(ADJECTIVES) * len(NOUNS) // 4} facts, asked for {facts}")
    rng = random.Random(seed)
    keys = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], facts)
    values = [f"{rng.randrange(10**6):06d}" for _ in keys]
    notes = [f"Note: the passcode for the {k} is {v}.\n" for k, v in zip(keys, values)]
    if size is None:
        lines = cut(text, len(text.encode()), 0)
    else:
        lines = cut(text, max(1, size - sum(map(len, notes))), rng.randrange(len(text)) if seed else 0)
    total = sum(len(line.encode()) for line in lines)
    pieces, written, next_fact = [], 0, 0
    for line in lines:
        pieces.append(line)
        written += len(line.encode())
        while next_fact < facts and written >= (next_fact + 0.5) / facts * total:
            pieces.append(notes[next_fact])
            next_fact += 1
    document = "".join(pieces)
    encoded = document.encode()
    questions = []
    for key, value, note in zip(keys, values, notes):
        questions.append({"ask": question(key), "answer": value, "key": key,
                          "depth": round(encoded.index(note.encode()) / len(encoded), 4)})
    return {"document": document, "bytes": len(encoded), "questions": questions}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", default=["/usr/share/common-licenses"], help="text files or folders")
    parser.add_argument("--tokens", type=int, default=32000, help="size of the document, taking 3.1 bytes a token")
    parser.add_argument("--bytes", type=int, help="size of the document in bytes, instead of --tokens")
    parser.add_argument("--whole", action="store_true", help="take the whole text, whatever its size")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write the document here")
    parser.add_argument("--json", help="write the questions here (default: standard output)")
    args = parser.parse_args()
    try:
        text = read_text(args.files)
        size = args.bytes or round(args.tokens * BYTES_PER_TOKEN)
        if args.whole:
            size = None
        built = build(text, size, args.facts, args.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    if args.out:
        with open(args.out, "w", encoding="utf-8", newline="") as file:
            file.write(built["document"])
        built["document"] = args.out
    result = json.dumps(built, indent=1)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            file.write(result + "\n")
    else:
        print(result)


if __name__ == "__main__":
    main()
