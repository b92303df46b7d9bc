#!/usr/bin/env python3
"""What users meet when `mpirun duo` ends otherwise than it should: a rank is killed, somebody presses Ctrl-C.

    program_test.py --duo build/duo --mpirun mpirun [--device cuda] [--ranks 3] [--limit 30] CASE

CASE: generate-prefill, generate-decode, serve-idle, serve-prefill, serve-decode: the last rank is killed with -9 at that
moment. Everything must be gone within --limit seconds, with an exit code other than 0 and exactly one line "error: ", which names
the rank. serve-idle also measures that a rank at rest takes at most 2 % of a core. generate-term, generate-int: mpirun is
told to stop, all ranks go, nothing hangs. hosts: the main job on two hosts of two ranks, over TCP, finds its fact
(exit code 77, skipped, where network namespaces cannot be made). bound: what ranks say that mpirun bound to one core. together:
answer and statistics where mpirun's output and errors go to one place. Kills are repeated DUO_TEST_SCALE times. Standard library
only.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = os.path.join(ROOT, "launcher", "demo", "needle-6m")
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from needle_document import build, read_text  # noqa: E402


class Job:
    """A command under mpirun, its output read line by line. end_all() ends those that a failed test left."""

    started = []

    def __init__(self, args, words):
        self.size, self.limit = args.ranks, args.limit
        command = [args.mpirun, "-n", str(args.ranks), "--oversubscribe", "--allow-run-as-root", args.duo, *words, "--model",
                   MODEL, "--device", args.device, "--threads", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        Job.started.append(self.process)
        self.lines, self.written, self.readers = [], threading.Event(), []
        for stream, act in ((self.process.stderr, self._line), (self.process.stdout, self._text)):
            self.readers.append(threading.Thread(target=act, args=(stream,), daemon=True))
            self.readers[-1].start()

    @staticmethod
    def end_all():
        for process in Job.started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # mpirun ends its ranks
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)

    def _line(self, stream):
        for line in stream:
            self.lines.append(line.decode(errors="replace").rstrip())

    def _text(self, stream):
        while stream.read(1):
            self.written.set()

    def wait_for_line(self, text, seconds=120):
        deadline = time.time() + seconds
        while not any(text in line for line in self.lines):
            assert time.time() < deadline and self.process.poll() is None, f"no '{text}' came:\n" + "\n".join(self.lines)
            time.sleep(0.02)
        return next(line for line in self.lines if text in line)

    def wait_for_text(self, seconds=120):
        deadline = time.time() + seconds
        while not self.written.wait(0.1):
            assert time.time() < deadline and self.process.poll() is None, "no text came:\n" + "\n".join(self.lines)

    def ranks(self):
        """Process ids by rank."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
                with open(f"/proc/{pid}/environ", "rb") as file:
                    variables = file.read().split(b"\0")
            except OSError:
                continue
            for variable in variables:
                if parent == self.process.pid and variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(variable.split(b"=")[1])] = int(pid)
        assert sorted(found) == list(range(self.size)), found
        return found

    def end(self, pids, since):
        """Waits for the end of all; the seconds it took."""
        while self.process.poll() is None or any(alive(pid) for pid in pids.values()):
            if time.time() - since > self.limit:
                left = [rank for rank, pid in pids.items() if alive(pid)]
                os.killpg(self.process.pid, signal.SIGKILL)
                raise AssertionError(f"after {self.limit} s ranks {left} are still there:\n" + "\n".join(self.lines))
            time.sleep(0.02)
        for reader in self.readers:
            reader.join(5)
        return time.time() - since


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_a_rank(job):
    pids, victim = job.ranks(), job.size - 1
    since = time.time()
    os.kill(pids[victim], signal.SIGKILL)
    seconds = job.end(pids, since)
    errors = [line for line in job.lines if line.startswith("error: ")]
    print(f"all gone after {seconds:.2f} s, exit code {job.process.returncode}: {errors}")
    assert job.process.returncode != 0
    assert len(errors) == 1 and f"rank {victim} " in errors[0], job.lines


def stop(job, number):
    """By mpirun, which ends its ranks itself."""
    pids = job.ranks()
    since = time.time()
    job.process.send_signal(number)
    seconds = job.end(pids, since)
    errors = [line for line in job.lines if line.startswith("error: ")]
    print(f"all gone after {seconds:.2f} s, exit code {job.process.returncode}: {errors}")
    assert job.process.returncode != 0
    assert len(errors) <= 1, job.lines


def generate(args, folder, moment):
    if moment == "decode":
        job = Job(args, ["generate", "--prompt", "The licence says that", "--max-new-tokens", "200000"])
        job.wait_for_text()
    else:
        document = os.path.join(folder, "document.txt")
        with open(document, "w", encoding="utf-8") as file:
            file.write(build(read_text([os.path.join(ROOT, "LICENSE")]), 1_000_000, 1, 1)["document"])
        job = Job(args, ["generate", "--attention", "full", "--prompt-file", document])
        job.wait_for_line("reading")
    return job


def serve(args, folder, moment):
    job = Job(args, ["serve", "--listen", "127.0.0.1:0", "--log", "json"])
    port = job.wait_for_line('"listening"').split('"port":')[1].split(",")[0].strip(' "}')

    def client(*words):
        return [args.duo, "client", *words, "--server", f"127.0.0.1:{port}"]

    if moment == "idle":
        pids = job.ranks()
        time.sleep(2)  # past the moments of hot waiting
        before, start = {rank: cpu_seconds(pid) for rank, pid in pids.items()}, time.time()
        time.sleep(6)
        for rank, pid in pids.items():
            share = (cpu_seconds(pid) - before[rank]) / (time.time() - start)
            print(f"rank {rank}: {100 * share:.2f} % of a core while idle")
            assert share <= 0.02
        return job
    subprocess.run(client("create", "book", "--max-tokens", "400000"), check=True)
    text = "The licence says that "
    if moment == "prefill":
        text = build(read_text([os.path.join(ROOT, "LICENSE")]), 1_000_000, 1, 1)["document"]
    path = os.path.join(folder, "text.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    append = subprocess.Popen(client("append", "book", "--file", path, "--timeout", "0"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if moment == "prefill":
        time.sleep(3)
        assert append.poll() is None, "the document was read too fast for this test"
        return job
    assert append.wait() == 0
    ask = subprocess.Popen(client("ask", "book", "Note:", "--max-new-tokens", "4000", "--timeout", "0"), stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
    assert ask.stdout.read(1), job.lines  # the first token is there
    return job


def hosts(args, folder):
    made = build(read_text([os.path.join(ROOT, "LICENSE")]), 7000, 1, 3)
    document = os.path.join(folder, "document.txt")
    with open(document, "w", encoding="utf-8") as file:
        file.write(made["document"])
    done = subprocess.run(
        [os.path.join(ROOT, "tests", "mpi", "hosts.sh"), "2", "2", args.duo, "generate", "--model", MODEL, "--prompt-file",
         document, "--ask", made["questions"][0]["ask"], "--stop", "\n", "--max-new-tokens", "12", "--sparsity", "0.75",
         "--strategy", "split", "--device", "cpu", "--threads", "1", "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode == 77:
        print("skipped: network namespaces cannot be made here")
        sys.exit(77)
    out = json.loads(done.stdout)
    print(f"{out['world']} ranks on 2 hosts: {out['text']}")
    assert done.returncode == 0 and out["world"] == 4
    assert out["answers"][0]["text"].rstrip(".") == made["questions"][0]["answer"], out


def bound(args):
    """Ranks that mpirun bound to one core each say so once, and how to have more; others say nothing."""
    if (os.cpu_count() or 1) < 2:
        print("skipped: this machine has one core")
        sys.exit(77)
    for way, said in (("core", 1), ("none", 0)):
        done = subprocess.run(
            [args.mpirun, "-n", "2", "--bind-to", way, "--allow-run-as-root", args.duo, "generate", "--model", MODEL, "--prompt",
             "A letter.", "--max-new-tokens", "1", "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        told = done.stderr.decode(errors="replace")
        assert done.returncode == 0, told
        assert told.count("bound this rank to one core") == said and told.count("--bind-to none") == said, (way, told)


def together(args):
    """Where mpirun's two streams go to one place, an answer stays in one piece and the statistics begin a line behind it."""
    words = [args.duo, "generate", "--model", MODEL, "--prompt", "The passcode for the rapid tower is 499748. ", "--max-new-tokens", "12",
             "--device", "cpu", "--threads", "1"]
    alone = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    for _ in range(20):
        done = subprocess.run([args.mpirun, "-n", "2", "--oversubscribe", "--allow-run-as-root", *words], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=True)
        assert re.search(re.escape(alone.rstrip("\n")) + r"\n(.*\n)*\d+ tokens read in ", done.stdout), done.stdout
    for split, said in (([], 0), (["--prefill-split", "rows"], 1), (["--prefill-split", "auto"], 0)):  # one rank has nobody to share with
        done = subprocess.run([*words, *split], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
        assert done.stderr.count("--prefill-split rows does nothing on one rank") == said, done.stderr
    short = [args.mpirun, "-n", "2", "--oversubscribe", "--allow-run-as-root", *words, "--prefill-split", "rows", "--chunk", "20"]
    done = subprocess.run(short, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    assert done.stderr.count("prompts go by heads, for a chunk of 20 tokens") == 1 and "by rows" not in done.stderr, done.stderr
    for split, said in (([], "heads"), (["--prefill-split", "rows"], "rows")):
        done = subprocess.run([args.mpirun, "-n", "2", "--oversubscribe", "--allow-run-as-root", *words, *split], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=True)
        assert ("2 ranks, long prompts by rows" in done.stderr) == (said == "rows"), done.stderr
        done = subprocess.run([args.mpirun, "-n", "2", "--oversubscribe", "--allow-run-as-root", *words, *split, "--json"],
                              stdout=subprocess.PIPE, check=True)
        assert json.loads(done.stdout)["prefill_split"] == said, done.stdout


def memory(args):
    """Ranks of one host plan with a share of its memory each, and say in one sentence what does not fit into that."""
    free = []
    for ranks in (1, 4):
        done = subprocess.run(
            [args.mpirun, "-n", str(ranks), "--oversubscribe", "--allow-run-as-root", args.duo, "serve", "--model", MODEL,
             "--device", "cpu", "--threads", "1", "--listen", "127.0.0.1:0", "--http", "none", "--kv-tokens", "1000000000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        errors = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(errors) == 1, (done.returncode, errors)
        free.append(float(re.search(r"([0-9.]+) GiB free", errors[0])[1]))
    print(f"{free[0]} GiB for one rank, {free[1]} for each of four")
    assert 3 < free[0] / free[1] < 5.5, free  # others use the machine meanwhile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--mpirun", default="mpirun")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--limit", type=float, default=30, help="seconds until everything is gone")
    parser.add_argument("case")
    args = parser.parse_args()
    command, _, moment = args.case.partition("-")
    try:
        with tempfile.TemporaryDirectory() as folder:
            if command == "hosts":
                hosts(args, folder)
            elif command == "bound":
                bound(args)
            elif command == "together":
                together(args)
            elif command == "memory":
                memory(args)
            elif moment in ("term", "int"):
                stop(generate(args, folder, "prefill"), signal.SIGTERM if moment == "term" else signal.SIGINT)
            else:
                for _ in range(int(os.environ.get("DUO_TEST_SCALE", "1"))):
                    kill_a_rank({"generate": generate, "serve": serve}[command](args, folder, moment))
    finally:
        Job.end_all()


if __name__ == "__main__":
    main()
