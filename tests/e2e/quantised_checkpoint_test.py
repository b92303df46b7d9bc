#!/usr/bin/env python3
"""Checkpoints that come quantised give the logits of the plain checkpoint that holds their dequantised values.

    quantised_checkpoint_test.py --duo build/duo --logits build/tests/golden/logits

The demo model is quantised here in each layout that duo reads (compressed-tensors, AWQ, GPTQ), and dequantised by numpy from
the same codes. Where duo holds the codes as they are, the values differ at most by the rounding of int4 minima to f16, which
is applied here too, so that only the order of f32 sums is left. Needs numpy (else skipped, exit code 77).
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("skipped: the Python package numpy is not installed")
    sys.exit(77)

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "demo", "needle-6m")
PROMPT = " ".join(str((i * 7919 + 13) % 4000 + 20) for i in range(150))
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds this column of eight


def read_safetensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    out = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        raw = data[info["data_offsets"][0]:info["data_offsets"][1]]
        if info["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[info["dtype"]]).astype(np.float32)
        out[name] = values.reshape(info["shape"])
    return out


def write_safetensors(path, tensors):
    """tensors: name -> (dtype as in the file, array)."""
    header, offset, blobs = {}, 0, []
    for name, (dtype, values) in tensors.items():
        blob = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def bf16(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def stored_bf16(x):
    return (bf16(x).view(np.uint32) >> 16).astype(np.uint16)


def f16(x):
    return x.astype(np.float16).astype(np.float32)


def e4m3_values():
    code = np.arange(128)
    exponent, mantissa = code >> 3, code & 7
    values = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0**(exponent - 7))
    return values[:127].astype(np.float32)  # the last is NaN


E4M3 = e4m3_values()


def to_e4m3(x):
    at = np.abs(np.abs(x)[..., None] - E4M3).argmin(-1) if x.size < 1 << 16 else None
    if at is None:
        middles = (E4M3[1:] + E4M3[:-1]) / 2
        at = np.searchsorted(middles, np.abs(x))
    return (at + 128 * (x < 0)).astype(np.uint8)


def from_e4m3(codes):
    return E4M3[codes & 127] * np.where(codes >= 128, np.float32(-1), np.float32(1))


def pack(codes, bits, axis):
    """Consecutive codes along the axis into int32 words, the first in the low bits."""
    codes = np.moveaxis(codes.astype(np.uint32), axis, -1)
    words = codes.reshape(*codes.shape[:-1], -1, 32 // bits)
    out = np.zeros(words.shape[:-1], np.uint32)
    for i in range(32 // bits):
        out |= words[..., i] << np.uint32(bits * i)
    return np.moveaxis(out, -1, axis).view(np.int32) if axis in (-1, codes.ndim - 1) else np.ascontiguousarray(
        np.moveaxis(out, -1, axis)).view(np.int32)


def group_codes(w, bits, group, symmetric, order=None):
    """[rows, cols] to unsigned codes, scales and zeros [rows, groups] (zeros of the unsigned codes). order: group of each
    column, in place of c / group."""
    rows, cols = w.shape
    index = np.arange(cols) // group if order is None else order
    top, scales, zeros = 2**bits - 1, np.zeros((rows, cols // group), np.float32), np.zeros((rows, cols // group), np.int64)
    for g in range(cols // group):
        part = w[:, index == g]
        if symmetric:
            scales[:, g], zeros[:, g] = np.abs(part).max(1) / (top // 2), 2**(bits - 1)
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scales[:, g] = (high - low) / top
            zeros[:, g] = np.clip(np.rint(-low / scales[:, g]), 1, top)
    scales = f16(scales)
    codes = np.clip(np.rint(w / scales[:, index]) + zeros[:, index], 0, top).astype(np.int64)
    return codes, scales, zeros, index


def group_values(codes, scales, zeros, index, held):
    if held == "int4":  # code * scale + f16(-zero * scale)
        return codes * scales[:, index] + f16(-zeros * scales)[:, index]
    if held == "int8":  # signed codes likewise
        return (codes - 128) * scales[:, index] + f16((128 - zeros) * scales)[:, index]
    return bf16((codes - zeros[:, index]) * scales[:, index])


def compressed_row(w, kind, per_tensor):
    top = 448 if kind == "float" else 127
    absmax = np.full((1, 1), np.abs(w).max()) if per_tensor else np.abs(w).max(1, keepdims=True)
    scale = bf16((absmax / top).astype(np.float32))
    if kind == "float":
        codes = to_e4m3(np.clip(w / scale, -448, 448))
        values, stored = from_e4m3(codes) * scale, ("F8_E4M3", codes)
    else:
        codes = np.clip(np.rint(w / scale), -128, 127).astype(np.int8)
        values, stored = codes * scale, ("I8", codes)
    out_scale = scale.reshape(1) if per_tensor else scale
    return {"weight": stored, "weight_scale": ("BF16", stored_bf16(out_scale))}, values.astype(np.float32)


def fp8_blocks(w, block, scale_name="weight_scale_inv"):
    rows, cols = w.shape
    by_row, by_col = np.arange(rows) // block[0], np.arange(cols) // block[1]
    scales = np.zeros((by_row[-1] + 1, by_col[-1] + 1), np.float32)
    for r in range(scales.shape[0]):
        for c in range(scales.shape[1]):
            scales[r, c] = np.abs(w[by_row == r][:, by_col == c]).max() / 448
    scale = scales[by_row][:, by_col]
    codes = to_e4m3(np.clip(w / scale, -448, 448))
    return {"weight": ("F8_E4M3", codes), scale_name: ("F32", scales)}, from_e4m3(codes) * scale


def fp8_tensor(w):
    stored, values = compressed_row(w, "float", True)
    return {"weight": stored["weight"], "weight_scale_inv": stored["weight_scale"]}, values


def packed(w, bits, group, symmetric, held, order_seed=None):
    order = None
    if order_seed is not None:
        order = np.random.default_rng(order_seed).permutation(np.arange(w.shape[1]) // group)
    codes, scales, zeros, index = group_codes(w, bits, group, symmetric, order)
    tensors = {"weight_packed": ("I32", pack(codes, bits, 1)), "weight_scale": ("F16", scales.astype(np.float16)),
               "weight_shape": ("I64", np.array(w.shape, np.int64))}
    if not symmetric:
        tensors["weight_zero_point"] = ("I32", pack(zeros, bits, 0))
    if order is not None:
        tensors["weight_g_idx"] = ("I32", order.astype(np.int32))
    return tensors, group_values(codes, scales, zeros, index, held)


def awq(w, group):
    codes, scales, zeros, index = group_codes(w, 4, group, False)
    shuffled = lambda x: x.reshape(x.shape[0], -1, 8)[:, :, AWQ_ORDER].reshape(x.shape)  # noqa: E731
    tensors = {"qweight": ("I32", pack(shuffled(codes.T), 4, 1)), "qzeros": ("I32", pack(shuffled(zeros.T), 4, 1)),
               "scales": ("F16", scales.T.astype(np.float16))}
    return tensors, group_values(codes, scales, zeros, index, "int4")


def gptq(w, bits, group, symmetric, held, v2=False, order_seed=None):
    order = np.arange(w.shape[1]) // group
    if order_seed is not None:
        order = np.random.default_rng(order_seed).permutation(order)
    codes, scales, zeros, index = group_codes(w, bits, group, symmetric, order)
    tensors = {"qweight": ("I32", pack(codes.T, bits, 0)), "qzeros": ("I32", pack((zeros if v2 else zeros - 1).T, bits, 1)),
               "scales": ("F16", scales.T.astype(np.float16)), "g_idx": ("I32", order.astype(np.int32))}
    return tensors, group_values(codes, scales, zeros, index, held)


def compressed(fmt, bits=8, kind="int", strategy="channel", group=None, symmetric=True, **more):
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": symmetric, **more}
    if group:
        weights["group_size"] = group
    return {"quant_method": "compressed-tensors", "format": fmt, "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def gptq_config(bits, group, sym=True, order=False, fmt="gptq"):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": order, "checkpoint_format": fmt}


def fp8_config(block):
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}


def narrow_blocks(w, block):
    stored, values = fp8_blocks(w, block)
    return stored, bf16(values)


# name: (quantization_config, matrix -> (tensors, values that duo should hold), whether duo must say what it does)
SCHEMES = {
    "compressed-tensors fp8 per channel": (compressed("float-quantized", kind="float"),
                                           lambda w: compressed_row(w, "float", False), False),
    "compressed-tensors fp8 per tensor": (compressed("float-quantized", kind="float", strategy="tensor"),
                                          lambda w: compressed_row(w, "float", True), False),
    "compressed-tensors int8 per channel": (compressed("int-quantized"), lambda w: compressed_row(w, "int", False), False),
    "compressed-tensors int8 per tensor": (compressed("int-quantized", strategy="tensor"),
                                           lambda w: compressed_row(w, "int", True), False),
    "compressed-tensors int4": (compressed("pack-quantized", 4, strategy="group", group=64),
                                lambda w: packed(w, 4, 64, True, "int4"), False),
    "compressed-tensors int4 per channel": (compressed("pack-quantized", 4), lambda w: packed(w, 4, w.shape[1], True, "int4"),
                                            False),
    "compressed-tensors int4 with zeros": (compressed("pack-quantized", 4, strategy="group", group=32, symmetric=False),
                                           lambda w: packed(w, 4, 32, False, "int4"), False),
    "compressed-tensors int4 in order": (compressed("pack-quantized", 4, strategy="group", group=32, actorder="group"),
                                         lambda w: packed(w, 4, 32, True, "bf16", 3), True),
    "compressed-tensors int8 in groups": (compressed("pack-quantized", 8, strategy="group", group=32),
                                          lambda w: packed(w, 8, 32, True, "int8"), False),
    "compressed-tensors int8 in groups with zeros": (compressed("pack-quantized", 8, strategy="group", group=64, symmetric=False),
                                                     lambda w: packed(w, 8, 64, False, "int8"), False),
    "fp8 in blocks": (fp8_config([128, 128]), lambda w: fp8_blocks(w, (128, 128)), False),
    "fp8 in blocks of no power of two": (fp8_config([80, 96]), lambda w: fp8_blocks(w, (80, 96)), False),
    "fp8 in blocks that are narrow": (fp8_config([128, 24]), lambda w: narrow_blocks(w, (128, 24)), True),
    "fp8 per tensor": (fp8_config(None), fp8_tensor, False),
    "fbgemm's fp8": ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]},
                     lambda w: compressed_row(w, "float", False), False),
    "ModelOpt's fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, lambda w: compressed_row(w, "float", True), False),
    "compressed-tensors fp8 in blocks": (compressed("float-quantized", kind="float", strategy="block",
                                                    block_structure=[128, 128]),
                                         lambda w: fp8_blocks(w, (128, 128), "weight_scale"), False),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"},
            lambda w: awq(w, 64), False),
    "GPTQ": (gptq_config(4, 32), lambda w: gptq(w, 4, 32, True, "int4"), False),
    "GPTQ with zeros": (gptq_config(4, 64, False), lambda w: gptq(w, 4, 64, False, "int4"), False),
    "GPTQ v2 with zeros": (gptq_config(4, 64, False, fmt="gptq_v2"), lambda w: gptq(w, 4, 64, False, "int4", True), False),
    "GPTQ in activation order": (gptq_config(4, 32, order=True), lambda w: gptq(w, 4, 32, True, "bf16", order_seed=5), True),
    "GPTQ 8 bits": (gptq_config(8, 32), lambda w: gptq(w, 8, 32, True, "int8"), False),
    "GPTQ 8 bits in activation order": (gptq_config(8, 32, order=True), lambda w: gptq(w, 8, 32, True, "bf16", order_seed=5), True),
}

def group_config(ignore, *groups, **more):
    """groups: (format, targets, weights), named in order."""
    return {"quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ignore, **more,
            "config_groups": {f"group_{i}": {"format": fmt, "targets": targets, "weights": weights}
                              for i, (fmt, targets, weights) in enumerate(groups)}}


def weights_of(bits, kind="int", strategy="channel", group=None):
    return compressed("", bits, kind, strategy, group)["config_groups"]["group_0"]["weights"]


# name: (quantization_config, matrix's name and values -> (tensors, values), formats' names on the CPU)
MIXTURES = {
    "attention fp8, MLP int4, one down int8": (
        group_config(["lm_head"], ("float-quantized", ["re:.*self_attn.*"], weights_of(8, "float")),
                     ("pack-quantized", ["Linear"], weights_of(4, "int", "group", 64)),
                     ("naive-quantized", ["model.layers.3.mlp.down_proj"], weights_of(8))),
        lambda name, w: compressed_row(w, "float", False) if "self_attn" in name else
        compressed_row(w, "int", False) if "layers.3.mlp.down" in name else packed(w, 4, 64, True, "int4"),
        {"fp8", "int4:64", "int8", "bf16"}),
    "q, k and v, and gate and up, in formats of their own": (
        group_config(["lm_head"], ("float-quantized", ["re:.*q_proj"], weights_of(8, "float", "tensor")),
                     ("int-quantized", ["re:.*k_proj"], weights_of(8)),
                     ("pack-quantized", ["Linear"], weights_of(4, "int", "group", 64)),
                     ("pack-quantized", ["re:.*up_proj"], weights_of(8, "int", "group", 32))),
        lambda name, w: compressed_row(w, "float", True) if "q_proj" in name else
        compressed_row(w, "int", False) if "k_proj" in name else
        packed(w, 8, 32, True, "int8") if "up_proj" in name else packed(w, 4, 64, True, "int4"),
        {"f32", "int4:64", "int8:32", "bf16"}),
    "fp8 in blocks beside int4 with zeros": (
        group_config([], ("float-quantized", ["re:.*mlp.*"], weights_of(8, "float", "block") | {"block_structure": [128, 128]}),
                     ("pack-quantized", ["Linear"], weights_of(4, "int", "group", 32) | {"symmetric": False}),
                     kv_cache_scheme=weights_of(8, "float", "tensor")),
        lambda name, w: fp8_blocks(w, (128, 128), "weight_scale") if "mlp" in name else packed(w, 4, 32, False, "int4"),
        {"fp8:128x128", "int4:32", "bf16"}),
}


def check_mixtures(args, model, scratch, expect):
    run = lambda *command: subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: E731
    for name, (config, quantise, formats) in MIXTURES.items():
        quantised, plain = {}, {}
        for tensor, values in model.items():
            if tensor.endswith("_proj.weight"):
                stored, held = quantise(tensor, values)
                quantised.update({tensor[:-len("weight")] + key: value for key, value in stored.items()})
                plain[tensor] = ("F32", held.astype(np.float32))
            else:
                quantised[tensor] = plain[tensor] = ("BF16", stored_bf16(values)) if values.ndim == 2 else ("F32", values)
        came = folder(scratch, name, quantised, config)
        is_, should = logits(args.logits, came), logits(args.logits, folder(scratch, name + " plain", plain, None))
        error, size = np.abs(is_ - should).max(), np.abs(should).max()
        expect(error < 1e-4 * size, f"{name}: off by {error:.1e} of {size:.3g}")
        command = [args.duo, "generate", "--model", came, "--prompt", "The quick brown fox", "--attention", "full",
                   "--max-new-tokens", "16", "--device", "cpu", "--threads", "1", "--json"]
        made = []
        for ranks in (1, 3) if shutil.which("mpirun") else (1,):
            done = run(*(["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []), *command)
            made.append(json.loads(done.stdout) if done.returncode == 0 else {"token_ids": done.stderr[-500:]})
        expect(all(one["token_ids"] == made[0]["token_ids"] for one in made), f"{name}: the same tokens on 1 and 3 ranks")
        told = made[0].get("weight_formats", [])
        expect({one["format"] for one in told} == formats and abs(sum(one["share"] for one in told) - 1) < 1e-9,
               f"{name}: the answer tells its formats: {told}")
        info = json.loads(run(args.duo, "info", "--model", came, "--json").stdout)
        expect(info["weight_formats"] == told, f"{name}: so does duo info")
        said = run(*command[:-1]).stderr
        expect(("weights " + told[0]["format"]) in said, f"{name}: and the statistics: {said.strip().splitlines()[-1][-300:]}")
        expect(("asks for a KV cache in 8-bit float with scales" in said) == ("kv_cache_scheme" in config),
               f"{name}: a KV cache that the checkpoint asks for is spoken of")
        plans = [run(args.duo, "plan", flag, path, "--world", "1", "--attention", "full", "--json").stdout
                 for flag, path in (("--model", came), ("--config", os.path.join(came, "config.json")))]
        expect(plans[0] == plans[1] and json.loads(plans[0])["memory"]["weights"] > 0,
               f"{name}: planned alike with the files and by config.json alone: {[plan[-200:] for plan in plans]}")
    # A module that no group names, whose tensors are coded all the same.
    lost = dict(config, config_groups={"group_0": config["config_groups"]["group_0"], "group_1": dict(
        config["config_groups"]["group_1"], targets=["re:.*o_proj"])})
    done = run(args.duo, "generate", "--model", folder(scratch, "lost", quantised, lost), "--prompt", "The", "--attention",
               "full", "--device", "cpu")
    expect(done.returncode == 1 and "q_proj" in done.stderr and "of no group's targets" in done.stderr,
           f"a coded module that no group names is refused: {done.stderr[-400:]}")


REFUSED = {
    "AWQ gemv": ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version gemm is"),
    "GPTQ 3 bits": (gptq_config(3, 128), "4 and 8 bits are"),
    "marlin": (gptq_config(4, 128, fmt="marlin"), "gptq and gptq_v2 are"),
    "nvfp4": (compressed("nvfp4-pack-quantized", 4, "float", "group", 16), "pack-quantized are"),
    "int8 with zeros": (compressed("int-quantized", symmetric=False), "symmetric weights are"),
    "a group in nvfp4": (group_config([], ("float-quantized", ["re:.*self_attn.*"], weights_of(8, "float")),
                                      ("nvfp4-pack-quantized", ["Linear"], weights_of(4, "float", "group", 16))),
                         "group_1: quantisation compressed-tensors nvfp4-pack-quantized"),
    "a group with a broken expression": (group_config([], ("float-quantized", ["re:("], weights_of(8, "float")),
                                                      ("pack-quantized", ["Linear"], weights_of(4))), "group_0.targets"),
    "ModelOpt's NVFP4": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo"),
    "AWQ without its tensors": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "qweight"),
}


def folder(scratch, name, tensors, quantization):
    target = os.path.join(scratch, name.replace(" ", "_"))
    shutil.copytree(DEMO, target)
    with open(os.path.join(target, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if quantization:
        config["quantization_config"] = quantization
    with open(os.path.join(target, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    write_safetensors(os.path.join(target, "model.safetensors"), tensors)
    return target


def logits(driver, model):
    done = subprocess.run([driver, model], input=PROMPT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: {done.stderr}")
    return np.array([float(x) for x in done.stdout.split()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--logits", required=True)
    args = parser.parse_args()
    model = read_safetensors(os.path.join(DEMO, "model.safetensors"))
    failures = 0

    def expect(good, what):
        nonlocal failures
        failures += not good
        print("ok" if good else "FAILED", what, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        original = logits(args.logits, DEMO)
        for name, (config, quantise, says) in SCHEMES.items():
            quantised, plain = {}, {}
            for tensor, values in model.items():
                if tensor.endswith("_proj.weight"):
                    stored, held = quantise(values)
                    for key, value in stored.items():
                        quantised[tensor[:-len("weight")] + key] = value
                    plain[tensor] = ("F32", held.astype(np.float32))
                else:
                    quantised[tensor] = plain[tensor] = ("F32", values)
            came = folder(scratch, name, quantised, config)
            is_, should = logits(args.logits, came), logits(args.logits, folder(scratch, name + " plain", plain, None))
            error = np.abs(is_ - should).max()
            moved = np.abs(should - original).max()
            expect(error < 1e-3 * moved, f"{name}: off by {error:.1e}; the quantisation itself moves logits by {moved:.2g}")
            if says or name in ("AWQ", "GPTQ 8 bits"):
                done = subprocess.run([args.duo, "generate", "--model", came, "--prompt", "The", "--attention", "full",
                                       "--max-new-tokens", "1", "--device", "cpu"], capture_output=True, text=True, check=False)
                said = "the checkpoint's weights" in done.stderr and "held as bf16" in done.stderr
                expect(done.returncode == 0 and said == says, f"{name}: {'says' if says else 'need not say'} what it is held as")
            if name in ("AWQ", "compressed-tensors int8 per channel", "GPTQ 8 bits", "fp8 in blocks",
                        "fp8 in blocks of no power of two") and shutil.which("mpirun"):
                command = [args.duo, "generate", "--model", came, "--prompt", "The quick brown fox", "--attention", "full",
                           "--max-new-tokens", "16", "--device", "cpu", "--threads", "1", "--json"]
                texts = []
                for ranks in (1, 3):
                    done = subprocess.run((["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []) + command,
                                          capture_output=True, text=True, check=False)
                    texts.append(json.loads(done.stdout)["token_ids"] if done.returncode == 0 else done.stderr[-500:])
                expect(texts[0] == texts[1], f"{name}: the same tokens on 1 and 3 ranks: {texts}")
        check_mixtures(args, model, scratch, expect)
        # A plan for GPUs, which hold bf16 for blocks too narrow for their kernels, whatever type the file's values are of.
        planned = []
        for quantization in (fp8_config([128, 24]), None):
            path = folder(scratch, f"planned {quantization is None}", {k: ("F32", v) for k, v in model.items()}, quantization)
            with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
                config = json.load(file) | {"torch_dtype": "float32", "dtype": "float32"}
            with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
                json.dump(config, file)
            done = subprocess.run([args.duo, "plan", "--model", path, "--world", "2", "--attention", "full", "--json"],
                                  capture_output=True, text=True, check=True)
            planned.append(json.loads(done.stdout)["memory"]["weights"])
        expect(planned[0] == planned[1], f"fp8 in narrow blocks is planned as bf16: {planned}")
        # Stored blocks that are smaller than those in memory are coded again, as the same values in f32 are. (Of this
        # model's matrices some have blocks of 64 in memory, and keep stored codes of 128 x 64.)
        for block in ((64, 64), (32, 32), (1, 128)):
            small, plain = {}, {}
            for tensor, values in model.items():
                small[tensor] = plain[tensor] = ("F32", values)
                if tensor.endswith("_proj.weight"):
                    stored, held = fp8_blocks(values, block)
                    del small[tensor]
                    small.update({tensor[:-len("weight")] + key: value for key, value in stored.items()})
                    plain[tensor] = ("F32", held.astype(np.float32))
            texts = []
            for kind, tensors, config in (("stored", small, fp8_config(list(block))), ("values", plain, None)):
                done = subprocess.run([args.duo, "generate", "--model", folder(scratch, f"fp8 {block} {kind}", tensors, config),
                                       "--prompt", "The quick brown fox", "--attention", "full", "--max-new-tokens", "16", "--device",
                                       "cpu", "--weights", "fp8:128x128", "--json"], capture_output=True, text=True, check=False)
                texts.append(json.loads(done.stdout)["token_ids"] if done.returncode == 0 else done.stderr[-500:])
            expect(texts[0] == texts[1], f"fp8 in blocks of {block} as --weights fp8:128x128: the tokens of its values: {texts}")
        for name, (config, words) in REFUSED.items():
            plain = {tensor: ("F32", values) for tensor, values in model.items()}
            if name == "AWQ without its tensors":
                del plain["model.layers.0.self_attn.q_proj.weight"]
            done = subprocess.run([args.duo, "generate", "--model", folder(scratch, "refused " + name, plain, config), "--prompt",
                                   "The", "--attention", "full", "--device", "cpu"], capture_output=True, text=True, check=False)
            lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            expect(done.returncode == 1 and len(lines) == 1 and words in lines[0], f"{name}: {' '.join(lines)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
