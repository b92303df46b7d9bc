#!/usr/bin/env python3
"""Compares duo's Jinja engine with jinja2 as transformers sets it up for chat templates, text for text.

Three parts: templates that use every construct, constructs combined at random, and the public chat templates that the
source package of llama-cpp-python carries (fetched by pip into the build folder), each with random conversations. Where
one side refuses, the other must too. Needs the pip package `transformers`, the last part pip and a network; what cannot
be had is skipped (exit code 77).

    jinja_parity.py --driver build/tests/golden/render --part constructs|combined|public [--work DIR] [--count N]
"""

import argparse
import datetime
import glob
import json
import os
import random
import subprocess
import sys
import tarfile
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["HF_HUB_OFFLINE"] = "1"
try:
    from transformers.utils import chat_template_utils
except ImportError:
    print("skipped: the pip package `transformers` is not installed")
    sys.exit(77)

import chat_conversations
import jinja_combinations
import jinja_constructs

warnings.simplefilter("ignore", SyntaxWarning)  # jinja2 compiles to Python, which comments on `none[0]`

PACKAGE = "llama-cpp-python==0.3.36"
LEAST_TEMPLATES = 60


class FrozenTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 8, 5, 3)


chat_template_utils.datetime = FrozenTime


class Driver:
    """The engine behind a pipe."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit("error: the driver ended at %r" % (request,))
        return json.loads(line)

    def render(self, source, given, own=None):
        parsed = self.ask({"template": source})
        return parsed if "error" in parsed else self.ask({"given": given, "own": own or {}})


def expected(source, variables):
    """(text, None) or (None, why it is refused)."""
    try:
        return chat_template_utils._compile_jinja_template(source).render(**variables), None  # pylint: disable=protected-access
    except Exception as e:  # pylint: disable=broad-except
        return None, "%s: %s" % (type(e).__name__, e)


def shared_spelling(text):
    """Whether two runs would print it alike: not an object's address."""
    return " at 0x" not in text and "<bound method" not in text and "<built-in" not in text


def difference(want, why, answer):
    """None if both agree, else what to say."""
    if want is None:
        return None if "error" in answer else "jinja2 refuses (%s)\n    found    %r" % (why, answer["text"])
    if "error" in answer:
        return "expected %r\n    refused  %s" % (want, answer["error"])
    return None if answer["text"] == want else "expected %r\n    found    %r" % (want, answer["text"])


def compare_all(driver, sources):
    bad = refused = 0
    for source, variables in sources:
        want, why = expected(source, variables)
        if want is None and why.startswith("NameError") or want is not None and not shared_spelling(want):
            continue  # jinja2 folds "inf" into its own code as a name; addresses differ from run to run
        refused += want is None
        found = difference(want, why, driver.render(source, variables))
        if found is not None:
            bad += 1
            if bad <= 20:
                print("  %r\n    %s" % (source, found), flush=True)
    return bad, refused


def constructs(driver, args):
    variables = jinja_constructs.VARIABLES
    sources = [("{{ %s }}" % e, variables) for e in jinja_constructs.expressions()]
    sources += [("{%% set v = %s %%}{{ v is defined }}|{{ v is none }}|{{ v is string }}|{{ v is iterable }}|{{ 'T' if v else 'F' }}" % e, variables)
                for e in jinja_constructs.expressions()]
    sources += [(t, variables) for t in jinja_constructs.TEMPLATES]
    bad, refused = compare_all(driver, sources)
    for source in jinja_constructs.REFUSED:
        answer = driver.render(source, variables)
        if not answer.get("error", "").startswith("template: line 1, column "):
            bad += 1
            print("  %r\n    expected a refusal with its place, found %r" % (source, answer))
    print("constructs: %d of %d templates differ (%d refused by both)" % (bad, len(sources), refused))
    return bad


def combined(driver, args):
    rng = random.Random(args.seed)
    sources = [(jinja_combinations.template(rng), jinja_constructs.VARIABLES) for _ in range(args.count)]
    bad, refused = compare_all(driver, sources)
    print("combined: %d of %d templates differ (%d refused by both)" % (bad, len(sources), refused))
    if refused > len(sources) * 0.6:
        print("  too few of them are rendered for the comparison to mean much")
        return 1
    return bad


def public_templates(work):
    """{name: source}, from the package's archive; None if it cannot be had."""
    folder = os.path.join(work, "public_templates")
    os.makedirs(folder, exist_ok=True)
    if not glob.glob(os.path.join(folder, "*.tar.gz")):
        done = subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--retries", "1", "--no-binary",
                               ":all:", "--no-deps", "-d", folder, PACKAGE], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=600, check=False)
        if done.returncode != 0:
            return None
    templates = {}
    with tarfile.open(glob.glob(os.path.join(folder, "*.tar.gz"))[0]) as archive:
        for member in archive:
            if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                templates[os.path.basename(member.name)[:-6]] = archive.extractfile(member).read().decode("utf-8")
    return templates


def public(driver, args):
    templates = public_templates(args.work)
    if templates is None:
        print("skipped: pip could not fetch the source package %s" % PACKAGE)
        sys.exit(77)
    rng = random.Random(args.seed)
    bad = rendered = refused = 0
    not_run = []
    for name, source in sorted(templates.items()):
        parsed = driver.ask({"template": source})
        if "error" in parsed:
            not_run.append("%s: %s" % (name, parsed["error"]))
            continue
        differing = 0
        for _ in range(args.count):
            given, own = chat_conversations.conversation(rng)
            variables = {k: v for k, v in given.items() if k != "messages"}
            try:
                want, why = chat_template_utils.render_jinja_template([given["messages"]], chat_template=source, **variables, **own)[0][0], None
            except Exception as e:  # pylint: disable=broad-except
                want, why = None, "%s: %s" % (type(e).__name__, e)
            # What the library does before the template sees the messages.
            messages = chat_template_utils._alias_reasoning_fields(given["messages"])  # pylint: disable=protected-access
            answer = driver.ask({"given": {**given, "messages": messages}, "own": own})
            found = difference(want, why, answer)
            rendered += want is not None
            refused += want is None
            if found is not None:
                differing += 1
                if differing <= 2:
                    print("  %s: %s\n    %s" % (name, json.dumps(given)[:400], found), flush=True)
        bad += differing
    print("public: %d of %d conversations with %d templates differ (%d rendered, %d refused by both)"
          % (bad, rendered + refused, len(templates), rendered, refused))
    for line in not_run:
        print("  not run: %s" % line)
    if len(templates) < LEAST_TEMPLATES or len(not_run) * 10 > len(templates) or rendered < refused:
        print("error: expected at least %d templates, nine tenths of them run and half of the conversations rendered" % LEAST_TEMPLATES)
        return 1
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True, help="the render program that tests/golden builds")
    parser.add_argument("--part", choices=["constructs", "combined", "public"], required=True)
    parser.add_argument("--work", default=".", help="where fetched packages are kept")
    parser.add_argument("--count", type=int, help="combined templates (500), or conversations a public template (50)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.count = args.count or {"combined": 500}.get(args.part, 50) * int(os.environ.get("DUO_TEST_SCALE", "1"))
    return 1 if {"constructs": constructs, "combined": combined, "public": public}[args.part](Driver(args.driver), args) else 0


if __name__ == "__main__":
    sys.exit(main())
