#!/usr/bin/env python3
"""Make tests/golden/models/*.json: what Hugging Face transformers computes for tiny random models and for needle-6m.

    make_goldens.py [NAME...]        all of them, or those named

Needs pip packages torch==2.15.0, transformers==5.23.0, tokenizers, safetensors, numpy==2.4.6 (CPU), and
compressed-tensors==0.20.1 for the models that are quantised so. Written once and committed; golden_test.cc compares duo
with these files.

No weights are committed. Every tensor follows from a counter, here and in golden_model.cc alike: element i of a tensor
takes u = the top byte of splitmix64(fnv1a64(tensor name) + i), and is (2u - 255) * 2^-exponent, or, in a norm's weight,
(192 + u % 64) / 256, or in one of bytes ("bytes": [first, spread]) first + u % spread. Eight significant bits, so bf16, f16 and f32 files hold the same numbers. From element "zero_from"
on, where a tensor has that, it is 0. A tensor of e4m3 codes ("e4m3": true) has u, a NaN's with its bit 6 turned; one of
scales ("scale": e) has (192 + u % 64) / 256 * 2^-e in f32, with "step": 2 of even numerators alone: a zero of 4 bits times
such a scale is a number of f16. One of packed codes ("words": true) has four u a word, the
first in its lowest byte, one of int8 codes ("int8": true) has u as a signed byte.

Which of compressed-tensors' groups a module is of, and what its codes stand for, is what that package's own matching and
decompression say.

Each file holds config (config.json as it is written), dtype and shards of the safetensors, the tensors with their
exponents, the prompt, and for full attention and for duo (retrieval heads in every layer but a small sink and recent
window in the others, by an eager attention with exactly those masks): the last token's logits in f32, 16 greedy tokens,
by how much the best logit led at each, and bf16_error: the largest difference of a plain bf16 run to the f32 run over
the logits of these 16 steps. The tolerance of a comparison is twice that error.

transformers has no dual chunk attention: the numbers of models whose config asks for it are its layers with an eager
attention that is written here from the publication (arXiv 2402.17463; the scale of scores from arXiv 2501.15383).

`dynamic` RoPE: transformers grows its base with the longest pass so far; the numbers are taken after one pass over
max_tokens tokens, which is what a duo session of max_tokens holds to from its start.
"""

import json
import math
import os
import sys

import numpy as np
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, eager_mask

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from needle_document import build, read_text  # noqa: E402
from score_heads import streaming_heads  # noqa: E402

NEW_TOKENS = 16
MASK64 = np.uint64(0xFFFFFFFFFFFFFFFF)


def model(name, model_type, hidden, inter, layers, heads, kv_heads, head_dim, vocab, prompt, dtype="bfloat16", shards=1,
          tied=False, **more):
    config = {"architectures": [{"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
                                 "qwen3": "Qwen3ForCausalLM", "mixtral": "MixtralForCausalLM",
                                 "qwen2_moe": "Qwen2MoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
                                 "gpt_oss": "GptOssForCausalLM"}[model_type]],
              "model_type": model_type, "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab, "rms_norm_eps": 1e-5,
              "hidden_act": "silu", "tie_word_embeddings": tied, "torch_dtype": dtype, "bos_token_id": 1,
              "eos_token_id": vocab - 1, "rope_theta": 10000.0, "max_position_embeddings": 512}
    if head_dim * heads != hidden:
        config["head_dim"] = head_dim
    idle = more.pop("idle_expert", False)
    config.update(more)
    config = {key: value for key, value in config.items() if value is not None}
    spec = {"name": name, "config": config, "dtype": dtype, "shards": shards, "prompt_tokens": prompt}
    if idle:
        spec["idle_expert"] = config["num_experts"] - 1
    return spec


FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
              "modules_to_not_convert": ["lm_head", "mlp.gate"]}



def scheme(bits, kind="int", strategy="channel", **more):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False, **more}


def mixed(ignore, *groups, **more):
    """groups: (format, targets, weights), named in order."""
    named = {f"group_{i}": {"format": fmt, "targets": targets, "weights": weights, "input_activations": None}
             for i, (fmt, targets, weights) in enumerate(groups)}
    return {"quant_method": "compressed-tensors", "format": "mixed-precision", "quantization_status": "compressed",
            "ignore": ignore, "config_groups": named, **more}


# Attention in fp8, the rest by its class; an exact name wins over both, so that q, k and v of layer 1 have three formats,
# and o of layer 0 is left alone. Gate and up differ in their groups alone. The head is quantised, the embedding is not.
MIXED = mixed(["model.layers.0.self_attn.o_proj"],
              ("float-quantized", ["re:.*self_attn.*"], scheme(8, "float")),
              ("pack-quantized", ["Linear"], scheme(4, strategy="group", group_size=64, symmetric=False)),
              ("naive-quantized", ["model.layers.1.self_attn.k_proj", "re:model[.]layers[.]\\d+[.]mlp[.]down_proj$"], scheme(8)),
              ("pack-quantized", ["re:.*mlp.up_proj"], scheme(4, strategy="group", group_size=32)),
              ("pack-quantized", ["model.layers.1.self_attn.v_proj", "lm_head"], scheme(8, strategy="group", group_size=32)))
# Experts in int4 with zeros, all but the router and the head quantised; a group of a layer's queries alone and a KV cache
# that duo has of its own. Rows and columns that fill no last word.
MIXED_EXPERTS = mixed(["lm_head", "re:.*mlp.gate$"],
                      ("float-quantized", ["Linear"], scheme(8, "float", "block", block_structure=[128, 128])),
                      ("pack-quantized", ["re:.*experts.*(gate|up)_proj"],
                       scheme(4, strategy="group", group_size=32, symmetric=False)),
                      ("pack-quantized", ["re:.*experts.*down_proj"], scheme(8, strategy="group", group_size=16)),
                      (None, ["re:.*self_attn$"], None),
                      kv_cache_scheme=scheme(8, "float", "tensor"))

MODELS = [
    model("llama_mha_untied", "llama", 72, 88, 2, 3, 3, 64, 257, 181, dtype="float32"),
    model("llama_gqa_tied_biases_sharded", "llama", 384, 104, 2, 6, 2, 64, 203, 211, shards=3, tied=True,
          attention_bias=True, mlp_bias=True),
    model("llama_mqa_f16", "llama", 80, 120, 3, 5, 1, 128, 311, 163, dtype="float16"),
    model("llama_linear", "llama", 80, 96, 2, 4, 2, 64, 229, 299, rope_scaling={"type": "linear", "factor": 4.0}),
    model("llama_dynamic", "llama", 256, 136, 2, 4, 2, 64, 241, 219, max_position_embeddings=64,
          rope_scaling={"type": "dynamic", "factor": 8.0}),
    model("llama3_sharded", "llama", 96, 112, 2, 6, 3, 128, 263, 293, shards=2, rope_theta=500000.0, tied=True,
          rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64}),
    model("llama_yarn", "llama", 104, 72, 2, 4, 4, 64, 277, 231, max_position_embeddings=256,
          rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    model("mistral_head_dim", "mistral", 96, 152, 2, 4, 2, 128, 283, 197, sliding_window=None, rope_theta=1000000.0),
    model("mistral_window", "mistral", 120, 88, 2, 6, 3, 64, 239, 223, sliding_window=37),
    model("qwen2_tied", "qwen2", 192, 96, 2, 3, 1, 64, 251, 187, tied=True, rope_theta=1000000.0, dtype="float32"),
    model("qwen2_yarn_sharded", "qwen2", 256, 120, 2, 4, 2, 64, 269, 239, shards=2, max_position_embeddings=64,
          rope_theta=1000000.0, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    # The layout of transformers 5: dtype, and rope_theta inside rope_parameters.
    model("qwen3_norms", "qwen3", 136, 168, 2, 5, 5, 128, 293, 173, tied=True, torch_dtype=None, dtype="bfloat16",
          rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    model("mixtral_sharded", "mixtral", 96, 56, 2, 4, 2, 64, 271, 193, shards=2, num_local_experts=5,
          num_experts_per_tok=2, sliding_window=None, rope_theta=1000000.0),
    # Weights that do not add up to 1, an expert for all tokens, and a layer without experts between two that have them.
    model("qwen2_moe_shared", "qwen2_moe", 192, 88, 3, 3, 1, 64, 239, 207, dtype="float32", num_experts=7,
          num_experts_per_tok=3, moe_intermediate_size=40, shared_expert_intermediate_size=72, norm_topk_prob=False,
          mlp_only_layers=[1], decoder_sparse_step=1),
    # The last expert's row of the router is zero, and no token of the golden chooses it.
    model("qwen3_moe_idle_expert", "qwen3_moe", 136, 168, 2, 6, 3, 128, 281, 179, num_experts=19, idle_expert=True,
          num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True, torch_dtype=None, dtype="bfloat16",
          rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
    # fp8 in blocks of 128 x 128, the last of a row and of a column cut off: columns that are whole pieces of CUDA's kernels
    # and that are not; heads narrower than a block. Then experts.
    model("qwen3_fp8_blocks", "qwen3", 192, 328, 2, 6, 3, 64, 263, 191, shards=2, quantization_config=FP8_BLOCKS),
    model("qwen3_moe_fp8_blocks", "qwen3_moe", 208, 168, 2, 6, 3, 128, 277, 151, num_experts=5, num_experts_per_tok=4,
          moe_intermediate_size=144, norm_topk_prob=True, quantization_config=FP8_BLOCKS),
    model("qwen3_mixed_groups", "qwen3", 192, 328, 2, 6, 3, 64, 263, 191, shards=2, quantization_config=MIXED),
    model("qwen3_moe_mixed_groups", "qwen3_moe", 224, 168, 2, 6, 3, 128, 277, 151, num_experts=5, num_experts_per_tok=4,
          moe_intermediate_size=48, norm_topk_prob=True, quantization_config=MIXED_EXPERTS),
    # A channel a scale, of 4 bits with zeros: rows that fill no last word.
    model("llama_mixed_channels", "llama", 96, 100, 2, 6, 2, 64, 203, 187, tied=True, dtype="float16",
          quantization_config=mixed([], ("pack-quantized", ["Linear"], scheme(4, symmetric=False)),
                                    ("pack-quantized", ["re:.*self_attn.[kv]_proj"], scheme(8)),
                                    ("int-quantized", ["re:.*down_proj"], scheme(8, strategy="tensor")))),
    # Windows that the recent tokens of streaming heads cover, and longer ones; gates that reach their clamp. The prompt is
    # so long that no choice of an expert hangs on the last bit of bf16, which made the error of one run 7 times another's.
    model("gpt_oss_mxfp4", "gpt_oss", 160, 96, 3, 6, 2, 64, 277, 97, num_local_experts=6, num_experts_per_tok=2,
          sliding_window=13, swiglu_limit=1.0, attention_bias=True, rope_theta=150000.0,
          rope_scaling={"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                        "original_max_position_embeddings": 64},
          quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": [
              "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}),
    model("gpt_oss_stacked", "gpt_oss", 104, 40, 2, 4, 4, 64, 251, 183, dtype="float32", shards=2, num_local_experts=5,
          num_experts_per_tok=3, sliding_window=29, attention_bias=True, rope_theta=150000.0,
          layer_types=["full_attention", "sliding_attention"],
          rope_scaling={"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                        "original_max_position_embeddings": 128}),
    # Chunks of 57, so the prompt has four of them and streaming heads' recent tokens lie across a bound; some distances
    # are cut at 83. Then chunks of 40 that are shorter than what is added to them, so that none is cut, and no scale.
    model("qwen2_dual_chunk", "qwen2", 192, 96, 2, 6, 2, 64, 251, 211, rope_theta=1000000.0, dtype="float32",
          dual_chunk_attention_config={"chunk_size": 83, "local_size": 26, "original_max_position_embeddings": 71}),
    model("qwen3_moe_dual_chunk", "qwen3_moe", 136, 168, 2, 6, 3, 128, 281, 179, num_experts=7, num_experts_per_tok=3,
          moe_intermediate_size=24, norm_topk_prob=True,
          dual_chunk_attention_config={"chunk_size": 100, "local_size": 60},
          rope_scaling={"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 100}),
]


def splitmix64(x):
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def exponent(name, shape):
    """Power of two that makes a matrix's entries about gain / sqrt(columns) in size; q and k large enough for attention
    to have opinions, lm_head large enough for the best token to lead."""
    if name.endswith("norm.weight"):
        return None
    if name.endswith(".sinks"):
        return 7
    if name.endswith("bias"):
        return 9
    if "embed_tokens" in name:
        return 8
    gain = {"q_proj": 1.2, "k_proj": 1.2, "o_proj": 2, "lm_head": 4, "gate": 2, "router": 2}.get(name.split(".")[-2], 1.0)
    return round(math.log2(148 * math.sqrt(shape[1]) / gain))


def fill(name, shape, exp):
    count = math.prod(shape)
    u = (splitmix64(np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64)) >> np.uint64(56)).astype(np.float64)
    values = (192 + u % 64) / 256 if exp is None else (2 * u - 255) * 2.0**-exp
    return values.astype(np.float32).reshape(shape)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


def draw_bytes(tensor):
    """A tensor of bytes: first + u % spread."""
    first, spread = tensor["bytes"]
    count = math.prod(tensor["shape"])
    u = splitmix64(np.uint64(fnv1a64(tensor["name"])) + np.arange(count, dtype=np.uint64)) >> np.uint64(56)
    return (first + u.astype(np.int64) % spread).reshape(tensor["shape"])


def mxfp4(name, shape, tensors):
    """The parameter [experts, inputs, outputs] of the blocks and scales that are added to the tensors."""
    experts, inputs, outputs = shape
    blocks = {"name": name + "_blocks", "shape": [experts, outputs, inputs // 32, 16], "bytes": [0, 256]}
    scales = {"name": name + "_scales", "shape": [experts, outputs, inputs // 32], "bytes": [121, 3]}
    tensors += [blocks, scales]
    codes = draw_bytes(blocks)
    values = np.stack([E2M1[codes & 15], E2M1[codes >> 4]], -1).reshape(experts, outputs, inputs // 32, 32)
    values = np.ldexp(values, draw_bytes(scales)[..., None] - 127).reshape(experts, outputs, inputs)
    return np.ascontiguousarray(values.transpose(0, 2, 1)).astype(np.float32)


def splitmix_bytes(name, count):
    return (splitmix64(np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64)) >> np.uint64(56)).astype(np.int64)


def fp8_blocks(name, shape, block, tensors):
    """A matrix of e4m3 codes with a scale for each block; both tensors are added."""
    grid = [-(-side // of) for side, of in zip(shape, block)]
    gain = {"q_proj": 1.2, "k_proj": 1.2, "o_proj": 2}.get(name.split(".")[-2], 1.0)
    scales = {"name": name + "_scale_inv", "shape": grid, "scale": round(math.log2(95 * math.sqrt(shape[1]) / gain))}
    tensors += [{"name": name, "shape": shape, "e4m3": True}, scales]
    codes = splitmix_bytes(name, math.prod(shape))
    codes = np.where(codes & 127 == 127, codes ^ 64, codes)
    exponents, mantissas = codes >> 3 & 15, codes & 7
    values = np.where(exponents == 0, mantissas * 2.0**-9, (8 + mantissas) * 2.0 ** (exponents - 10.0))
    values = (values * np.where(codes >= 128, -1, 1)).reshape(shape)
    scale = (192 + splitmix_bytes(scales["name"], math.prod(grid)) % 64) / 256 * 2.0 ** -scales["scale"]
    scale = scale.reshape(grid).repeat(block[0], 0)[: shape[0]].repeat(block[1], 1)[:, : shape[1]]
    return (values * scale).astype(np.float32)


def group_of(quantisation, name):
    """What compressed-tensors has of the module of a weight: its scheme, or None."""
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils.match import is_match, match_targets
    config = QuantizationConfig.model_validate(quantisation)
    module = name.removesuffix(".weight")
    kind = torch.nn.Embedding(1, 1) if module.endswith("embed_tokens") else torch.nn.Linear(1, 1)
    targets = {target: group for group in config.config_groups.values() for target in group.targets}
    if not is_match(module, kind, list(targets), config.ignore):
        return None
    group = targets[match_targets(module, kind, targets)[0]]
    return group if group.weights else None


def compressed(name, shape, group, tensors):
    """A matrix of a group's codes, whose tensors are added."""
    from compressed_tensors.compressors import BaseCompressor
    stem, args = name.removesuffix("weight"), group.weights
    packed, rows, cols = group.format == "pack-quantized", *shape
    grid = {"tensor": [1], "channel": [rows, 1], "group": [rows, cols // (args.group_size or 1)],
            "block": [-(-side // of) for side, of in zip(shape, args.block_structure or [1, 1])]}[args.strategy]
    gain = {"q_proj": 1.2, "k_proj": 1.2, "o_proj": 2, "lm_head": 4}.get(name.split(".")[-2], 1.0)
    size = 95 if args.type == "float" else {4: 5, 8: 74}[args.num_bits]  # of a code
    scale = {"name": stem + "weight_scale", "shape": grid, "scale": round(math.log2(size * math.sqrt(cols) / gain))}
    codes = {"name": stem + ("weight_packed" if packed else "weight"), "shape": shape}
    count = math.prod(shape)
    if packed:
        words = -(-cols * args.num_bits // 32)
        codes |= {"shape": [rows, words], "words": True}
        u = splitmix_bytes(codes["name"], 4 * rows * words).astype(np.uint8)
        state = {"weight_packed": torch.from_numpy(u.view("<i4").reshape(rows, words).copy()), "weight_shape": torch.tensor(shape)}
    elif args.type == "float":
        codes["e4m3"] = True
        u = splitmix_bytes(codes["name"], count)
        u = np.where(u & 127 == 127, u ^ 64, u).astype(np.uint8).reshape(shape)
        state = {"weight": torch.from_numpy(u).view(torch.float8_e4m3fn)}
    else:
        codes["int8"] = True
        state = {"weight": torch.from_numpy(splitmix_bytes(codes["name"], count).astype(np.uint8).view(np.int8).reshape(shape))}
    tensors += [codes, scale]
    step = 1 if args.symmetric else 2
    if step > 1:
        scale["step"] = step
    values = (192 + splitmix_bytes(scale["name"], math.prod(grid)) % 64 // step * step) / 256 * 2.0 ** -scale["scale"]
    state["weight_scale"] = torch.from_numpy(values.astype(np.float32).reshape(grid))
    if not args.symmetric:
        zeros = {"name": stem + "weight_zero_point", "shape": [-(-rows * args.num_bits // 32), grid[1]], "words": True}
        tensors.append(zeros)
        u = splitmix_bytes(zeros["name"], 4 * math.prod(zeros["shape"])).astype(np.uint8)
        state["weight_zero_point"] = torch.from_numpy(u.view("<i4").reshape(zeros["shape"]).copy())
    compressor = BaseCompressor.get_value_from_registry(str(getattr(group.format, "value", group.format)))
    return compressor.decompress(state, group)["weight"].float().numpy()


def stored(name, parameter, mixtral, stacked):
    """A parameter's tensors as checkpoints hold them: [(name, shape)] by expert. transformers 5 joins experts' matrices."""
    shape = list(parameter.shape)
    folder = name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name
    if len(shape) == 3 and not name.endswith("_bias") and stacked:
        return [[(name, shape)]]
    if name.endswith(".mlp.experts.gate_up_proj"):
        parts = ("w1", "w3") if mixtral else ("gate_proj", "up_proj")
        rows = shape[1] // 2
    elif name.endswith(".mlp.experts.down_proj"):
        parts, rows = ("w2",) if mixtral else ("down_proj",), shape[1]
    else:
        return [[(folder, shape)]]
    folder = folder[:folder.rindex(".")]
    return [[(f"{folder}.{expert}.{part}.weight", [rows, shape[2]]) for part in parts] for expert in range(shape[0])]


def load(spec):
    config = dict(spec["config"])
    quantisation = config.pop("quantization_config", {})
    quantised, block = quantisation.get("quant_method") == "mxfp4", quantisation.get("weight_block_size")
    grouped = quantisation.get("quant_method") == "compressed-tensors"
    stacked = config["model_type"] == "gpt_oss"  # its checkpoints have the joined tensors
    net = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager",
                                           experts_implementation="eager").float().eval()
    spec["tensors"], seen = [], set()
    for name, parameter in net.named_parameters():  # tied ones appear once
        experts = []
        if quantised and name.endswith(("gate_up_proj", "down_proj")):
            parameter.data = torch.from_numpy(mxfp4(name, list(parameter.shape), spec["tensors"]))
            seen.add(name)
            continue
        for tensors in stored(name, parameter, config["model_type"] == "mixtral", stacked):
            parts = []
            for tensor, shape in tensors:
                if block and tensor.endswith("_proj.weight"):
                    parts.append(fp8_blocks(tensor, shape, block, spec["tensors"]))
                    continue
                group = group_of(quantisation, tensor) if grouped and tensor.endswith(".weight") and len(shape) == 2 else None
                if group is not None:
                    parts.append(compressed(tensor, shape, group, spec["tensors"]))
                    continue
                entry = {"name": tensor, "shape": shape, "exponent": exponent(tensor, shape)}
                values = fill(tensor, shape, entry["exponent"])
                if tensor.endswith(".mlp.gate.weight") and "idle_expert" in spec:
                    entry["zero_from"] = spec["idle_expert"] * shape[1]
                    values[spec["idle_expert"]:] = 0
                spec["tensors"].append(entry)
                parts.append(values)
            experts.append(np.concatenate(parts))
        parameter.data = torch.from_numpy(np.stack(experts) if len(experts) > 1 else experts[0])
        seen.add(name)
    assert ("lm_head.weight" in seen) != spec["config"]["tie_word_embeddings"], seen
    net.tie_weights()
    dual = config.get("dual_chunk_attention_config")
    net.chunks = DualChunks(dual, net.model.rotary_emb) if dual else None
    if dual:  # transformers turns nothing
        width = 2 * len(net.chunks.inv_freq)

        def still(x, position_ids):
            ones = torch.ones(*position_ids.shape, width, dtype=x.dtype)
            return ones, 0 * ones

        net.model.rotary_emb.forward = still
    return net


class DualChunks:
    """Rotations and scale of dual chunk attention, which takes queries and keys as they are before RoPE."""

    def __init__(self, config, rotary):
        self.size = config["chunk_size"]
        self.length = self.size - config["local_size"]
        self.trained = config.get("original_max_position_embeddings", 0)
        self.inv_freq, self.factor = rotary.inv_freq.double().clone(), rotary.attention_scaling

    def turn(self, x, positions):
        angles = positions[:, None].double() * self.inv_freq
        cos, sin = ((f(angles) * self.factor).to(x.dtype).repeat(1, 2) for f in (torch.cos, torch.sin))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def scores(self, query, key):
        p = torch.arange(query.shape[2])
        key = self.turn(key, p % self.length).transpose(2, 3)
        own, chunk = p % self.length, p // self.length
        previous = (own + self.length).clamp(max=self.size)
        earlier = torch.full_like(own, min(2 * self.length - 1, self.size))
        apart = chunk[:, None] - chunk
        by_kind = [self.turn(query, at) @ key for at in (own, previous, earlier)]
        scores = torch.where(apart == 0, by_kind[0], torch.where(apart == 1, by_kind[1], by_kind[2]))
        if self.trained == 0:
            return scores
        # YaRN's temperature, of the text up to the query.
        each = (0.1 * torch.log((p + 1) / self.trained) + 1).clamp(min=1)
        return scores * (each**2)[:, None].to(scores.dtype)


def duo_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Eager attention as transformers' own, with the streaming heads' masks on top of the mask that it is given."""
    group = query.shape[1] // key.shape[1]
    streaming, sink, recent = module.duo
    chunks = module.chunks
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    n = query.shape[2]
    p, j = torch.arange(n)[:, None], torch.arange(n)
    hidden = (j >= sink) & (p - j > recent)
    hidden = streaming[module.layer_idx].repeat_interleave(group)[:, None, None] & hidden
    scores = query @ key.transpose(2, 3) if chunks is None else chunks.scores(query, key)
    scores = scores * scaling + attention_mask[..., :n]
    scores = scores.masked_fill(hidden, float("-inf"))
    sinks = kwargs.get("s_aux")
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, n, 1)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)[..., :n]
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("duo", duo_attention)
AttentionMaskInterface.register("duo", eager_mask)


def use(net, kind, streaming, sink, recent):
    net.set_attn_implementation("eager" if kind == "full" and net.chunks is None else "duo")
    for layer in net.model.layers:
        layer.self_attn.duo = (streaming & (kind == "duo"), sink, recent)
        layer.self_attn.chunks = net.chunks


def logits_of(net, ids):
    return net(torch.tensor([ids]), use_cache=False).logits[0].float()


def run(net, prompt, new_tokens):
    """Greedy by whole passes, so no cache can hide a difference. Returns tokens, leads, logits [new_tokens, vocab]."""
    logits_of(net, (prompt * 2)[: len(prompt) + new_tokens])  # `dynamic`: settle on the base for max_tokens
    ids, leads, rows = list(prompt), [], []
    for _ in range(new_tokens):
        rows.append(logits_of(net, ids)[-1])
        best = torch.topk(rows[-1], 2).values
        leads.append((best[0] - best[1]).item())
        ids.append(int(rows[-1].argmax()))
    return ids[len(prompt):], leads, torch.stack(rows)


def numbers(values):
    return [float(np.format_float_positional(np.float32(v), unique=True)) for v in values]


def golden(net, prompt, new_tokens, streaming, sink, recent):
    runs = {}
    for kind in ("full", "duo"):
        use(net, kind, streaming, sink, recent)
        tokens, leads, exact = run(net.float(), prompt, new_tokens)
        runs[kind] = {"greedy": tokens, "leads": numbers(leads), "logits": exact[0], "exact": exact}
    # A bf16 model as from_pretrained would load it: weights and activations in bf16, RoPE's frequencies left in f32.
    exact_buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    half = net.to(torch.bfloat16)
    for name, buffer in half.named_buffers():
        buffer.data = exact_buffers[name]
    for kind in ("full", "duo"):
        use(half, kind, streaming, sink, recent)
        out = runs[kind]
        ids = list(prompt) + out["greedy"][:-1]
        rough = logits_of(half, ids)[len(prompt) - 1:]
        out["bf16_error"] = numbers([(rough - out.pop("exact")).abs().max().item()])[0]
    return runs


def finish(spec, runs):
    full, duo = runs["full"], runs["duo"]
    apart = (full["logits"] - duo["logits"]).abs().max().item()
    kept = [sum(lead > 4 * run["bf16_error"] for lead in run["leads"]) for run in (full, duo)]
    spread = full["logits"].std().item()
    print(f"{spec['name']}: {len(spec['prompt'])} tokens, bf16 error {full['bf16_error']:.4f} and {duo['bf16_error']:.4f}, "
          f"logits' spread {spread:.2f}, full to duo {apart:.3f}, decided {kept[0]} and {kept[1]} of {len(full['greedy'])}",
          flush=True)
    if any(0 in row for row in spec["heads"]):
        assert apart > 8 * max(full["bf16_error"], duo["bf16_error"]), "duo masks make too little difference to be tested"
    assert min(kept) >= len(full["greedy"]) // 3
    for run in (full, duo):
        run["logits"] = numbers(run["logits"].tolist())
    spec.update(runs)
    with open(os.path.join(HERE, "models", spec["name"] + ".json"), "w", encoding="utf-8") as file:
        fields = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in spec.items())
        file.write("{\n" + ",\n".join(fields) + "\n}\n")


def watch_experts(net):
    """The set of all experts that any token chooses from now on, in any layer."""
    chosen = set()
    for module in net.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(lambda _, __, out: chosen.update(out[2].flatten().tolist()))
    return chosen


def tiny(spec):
    net = load(spec)
    vocab, layers, kv = (spec["config"][k] for k in ("vocab_size", "num_hidden_layers", "num_key_value_heads"))
    spec["heads"] = [[int((head + layer) % 2 == 0) for head in range(kv)] for layer in range(layers)]
    spec["sink"], spec["recent"] = 4, 16
    if spec["config"]["model_type"] == "gpt_oss" and spec["config"]["sliding_window"] <= spec["recent"] + 1:
        for layer in range(layers):  # duo keeps rings there
            if net.config.layer_types[layer] == "sliding_attention":
                spec["heads"][layer] = [0] * kv
    seed = np.uint64(fnv1a64(spec["name"]))
    chosen = watch_experts(net)
    draws = splitmix64(seed + np.arange(spec.pop("prompt_tokens"), dtype=np.uint64))
    spec["prompt"] = [int(u % np.uint64(vocab)) for u in draws]
    streaming = torch.tensor(spec["heads"]) == 0
    runs = golden(net, spec["prompt"], NEW_TOKENS, streaming, spec["sink"], spec["recent"])
    if "idle_expert" in spec:
        assert chosen == set(range(spec.pop("idle_expert"))), chosen
    finish(spec, runs)


def needle():
    from tokenizers import Tokenizer
    folder = os.path.join(ROOT, "launcher", "demo", "needle-6m")
    pattern = os.path.join(ROOT, "attn_patterns", "needle-6m")
    built = build(read_text([os.path.join(ROOT, "LICENSE")]), 4000, 3, 5)
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    prompt = tokenizer.encode(built["document"] + built["questions"][0]["ask"]).ids
    with open(os.path.join(pattern, "full_attention_heads.tsv"), encoding="utf-8") as file:
        gates = torch.tensor([[float(v) for v in line.split("\t")] for line in file], dtype=torch.float64)
    streaming = streaming_heads(gates, 0.75)
    spec = {"name": "needle-6m", "model": "launcher/demo/needle-6m", "heads": (~streaming).int().tolist(), "sink": 64,
            "recent": 256, "answer": built["questions"][0]["answer"], "prompt": prompt}
    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    net.chunks = None
    runs = golden(net, prompt, 8, streaming, 64, 256)
    for kind, out in runs.items():
        text = tokenizer.decode(out["greedy"])
        assert text.startswith(built["questions"][0]["answer"] + ".\n"), (kind, text)
    spec_runs = {kind: out for kind, out in runs.items()}
    for out in spec_runs.values():
        out["logits"] = numbers(out["logits"].tolist())
        print("needle-6m: bf16 error", out["bf16_error"], "smallest lead", min(out["leads"]), len(prompt), "tokens")
    spec.update(spec_runs)
    with open(os.path.join(HERE, "models", "needle-6m.json"), "w", encoding="utf-8") as file:
        fields = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in spec.items())
        file.write("{\n" + ",\n".join(fields) + "\n}\n")


def main():
    torch.set_grad_enabled(False)
    chosen = sys.argv[1:]
    for spec in MODELS:
        if not chosen or spec["name"] in chosen:
            tiny(spec)
    if not chosen or "needle-6m" in chosen:
        needle()


if __name__ == "__main__":
    main()
