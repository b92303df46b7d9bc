#!/usr/bin/env python3
"""Compares duo's tokenizer with Hugging Face's `tokenizers` library, id for id and byte for byte.

Needs the pip package `tokenizers`; without it the test is skipped (exit code 77).
Trains tokenizers of every kind that duo reads (so that nothing is downloaded), takes the demo model's besides, and
compares ids of many strings (natural text in many scripts, code, odd white space, emoji, broken UTF-8, the text of
special tokens), with special tokens parsed and not, and the texts of their and of random ids. A text that comes in two
pieces must have the tokens of the whole one; so must a session whose document comes in two and that a question follows,
as a plain text and in the turns of chat templates.

    tokenizer_parity.py --driver build/tests/golden/tokenize [--strings 100000] [--tokenizer FILE]... [--kinds a,b]
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

try:
    import tokenizers
    from tokenizers import Tokenizer
except ImportError:
    print("skipped: the pip package `tokenizers` is not installed")
    sys.exit(77)

from tokenizer_kinds import KINDS
from tokenizer_strings import make_string, paragraphs


def drive(driver, path, mode, payload):
    done = subprocess.run([driver, path] + mode, input=payload, stdout=subprocess.PIPE, check=True)
    return done.stdout


def pack_texts(texts):
    return b"".join(struct.pack("<I", len(t)) + t for t in texts)


def pack_ids(lists):
    return b"".join(struct.pack("<I%di" % len(ids), len(ids), *ids) for ids in lists)


def unpack(data, width):
    """The records of a driver's output, as bytes."""
    at, records = 0, []
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        records.append(data[at + 4:at + 4 + count * width])
        at += 4 + count * width
    return records


def report(name, what, differences, total):
    for shown in differences[:5]:
        print("  %s %s: %r" % (name, what, shown))
    print("%-12s %-34s %d of %d differ" % (name, what, len(differences), total), flush=True)
    return len(differences)


def compare(driver, name, path, strings, rng):
    """The number of differences between the driver and the library on one tokenizer file."""
    reference = Tokenizer.from_file(path)
    texts = [s.decode("utf-8", errors="replace") for s in strings]
    payload, bad, all_ids = pack_texts(strings), 0, []
    for parse, add in ((True, True), (False, False)):
        reference.encode_special_tokens = not parse
        expected = [e.ids for e in reference.encode_batch(texts, add_special_tokens=add)]
        flags = (["--parse-special"] if parse else []) + ([] if add else ["--no-special"])
        found = [list(struct.unpack("<%di" % (len(r) // 4), r)) for r in unpack(drive(driver, path, ["encode"] + flags, payload), 4)]
        assert len(found) == len(expected)
        differ = [(t, f, e) for t, f, e in zip(texts, found, expected) if f != e]
        bad += report(name, "encode, special %s" % ("parsed" if parse else "as text"), differ, len(texts))
        all_ids += expected[:len(expected) // 2]
    size = reference.get_vocab_size()
    all_ids += [[rng.randrange(size) for _ in range(rng.randint(0, 12))] for _ in range(len(strings) // 4)]
    vocab = reference.get_vocab()
    bytes_only = [i for t, i in vocab.items() if t.startswith("<0x")]
    if bytes_only:
        all_ids += [[rng.choice(bytes_only) for _ in range(rng.randint(1, 4))] for _ in range(len(strings) // 10)]
    for skip in (True, False):
        expected = reference.decode_batch(all_ids, skip_special_tokens=skip)
        out = drive(driver, path, ["decode"] + ([] if skip else ["--keep-special"]), pack_ids(all_ids))
        found = [r.decode("utf-8") for r in unpack(out, 1)]
        differ = [(i, f, e) for i, f, e in zip(all_ids, found, expected) if f != e]
        bad += report(name, "decode, special %s" % ("skipped" if skip else "kept"), differ, len(all_ids))
    return bad


# What a question, or the next piece of a document, may begin with.
FOLLOWERS = [b"", b" ", b"  x", b"\n", b"\n\n", b"\r\n", b"s", b"'s", b"'", b"ll ", b"e", "\u0301".encode(), "\u0327x".encode(),
             "\u200d\u2642".encode(), "\U0001f600".encode()[2:], b"\x80", "\u2581".encode(), b"1", b"23 4", b"_end|>", b"im_end|>",
             b"|>", b"[INST]", b"  [INST]", b"<mask>", b"word", b"ord", b"\xcc", b".", b"!?", b"\t", b"user\n", b"b", b"-",
             "\u1161".encode(), b"\xff"]
# Kinds in which nothing is certain before the whole text is there: a normaliser that strips, prefixes of inner words.
NEVER_CERTAIN = {"odd_splits", "falcon", "ruby"}


def pieces(driver, name, path, strings, rng, count):
    """The number of texts that have other tokens when they come in two pieces; a piece is a cut anywhere, or two strings."""
    pairs = []
    while len(pairs) < count:
        text = rng.choice(strings)
        if rng.random() < 0.5:
            cut = rng.randint(0, len(text))
            pairs.append((text[:cut], text[cut:]))
        else:
            pairs.append((text, rng.choice(FOLLOWERS) + (rng.choice(strings)[:20] if rng.random() < 0.5 else b"")))
    bad = 0
    for flags in ([], ["--parse-special"]):
        payload = pack_texts([part for pair in pairs for part in pair])
        records = unpack(drive(driver, path, ["pieces"] + flags, payload), 4)
        differ, certain, given = [], 0, 0
        for i, pair in enumerate(pairs):
            found, expected, stable = records[3 * i : 3 * i + 3]
            certain += struct.unpack("<i", stable)[0]
            given += len(pair[0])
            if found != expected:
                differ.append((pair, struct.unpack("<%di" % (len(found) // 4), found),
                               struct.unpack("<%di" % (len(expected) // 4), expected)))
        bad += report(name, "pieces%s, %.0f %% certain" % (", special" if flags else "", 100 * certain / given), differ,
                      len(pairs))
        if certain < 0.5 * given and name not in NEVER_CERTAIN:
            print("  %s: less than half of the first pieces is certain" % name)
            bad += 1
    return bad


# Questions: none, with a blank, with a mark, with the rest of an emoji before them.
QUESTIONS = [b"", b" ", b" Why?", "\u0301".encode(), "\u0327 x".encode(), "\U0001f600".encode()[2:], b"\n\nQ: ", b"Who?\n"]


def sessions(driver, name, path, strings, rng, count):
    """The number of sessions whose tokens are not those of one text: a document in two pieces, and a question."""
    triples = []
    while len(triples) < count:
        document = rng.choice(strings) or b"x"
        if rng.random() < 0.3:
            document += "\U0001f600".encode()[:rng.randint(1, 3)]
        cut = rng.randint(0, len(document))
        question = rng.choice(QUESTIONS) if rng.random() < 0.5 else rng.choice(strings)[:30]
        triples.append((document[:cut], document[cut:], question))
    bad = 0
    payload = pack_texts([part for triple in triples for part in triple])
    for flags in ([], ["--parse-special"]):
        records = unpack(drive(driver, path, ["session"] + flags, payload), 4)
        assert len(records) == 6 * len(triples)
        for i, form in enumerate(("plain", "chat", "trimmed chat")):
            differ = [(t, records[6 * n + 2 * i], records[6 * n + 2 * i + 1]) for n, t in enumerate(triples)
                      if records[6 * n + 2 * i] != records[6 * n + 2 * i + 1]]
            bad += report(name, "session, %s%s" % (form, ", special" if flags else ""), differ, len(triples))
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True, help="the tokenize program that tests/golden builds")
    parser.add_argument("--strings", type=int, default=100000, help="strings per tokenizer, times DUO_TEST_SCALE of the environment")
    parser.add_argument("--tokenizer", action="append", default=[], help="a tokenizer.json to compare besides")
    parser.add_argument("--kinds", default=",".join(k.__name__ for k in KINDS), help="which kinds to train")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    scale = int(os.environ.get("DUO_TEST_SCALE", "1"))
    args.strings *= scale
    rng = random.Random(args.seed)
    corpus = paragraphs()
    strings = [b"", b" ", b"\n", b"a", b"\xff", b"<s>", b"  <s>  ", b"word word"]
    strings += [make_string(rng, corpus) for _ in range(args.strings - len(strings))]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        files = [(os.path.basename(os.path.dirname(os.path.abspath(p))), p) for p in args.tokenizer]
        for kind in KINDS:
            if kind.__name__ not in args.kinds.split(","):
                continue
            path = os.path.join(folder, kind.__name__ + ".json")
            with open(path, "w", encoding="utf-8") as f:
                json.dump(kind(corpus), f, ensure_ascii=False)
            files.append((kind.__name__, path))
        for name, path in files:
            bad += compare(args.driver, name, path, strings, rng)
            bad += pieces(args.driver, name, path, strings, rng, max(1000, args.strings // 5))
            bad += sessions(args.driver, name, path, strings, rng, 1000 * scale)
    print("tokenizers %s: %d strings, %d tokenizers, %d differences" % (tokenizers.__version__, len(strings), len(files), bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
