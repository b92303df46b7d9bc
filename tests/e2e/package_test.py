#!/usr/bin/env python3
"""What the package is made of: man pages, completion, unit, scripts, rules, manifests, each judged by the tool that is for it
where that is installed. What is missing is named.

    package_test.py --duo build/duo --docs build/launcher/package/docs [--source DIR]

Standard library only.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from checks import Checks, arguments
from help_test import subcommands


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


class Tools:
    """Programs that judge files; the missing ones are named at the end."""

    def __init__(self, checks):
        self.checks, self.missing = checks, set()

    def judge(self, what, program, *words, **options):
        if shutil.which(program) is None:
            self.missing.add(program)
            return
        done = run(program, *words, **options)
        self.checks.expect(done.returncode == 0, f"{what}: {program} says {done.stdout[-1500:]}{done.stderr[-1500:]}")


def check_manuals(tools, checks, docs, duo):
    pages = sorted(glob.glob(os.path.join(docs, "man1", "*.1")))
    commands = subcommands(run(duo, "--help").stdout)
    names = {os.path.basename(page) for page in pages}
    checks.expect(names == {"duo.1"} | {f"duo-{name}.1" for name in commands}, f"pages: {names}")
    # STYLE: of this system's own pages, mandoc knows no other.
    tools.judge("man pages", "mandoc", "-Tlint", "-Wwarning", *pages)
    for page in pages:
        with open(page, encoding="utf-8") as file:
            text = file.read()
        name = os.path.basename(page)[:-2].replace("-", " ").split()[1:]
        for flag in set(re.findall(r"^  (--[a-z][\w-]*)", run(duo, *name, "--help").stdout, re.M)):
            checks.expect(flag.replace("-", "\\-") in text, f"{page}: {flag} is not in it")


def check_completion(tools, checks, docs):
    script = os.path.join(docs, "duo.bash")
    tools.judge("bash completion", "shellcheck", script)
    tools.judge("zsh completion", "zsh", "-n", os.path.join(docs, "_duo"))

    def offered(*words):
        """What bash offers for the last of these words."""
        program = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _duo; printf "%s\\n" "${COMPREPLY[@]}"'
        return run("bash", "-c", program, script, *words).stdout.split()

    checks.expect(offered("duo", "ser") == ["serve"], "completion of a subcommand")
    checks.expect(offered("duo", "client", "re") == ["restore", "rewind"] or set(offered("duo", "client", "re")) >= {"rewind", "restore"},
                  f"completion of a verb: {offered('duo', 'client', 're')}")
    checks.expect("--save-dir" in offered("duo", "serve", "--sa"), "completion of a flag")
    checks.expect(offered("duo", "serve", "--kv", "int") == ["int8", "int4"], "completion of a value")
    checks.expect(offered("duo", "serve", "--model", "x") == [], "files are left to bash")


def installed(text, prefix="/usr"):
    """A template of the package as install.cmake fills it in."""
    places = {"BINDIR": f"{prefix}/bin", "DATADIR": f"{prefix}/share", "SYSCONFDIR": "/etc"}
    return re.sub(r"@(\w+)@", lambda name: places[name.group(1)], text)


def check_unit(tools, checks, package, duo, folder):
    with open(os.path.join(package, "systemd", "duo.service.in"), encoding="utf-8") as file:
        unit = installed(file.read())
    unit = unit.replace("/usr/bin/duo", os.path.abspath(duo)).replace("man:duo-serve(1)", "https://example.org")
    path = os.path.join(folder, "duo.service")
    with open(path, "w", encoding="utf-8") as file:
        file.write(unit)
    tools.judge("the unit", "systemd-analyze", "verify", "--man=no", path)
    tools.judge("the unit's security", "systemd-analyze", "security", "--offline=true", "--threshold=25", path)
    os.mkdir(path + ".d")
    with open(os.path.join(package, "systemd", "mpi.conf"), encoding="utf-8") as file:
        several = file.read()
    for line in ("NotifyAccess=all", "KillMode=mixed"):
        checks.expect(line in several.splitlines(), f"mpi.conf: {line}")
    script = os.path.join(os.path.abspath(package), "..", "mpi", "serve.sh")
    with open(os.path.join(path + ".d", "mpi.conf"), "w", encoding="utf-8") as file:
        file.write(several.replace("/usr/share/duo/mpi/serve.sh", os.path.normpath(script)))
    tools.judge("the unit of several ranks", "systemd-analyze", "verify", "--man=no", path)
    with open(os.path.join(package, "systemd", "serve.toml.in"), encoding="utf-8") as file:
        settings = installed(file.read())
    for text in (settings, re.sub(r"(?m)^#([a-z-]+ = )", r"\1", settings)):  # as it is, and with everything that it proposes
        path = os.path.join(folder, "serve.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = run(duo, "serve", "--config", path, "--print-config")
        checks.expect(done.returncode == 0 and "save-dir = " in done.stdout, f"serve.toml: {done.stderr}")


def check_monitoring(tools, checks, package, source):
    tools.judge("alert rules", "promtool", "check", "rules", os.path.join(package, "monitoring", "alerts.yaml"))
    with open(os.path.join(package, "monitoring", "grafana.json"), encoding="utf-8") as file:
        board = json.load(file)
    named = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            named |= set(re.findall(r"\b(?:duo|process)_[a-z_]+", target["expr"]))
    with open(os.path.join(package, "monitoring", "alerts.yaml"), encoding="utf-8") as file:
        named |= set(re.findall(r"\bduo_[a-z_]+", file.read()))
    there = ""
    for name in glob.glob(os.path.join(source, "launcher", "serve", "ops", "*.cc")):
        with open(name, encoding="utf-8") as file:
            there += file.read()
    for name in named:
        checks.expect(f'"{re.sub("_bucket$", "", name)}"' in there, f"no metric has the name {name}")


def check_manifests(checks, package):
    try:
        import yaml
    except ModuleNotFoundError:
        return print("PyYAML is not installed: manifests are not read")
    for path in glob.glob(os.path.join(package, "kubernetes", "*.yaml")) + [os.path.join(package, "container", "compose.yaml")]:
        with open(path, encoding="utf-8") as file:
            documents = list(yaml.safe_load_all(file))
        checks.expect(all(documents), f"{path} has an empty document")
        if "compose" in path:
            continue
        try:
            import kubernetes_validate
        except ModuleNotFoundError:
            print("kubernetes-validate is not installed: manifests are read, and not judged")
            continue
        for document in documents:
            if document["apiVersion"].startswith("kubeflow.org"):
                continue  # of the MPI operator, which brings its own schema
            kubernetes_validate.validate(document, "1.29", strict=True)


def main():
    parser = arguments(__doc__, "--duo", "--docs")
    args = parser.parse_args()
    checks = Checks()
    tools = Tools(checks)
    package = os.path.join(args.source, "launcher", "package")
    with tempfile.TemporaryDirectory() as folder:
        check_manuals(tools, checks, args.docs, args.duo)
        check_completion(tools, checks, args.docs)
        check_unit(tools, checks, package, args.duo, folder)
        check_monitoring(tools, checks, package, args.source)
        check_manifests(checks, package)
    scripts = glob.glob(os.path.join(package, "debian", "*")) + [os.path.join(args.source, ".ci", "run")]
    for folder in ("launcher", "tests"):
        scripts += glob.glob(os.path.join(args.source, folder, "**", "*.sh"), recursive=True)
    tools.judge("scripts", "shellcheck", "-x", "-P", args.source, "-S", "warning", *scripts)
    if tools.missing:
        print(f"not judged, because not installed: {', '.join(sorted(tools.missing))}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
