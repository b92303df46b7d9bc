#!/usr/bin/env python3
"""The bundle, moved elsewhere, runs without the libraries that it carries being installed.

    bundle_test.py --cmake cmake --build BUILD_DIR

Makes the bundle, moves it, and checks that every library of the program that is neither MPI's nor the GPU's nor the C
and C++ runtimes' comes from the bundle. Then, where this process may (root), runs it in a new root folder that holds
these runtimes, MPI and the bundle alone: the demo model must find a fact there. Standard library only.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "launcher", "demo"))
from needle_document import build, read_text  # noqa: E402

# What a node has of its own, by the beginning of a library's name.
RUNTIMES = r"(ld-linux|linux-vdso|lib(c|m|dl|rt|util|pthread|resolv)\.so|libstdc\+\+|libgcc_s)"
OWN = RUNTIMES[:-1] + r"|libmpi|libopen-|libcu|libnv|libnccl)"


PATH = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # all of the environment


def libraries(program):
    """Name to path of what the loader takes, all levels."""
    env = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    lines = subprocess.run(["ldd", program], check=True, capture_output=True, text=True, env=env).stdout
    return dict(re.findall(r"^\s*(\S+) => (\S+)", lines, re.M))


def runtime_files(program, bundle):
    """The paths outside the bundle that the program loads, the loader itself among them."""
    text = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return {path for path in re.findall(r"(/\S+) \(0x", text) if not path.startswith(bundle)}


def run_alone(bundle, folder):
    """duo generate in a root that has nothing but the bundle, the runtimes and MPI."""
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "tmp"))
    for path in runtime_files(os.path.join(bundle, "duo"), bundle):
        target = root + os.path.realpath(os.path.dirname(path))  # /lib and /lib64 may be links into /usr
        os.makedirs(target, exist_ok=True)
        shutil.copy(path, os.path.join(target, os.path.basename(path)))
    for name in ("lib", "lib64"):  # a merged /usr
        if os.path.islink("/" + name) and not os.path.exists(os.path.join(root, name)):
            os.makedirs(os.path.join(root, "usr", name), exist_ok=True)
            os.symlink("usr/" + name, os.path.join(root, name))
    shutil.copytree(bundle, os.path.join(root, "duo"), symlinks=True)
    shutil.copytree(os.path.join(ROOT, "launcher", "demo", "needle-6m"), os.path.join(root, "needle-6m"))
    made = build(read_text([os.path.join(ROOT, "LICENSE")]), 6000, 1, 5)
    with open(os.path.join(root, "document.txt"), "w", encoding="utf-8") as file:
        file.write(made["document"])
    os.makedirs(os.path.join(root, "proc"))  # where the loader reads what $ORIGIN is
    own_root = ["unshare", "--mount", "sh", "-c", 'mount --bind /proc "$0/proc" && exec chroot "$0" "$@"', root]
    if subprocess.run([*own_root, "/duo/duo", "--version"], stdout=subprocess.DEVNULL, env=PATH).returncode == 1:
        print("no mounts here: not run in a root folder of its own")
        return
    done = subprocess.run([*own_root, "/duo/duo", "generate", "--model", "/needle-6m", "--prompt-file", "/document.txt",
                           "--ask", made["questions"][0]["ask"], "--stop", "\n", "--json", "--device", "cpu"],
                          env=PATH, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)["answers"][0]["text"].rstrip(".")
    print(f"in a root of its own: {found}")
    assert found == made["questions"][0]["answer"], found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cmake", default="cmake")
    parser.add_argument("--build", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made, bundle = os.path.join(folder, "made"), os.path.join(folder, "moved", "here")
        subprocess.run([args.cmake, "--install", args.build, "--component", "bundle", "--prefix", made, "--strip"],
                       check=True, stdout=subprocess.DEVNULL)
        os.makedirs(os.path.dirname(bundle))
        os.rename(made, bundle)
        mpi_parts = set()
        found = libraries(os.path.join(bundle, "duo"))
        for name, path in found.items():
            if re.match(r"libmpi", name):
                mpi_parts = set(libraries(path))  # what MPI brings along is the node's, too
        carried = {name for name, path in found.items() if os.path.realpath(path).startswith(os.path.realpath(bundle))}
        missing = {name for name in found if name not in carried and name not in mpi_parts and not re.match(OWN, name)}
        assert not missing, f"not in the bundle: {missing}"
        extra = {name for name in os.listdir(os.path.join(bundle, "lib")) if re.match(OWN, name)}
        assert not extra, f"must not be in the bundle: {extra}"
        assert carried and os.path.exists(os.path.join(bundle, "attn_patterns", "needle-6m", "full_attention_heads.tsv"))
        for name in ("serve.sh", "slurm.sh", "hosts.example"):
            assert os.path.exists(os.path.join(bundle, "mpi", name)), name
        print(f"{len(carried)} libraries carried, {len(found) - len(carried)} of the node")
        if os.geteuid() == 0:
            run_alone(bundle, folder)
        else:
            print("not root: not run in a root folder of its own")


if __name__ == "__main__":
    main()
