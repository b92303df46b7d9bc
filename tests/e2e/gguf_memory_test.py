#!/usr/bin/env python3
"""Loading a GGUF file takes no more memory than `duo plan` says: the file does not stand in memory beside the weights.

    gguf_memory_test.py --duo build/duo [--megabytes 270]

Makes a llama of Q4_K with so many bytes, whose weights are all zero, so that the file is sparse and takes no room on the
disk, and one of a single layer. What answering with the one takes more than with the other, at its peak and with the
file's mapped pages counted, must be no more than the plan has for weights and KV cache, and a little.
Standard library only.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 2048, 8192, 32, 8, 512
F32, Q4_K = 0, 12
U32, FLOAT, STRING, ARRAY = 4, 6, 8, 9
SLACK = 24 << 20  # room for rows while they are converted, and what else grows with the number of layers


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, x):
    if kind == STRING:
        return text(x)
    if kind == ARRAY:
        element, items = x
        return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
    return struct.pack({U32: "<I", FLOAT: "<f"}[kind], x)


def byte_tokens():
    """GPT-2's letters for bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)] + ["ab"] + [f"<{i}>" for i in range(VOCAB - 257)]


def write_model(path, layers):
    kv = HIDDEN // HEADS * KV_HEADS
    keys = [("general.architecture", STRING, "llama"), ("llama.block_count", U32, layers), ("llama.context_length", U32, 1024),
            ("llama.embedding_length", U32, HIDDEN), ("llama.feed_forward_length", U32, FFN), ("llama.attention.head_count", U32, HEADS),
            ("llama.attention.head_count_kv", U32, KV_HEADS), ("llama.attention.layer_norm_rms_epsilon", FLOAT, 1e-5),
            ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "gpt-2"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, byte_tokens())), ("tokenizer.ggml.merges", ARRAY, (STRING, ["a b"]))]
    tensors = [("token_embd.weight", (HIDDEN, VOCAB), Q4_K), ("output.weight", (HIDDEN, VOCAB), Q4_K), ("output_norm.weight", (HIDDEN,), F32)]
    for i in range(layers):
        tensors += [(f"blk.{i}.{name}.weight", dims, F32 if len(dims) == 1 else Q4_K) for name, dims in (
            ("attn_norm", (HIDDEN,)), ("ffn_norm", (HIDDEN,)), ("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (HIDDEN, kv)),
            ("attn_v", (HIDDEN, kv)), ("attn_output", (HIDDEN, HIDDEN)), ("ffn_gate", (HIDDEN, FFN)), ("ffn_up", (HIDDEN, FFN)),
            ("ffn_down", (FFN, HIDDEN)))]
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    header += b"".join(text(name) + struct.pack("<I", kind) + value(kind, x) for name, kind, x in keys)
    offset = 0
    for name, dims, kind in tensors:
        header += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        offset += (count * 4 if kind == F32 else count // 256 * 144) + 31 & ~31
    with open(path, "wb") as file:
        file.write(header)
        file.truncate((len(header) + 31 & ~31) + offset)


def run(command):
    """What it wrote, and its memory at most."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, errors = process.stdout.read(), process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command)} exited with {process.returncode}: {errors[-2000:]}")
    return json.loads(out), used.ru_maxrss << 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--megabytes", type=int, default=270, help="times DUO_TEST_SCALE of the environment, up to 4,300")
    args = parser.parse_args()
    scale = int(os.environ.get("DUO_TEST_SCALE", "1"))
    with tempfile.TemporaryDirectory() as work:
        peaks, planned, sizes = [], [], []
        small, large = os.path.join(work, "small.gguf"), os.path.join(work, "large.gguf")
        write_model(small, 1)
        layer = os.path.getsize(small)
        write_model(large, max(2, round(min(args.megabytes * scale, 4300) * 1e6 / layer)))
        for path in (small, large):
            plan, _ = run([args.duo, "plan", "--model", path, "--world", "1", "--attention", "full", "--context", "128", "--json"])
            _, peak = run([args.duo, "generate", "--model", path, "--prompt", "abc", "--max-new-tokens", "2", "--ignore-eos",
                           "--attention", "full", "--device", "cpu", "--threads", "1", "--json"])
            peaks.append(peak)
            planned.append(plan["memory"]["weights"] + plan["memory"]["kv"])
            sizes.append(os.path.getsize(path))
        more, allowed = peaks[1] - peaks[0], planned[1] - planned[0] + SLACK
        good = more <= allowed and planned[1] <= 1.12 * sizes[1]  # sub-scales take a byte each, in the file 6 bits
        print(f"{'ok' if good else 'FAILED'} {(sizes[1] - sizes[0]) / 1e6:.0f} MB more of file: {more / 1e6:.0f} MB more of memory at the "
              f"peak, {(planned[1] - planned[0]) / 1e6:.0f} MB in the plan")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
