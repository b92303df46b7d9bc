#!/usr/bin/env python3
"""What a command line owes its users: `duo tokenize`, prompts from files and pipes, streams that cannot be written, numbers.

    command_line_test.py --duo build/duo

Standard library only. Works on the demo model and on copies of it.
"""

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "launcher", "demo", "needle-6m")
failures = 0


def check(what, good, seen=""):
    global failures
    failures += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}{'' if good else ': ' + str(seen)[-600:]}", flush=True)


def copy_model(folder):
    os.makedirs(folder)
    for name in os.listdir(MODEL):
        if os.path.isfile(os.path.join(MODEL, name)):
            shutil.copyfile(os.path.join(MODEL, name), os.path.join(folder, name))
    return folder


def edit_json(path, change):
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    change(content)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def add_own_head(folder):
    """A head that is not the embedding, though config.json ties them; its rows are the embedding's, moved on by one."""
    path = os.path.join(folder, "model.safetensors")
    with open(path, "rb") as file:
        data = file.read()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:begin])
    name = "model.embed_tokens.weight"
    first, end = header[name]["data_offsets"]
    row = (end - first) // header[name]["shape"][0]
    head = data[begin + first + row:begin + end] + data[begin + first:begin + first + row]
    header.pop("lm_head.weight", None)
    keep = {n: t for n, t in header.items()}
    body, at = b"", 0
    for n in sorted((n for n in keep if n != "__metadata__"), key=lambda n: keep[n]["data_offsets"][0]):
        a, b = keep[n]["data_offsets"]
        body += data[begin + a:begin + b]
        keep[n] = dict(keep[n], data_offsets=[at, at + b - a])
        at += b - a
    keep["lm_head.weight"] = dict(keep[name], data_offsets=[at, at + len(head)])
    text = json.dumps(keep).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body + head)
    edit_json(os.path.join(folder, "config.json"), lambda c: c.update(tie_word_embeddings=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    duo = parser.parse_args().duo

    def run(*words, **more):
        more.setdefault("stdout", subprocess.PIPE)
        return subprocess.run([duo, *words], stderr=subprocess.PIPE, check=False, timeout=120, **more)

    def refused(what, words, *arguments, code=1, **more):
        done = run(*arguments, **more)
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("error: ")]
        good = done.returncode == code and len(lines) == 1 and all(word in lines[0] for word in words)
        check(f"{what}: {lines[0] if lines else ''}", good, (done.returncode, done.stderr))

    short = ["--model", MODEL, "--max-new-tokens", "2", "--device", "cpu"]
    with tempfile.TemporaryDirectory() as work:
        def file_of(name, content):
            path = os.path.join(work, name)
            with open(path, "wb") as file:
                file.write(content)
            return path

        # duo tokenize
        done = run("tokenize", "--model", MODEL, "--text", "It's 12 <s>", "--json")
        shown = json.loads(done.stdout)
        check("tokenize --json", shown["text"] == "It's 12 <s>" and shown["tokens"] == len(shown["ids"]) == len(shown["pieces"]), done)
        check("tokenize says that it fits", b"it fits" in done.stderr, done.stderr)
        ids = run("tokenize", "--model", MODEL, "--text", "It's 12 <s>", "--ids").stdout
        check("tokenize --ids", [int(i) for i in ids.split()] == shown["ids"], ids)
        check("tokenize --count", int(run("tokenize", "--model", MODEL, "--text", "It's 12 <s>", "--count").stdout) == shown["tokens"])
        done = run("tokenize", "--model", MODEL, "--file", "-", "--count", input=b"It's 12 <s>")
        check("tokenize standard input", done.stdout.strip() == str(shown["tokens"]).encode(), done)
        people = run("tokenize", "--model", MODEL, "--text", "It's 12 <s>").stdout.decode()
        check("tokenize for people", "It's 12" in people.splitlines()[0] and len(people.splitlines()) == shown["tokens"] + 2, people)
        long = file_of("long.txt", b"word " * 400000)
        small = copy_model(os.path.join(work, "small"))
        edit_json(os.path.join(small, "config.json"), lambda c: c.update(max_position_embeddings=64))
        done = run("tokenize", "--model", small, "--file", long, "--count")
        check("tokenize says that it does not fit", b"it does not fit" in done.stderr and done.returncode == 0, done.stderr)
        talks = copy_model(os.path.join(work, "talks"))
        special = "<|begin_of_text|>"
        file_of("talks/chat_template.jinja", ("{% for m in messages %}" + special + "{{ m.role }}: {{ m.content }}{% endfor %}").encode())
        messages = file_of("talk.json", json.dumps([{"role": "user", "content": "Hi " + special}]).encode())
        done = run("tokenize", "--model", talks, "--messages", messages)
        first = done.stdout.decode().split("\n\n")[0]
        check("special tokens are marked, where they are ones", first.startswith(f"\u27e6{special}\u27e7user") and first.count("\u27e6") == 1, done)

        # Lists with a hole.
        config = ["plan", "--config", os.path.join(MODEL, "config.json")]
        for flag, found in (("--simulate", "8,,16"), ("--simulate", ",8"), ("--simulate", "8,"), ("--world", "2")):
            more = [flag, found] + ["--rank-weights=1,,1"] * (flag == "--world")
            refused(f"{more}", [more[-1].split("=")[-1], "comma"], *config, *more, code=2)
        for flag, list_, words in (("--rows", ",", ["comma"]), ("--rows", "8,", ["comma"]), ("--rows", "", ["found none"]),
                                   ("--context", ",,", ["comma"]), ("--kernels", "", ["found none"])):
            verb = "attention" if flag == "--kernels" else "decode"
            for words_of_flag in ([flag, list_], [f"{flag}={list_}"]):
                refused(f"bench {verb} {words_of_flag}", [flag, "expected a value"] + words, "bench", verb, *words_of_flag, code=2)
        refused("a list without a value in a variable", ["--rank-weights", "comma", "DUO_RANK_WEIGHTS"], "serve", "--model", MODEL,
                code=2, env=dict(os.environ, DUO_RANK_WEIGHTS=","))
        check("a list without one", run(*config, "--simulate", "8,16", "--json").returncode == 0)
        simulated = json.loads(run(*config, "--simulate", "8", "--gpu", "h200", "--json").stdout)
        check("simulations say what they assume", simulated["assumed"]["gpu"] == "H200" and simulated["assumed"]["gpus_per_host"] == 8, simulated)
        wide = copy_model(os.path.join(work, "wide"))
        edit_json(os.path.join(wide, "config.json"), lambda c: c.update(torch_dtype="float32"))
        planned = [json.loads(run("plan", "--model", model, "--simulate", "2", "--json").stdout) for model in (MODEL, wide)]
        check("f32 weights become bf16 on a GPU, in the plan too", planned[0]["assumed"]["weight_bits"] == planned[1]["assumed"]["weight_bits"] == 16 and
              planned[0]["simulated"][0]["memory"] == planned[1]["simulated"][0]["memory"], planned[1])
        help_text = " ".join(run("generate", "--help").stdout.decode().split())
        check("the help says what writing sparsely can lose", "chain of facts" in help_text and "11 to 32 of 100" in help_text)

        # Files that are no text.
        for name, content, words in (
                ("a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 40, ["PDF"]),
                ("a.docx", b"PK\x03\x04" + os.urandom(2000), ["ZIP"]), ("a.gz", b"\x1f\x8b\x08" + bytes(200), ["gzip"]),
                ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(200), ["PNG"]), ("a.bin", bytes(range(256)) * 20, ["binary"]),
                ("a.txt16", "\ufeffHello there".encode("utf-16"), ["UTF-16"]), ("b.txt16", "Hello there, all".encode("utf-16-le"), ["UTF-16"]),
                ("a.cp1251", "Вчера мы ходили в лес".encode("cp1251"), ["another encoding"])):
            path = file_of(name, content)
            refused(name, [path, "expected a text"] + words, "generate", *short, "--prompt-file", path)
            refused(name, [path, "expected a text"] + words, "tokenize", "--model", MODEL, "--file", path)
        path = file_of("latin1.txt", "Größere Straßen führen über Köln nach Süden, und weiter.".encode("latin1"))
        check("a few bytes that are no UTF-8 are read", run("generate", *short, "--prompt-file", path).returncode == 0)

        # Prompts: standard input, cut, larger than the memory.
        done = run("generate", *short, "--json", "--prompt-file", "-", input=b"It's 12 <s>")
        check("a prompt from standard input", json.loads(done.stdout)["prompt_tokens"] == shown["tokens"], done)
        done = run("generate", *short, "--json", "--prompt-file", long, "--max-tokens", "100")
        check("a prompt that is cut", 98 <= json.loads(done.stdout)["prompt_tokens"] <= 100 and b"is cut at 100 tokens" in done.stderr, done)
        huge = file_of("huge.txt", b"word ")
        os.truncate(huge, 1 << 40)
        refused("a prompt larger than the memory", [huge, "memory"], "generate", *short, "--prompt-file", huge)
        refused("a pipe that does not end", ["/dev/zero", "memory"], "generate", *short, "--prompt-file", "/dev/zero",
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)))

        strips = copy_model(os.path.join(work, "strips"))
        edit_json(os.path.join(strips, "tokenizer.json"),
                  lambda t: t.update(normalizer={"type": "Strip", "strip_left": True, "strip_right": True}))
        for model, again in ((strips, True), (MODEL, False)):
            done = run("generate", "--model", model, *short[2:], "--prompt", "One. Two.", "--ask", " Three?")
            check("whether the prompt is read again with each question", done.returncode == 0 and
                  (b"reads the prompt again" in done.stderr) == again, done)

        # Standard output.
        for words in (["generate", *short, "--prompt", "Hello."], ["generate", *short, "--prompt", "Hello.", "--json"], ["info", "--model", MODEL],
                      ["plan", "--model", MODEL, "--world", "2"], ["tokenize", "--model", MODEL, "--text", "Hello."], ["--help"]):
            with open("/dev/full", "wb") as full:
                refused("a full disk: " + words[0], ["stdout"], *words, stdout=full)
        refused("a closed stdout", ["stdout"], "info", "--model", MODEL, stdout=None, preexec_fn=lambda: os.close(1))
        done = subprocess.run(f'"{duo}" tokenize --model "{MODEL}" --file "{long}" | head -1; test "${{PIPESTATUS[0]}}" != 1', shell=True,
                              executable="/bin/bash", capture_output=True, check=False, timeout=120)
        check("a reader that ends early is no error", done.returncode == 0 and b"error" not in done.stderr, done)

        # Numbers.
        for flag in ("--temperature", "--top-p", "--sparsity", "--threshold", "--max-wait"):
            for value in ("nan", "inf", "-nan"):
                refused(f"{flag} {value}", [flag], "generate", *short, "--prompt", "x", f"{flag}={value}", code=2)
        refused("--rank-weights nan", ["--rank-weights"], "plan", "--model", MODEL, "--world", "2", "--rank-weights", "1,nan", code=2)
        for flag, value in (("--seed", "-1"), ("--seed", "99999999999999999999"), ("--max-new-tokens", "0"), ("--recent", "-1"),
                            ("--threads", "99999999999")):
            refused(f"{flag} {value}", [flag], "generate", *short, "--prompt", "x", f"{flag}={value}", code=2)
        # What the answer is to be is read before the model, whose weights are missing here.
        light = copy_model(os.path.join(work, "light"))
        os.remove(os.path.join(light, "model.safetensors"))
        generate = ["generate", "--model", light, "--device", "cpu", "--prompt", "x"]
        refused("a schema that is not there", ["absent.json"], *generate, "--json-schema", os.path.join(work, "absent.json"))
        refused("a pattern with a hole", ["--regex", "a ( has no )"], *generate, "--regex", "(")
        prose = os.path.join(work, "prose.txt")
        with open(prose, "w") as file:
            file.write("no schema")
        refused("a schema that is none", ["--json-schema", "prose.txt", "not JSON"], *generate, "--json-schema", prose)
        refused("a bias of nothing", ["--logit-bias", "TOKEN=BIAS", "found 5"], *generate, "--logit-bias", "5", code=2)
        refused("a bias of nothing, for a server", ["--logit-bias", "TOKEN=BIAS", "found 5"], "client", "ask", "book", "Who?", "--logit-bias", "5",
                code=2)

        # Flags that contradict each other or the number of ranks, before anything is opened: there is no such model.
        absent = os.path.join(work, "absent")
        ranks = dict(os.environ, OMPI_COMM_WORLD_SIZE="3", OMPI_COMM_WORLD_RANK="0")
        for command in (["generate", "--model", absent, "--prompt", "x"], ["serve", "--model", absent], ["chat", "--model", absent]):
            refused(f"--rank-weights without ranks: {command[0]}", ["--rank-weights", "for each of 1 rank, found 2", "mpirun -n"], *command,
                    "--rank-weights", "2,1", code=2)
            refused(f"--rank-weights of other ranks: {command[0]}", ["--rank-weights", "for each of 3 ranks, found 2"], *command,
                    "--rank-weights", "2,1", code=2, env=ranks)
            refused(f"--speculate model: {command[0]}", ["--speculate model", "--draft-model PATH", "same tokenizer"], *command,
                    "--speculate", "model", code=2)
            refused(f"--draft-model: {command[0]}", ["--draft-model", "under text"], *command, "--speculate", "text", "--draft-model", MODEL,
                    code=2)
            refused(f"--draft-weights: {command[0]}", ["--draft-weights int4", "--speculate self"], *command, "--draft-weights", "int4", code=2)
        refused("two kinds of page lists", ["--decode-sparsity", "--speculate self"], "generate", "--model", absent, "--prompt", "x",
                "--speculate", "self", "--decode-sparsity", "auto", code=2)
        refused("--speculate model in a variable", ["--speculate model", "DUO_SPECULATE"], "serve", "--model", absent, code=2,
                env=dict(os.environ, DUO_SPECULATE="model"))
        refused("weights of ranks that are played", ["--rank-weights", "for each of 4 ranks, found 2"], "bench", "balance", "--shape", "needle-6m",
                "--world", "2,4", "--rank-weights", "1,1", code=2)
        refused("and of one of them", ["--rank-weights", "for each of 4 ranks, found 2"], "bench", "decode", "--shape", "needle-6m",
                "--simulate-rank", "0/4", "--rank-weights", "1,1", code=2)

        # Drafts are checked behind a text.
        refused("a text without a model", ["--text", "--model"], "bench", "drafts", "--shape", "needle-6m", "--text", long, code=2)
        drafts = ["bench", "drafts", "--model", MODEL, "--attention", "full", "--device", "cpu", "--steps", "8", "--drawn", "32", "--text"]
        refused("a text that is too short", ["prose.txt", "need 328", "a longer text"], *drafts, prose, "--context", "200")
        rows = json.loads(run(*drafts, os.path.join(ROOT, "LICENSE"), "--context", "200", "--json").stdout)["rows"]
        drawn = [row for row in rows if row["what"].startswith("drawn behind the text in steps of 16 rows")]
        check("draws behind a text are alike", [(row["tokens"], row["drawn_otherwise"]) for row in drawn] == [(32, 0)] * 2, rows)

        done = run(*drafts, os.path.join(ROOT, "LICENSE"), "--context", "10", "--json")
        check("behind a text that is shorter than what is verified", done.returncode == 0, done)

        # What cannot be loaded is described, with the reason, and its texts are fit for a terminal.
        foreign = copy_model(os.path.join(work, "foreign"))
        edit_json(os.path.join(foreign, "config.json"), lambda c: c.update(quantization_config={
            "quant_method": "compressed-tensors", "format": "strange\x1b[31m\n" + "x" * 5000,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 3, "type": "int"}}}}))
        done = run("info", "--model", foreign)
        check("info says why weights cannot be loaded", done.returncode == 0 and b"weights        cannot be loaded: " in done.stdout and
              b"pack-quantized are" in done.stdout and b"\x1b" not in done.stdout and len(done.stdout) < 3000, done)
        shown = json.loads(run("info", "--model", foreign, "--json").stdout)
        check("info --json too", shown["weight_formats"] is None and "pack-quantized are" in shown["refused"], shown)

        for address in ("127.0.0.1:70000", "127.0.0.1", "127.0.0.1:"):
            refused(f"--server {address}", ["--server"], "client", "list", "--server", address, code=2)
            refused(f"--listen {address}", ["--listen"], "serve", "--model", MODEL, "--listen", address, code=2)

        # The client: what it sends, and where.
        refused("a question that is no UTF-8", ["expected UTF-8"], "client", "ask", "book", b"What is caf\xe9?", "--server", "127.0.0.1:9")
        done = run("client", "list", "--server", "127.0.0.1:9", env=dict(os.environ, http_proxy="http://127.0.0.1:1", grpc_proxy="http://127.0.0.1:1"))
        check("no proxy on the way to this machine", b"127.0.0.1:9" in done.stderr and b"127.0.0.1:1:" not in done.stderr and b"roxy" not in done.stderr,
              done.stderr)

        # The model's folder.
        larger = copy_model(os.path.join(work, "larger"))
        vocab = 4096
        edit_json(os.path.join(larger, "tokenizer.json"), lambda t: t["model"]["vocab"].update({"zzzz": vocab}))
        for words in (["generate", "--prompt", "x"], ["info"], ["serve", "--listen", "127.0.0.1:0", "--device", "cpu"], ["tokenize", "--text", "x"],
                      ["identify", "--out", os.path.join(work, "out"), "--device", "cpu"], ["bench", "perplexity", "--text", long]):
            refused(f"more tokens than rows: {words[0]}", ["tokenizer.json", f"vocabulary of {vocab}"], words[0], *(words[1:2] if words[0] == "bench" else []),
                    "--model", larger, *(words[2:] if words[0] == "bench" else words[1:]))
        headed = copy_model(os.path.join(work, "headed"))
        add_own_head(headed)
        words = ["generate", "--max-new-tokens", "4", "--device", "cpu", "--json", "--prompt", "Hello.", "--attention", "full"]
        own, tied = run(*words, "--model", headed), run(*words, "--model", MODEL)
        check("a head of its own is kept", b"ties the output head" in own.stderr and b"ties the output head" not in tied.stderr, own.stderr)
        check("and used", json.loads(own.stdout)["token_ids"] != json.loads(tied.stdout)["token_ids"], own.stdout)
        spaced = copy_model(os.path.join(work, "spaced"))
        for wanted in (True, False):
            file_of("spaced/tokenizer_config.json", json.dumps({"add_prefix_space": wanted}).encode())
            text = json.loads(run("tokenize", "--model", spaced, "--text", "Hello.", "--json").stdout)["pieces"]
            first = [p for p in text if "H" in p or p.startswith("\u0120")][0]
            check(f"add_prefix_space {wanted} in tokenizer_config.json", first.startswith("\u0120") == wanted, text)
    print(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
