"""Generates the stubs of duo/v1/duo.proto while the package is built: `pip install launcher/python`."""

import os

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.normpath(os.path.join(HERE, "..", "..", "proto"))


class BuildWithStubs(build_py):
    def run(self):
        super().run()
        from grpc_tools import protoc
        os.makedirs(self.build_lib, exist_ok=True)
        code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={self.build_lib}", f"--pyi_out={self.build_lib}",
                            f"--grpc_python_out={self.build_lib}", os.path.join(PROTO, "duo", "v1", "duo.proto")])
        if code != 0:
            raise RuntimeError(f"protoc failed with code {code} on {PROTO}/duo/v1/duo.proto")


setup(cmdclass={"build_py": BuildWithStubs})
