#!/usr/bin/env python3
"""Reading by heads and by rows over hosts that a slow link joins (--prefill-split).

  ninja -C build host_read && host_links.py --program build/tests/mpi/host_read [--links 100mbit,1gbit] [--out FILE]

Hosts are network namespaces of this machine, a rank each, and tc-tbf limits what each sends (tests/mpi/hosts.sh). Both
ways are timed in turns in one run, and by one rank alone; of each the fastest of --rounds counts, because other work on
the machine only adds. Needs root.
"""

import argparse
import json
import os
import pathlib
import subprocess

import record

HOSTS = pathlib.Path(__file__).resolve().parent.parent / "mpi" / "hosts.sh"


def reads(args, hosts, link):
    """The rows that the program prints."""
    command = [str(pathlib.Path(args.program).resolve()), str(args.context), str(args.chunk), str(args.rounds)]
    if hosts > 1:
        command = [str(HOSTS), str(hosts), "1", *command]
    done = subprocess.run(command, env=dict(os.environ, HOST_LINK=link or ""), capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("["):])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--links", default="100mbit,1gbit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()

    alone = min(row["seconds"] for row in reads(args, 1, None))
    rows = [{"hosts": 1, "seconds": alone, "tokens_per_second": args.context / alone}]
    for link in args.links.split(","):
        for row in reads(args, args.hosts, link):
            rows.append({"hosts": args.hosts, "link": link, **row, "over_one_rank": alone / row["seconds"]})
    found = {"model": "random weights of SmolLM2-135M's shape, half of the heads retrieval heads", "context": args.context,
             "chunk": args.chunk, "threads_a_rank": 1, "rounds": args.rounds,
             "limited_by": "tc-tbf on each host's interface, burst 128 kB", "rows": rows}
    record.show(found, args.out)


if __name__ == "__main__":
    main()
