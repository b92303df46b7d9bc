#!/usr/bin/env python3
"""The language of the recall tasks: its words, its tokenizer, and documents of any length with their questions.

    recall_tasks.py --tokens 4000 --documents 16 --seed 1 --out FOLDER      what recall.py gives to `duo bench recall`

A document is lines of filler, and between them lines that state something about a key of two words:

    amber falcon is bad dek                  note: one of many similar keys, each word of which many share
    quiet otter has gub                      list: four such lines, each with another value
    vivid oak leads keen lion                link: two to four in a chain, the last key of which `leads end`
    rapid wolf votes mid                     vote: many, for a few words, one of which has most

`ask amber falcon is` asks, behind the lines that it needs, and what a model writes next is the answer up to the end of the
line: ` bad dek`; the four values of a list in any order; ` keen lion leads brave maple leads end`; the word with most votes.
Some questions stand in the document with their answers, and are judged by what the model predicts while it reads; others
are asked when it has read all.

Standard library only. train_recall.py has the same lines as tensors.
"""

import argparse
import json
import os
import random
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "launcher", "demo"))
from needle_document import ADJECTIVES, NOUNS  # noqa: E402

VALUES = [a + b + c for a in "bdfgklmnprtvz" for b in "aeiou" for c in "bdgk"]
FILLERS = [a + b for a in "bdfgklmnprtvz" for b in "aeiou"]
VERBS = {"note": "is", "list": "has", "link": "leads", "vote": "votes"}
TASKS = tuple(VERBS)
ASK, END, LINE_END = "ask", "end", "\n"
WORDS = [ASK, END, *VERBS.values(), *ADJECTIVES, *NOUNS, *VALUES, *FILLERS]
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
LIST_VALUES, HOPS, CANDIDATES, TOP_SHARE = 4, (2, 4), 8, 0.35


def byte_alphabet():
    """The letters that byte-level BPE writes bytes in."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        letters.setdefault(byte, chr(256 + len(letters) - len(plain)))
    return [letters[byte] for byte in range(256)]


def tokenizer_json():
    """Byte-level BPE in which each word, with the blank before it, is a token: merges make its beginnings, one by one."""
    letters = byte_alphabet()
    tokens, merges = [BOS, EOS, *letters], []
    seen = set(tokens)
    for word in sorted(WORDS, key=lambda w: (len(w), w)):
        spelled = [letters[byte] for byte in (" " + word).encode()]
        for end in range(2, len(spelled) + 1):
            piece = "".join(spelled[:end])
            if piece not in seen:
                seen.add(piece)
                tokens.append(piece)
                merges.append(["".join(spelled[:end - 1]), spelled[end - 1]])
    specials = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True} for i, text in enumerate((BOS, EOS))]
    split = {"type": "Split", "pattern": {"Regex": r" ?[^\s\p{L}\p{N}]+| ?[\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"},
             "behavior": "Isolated", "invert": False}
    begin = {"id": BOS, "ids": [0], "tokens": [BOS]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                split, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": BOS, "type_id": 0}},
                                                                        {"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {BOS: begin}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}}


def word_ids():
    """Of each word, with the blank before it, and of the line's end."""
    letters, vocab = byte_alphabet(), tokenizer_json()["model"]["vocab"]
    ids = {word: vocab["".join(letters[byte] for byte in (" " + word).encode())] for word in WORDS}
    ids[LINE_END] = vocab[letters[ord("\n")]]
    return ids


def vote_counts(votes, candidates=CANDIDATES):
    """How many each word gets: the first the most, the others alike."""
    top = -int(-votes * TOP_SHARE // 1)
    rest = votes - top
    return [top] + [rest // (candidates - 1) + (i < rest % (candidates - 1)) for i in range(candidates - 1)]


def sizes(tokens):
    """How much a document of so many tokens states. From 64,000 tokens on all have the same, in ever more filler."""
    share = min(1.0, tokens / 32000)

    def many(most, least):
        return max(least, round(most * share))
    return {"note": many(500, 60), "list": many(40, 15), "link": many(40, 12),
            "vote": max(6, round(min(2.0, tokens / 32000) * 64)), "votes": 24 + round(16 * share)}


def facts_of(task, key, keys, rng, votes):
    """The lines that state a fact about a key, and its answer. Links take their other keys from `keys`."""
    verb = VERBS[task]
    if task == "note":
        answer = f" {rng.choice(VALUES)} {rng.choice(VALUES)}"
        return [f" {key} {verb}{answer}"], answer
    if task == "list":
        values = rng.sample(VALUES, LIST_VALUES)
        return [f" {key} {verb} {v}" for v in values], "".join(f" {v}" for v in values)
    if task == "link":
        chain = [key] + [keys.pop() for _ in range(rng.randint(*HOPS))] + [END]
        return [f" {a} {verb} {b}" for a, b in zip(chain, chain[1:])], f" {verb}".join(f" {k}" for k in chain[1:])
    words = rng.sample(VALUES, CANDIDATES)
    return [f" {key} {verb} {w}" for w, count in zip(words, vote_counts(votes)) for _ in range(count)], f" {words[0]}"


def inside_questions(question, at):
    """What is judged of an answer that begins at this byte of the document: all of it; of a chain each hop by itself."""
    if question["task"] != "link":
        return [{"task": question["task"], "at": at, "answer": question["answer"], **({"any_order": True} if "any_order" in question else {})}]
    verb, hops = f" {VERBS['link']}", []
    for hop in question["answer"].split(verb):
        hops.append({"task": "link", "at": at, "answer": hop})
        at += len(hop) + len(verb)
    return hops


def build(tokens, seed):
    """{document, inside: [{task, at, answer}], questions: [{task, ask, answer, any_order}]}: about so many tokens.

    inside: questions that stand in the document, their answers at byte `at`. Half of the questions of lists and links
    do, three quarters of the others."""
    rng = random.Random(seed)
    keys = [f"{a} {n}" for a in ADJECTIVES for n in NOUNS]
    rng.shuffle(keys)
    size = sizes(tokens)
    lines, questions = [], []  # (time, text, index of the question that it holds)
    for task in TASKS:
        for i in range(size[task]):
            key = keys.pop()
            facts, answer = facts_of(task, key, keys, rng, size["votes"])
            times = [rng.random() for _ in facts]
            lines += [(t, fact, None) for t, fact in zip(times, facts)]
            question = {"task": task, "ask": f" {ASK} {key} {VERBS[task]}", "answer": answer}
            if task == "list":
                question["any_order"] = True
            if i % (2 if task in ("list", "link") else 4):
                last = max(times)
                lines.append((last + (1 - last) * rng.random(), question["ask"] + answer, len(questions)))
            questions.append(question)
    used = 1 + sum(text.count(" ") + 1 for _, text, _ in lines)
    while used < tokens:
        words = rng.choices(FILLERS, k=rng.randint(4, 12))
        lines.append((rng.random(), "".join(f" {w}" for w in words), None))
        used += len(words) + 1
    lines.sort(key=lambda line: line[0])
    pieces, at, inside = [], 0, []
    for _, text, index in lines:
        if index is not None:
            q = questions[index]
            inside += inside_questions(q, at + len(q["ask"]))
        pieces.append(text + LINE_END)
        at += len(text) + len(LINE_END)
    held = {index for _, _, index in lines}
    return {"document": "".join(pieces), "inside": inside, "questions": [q for i, q in enumerate(questions) if i not in held]}


def write(folder, tokens, documents, seed):
    """FOLDER/I.txt and FOLDER/I.json for each; the names of the latter."""
    os.makedirs(folder, exist_ok=True)
    names = []
    for i in range(documents):
        built = build(tokens, seed * 1000003 + i)
        text = os.path.join(folder, f"{i}.txt")
        with open(text, "w", encoding="utf-8", newline="") as file:
            file.write(built["document"])
        names.append(os.path.join(folder, f"{i}.json"))
        with open(names[-1], "w", encoding="utf-8") as file:
            json.dump({**built, "document": text}, file)
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder")
    args = parser.parse_args()
    print("\n".join(write(args.out, args.tokens, args.documents, args.seed)))


if __name__ == "__main__":
    main()
