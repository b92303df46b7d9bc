#!/usr/bin/env python3
"""The C++ client library as a program of somebody else's uses it: installed, found by find_package, built, run.

    client_library_test.py --duo build/duo --cmake cmake --build BUILD_DIR [--source DIR]

Standard library only.
"""

import json
import os
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def main():
    parser = arguments(__doc__, "--duo", "--cmake", "--build")
    args = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        prefix, build = os.path.join(folder, "prefix"), os.path.join(folder, "build")
        run(args.cmake, "--install", args.build, "--component", "dev", "--prefix", prefix)
        example = os.path.join(args.source, "launcher", "cpp", "example")
        run(args.cmake, "-G", "Ninja", "-S", example, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
        run(args.cmake, "--build", build)
        document = os.path.join(folder, "facts.txt")
        with open(document, "w", encoding="utf-8") as file:
            file.write("Note: the passcode for the rapid tower is 499748.\n")
        command = [args.duo, "serve", "--model", demo_model(args.source), "--device", "cpu", "--listen", "127.0.0.1:0", "--http", "none",
                   "--log", "json", "--max-session-tokens", "2000"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            address = ""
            for line in server.stderr:
                if '"event":"loading"' in line:  # before its model is loaded: the example waits
                    address = f"127.0.0.1:{json.loads(line)['port']}"
                    break
            asked = run(os.path.join(build, "example"), address, document, "\nQuestion: What is the passcode for the rapid tower?\nAnswer: ")
            checks.expect(asked.stdout == "499748.\n", f"the example answers {asked.stdout!r}")
            server.terminate()
            server.stderr.read()
            checks.expect(server.wait() == 0, "the server's end")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
