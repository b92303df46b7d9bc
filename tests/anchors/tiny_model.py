"""The made-up model that the saved sessions of tests/anchors/saved belong to: `write(folder)`. Standard library only.

Two layers, six heads of 64 on three KV heads, the demo model's tokenizer. Every weight follows from a counter, by the rule
of tests/golden/golden_model.cc: element i takes u = the top byte of splitmix64(fnv1a64(tensor name) + i) and is
(2u - 255) * 2^-exponent, or, in a norm's weight, (192 + u % 64) / 256. Nothing of it may change: a saved session carries
its model's fingerprint.
"""

import array
import json
import os
import shutil
import struct
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MASK = (1 << 64) - 1
HIDDEN, INTER, LAYERS, HEADS, KV_HEADS, DIM, VOCAB = 64, 96, 2, 6, 3, 64, 4096
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM,
    "vocab_size": VOCAB, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "max_position_embeddings": 8192,
    "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "float32",
}
GATES = "1\t0\t0\n0\t0\t1\n"  # a retrieval head a layer
PATTERN = {"sink_size": 4, "recent_size": 24}


def fnv1a64(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def values(name, count, exponent):
    """f32, little-endian; exponent None: a norm's weight."""
    base = fnv1a64(name)
    out = array.array("f")
    for i in range(count):
        u = splitmix64((base + i) & MASK) >> 56
        out.append((192 + u % 64) / 256 if exponent is None else (2 * u - 255) * 2.0**-exponent)
    if sys.byteorder != "little":
        out.byteswap()
    return out.tobytes()


def tensors():
    """(name, shape, exponent) in the order of the file."""
    yield "model.embed_tokens.weight", [VOCAB, HIDDEN], 9
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        yield at + "self_attn.q_proj.weight", [HEADS * DIM, HIDDEN], 9
        yield at + "self_attn.k_proj.weight", [KV_HEADS * DIM, HIDDEN], 9
        yield at + "self_attn.v_proj.weight", [KV_HEADS * DIM, HIDDEN], 9
        yield at + "self_attn.o_proj.weight", [HIDDEN, HEADS * DIM], 8
        yield at + "mlp.gate_proj.weight", [INTER, HIDDEN], 10
        yield at + "mlp.up_proj.weight", [INTER, HIDDEN], 10
        yield at + "mlp.down_proj.weight", [HIDDEN, INTER], 11
        yield at + "input_layernorm.weight", [HIDDEN], None
        yield at + "post_attention_layernorm.weight", [HIDDEN], None
    yield "model.norm.weight", [HIDDEN], None
    yield "lm_head.weight", [VOCAB, HIDDEN], 8


def write(folder):
    os.makedirs(os.path.join(folder, "attn_pattern"))
    header, data = {}, b""
    for name, shape, exponent in tensors():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        blob = values(name, count, exponent)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG, file)
    with open(os.path.join(folder, "attn_pattern", "full_attention_heads.tsv"), "w", encoding="utf-8") as file:
        file.write(GATES)
    with open(os.path.join(folder, "attn_pattern", "config.json"), "w", encoding="utf-8") as file:
        json.dump(PATTERN, file)
    shutil.copy(os.path.join(ROOT, "launcher", "demo", "needle-6m", "tokenizer.json"), folder)
