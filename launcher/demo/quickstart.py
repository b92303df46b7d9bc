#!/usr/bin/env python3
"""The main job, shown: one long document, read once, questions answered, with DuoAttention and with full attention.

launcher/quickstart.sh calls this with the program that it built. Standard library only.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from needle_document import BYTES_PER_TOKEN, build, read_text  # noqa: E402

LICENSES = "/usr/share/common-licenses"
SPARSITY = 0.75  # of needle-6m's 24 KV heads, six keep everything
SMOLLM2_BYTES = 27000  # about 5,800 tokens of English; the model's positions end at 8,192
SMOLLM2_QUESTIONS = ["Does this license offer a warranty?", "What does 'copyleft' mean?"]
QUESTIONS_ON_ANY_TEXT = ["What is this text about?", "Which three points does this text make?"]


def system_text(first=None):
    folder = LICENSES if os.path.isdir(LICENSES) else os.path.join(os.path.dirname(__file__), "..", "..", "LICENSE")
    path = os.path.join(folder, first) if first and os.path.exists(os.path.join(folder, first)) else folder
    return read_text([path]), path


def generate(args, document, asks, more, may_be_long=False):
    """Runs `duo generate --json` with its progress on the terminal; returns the object that it prints. May_be_long: None, and
    nothing on the terminal, when the document has more tokens than the model has positions."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
        file.write(document)
        file.flush()
        command = [args.duo, "generate", "--model", args.model, "--device", args.device, "--prompt-file", file.name, "--json",
                   *more]
        for ask in asks:
            command += ["--ask", ask]
        if not may_be_long:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                sys.exit(done.returncode)  # duo has said why
            return json.loads(done.stdout)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            for line in running.stderr:
                if line.startswith("error: the prompt has ") and " positions" in line:
                    return None
                print(line, end="", file=sys.stderr, flush=True)
            answer = running.stdout.read()
        if running.returncode != 0:
            sys.exit(running.returncode)
        return json.loads(answer)


def size(count):
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"


def needle(args):
    text, source = (read_text([args.document]), args.document) if args.document else system_text()
    built = build(text, None if args.document else round(args.tokens * BYTES_PER_TOKEN))
    asks = [q["ask"] for q in built["questions"]]
    print(f"\nDocument: {source}, {built['bytes']:,} bytes, with {len(asks)} facts hidden in it.\n", flush=True)
    common = ["--max-new-tokens", "12", "--stop", "\n"]
    duo = generate(args, built["document"], asks, ["--attention", "duo", "--sparsity", str(SPARSITY), *common])
    all_heads = duo["retrieval_heads"] + duo["streaming_heads"]
    print(f"\nThe demo model finds facts with {duo['retrieval_heads']} of its {all_heads} heads keeping everything, so "
          f"{SPARSITY:.0%} of them stream here\n(--sparsity {SPARSITY}). For other models duo lets 50 % stream unless told "
          "otherwise.")
    print(f"\n{'depth':>6}  {'question':<52} answer")
    for q, answer in zip(built["questions"], duo["answers"]):
        found = answer["text"].strip().rstrip(".")
        mark = "✓" if found == q["answer"] else f"✗ expected {q['answer']}"
        print(f"{q['depth']:>6.0%}  {q['ask'].split(chr(10))[1][10:]:<52} {found} {mark}")
    print("\nNow the same with full attention, to compare.\n", flush=True)
    full = generate(args, built["document"], asks, ["--attention", "full", *common])

    print(f"\n{'':<16}{'found':>8}{'KV memory':>12}{'read in':>10}{'heads that keep everything':>29}")
    missed = 0
    for name, result in (("full attention", full), ("duo attention", duo)):
        right = sum(a["text"].strip().rstrip(".") == q["answer"] for a, q in zip(result["answers"], built["questions"]))
        missed += len(asks) - right
        heads = f"{result['retrieval_heads']} of {result['retrieval_heads'] + result['streaming_heads']}"
        print(f"{name:<16}{f'{right} of {len(asks)}':>8}{size(result['kv_bytes']):>12}"
              f"{result['prefill_seconds']:>8.1f} s{heads:>29}")
    print(f"\n{duo['prompt_tokens']:,} tokens on {duo['device']}, read once, then {len(asks)} questions. DuoAttention's KV cache "
          f"takes {duo['kv_bytes'] / full['kv_bytes']:.0%} of full attention's.")
    return 1 if missed else 0


def whats_next(args):
    folder = os.path.dirname(os.path.abspath(args.duo))
    print(f"\nThe program is {os.path.abspath(args.duo)}. To call it as duo in this shell:\n"
          f"  export PATH={shlex.quote(folder)}:$PATH\n"
          "Then, for example:\n"
          f"  duo info --model {shlex.quote(args.model)}")


def smollm2(args):
    text, source = (read_text([args.document]), args.document) if args.document else system_text("GPL-3")
    questions = args.ask or (QUESTIONS_ON_ANY_TEXT if args.document else SMOLLM2_QUESTIONS)
    whole, most = len(text.encode()), SMOLLM2_BYTES
    print(f"\nModel: SmolLM2-135M-Instruct, a GGUF file of 4 bits. Document: {source}, {whole:,} bytes.", flush=True)
    result = None
    while result is None:  # text of many digits or of other scripts has more tokens a byte
        part = text.encode()[:most].decode(errors="ignore")
        result = generate(args, part, questions, ["--chat", "--max-new-tokens", "96", "--stop", "\n\n"],
                          may_be_long=most > 1000)
        most = most * 3 // 4
    read = len(part.encode())
    if read < whole:
        print(f"Only the first {read:,} of them were read: this model has 8,192 positions.")
    print()
    for question, answer in zip(questions, result["answers"]):
        print(f"Question: {question}\nAnswer:   {answer['text'].strip()}\n")
    print(f"{result['prompt_tokens']:,} tokens on {result['device']}, read in {result['prefill_seconds']:.1f} s, "
          f"KV memory {size(result['kv_bytes'])}, {result['decode_tokens_per_second']:.1f} tokens a second.")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--duo", required=True, help="the program")
    parser.add_argument("--model", required=True, help="the model's folder")
    parser.add_argument("--device", default="auto", help="where to run (see duo generate --help)")
    parser.add_argument("--kind", choices=["needle", "smollm2"], default="needle")
    parser.add_argument("--document", help="a text file (default: the system's licence texts)")
    parser.add_argument("--ask", action="append", help="a question for smollm2; repeat for more")
    parser.add_argument("--tokens", type=int, default=32000, help="size of the default document")
    args = parser.parse_args()
    try:
        code = needle(args) if args.kind == "needle" else smollm2(args)
        whats_next(args)
        return code
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
