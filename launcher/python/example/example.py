#!/usr/bin/env python3
"""Reads a document into a session and asks three questions on it.

    duo serve --model launcher/demo/needle-6m --listen 127.0.0.1:50051 &
    pip install launcher/python
    python3 launcher/python/example/example.py --server 127.0.0.1:50051

It has a folder of its own: beside the package's source it would find that, which has no stubs, before what is installed.
"""

import argparse

from duo_sessions import Client, pb

FACTS = {"amber falcon": "402113", "quiet harbor": "771950", "velvet lantern": "083364"}


def show(progress: pb.AppendProgress) -> None:
    """One line that is written over: how far the server is, and how long it will take."""
    if progress.total_tokens and not progress.done:
        print(f"\r{progress.tokens:,} of {progress.total_tokens:,} tokens, {progress.seconds_left:.0f} s left ", end="",
              flush=True)
    elif progress.done:
        print("\r\033[K", end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--document", help="a text file that the facts are put into; default: this program's text")
    args = parser.parse_args()
    with open(args.document or __file__, encoding="utf-8", errors="replace") as file:
        lines = file.read().split("\n")
    for number, (key, value) in enumerate(FACTS.items()):
        lines.insert(len(lines) * (2 * number + 1) // 6, f"Note: the passcode for the {key} is {value}.")
    document = "\n".join(lines)

    with Client(args.server) as client:
        client.wait_until_ready(on_wait=lambda seconds: print(f"\rwaiting for the server, {seconds:.0f} s ", end="", flush=True))
        session = client.create()
        done = client.append(session.id, document, on_progress=show)
        print(f"Read {done.tokens:,} tokens in {done.stats.read_seconds:.1f} s.")
        for key, value in FACTS.items():
            print(f"What is the passcode for the {key}? ", end="", flush=True)
            question = f"\nQuestion: What is the passcode for the {key}?\nAnswer: "
            for part in client.stream(session.id, question, stop=["\n"], max_new_tokens=12):
                print(part.text, end="", flush=True)
            print(f"   (it is {value})")
        client.close(session.id)


if __name__ == "__main__":
    main()
