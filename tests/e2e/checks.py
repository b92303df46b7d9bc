"""What tests of this folder share: their arguments, and a list of what was not as expected. Standard library only."""

import argparse
import os

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def arguments(doc, *required):
    """A parser with these flags and --source, the tree, which has its own place as default."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    for name in required:
        parser.add_argument(name, required=True)
    parser.add_argument("--source", default=SOURCE)
    return parser


def demo_model(source):
    return os.path.join(source, "launcher", "demo", "needle-6m")


class Checks:
    """Says at once what fails, and at the end whether anything did."""

    def __init__(self):
        self.failed = False

    def expect(self, condition, what):
        if not condition:
            self.failed = True
            print("FAILED:", what)

    def exit_code(self):
        return 1 if self.failed else 0
