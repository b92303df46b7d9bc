#!/usr/bin/env python3
"""Every flag of duo serve, set in each of the three ways: on the command line, as a variable DUO_FLAG, and in a --config
file; which of them wins; and that what --print-config says, fed back, gives the same.

    settings_test.py --duo build/duo

The flags are those that --print-config names. Standard library only.
"""

import os
import re
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model

# Flags whose values no rule below finds.
SPECIAL = {"listen": "127.0.0.1:1234", "http": "127.0.0.1:1235", "metrics": "127.0.0.1:1236", "rank-weights": "2,1",
           "cors-origin": "http://a.example", "otlp-endpoint": "http://a.example:4318", "sparsity": "0.75", "threshold": "0.25",
           "max-wait": "0.25", "prefill-sparsity": "auto:0.95", "decode-sparsity": "0.95",
           "key-means": "/a place/means"}
OTHERS = {"listen": ("127.0.0.1:1", "127.0.0.1:2"), "kv": ("int4", "int8")}
EXCLUDED = {"sparsity": "threshold"}  # never both


def run(duo, words, variables=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("DUO_")}
    return subprocess.run([duo, "serve", *words], capture_output=True, text=True, check=False, timeout=60,
                          env={**env, **(variables or {})})


def variable(flag):
    return "DUO_" + flag.upper().replace("-", "_")


def printed(text):
    """Flag to its value and its source; only what is no default."""
    return {flag: (value, source) for flag, value, source in re.findall(r"^([a-z][a-z0-9-]*) = (.*?)  # from (.*)$", text, re.M)}


def values(duo):
    """A value for each flag, none of them its default."""
    found = {}
    shown = run(duo, ["--help"]).stdout
    for flag, default in re.findall(r"^#?([a-z][a-z0-9-]*) = (.*)$", run(duo, ["--print-config"]).stdout, re.M):
        text = re.search(rf"^  --{flag}\b(.*(?:\n   .*)*)", shown, re.M).group(1)
        one_of = re.search(r"one of\s+([^;)]*)", text)
        default = default.strip('"')
        if flag in SPECIAL:
            found[flag] = SPECIAL[flag]
        elif default == "false":
            found[flag] = "true"
        elif one_of:
            found[flag] = re.split(r",\s+", one_of.group(1).strip())[-1]
        elif re.match(r" [A-Z]*(FILE|DIR|NAME)", text):
            found[flag] = f"/a place/{flag}"
        else:
            found[flag] = str(int(float(default or "5")) + 7)
    return found


def three_ways(duo, folder, chosen):
    """The same flags as words, variables and a file."""
    file = os.path.join(folder, "all.toml")
    with open(file, "w", encoding="utf-8") as out:
        out.write("".join(f'{flag} = "{value}"\n' for flag, value in chosen.items()))
    words = [f"--{flag}={value}" for flag, value in chosen.items()]
    variables = {variable(flag): value for flag, value in chosen.items()}
    return {"the command line": run(duo, ["--print-config", *words]), "DUO_": run(duo, ["--print-config"], variables),
            file: run(duo, ["--print-config", "--config", file])}


def serves(duo, source, folder, checks):
    """A server that has nothing but its file, told to end."""
    file = os.path.join(folder, "serve.toml")
    with open(file, "w", encoding="utf-8") as out:
        out.write(f'model = "{demo_model(source)}"\nlisten = "127.0.0.1:0"\nhttp = "none"\nlog = "json"\n')
    with subprocess.Popen([duo, "serve", "--config", file, "--threads", "1"], stderr=subprocess.PIPE, text=True) as server:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if '"listening"' in line:
                server.terminate()
        checks.expect(server.wait() == 0 and '"listening"' in "".join(lines), f"served by its file: {lines}")


def main():
    args = arguments(__doc__, "--duo").parse_args()
    checks, duo = Checks(), args.duo
    every = values(duo)
    checks.expect(len(every) > 35, f"only {len(every)} flags were found")
    with tempfile.TemporaryDirectory() as folder:
        for left_out in (*EXCLUDED, *EXCLUDED.values()):
            chosen = {flag: value for flag, value in every.items() if flag != left_out}
            outputs = three_ways(duo, folder, chosen)
            for source, done in outputs.items():
                got = printed(done.stdout)
                checks.expect(done.returncode == 0, f"{source}: exit {done.returncode}, {done.stderr!r}")
                for flag, value in chosen.items():
                    text, where = got.get(flag, ("", ""))
                    checks.expect(re.sub(r'[\["\]]', "", text) == value, f"{flag} from {source}: {text!r}, not {value!r}")
                    checks.expect(where.startswith(source), f"{flag}: said to be from {where!r}, is from {source}")
            again = os.path.join(folder, "again.toml")
            with open(again, "w", encoding="utf-8") as out:
                out.write(outputs["DUO_"].stdout)
            back = printed(run(duo, ["--print-config", "--config", again]).stdout)
            first = printed(outputs["DUO_"].stdout)
            checks.expect({k: v[0] for k, v in back.items()} == {k: v[0] for k, v in first.items()}, "fed back it is another")
        file = os.path.join(folder, "low.toml")
        with open(file, "w", encoding="utf-8") as out:
            out.write("kv = fp8\nlisten = 127.0.0.1:3\nweights = int4\n")
        got = printed(run(duo, ["--print-config", "--config", file, "--kv", "int4"], {"DUO_KV": "int8", "DUO_LISTEN": "127.0.0.1:2"}).stdout)
        checks.expect([got[flag][0] for flag in ("kv", "listen", "weights")] == ['"int4"', '"127.0.0.1:2"', '"int4"'], f"order: {got}")
        wrong = run(duo, ["--model", "x"], {"DUO_KV": "int5"})
        checks.expect(wrong.returncode == 2 and "DUO_KV" in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.stderr)
        serves(duo, args.source, folder, checks)
    version = subprocess.run([duo, "--version"], capture_output=True, text=True, check=True).stdout
    checks.expect(re.fullmatch(r"duo \d+\.\d+\.\d+\ncommit (unknown|[0-9a-f]{12}(-dirty)?)\nbuilt .*\n", version), version)
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
