#!/usr/bin/env python3
"""Made tests/anchors/published_heads.tsv: which heads of the patterns released with the DuoAttention paper are retrieval heads.

    make_published_heads.py FOLDER      (FOLDER/MODEL/RUN/full_attention_heads.tsv, from github.com/mit-han-lab/duo-attention)

The patterns are not part of this project; tests of placements need only what follows from them. A line has the model, the
sparsity, the KV heads a layer, and for each layer, first layer first, its heads as a hexadecimal number, head 0 the lowest bit. The rule is that
of attn_patterns/head_plan.h, written again here; attn_patterns_test compares where the patterns themselves are at hand.
"""

import math
import os
import sys

MASK = (1 << 64) - 1


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for model in sorted(os.listdir(sys.argv[1])):
        folder = os.path.join(sys.argv[1], model)
        if not os.path.isdir(folder):
            continue
        (run,) = os.listdir(folder)
        with open(os.path.join(folder, run, "full_attention_heads.tsv"), encoding="ascii") as file:
            gates = [[min(max(float(x), 0), 1) for x in line.split("\t")] for line in file]
        heads = len(gates[0])
        flat = [gate for layer in gates for gate in layer]
        order = sorted(range(len(flat)), key=lambda i: (-flat[i], splitmix64(i)))
        for sparsity in (0.5, 0.75):
            kept = set(order[:math.floor((1 - sparsity) * len(flat) + 0.5)])
            masks = (sum(1 << h for h in range(heads) if layer * heads + h in kept) for layer in range(len(gates)))
            print(model, sparsity, heads, *(f"{mask:x}" for mask in masks), sep="\t")


if __name__ == "__main__":
    main()
