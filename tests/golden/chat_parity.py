#!/usr/bin/env python3
"""Compares duo's chat templates with the families' Jinja templates, text for text and id for id.

Needs the pip packages `tokenizers` and `jinja2`; without them the test is skipped (exit code 77). With `--model DIR` (a
folder with tokenizer.json and tokenizer_config.json) that model's own template is compared besides, through
`transformers` if it is installed.

The templates below were written for this test from the families' documented behaviour: they render what the published
ones render for system, user and assistant turns without tools. jinja_parity.py compares the public ones, text for text.

    chat_parity.py --driver build/tests/golden/tokenize [--conversations 1000] [--model DIR]...
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

try:
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    import tokenizers  # noqa: F401  (the tokenizers are trained with it)
except ImportError:
    print("skipped: the pip packages `tokenizers` and `jinja2` are not installed")
    sys.exit(77)

import tokenizer_strings
from tokenizer_kinds import KINDS

ALTERNATE = ("{%- for m in rest %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
             "{{ raise_exception('turns must alternate') }}{%- endif %}{%- endfor %}")
SPLIT_SYSTEM = ("{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
                "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}")


def mistral(user_open, user_close, answer, place):
    system = ("{%%- if loop.%s and system_message is defined %%}{{ \"%s\" + system_message + \"\\n\\n\" + message[\"content\"] + \"%s\" }}"
              "{%%- else %%}" % (place, user_open, user_close)) if place else ""
    start = SPLIT_SYSTEM if place else "{%- set rest = messages %}"
    return (start + ALTERNATE + "{{ bos_token }}{%- for message in rest %}{%- if message[\"role\"] == \"user\" %}" + system +
            "{{ \"" + user_open + "\" + message[\"content\"] + \"" + user_close + "\" }}" + ("{%- endif %}" if place else "") +
            "{%- else %}{{ " + answer + " }}{%- endif %}{%- endfor %}")


def llama31(date):
    return ("{%- set rest = messages %}{%- set system = '' %}{%- if messages[0]['role'] == 'system' %}"
            "{%- set system = messages[0]['content'] | trim %}{%- set rest = messages[1:] %}{%- endif %}"
            "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}"
            "{{ 'Today Date: ' + " + date + " + '\\n\\n' + system + '<|eot_id|>' }}{%- for m in rest %}"
            "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}")


def chatml(default, generation="<|im_start|>assistant\\n"):
    first = ("{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" + default + "<|im_end|>\\n' }}{%- endif %}") if default else ""
    return (first + "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{ '" + generation + "' }}{%- endif %}")


QWEN3 = ("{%- set ns = namespace(open=true, last_query_index=messages|length - 1) %}{%- for m in messages[::-1] %}"
         "{%- if ns.open and m['role'] == 'user' and not (m['content'].startswith('<tool_response>') and "
         "m['content'].endswith('</tool_response>')) %}{%- set ns.open = false %}"
         "{%- set ns.last_query_index = messages|length - 1 - loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}"
         "{{ '<|im_start|>' + m['role'] + '\\n' }}{%- if m['role'] != 'assistant' %}{{ m['content'] }}{%- else %}"
         "{%- set c = m['content'] %}{%- set r = '' %}{%- if '</think>' in c %}"
         "{%- set r = c.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
         "{%- set c = c.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
         "{%- if loop.index0 > ns.last_query_index and (loop.last or r) %}"
         "{{ '<think>\\n' + r.strip('\\n') + '\\n</think>\\n\\n' + c.lstrip('\\n') }}{%- else %}{{ c }}{%- endif %}{%- endif %}"
         "{{ '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}")

LLAMA2 = (SPLIT_SYSTEM + ALTERNATE + "{%- for message in rest %}{%- if loop.index0 == 0 and system_message is defined %}"
          "{%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{%- else %}"
          "{%- set content = message['content'] %}{%- endif %}{%- if message['role'] == 'user' %}"
          "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{%- else %}{{ ' ' + content.strip() + ' ' + eos_token }}{%- endif %}"
          "{%- endfor %}")

LLAMA3 = ("{%- for m in messages %}{%- set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
          "'<|eot_id|>' %}{{ (bos_token if loop.first else '') + c }}{%- endfor %}"
          "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}")

# name: (template, kind of tokenizer, bos, eos)
FAMILIES = {
    "llama2": (LLAMA2, "llama2", "<s>", "</s>"),
    "normalized": (LLAMA2, "llama2 normalized", "<s>", "</s>"),  # special tokens that are looked for after normalisation
    "llama3": (LLAMA3, "llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": (llama31("'26 Jul 2024'"), "llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "llama3.2": (llama31("strftime_now('%d %b %Y')"), "llama3", "<|begin_of_text|>", "<|eot_id|>"),
    "mistral0.1": (mistral("[INST] ", " [/INST]", "message[\"content\"] + eos_token + \" \"", None), "llama2", "<s>", "</s>"),
    "mistral0.2": (mistral(" [INST] ", " [/INST]", "\" \" + message[\"content\"] + eos_token", "first"), "llama2", "<s>", "</s>"),
    "mistral0.3": (mistral("[INST] ", "[/INST]", "\" \" + message[\"content\"] + eos_token", "last"), "mistral", "<s>", "</s>"),
    "mistral0.3t": (mistral("[INST] ", "[/INST]", "\" \" + message[\"content\"]|trim + eos_token", "last"), "mistral", "<s>", "</s>"),
    "nemo": (mistral("[INST]", "[/INST]", "message[\"content\"] + eos_token", "last"), "nemo", "<s>", "</s>"),
    "qwen2": (chatml("You are a helpful assistant."), "qwen2", None, "<|im_end|>"),
    "qwen3": (QWEN3, "qwen2", None, "<|im_end|>"),
    "thinking": (chatml("", "<|im_start|>assistant\\n<think>\\n"), "qwen2", None, "<|im_end|>"),
    "smollm": (chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"), "smollm", "<|im_start|>", "<|im_end|>"),
}


def refuse(message):
    raise ValueError(message)


def jinja_render(source, bos, eos, messages, generation):
    import datetime
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(source).render(messages=messages, bos_token=bos or "", eos_token=eos or "",
                                                  add_generation_prompt=generation)


def content(rng, sources, thinks):
    text = " ".join(tokenizer_strings.make_string(rng, sources).decode("utf-8", errors="replace") for _ in range(rng.randint(0, 2)))
    for mark in tokenizer_strings.SPECIALS:  # what people write is never parsed for special tokens: compared elsewhere
        if "<" in mark or "[" in mark or mark == "user\n":
            text = text.replace(mark, "")
    text = text.replace("<", "(").replace("[", "(").replace("\x00", "")
    if rng.random() < 0.3:
        text = rng.choice([" ", "\n", "\u3000", "\x1c", "\t "]) + text + rng.choice([" ", "\n\n", "\u2028", "\x1f"])
    if thinks and rng.random() < 0.5:
        text = rng.choice(["<think>\n", "<think>", "\n<think>\n\n"]) + "so \n" + rng.choice(["\n</think>\n\n", "</think>"]) + text
    return text


def conversation(rng, sources, thinks):
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": content(rng, sources, False)})
    for turn in range(rng.randint(1, 6)):
        role = "user" if turn % 2 == 0 else "assistant"
        if rng.random() < 0.02:
            role = rng.choice(["user", "assistant"])  # a broken order: some families refuse it
        messages.append({"role": role, "content": content(rng, sources, thinks and role == "assistant")})
    return messages


def pack(text):
    data = text.encode("utf-8")
    return struct.pack("<I", len(data)) + data


def drive(driver, folder, conversations):
    payload = b""
    for messages, generation in conversations:
        payload += struct.pack("<II", int(generation), len(messages))
        for message in messages:
            payload += pack(message["role"]) + pack(message["content"])
    done = subprocess.run([driver, folder, "chat"], input=payload, stdout=subprocess.PIPE, check=True).stdout
    at, answers = 0, []
    while at < len(done):
        (size,) = struct.unpack_from("<I", done, at)
        text = done[at + 4:at + 4 + size].decode("utf-8")
        at += 4 + size
        (count,) = struct.unpack_from("<I", done, at)
        answers.append((text, list(struct.unpack_from("<%di" % count, done, at + 4))))
        at += 4 + 4 * count
    return answers


def compare(driver, name, folder, render, rng, sources, count):
    """The number of conversations whose text or ids differ."""
    reference = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    conversations = [(conversation(rng, sources, name == "qwen3"), rng.random() < 0.7) for _ in range(count)]
    found = drive(driver, folder, conversations)
    assert len(found) == len(conversations)
    bad = refused = 0
    for (messages, generation), (text, ids) in zip(conversations, found):
        try:
            expected = render(messages, generation)
            expected_ids = reference.encode(expected, add_special_tokens=False).ids
        except Exception:  # pylint: disable=broad-except
            expected, expected_ids = "", []  # duo refuses too: the driver writes nothing
            refused += 1
        if text != expected or ids != expected_ids:
            bad += 1
            if bad <= 3:
                print("  %s: %r\n    expected %r %s\n    found    %r %s" % (name, messages, expected, expected_ids[:40], text, ids[:40]))
    print("%-11s %d of %d conversations differ (%d refused by both)" % (name, bad, count, refused), flush=True)
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True, help="the tokenize program that tests/golden builds")
    parser.add_argument("--conversations", type=int, default=1000, help="per family, times DUO_TEST_SCALE of the environment")
    parser.add_argument("--model", action="append", default=[], help="a model folder to compare besides")
    args = parser.parse_args()
    args.conversations *= int(os.environ.get("DUO_TEST_SCALE", "1"))
    rng = random.Random(2)
    sources = tokenizer_strings.paragraphs()
    kinds = {k.__name__: k for k in KINDS}
    bad, trained = 0, {}
    with tempfile.TemporaryDirectory() as root:
        for name, (source, kind, bos, eos) in FAMILIES.items():
            folder = os.path.join(root, name)
            os.mkdir(folder)
            if kind not in trained:
                trained[kind] = kinds[kind.split()[0]](sources)
                for token in trained[kind]["added_tokens"]:
                    token["normalized"] = "normalized" in kind or token.get("normalized", False)
            with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
                json.dump(trained[kind], f)
            config = {"bos_token": bos, "eos_token": {"content": eos}, "chat_template": source}
            with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
                json.dump(config, f)
            bad += compare(args.driver, name, folder, lambda m, g, t=(source, bos, eos): jinja_render(*t, m, g), rng, sources,
                           args.conversations)
        for folder in args.model:
            try:
                from transformers import AutoTokenizer
            except ImportError:
                print("%s not compared: the pip package `transformers` is not installed" % folder)
                continue
            model = AutoTokenizer.from_pretrained(folder)
            bad += compare(args.driver, os.path.basename(folder.rstrip("/")), folder,
                           lambda m, g, t=model: t.apply_chat_template(m, tokenize=False, add_generation_prompt=g), rng, sources,
                           args.conversations)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
