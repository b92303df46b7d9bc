#!/usr/bin/env python3
"""Train needle-6m: a small Llama that finds facts which a long document states once.

    train_needle.py --text DIR_OR_FILE... --out needle-6m       seven minutes on one H100
    train_needle.py --smoke                                     a few steps on a CPU, to see that it all runs

The text should be some 100 MB of English prose (the shipped model's: documentation packages of Debian 12, a dictionary, the
King James Bible). Lines that occur twice are dropped, and every twelfth document is held out, for the loss that is printed.

A sample is a random slice of the text with 2 to 24 facts at random places (a key of adjective and noun, a value of six
digits, one of four sentences) and up to 12 questions at its end. The loss is the mean next-token loss plus half the loss on
the answers' digits. Lengths grow in five stages. In four samples of five the positions jump forward at 1 to 8 random places,
so that far positions are seen without far tokens: at the end rotary angles up to position 2^21 are familiar.

Needs pip packages torch, tokenizers, safetensors, numpy.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from needle_document import ADJECTIVES, NOUNS, question  # noqa: E402

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096,
    "rms_norm_eps": 1e-5, "rope_theta": 1e8, "max_position_embeddings": 1048576, "tie_word_embeddings": True,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}
# (tokens a sample, samples a step, steps, furthest jump of the positions)
STAGES = [(512, 256, 900, 2**12), (2048, 64, 700, 2**16), (8192, 16, 700, 2**20), (16384, 8, 400, 2**21), (32768, 4, 350, 2**21)]
SMOKE_STAGES = [(384, 2, 3, 2**12), (768, 1, 2, 2**21)]
LEARNING_RATE, FINAL_SHARE, WARM_UP = 3e-3, 0.03, 100
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
FORMS = ("Note: the passcode for the {key} is {value}.", "Remember: the passcode for the {key} is {value}.",
         "The passcode for the {key} is {value}.", "Keep in mind that the passcode for the {key} is {value}.")


# ---- text -----------------------------------------------------------------------------------------------------------

def read_documents(paths):
    """Every file's text, without lines that an earlier one had."""
    files = []
    for path in paths:
        files += [path] if os.path.isfile(path) else [os.path.join(d, f) for d, _, names in os.walk(path) for f in names]
    seen, documents = set(), []
    for path in sorted(files):
        with open(path, encoding="utf-8", errors="ignore") as file:
            lines = [line for line in file if not line.strip() or hash(line) not in seen]
        seen.update(hash(line) for line in lines)
        documents.append("".join(lines))
    return [d for d in documents if d.strip()]


def train_tokenizer(documents, vocab):
    """Byte-level BPE that never joins digits, so that a value is six tokens."""
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab, special_tokens=[BOS, EOS],
                                                                 initial_alphabet=alphabet, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return tokenizer


def encode_all(tokenizer, documents):
    ids = [e.ids for e in tokenizer.encode_batch(documents, add_special_tokens=False)]
    return np.concatenate([np.asarray(i, dtype=np.int32) for i in ids])


# ---- samples --------------------------------------------------------------------------------------------------------

class Sampler:
    def __init__(self, tokenizer, text_ids, seed):
        self.tokenizer, self.text, self.rng = tokenizer, text_ids, random.Random(seed)

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def sample(self, length, jump):
        """ids [length + 1]; whether ids[i] is a digit of an answer [length + 1]; positions [length]."""
        rng = self.rng
        while True:
            count = rng.randint(2, 24 if length >= 2048 else 6)
            keys = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], count)
            facts = [(key, f"{rng.randrange(10**6):06d}") for key in keys]
            notes = [self.encode(" " + rng.choice(FORMS).format(key=k, value=v)) for k, v in facts]
            tail, digits = [], []
            for key, value in rng.sample(facts, rng.randint(1, min(12, count))):
                for text, is_answer in ((question(key), False), (value, True), (".\n", False)):
                    ids = self.encode(text)
                    tail += ids
                    digits += [is_answer] * len(ids)
            body_length = length - len(tail) - sum(map(len, notes))  # with BOS in front: length + 1 in all
            if body_length >= length // 4:
                break
        start = rng.randrange(max(1, len(self.text) - body_length))
        body = np.resize(self.text[start:start + body_length], body_length).tolist()
        for place, note in zip(sorted((rng.randint(0, body_length) for _ in notes), reverse=True), notes):
            body[place:place] = note
        ids = [0] + body + tail
        positions = np.arange(length, dtype=np.int64)
        if rng.random() < 0.8:
            places = rng.randint(1, 8)
            for _ in range(places):
                positions[rng.randrange(1, length):] += rng.randrange(max(1, jump // places))
        return ids, [False] * (len(ids) - len(tail)) + digits, positions

    def batch(self, length, size, jump, device):
        samples = [self.sample(length, jump) for _ in range(size)]
        ids, digits, positions = (torch.from_numpy(np.array(part)) for part in zip(*samples))
        return ids.to(device), digits.to(device), positions.to(device)


# ---- model: parameter names are Hugging Face's, so that saving needs no table ------------------------------------------

class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), CONFIG["rms_norm_eps"])


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    mask = None  # what rows see, if not all before them: bool [query heads, tokens, tokens]

    def __init__(self, c):
        super().__init__()
        self.dim, q, kv = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        self.q_proj, self.o_proj = linear(c["hidden_size"], q * self.dim), linear(q * self.dim, c["hidden_size"])
        self.k_proj, self.v_proj = linear(c["hidden_size"], kv * self.dim), linear(c["hidden_size"], kv * self.dim)

    def forward(self, x, cos, sin):
        q, k, v = (p(x).unflatten(-1, (-1, self.dim)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))

        def rotate(t):
            a, b = t.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(v.dtype)

        out = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=self.mask, is_causal=self.mask is None, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (linear(c["hidden_size"], c["intermediate_size"]) for _ in range(2))
        self.down_proj = linear(c["intermediate_size"], c["hidden_size"])

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(c["hidden_size"]), Norm(c["hidden_size"])
        self.self_attn, self.mlp = Attention(c), Mlp(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = Norm(c["hidden_size"])
        half = c["head_dim"] // 2
        self.inverse = c["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                out = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * c["num_hidden_layers"]) if out else 1))

    def hidden(self, ids, positions):
        angle = positions[:, None, :, None].double() * self.inverse.to(ids.device)  # f64: positions reach 2^21
        cos, sin = angle.cos().float(), angle.sin().float()
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.model.norm(x)

    def forward(self, ids, positions):
        return F.linear(self.hidden(ids, positions), self.model.embed_tokens.weight)


def losses(model, batch):
    """Mean next-token loss, and that of the answers' digits alone."""
    ids, digits, positions = batch
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(ids[:, :-1], positions)
    each = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return each.mean(), each[digits[:, 1:].flatten()].mean()


# ---- training -------------------------------------------------------------------------------------------------------

def train(model, sampler, held_out, stages, device):
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() != 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=LEARNING_RATE, betas=(0.9, 0.95))
    total, step, started = sum(stage[2] for stage in stages), 0, time.time()
    for length, size, steps, jump in stages:
        for _ in range(steps):
            cosine = 0.5 * (1 + math.cos(math.pi * step / total))
            rate = LEARNING_RATE * min(1, (step + 1) / min(WARM_UP, total)) * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)
            for group in optimizer.param_groups:
                group["lr"] = rate
            text_loss, digit_loss = losses(model, sampler.batch(length, size, jump, device))
            optimizer.zero_grad(set_to_none=True)
            (text_loss + 0.5 * digit_loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 50 == 0 or step == total or total < 20:
                print(f"step {step}/{total}, {length} tokens: text {text_loss.item():.3f}, digits {digit_loss.item():.3f}, "
                      f"{time.time() - started:.0f} s", flush=True)
        with torch.no_grad():
            text_loss, digit_loss = losses(model, held_out.batch(length, max(1, size // 4), jump, device))
        print(f"held out at {length} tokens: text {text_loss.item():.3f}, digits {digit_loss.item():.3f}", flush=True)


def save(model, tokenizer, folder):
    os.makedirs(folder, exist_ok=True)
    weights = {name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in model.named_parameters()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG, file, indent=2)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", nargs="+", help="text files, or folders of them")
    parser.add_argument("--tokenizer", help="use this tokenizer.json instead of training one")
    parser.add_argument("--out", help="folder for the model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few tiny steps with the shipped tokenizer, on any machine")
    args = parser.parse_args()
    if args.smoke:
        args.text = args.text or ["/usr/share/common-licenses"]
        args.tokenizer = args.tokenizer or os.path.join(here, "needle-6m", "tokenizer.json")
        args.out = args.out or tempfile.mkdtemp(prefix="needle-smoke-")
    if not args.text or not args.out:
        parser.error("--text and --out are needed (or --smoke)")
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    documents = read_documents(args.text)
    kept_back = documents[::12]
    documents = [d for i, d in enumerate(documents) if i % 12]
    tokenizer = Tokenizer.from_file(args.tokenizer) if args.tokenizer else train_tokenizer(documents, CONFIG["vocab_size"])
    model = Llama(CONFIG).to(device)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(documents)} documents, {device}", flush=True)
    train(model, Sampler(tokenizer, encode_all(tokenizer, documents), args.seed),
          Sampler(tokenizer, encode_all(tokenizer, kept_back), args.seed + 1), SMOKE_STAGES if args.smoke else STAGES, device)
    save(model, tokenizer, args.out)
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
