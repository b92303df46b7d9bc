"""Generates the stubs of duo/v1/duo.proto while the package is built: `pip install launcher/python`.

By grpcio-tools, or, where that is not installed, by protoc and grpc_python_plugin, which duo itself is built with.
"""

import os
import re
import shutil
import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.normpath(os.path.join(HERE, "..", "..", "proto", "duo", "v1"))


def run_protoc(out):
    arguments = [f"-I{PROTO}", f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}", os.path.join(PROTO, "duo.proto")]
    try:
        from grpc_tools import protoc
    except ModuleNotFoundError:
        plugin = shutil.which("grpc_python_plugin")
        if plugin is None or shutil.which("protoc") is None:
            raise RuntimeError("grpcio-tools is needed, or protoc and grpc_python_plugin") from None
        subprocess.run(["protoc", f"--plugin=protoc-gen-grpc_python={plugin}", *arguments], check=True)
        return
    if protoc.main(["protoc", *arguments]) != 0:
        raise RuntimeError(f"protoc failed on {PROTO}/duo.proto")


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        package = os.path.join(self.build_lib, "duo_sessions")
        os.makedirs(package, exist_ok=True)
        run_protoc(package)
        stubs = os.path.join(package, "duo_pb2_grpc.py")
        with open(stubs, encoding="utf-8") as file:
            text = file.read()
        with open(stubs, "w", encoding="utf-8") as file:  # they are modules of this package, and of no other
            file.write(re.sub(r"^import duo_pb2", "from . import duo_pb2", text, flags=re.M))


setup(cmdclass={"build_py": BuildWithStubs})
