#!/usr/bin/env python3
"""Reading by heads and by rows over hosts that a slow link joins (--prefill-split).

  host_links.py --duo build/duo [--links 100mbit,1gbit,10gbit] [--out FILE]

Hosts are network namespaces of this machine, a rank each, and tc-tbf limits what each sends (tests/mpi/hosts.sh). The
same read is timed by one rank alone, by heads and by rows, in turns; of every kind the fastest of --rounds counts,
because other work on the machine only adds. Needs root.
"""

import argparse
import json
import os
import pathlib
import subprocess

import record

HOSTS = pathlib.Path(__file__).resolve().parent.parent / "mpi" / "hosts.sh"


def last_json(text):
    """The object that a program printed last."""
    return json.loads(text[text.index("{"):])


def read(args, link, split):
    """Seconds of one read, and what the program says of it. split None: one rank alone."""
    command = [args.duo, "bench", "prefill", "--shape", args.shape, "--device", "cpu", "--threads", "1", "--attention", "duo",
               "--context", str(args.context), "--chunk", str(args.chunk), "--json"]
    environment = dict(os.environ, HOST_LINK=link or "")
    if split:
        command = [str(HOSTS), str(args.hosts), "1", *command, "--prefill-split", split]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return last_json(done.stdout)["rows"][0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duo", required=True)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--links", default="100mbit,1gbit,10gbit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()

    kinds = [(None, None)] + [(link, split) for link in args.links.split(",") for split in ("heads", "rows")]
    seconds = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            seconds[kind].append(read(args, *kind)["seconds"])
    alone = min(seconds[(None, None)])
    rows = []
    for link, split in kinds:
        best = min(seconds[(link, split)])
        rows.append({"hosts": args.hosts if split else 1, "link": link, "prefill_split": split, "seconds": best,
                     "all_seconds": seconds[(link, split)], "tokens_per_second": args.context / best, "over_one_rank": alone / best})
    found = {"shape": args.shape, "context": args.context, "chunk": args.chunk, "threads_a_rank": 1, "rounds": args.rounds,
             "limited_by": "tc-tbf on each host's interface, burst 128 kB", "rows": rows}
    record.show(found, args.out)


if __name__ == "__main__":
    main()
