"""Writes rope.json: RoPE frequencies as Hugging Face transformers computes them, for tests/unit/runtime/rope_test.cc.

Every case holds a config.json object, the sequence length, and what transformers' functions give for it: `inv_freq`
with their f32 arithmetic replaced by f64 (the same formula, so that a test can be tight), `inv_freq_f32` as shipped.
Needs: pip install torch transformers (made with transformers 5.x).

usage: python3 make_rope_golden.py > rope.json
"""
import json

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# name, head_dim, max_position_embeddings, sequence length, rope parameters in transformers 5's layout
CASES = [
    ("llama-2", 128, 4096, 4096, {"rope_type": "default", "rope_theta": 10000.0}),
    ("ugly sizes", 10, 77, 50, {"rope_type": "default", "rope_theta": 1234.5}),
    ("llama-2-32k", 128, 32768, 100, {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}),
    ("dynamic, short", 64, 4096, 1000, {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}),
    ("dynamic, long", 64, 4096, 20001, {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}),
    ("llama-3.1", 128, 131072, 9, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}),
    ("llama-3.2", 64, 131072, 9, {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
     "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0}),
    ("qwen2.5 yarn", 128, 32768, 9, {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1000000.0,
     "original_max_position_embeddings": 32768}),
    ("yarn, default original", 64, 2048, 9, {"rope_type": "yarn", "factor": 2.5, "rope_theta": 10000.0}),
    ("yarn, mscale", 64, 163840, 9, {"rope_type": "yarn", "factor": 40.0, "rope_theta": 10000.0, "mscale": 0.707,
     "mscale_all_dim": 1.3, "beta_fast": 16.0, "beta_slow": 2.0, "original_max_position_embeddings": 4096}),
    ("yarn, untruncated", 32, 131072, 9, {"rope_type": "yarn", "factor": 32.0, "rope_theta": 150000.0,
     "truncate": False, "attention_factor": 1.25, "original_max_position_embeddings": 4096}),
]


def frequencies(config, length):
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=length)


cases = []
for name, head_dim, positions, length, rope in CASES:
    config = {"model_type": "llama", "hidden_size": 4 * head_dim, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head_dim, "vocab_size": 100,
              "max_position_embeddings": positions, "rope_parameters": rope}
    single, factor = frequencies(LlamaConfig(**json.loads(json.dumps(config))), length)
    plain = torch.float, torch.float32
    torch.float = torch.float32 = torch.float64  # the functions name these types
    double, _ = frequencies(LlamaConfig(**json.loads(json.dumps(config))), length)
    torch.float, torch.float32 = plain
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    cases.append({"name": name, "config": config, "max_tokens": length, "attention_factor": float(factor),
                  "inv_freq": double.tolist(), "inv_freq_f32": single.tolist()})
print("[" + ",\n".join(json.dumps(case) for case in cases) + "]")
