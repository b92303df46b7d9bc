#!/usr/bin/env python3
"""Cross-check a pattern by ablation: what does the model lose without each of its KV heads?

    score_heads.py --model needle-6m --pattern ../../attn_patterns/needle-6m [--text FILE...] [--verify]

Each (layer, KV head) in turn sees only the sinks and the recent tokens, everything else sees all; its score is the increase
of the loss on the answers' digits, over documents of several lengths with facts hidden in them. `duo identify` trains gates
instead; this independent and much slower way is there to see that no head which matters alone got a low gate. The scores
are written to ablation.json beside the pattern.

--verify answers questions at 8 K tokens with the pattern's gates: full attention, duo at sparsity 0.75 and 0.5, streaming only.

Needs pip packages torch, safetensors, tokenizers, numpy. Runs on CPU or, when there is one, on a GPU. The forward below is
a plain eager one for the Hugging Face Llama layout without RoPE scaling, in float32, with exact masks: query p sees key j
when j <= p and, in a streaming head, j < sink or p - j <= recent.
"""

import argparse
import json
import math
import os
import sys

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from needle_document import BYTES_PER_TOKEN, build, read_text  # noqa: E402

SINK, RECENT = 64, 256


class Llama:
    """A Llama folder's weights and an eager forward over them."""

    def __init__(self, folder, device):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            self.config = c = json.load(file)
        weights = load_file(os.path.join(folder, "model.safetensors"))
        self.weights = {name: w.to(device, torch.float32) for name, w in weights.items()}
        self.layers, self.q_heads, self.kv_heads = c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.q_heads
        self.device = device

    def norm(self, x, name):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.weights[name]

    def rope(self, x):  # [heads, tokens, head_dim], rotate-half, positions 0, 1, ..
        half = self.head_dim // 2
        inverse = self.config["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), inverse)
        cos, sin = angle.cos().float().to(self.device), angle.sin().float().to(self.device)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, q, k, v, streaming, rows=512):
        """q [q_heads, n, d], k and v [kv_heads, n, d]; `streaming` bool [kv_heads]; returns [n, q_heads * d]."""
        n, group = q.shape[1], self.q_heads // self.kv_heads
        streaming = streaming.to(self.device).repeat_interleave(group)
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        out = torch.empty_like(q)
        if not streaming.all():
            whole = ~streaming
            out[whole] = torch.nn.functional.scaled_dot_product_attention(q[whole], k[whole], v[whole], is_causal=True)
        if streaming.any():
            q, k, v = q[streaming], k[streaming], v[streaming]
            blocks = []
            for begin in range(0, n, rows):
                end = min(begin + rows, n)
                p = torch.arange(begin, end, device=self.device)[:, None]
                first = max(SINK, begin - RECENT)  # the keys some row of this block sees: the sinks, then from here on
                keys = torch.cat([torch.arange(min(SINK, end)), torch.arange(first, end)]).to(self.device)
                hidden = (keys > p) | ((keys >= SINK) & (p - keys > RECENT))
                scores = q[:, begin:end] @ k[:, keys].transpose(1, 2) / math.sqrt(self.head_dim)
                blocks.append(torch.softmax(scores.masked_fill_(hidden, -math.inf), -1) @ v[:, keys])
            out[streaming] = torch.cat(blocks, 1)
        return out.transpose(0, 1).reshape(n, -1)

    def layer(self, x, index, streaming):
        w, at = self.weights, f"model.layers.{index}."
        h = self.norm(x, at + "input_layernorm.weight")
        q, k, v = (h @ w[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
        q, k, v = (t.view(len(x), -1, self.head_dim).transpose(0, 1) for t in (q, k, v))
        x = x + self.attention(self.rope(q), self.rope(k), v, streaming) @ w[at + "self_attn.o_proj.weight"].T
        h = self.norm(x, at + "post_attention_layernorm.weight")
        gate, up = h @ w[at + "mlp.gate_proj.weight"].T, h @ w[at + "mlp.up_proj.weight"].T
        return x + (torch.nn.functional.silu(gate) * up) @ w[at + "mlp.down_proj.weight"].T

    def inputs_of_layers(self, ids, streaming):
        """The residual stream before each layer and after the last one."""
        xs = [self.weights["model.embed_tokens.weight"][ids]]
        for index in range(self.layers):
            xs.append(self.layer(xs[-1], index, streaming[index]))
        return xs

    def logits(self, x):
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self.norm(x, "model.norm.weight") @ head.T


def encode_sample(tokenizer, built, device):
    """Document, then every question with its answer; returns the ids and where the answers' digits stand.

    The questions follow one another, so a sample costs one forward; facts stay further away than any recent window."""
    ids, answers = list(tokenizer.encode(built["document"]).ids), []
    for q in built["questions"]:
        ids += tokenizer.encode(q["ask"], add_special_tokens=False).ids
        digits = tokenizer.encode(q["answer"], add_special_tokens=False).ids
        answers += range(len(ids), len(ids) + len(digits))
        ids += digits + tokenizer.encode(".\n", add_special_tokens=False).ids
    return torch.tensor(ids, device=device), torch.tensor(answers, device=device)


def digit_loss(model, x, ids, answers):
    logits = model.logits(x[answers - 1])
    return torch.nn.functional.cross_entropy(logits, ids[answers]).item()


def ablate(model, samples):
    """Mean increase of the loss for each head, [layers][kv_heads]."""
    nothing = torch.zeros(model.layers, model.kv_heads, dtype=torch.bool)
    increase = torch.zeros(model.layers, model.kv_heads, dtype=torch.float64)
    for ids, answers in samples:
        xs = model.inputs_of_layers(ids, nothing)
        base = digit_loss(model, xs[-1], ids, answers)
        for layer in range(model.layers):
            for head in range(model.kv_heads):
                streaming = nothing.clone()
                streaming[layer, head] = True
                x = xs[layer]
                for index in range(layer, model.layers):
                    x = model.layer(x, index, streaming[index])
                increase[layer, head] += (digit_loss(model, x, ids, answers) - base) / len(samples)
        print(f"{len(ids)} tokens: loss with all heads {base:.4f}", file=sys.stderr, flush=True)
    return increase


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def streaming_heads(gates, sparsity):
    """duo's rule: keep the floor((1 - s) N + 0.5) largest gates over all layers, ties by splitmix64 of the index."""
    flat = gates.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], splitmix64(i)))
    streaming = torch.ones(len(flat), dtype=torch.bool)
    streaming[order[: math.floor((1 - sparsity) * len(flat) + 0.5)]] = False
    return streaming.view_as(gates)


def count_found(model, tokenizer, built, streaming):
    """Answers right in all digits; each question is asked on its own after the document (teacher-forced greedy)."""
    found = 0
    for q in built["questions"]:
        ids, answers = encode_sample(tokenizer, {"document": built["document"], "questions": [q]}, model.device)
        x = model.inputs_of_layers(ids, streaming)[-1]
        found += bool((model.logits(x[answers - 1]).argmax(-1) == ids[answers]).all())
    return found


def read_gates(folder):
    with open(os.path.join(folder, "full_attention_heads.tsv"), encoding="utf-8") as file:
        return torch.tensor([[float(v) for v in line.split("\t")] for line in file], dtype=torch.float64)


def write_scores(folder, increase, lengths):
    scores = {"description": "Each (layer, KV head) was made streaming in turn, all others left whole: the increase of the mean "
                             "loss on the answers' digits, in nats, over needle documents.",
              "sink": SINK, "recent": RECENT, "document_tokens": lengths,
              "loss_increase": [[round(value, 6) for value in row] for row in increase.tolist()]}
    with open(os.path.join(folder, "ablation.json"), "w", encoding="utf-8") as file:
        json.dump(scores, file, indent=1)
        file.write("\n")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=os.path.join(here, "needle-6m"))
    parser.add_argument("--pattern", default=os.path.join(here, "../../attn_patterns/needle-6m"))
    parser.add_argument("--text", nargs="+", default=["/usr/share/common-licenses"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2000, 3000, 4000, 8000], help="tokens a document")
    parser.add_argument("--verify", action="store_true", help="only answer questions with it, at 8 K tokens")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    model = Llama(args.model, "cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    text = read_text(args.text)
    gates = read_gates(args.pattern)
    if not args.verify:
        built = [build(text, n * BYTES_PER_TOKEN, 8, seed) for seed, n in enumerate(args.lengths, 100)]
        samples = [encode_sample(tokenizer, b, model.device) for b in built]
        increase = ablate(model, samples)
        write_scores(args.pattern, increase, [len(ids) for ids, _ in samples])
        for row, values in zip(gates.tolist(), increase.tolist()):
            print("  ".join(f"{gate:.4f} ({value:+.4f})" for gate, value in zip(row, values)))
    built = build(text, 8000 * BYTES_PER_TOKEN, 8, 7)
    for name, sparsity in (("full attention", 0.0), ("duo, sparsity 0.5", 0.5), ("duo, sparsity 0.75", 0.75), ("streaming only", 1.0)):
        found = count_found(model, tokenizer, built, streaming_heads(gates, sparsity))
        print(f"{name}: {found} of {len(built['questions'])} found", flush=True)


if __name__ == "__main__":
    main()
