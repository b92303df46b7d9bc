#!/usr/bin/env python3
"""Writes gguf_blocks.json: blocks of every GGUF type that duo reads, and the values that PyPI's gguf 0.19.0 gives them.

    make_gguf_blocks.py > gguf_blocks.json

Bytes are random from a fixed seed, but for scales, which are f16 of ordinary size (and e8m0 exponents near 1), so that
all values are finite.
"""

import json
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

TYPES = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]
# Where a block's f16 scales begin.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2],
          T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0]}
ELEMENTS = 256


def blocks_of(kind, random):
    size, width = GGML_QUANT_SIZES[kind]
    if size == 1:
        values = random.standard_normal(ELEMENTS).astype(np.float32)
        if kind == T.F32:
            return values.view(np.uint8)
        return (values.astype(np.float16) if kind == T.F16 else (values.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8)
    blocks = random.integers(0, 256, (ELEMENTS // size, width), dtype=np.uint8)
    for at in SCALES.get(kind, []):
        scales = (random.standard_normal(len(blocks)) * 0.05).astype(np.float16)
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        blocks[:, 0] = random.integers(110, 140, len(blocks))
        blocks[:2, 0] = [0, 1]  # where the scale is below f32's normal numbers
    return blocks.reshape(-1)


def main():
    random = np.random.default_rng(20261129)
    out = []
    for kind in TYPES:
        blocks = blocks_of(kind, random)
        values = np.asarray(dequantize(blocks, kind), dtype=np.float32).reshape(-1)
        assert len(values) == ELEMENTS and np.isfinite(values).all()
        out.append({"type": kind.name, "number": int(kind), "blocks": blocks.tobytes().hex(),
                    "values": values.astype("<f4").tobytes().hex()})
    json.dump(out, sys.stdout, indent=0)
    print()


if __name__ == "__main__":
    main()
