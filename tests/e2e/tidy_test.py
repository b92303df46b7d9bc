#!/usr/bin/env python3
"""clang-tidy finds nothing (.clang-tidy): in a few files that include most of the headers, or, with a DUO_TEST_SCALE above 1, in
all but the tests.

    tidy_test.py --build BUILD_DIR [--source DIR] [FILE...]

Skipped where clang-tidy is not installed. Standard library only.
"""

import json
import multiprocessing.dummy
import os
import re
import shutil
import subprocess
import sys
import tempfile

from checks import Checks, arguments

FEW = ("kernels/ops.cc", "runtime/scheduler/scheduler.cc", "launcher/serve/http/api/openai/chat.cc")
FOLDERS = ("kernels", "attn_patterns", "parallel", "runtime", "launcher")


def compiled(build, source):
    """The sources of the build, by their path in the tree; what is made for the build is left out."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        names = [os.path.relpath(os.path.join(entry["directory"], entry["file"]), source) for entry in json.load(file)]
    return sorted({name for name in names if name.split(os.sep)[0] in FOLDERS and name.endswith(".cc")})


def without_precompiled(build, folder):
    """The build's commands, in a folder of their own, without headers that another compiler has compiled."""
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        entries = json.load(file)
    for entry in entries:
        entry["command"] = re.sub(r" -Winvalid-pch| -include \S*cmake_pch\.hxx", "", entry["command"])
    with open(os.path.join(folder, "compile_commands.json"), "w", encoding="utf-8") as file:
        json.dump(entries, file)
    return folder


def main():
    parser = arguments(__doc__, "--build")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    if shutil.which("clang-tidy") is None:
        print("skipped: clang-tidy is not installed")
        return 77
    checks = Checks()
    source = os.path.abspath(args.source)
    files = compiled(args.build, source)
    checks.expect(set(FEW) <= set(files), f"not compiled: {set(FEW) - set(files)}")
    if args.files:
        files = args.files
    elif int(os.environ.get("DUO_TEST_SCALE", "1")) <= 1:
        files = FEW

    def judge(name):
        done = subprocess.run(["clang-tidy", "-p", commands, "--quiet", os.path.join(source, name)],
                              capture_output=True, text=True, check=False)
        return name, done.returncode, done.stdout

    with tempfile.TemporaryDirectory() as folder, multiprocessing.dummy.Pool(os.cpu_count()) as pool:
        commands = without_precompiled(args.build, folder)
        for name, code, said in pool.imap_unordered(judge, files):
            checks.expect(code == 0, f"{name}:\n{said[-3000:]}")
    print(f"{len(files)} files")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
