#!/usr/bin/env python3
"""Whatever is wrong with the input, `duo generate` says so in one line that names the file, and exits with 1 (2 for usage).

    bad_input_test.py --duo build/duo

Standard library only. Works on copies of the demo model.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEMO = os.path.join(ROOT, "launcher/demo/needle-6m")
PATTERN = os.path.join(ROOT, "attn_patterns/needle-6m")


class Cases:
    def __init__(self, duo, folder):
        self.duo, self.folder, self.failures, self.count = duo, folder, 0, 0

    def model(self, config=None, safetensors=None, remove=()):
        """A copy of the demo model with a changed config.json and model.safetensors (functions of their content)."""
        self.count += 1
        target = os.path.join(self.folder, f"model{self.count}")
        shutil.copytree(DEMO, target)
        pattern = os.path.join(target, "attn_pattern")
        shutil.copytree(PATTERN, pattern)
        for name in remove:
            os.remove(os.path.join(target, name))
        for name, change in (("config.json", config), ("model.safetensors", safetensors)):
            if change is None:
                continue
            path = os.path.join(target, name)
            with open(path, "rb") as file:
                content = file.read()
            with open(path, "wb") as file:
                file.write(change(content))
        return target

    def expect(self, name, arguments, words, code=1):
        done = subprocess.run([self.duo, "generate"] + arguments, capture_output=True, text=True, check=False, timeout=120)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        wrong = ""
        if done.returncode != code:
            wrong = f"exit code {done.returncode}, expected {code}"
        elif len(lines) != 1:
            wrong = f"{len(lines)} error lines"
        elif done.stdout:
            wrong = "something on stdout"
        else:
            missing = [word for word in words if word not in lines[0]]
            wrong = f"the line does not name {missing}" if missing else ""
        if wrong:
            self.failures += 1
            print(f"FAILED {name}: {wrong}\n  stderr: {done.stderr.strip()[-500:]}")
        else:
            print(f"ok {name}: {lines[0]}")


def with_keys(**keys):
    def change(content):
        config = json.loads(content)
        config.update(keys)
        return json.dumps(config).encode()
    return change


def with_header(edit):
    def change(content):
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:8 + size])
        edit(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size:]
    return change


def first_tensor(header):
    return header[sorted(name for name in header if name != "__metadata__")[0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(parser.parse_args().duo, folder)

        def bad_model(name, words, **changes):
            cases.expect(name, ["--model", cases.model(**changes), "--prompt", "Hello."], words)

        st = "model.safetensors"
        bad_model("truncated weights", [st], safetensors=lambda c: c[:len(c) // 2])
        bad_model("empty weights", [st], safetensors=lambda c: b"")
        bad_model("weights cut inside the header", [st], safetensors=lambda c: c[:100])
        bad_model("huge header length", [st], safetensors=lambda c: struct.pack("<Q", 1 << 62) + c[8:])
        bad_model("header that is no JSON", [st], safetensors=lambda c: c[:8] + b"#" * 64 + c[72:])
        bad_model("overlapping tensors", [st], safetensors=with_header(
            lambda h: first_tensor(h).update(data_offsets=[0, first_tensor(h)["data_offsets"][1] - first_tensor(h)["data_offsets"][0]])
            if first_tensor(h)["data_offsets"][0] else h[sorted(h)[-1]].update(data_offsets=[0, 2])))
        bad_model("lying shape", [st], safetensors=with_header(lambda h: first_tensor(h).update(shape=[1 << 40, 1 << 40])))
        bad_model("lying dtype", [st], safetensors=with_header(lambda h: first_tensor(h).update(dtype="F32")))
        bad_model("unknown dtype", [st], safetensors=with_header(lambda h: first_tensor(h).update(dtype="Q9")))
        bad_model("missing tensor", [st, "model.layers.3.mlp.down_proj.weight"], safetensors=with_header(
            lambda h: h.update({"something.else": h.pop("model.layers.3.mlp.down_proj.weight")})))
        bad_model("wrong shape", [st], config=with_keys(intermediate_size=640))
        bad_model("no weights", [st], remove=[st])
        bad_model("no config", ["config.json"], remove=["config.json"])
        bad_model("no tokenizer", ["tokenizer.json"], remove=["tokenizer.json"])
        bad_model("config that is no JSON", ["config.json"], config=lambda c: c[:50])
        bad_model("unknown architecture", ["config.json", "mamba", "llama"], config=with_keys(model_type="mamba"))
        for model_type, reason in (("llama4", "attends within chunks"), ("olmoe", "norms queries and keys"),
                                   ("deepseek_v3", "multi-head latent attention"), ("gpt2", "learned positions"),
                                   ("bert", "encoder"), ("t5", "encoder with a decoder"), ("gpt_neox", "rotates only a part"),
                                   ("bloom", "ALiBi"), ("mllama", "images"), ("rwkv", "without attention")):
            bad_model(f"model type {model_type}", ["config.json", f'"{model_type}"', reason, "llama, "],
                      config=with_keys(model_type=model_type))
        bad_model("experts in a Llama", ["config.json", "mixture of experts", "num_local_experts"],
                  config=with_keys(num_local_experts=8))
        bad_model("latent attention in a Llama", ["config.json", "latent attention", "kv_lora_rank"],
                  config=with_keys(kv_lora_rank=512))
        bad_model("an encoder's head", ["config.json", "LlamaForSequenceClassification"],
                  config=with_keys(architectures=["LlamaForSequenceClassification"]))
        for key, value in (("num_hidden_layers", 0), ("num_attention_heads", 0), ("num_key_value_heads", 3), ("hidden_size", -256),
                           ("hidden_size", 1 << 40), ("vocab_size", 0), ("intermediate_size", "many"), ("head_dim", 63),
                           ("rms_norm_eps", -1), ("rope_theta", 0), ("max_position_embeddings", -5)):
            bad_model(f"{key} = {value}", ["config.json"], config=with_keys(**{key: value}))
        bad_model("unknown rope type", ["config.json", "zigzag"], config=with_keys(rope_scaling={"rope_type": "zigzag", "factor": 2}))
        for method in ("hqq", "bitsandbytes", "quark", "exl2"):
            bad_model(f"quantisation {method}", ["config.json", method],
                      config=with_keys(quantization_config={"quant_method": method}))
        bad_model("AWQ for another kernel", ["config.json", "AWQ gemv", "gemm"], config=with_keys(quantization_config={
            "quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemv"}))
        bad_model("other activation", ["config.json", "gelu"], config=with_keys(hidden_act="gelu"))

        def index(content):
            """An index in place of the single file; its shard is not there."""
            return json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}).encode()

        shards = cases.model(remove=[st])
        with open(os.path.join(shards, st + ".index.json"), "wb") as file:
            file.write(index(b""))
        cases.expect("shard missing", ["--model", shards, "--prompt", "x"], ["model-00001-of-00002.safetensors"])

        def bad_tokenizer(name, words, change):
            target = cases.model()
            path = os.path.join(target, "tokenizer.json")
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            change(content)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file)
            cases.expect(name, ["--model", target, "--prompt", "x"], ["tokenizer.json"] + words)

        bad_tokenizer("Unigram tokenizer", ["Unigram"], lambda t: t["model"].update(type="Unigram"))
        bad_tokenizer("WordPiece tokenizer", ["WordPiece"], lambda t: t["model"].update(type="WordPiece"))
        bad_tokenizer("tokenizer without a vocabulary", ["vocab"], lambda t: t["model"].pop("vocab"))
        bad_tokenizer("unknown pre-tokenizer", ["Shredder"], lambda t: t.update(pre_tokenizer={"type": "Shredder"}))
        bad_tokenizer("more tokens than the model has rows", ["vocabulary"],
                      lambda t: t["model"]["vocab"].update({"x": 1 << 20}))

        def bad_pattern(name, gates, words=("full_attention_heads.tsv",)):
            target = os.path.join(folder, f"pattern{name.replace(' ', '_')}")
            shutil.copytree(PATTERN, target)
            path = os.path.join(target, "full_attention_heads.tsv")
            with open(path, encoding="ascii") as file:
                lines = file.read()
            with open(path, "w", encoding="ascii") as file:
                file.write(gates(lines))
            cases.expect(name, ["--model", DEMO, "--pattern", target, "--prompt", "Hello."], list(words))

        bad_pattern("gate that is NaN", lambda t: "nan" + t[t.index("\t"):])
        bad_pattern("gate row missing", lambda t: t[t.index("\n") + 1:])
        bad_pattern("gate column missing", lambda t: t[t.index("\t") + 1:])
        bad_pattern("gates of another model", lambda t: t * 2, ["12", "6 layers"])
        bad_pattern("gates that are words", lambda t: "many" + t[t.index("\t"):])
        cases.expect("no such pattern", ["--model", DEMO, "--pattern", folder + "/none", "--prompt", "Hello."], ["none"])
        cases.expect("no such model", ["--model", folder + "/none", "--prompt", "Hello."], [folder + "/none: expected a model folder"])
        gguf = os.path.join(folder, "model.gguf")
        with open(gguf, "wb") as file:
            file.write(b"GGUF" + bytes(64))
        cases.expect("a damaged GGUF file", ["--model", gguf, "--prompt", "Hello."], [gguf + ": GGUF version 0 is not supported"])
        cases.expect("a GGUF file in parts that are missing", ["--model", f"{gguf[:-5]}-00001-of-00002.gguf", "--prompt", "Hello."],
                     ["-00001-of-00002.gguf beside it, found none"])
        with open(gguf + ".txt", "wb") as file:
            file.write(b"GGUF" + bytes(64))
        cases.expect("a file that is no model", ["--model", gguf + ".txt", "--prompt", "Hello."],
                     [gguf + ".txt: expected a model folder", "found a file", "ends in .gguf"])

        small = cases.model(config=with_keys(max_position_embeddings=64))
        cases.expect("prompt beyond the positions", ["--model", small, "--prompt", "word " * 300], ["64 positions"])
        huge = cases.model(config=with_keys(max_position_embeddings=(1 << 31) - 1))
        cases.expect("more than the memory", ["--model", huge, "--prompt", "x", "--max-new-tokens", str(1 << 30), "--device", "cpu",
                                              "--attention", "full"], ["memory"])
        empty = os.path.join(folder, "empty.txt")
        open(empty, "wb").close()
        cases.expect("empty prompt file", ["--model", DEMO, "--prompt-file", empty], [empty, "empty"])
        cases.expect("empty prompt", ["--model", DEMO, "--prompt", ""], ["empty"])
        cases.expect("unreadable prompt file", ["--model", DEMO, "--prompt-file", folder + "/none.txt"], ["none.txt"])
        cases.expect("a folder as prompt file", ["--model", DEMO, "--prompt-file", folder], [folder])
        cases.expect("no prompt", ["--model", DEMO], [], code=2)
        cases.expect("unknown flag", ["--model", DEMO, "--prompt", "x", "--wings", "2"], ["wings"], code=2)
        cases.expect("sparsity out of range", ["--model", DEMO, "--prompt", "x", "--sparsity", "1.5"], ["sparsity"], code=2)
        cases.expect("sparsity and threshold", ["--model", DEMO, "--prompt", "x", "--sparsity", "0.5", "--threshold", "0.5"], [], code=2)
        cases.expect("CUDA asked for where it may not be", ["--model", folder + "/none", "--device", "tpu", "--prompt", "x"], [], code=2)
    print(f"{cases.failures} failed")
    return 1 if cases.failures else 0


if __name__ == "__main__":
    sys.exit(main())
