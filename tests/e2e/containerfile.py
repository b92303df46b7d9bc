"""The last stage of a Containerfile, carried out by hand in a root folder: what it copies and runs, and then its program as
its user, with its environment. For machines that have no registry to take a base image from."""

import json
import os
import re
import shlex
import shutil
import subprocess

KNOWN = ("COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD")


def last_stage(path):
    """Its instructions in order, [word, rest]."""
    with open(path, encoding="utf-8") as file:
        text = "".join(line for line in file if not line.lstrip().startswith("#"))
    lines = [line.split(None, 1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    begin = max(i for i, line in enumerate(lines) if line[0] == "FROM")
    stage = lines[begin + 1:]
    unknown = [line[0] for line in stage if line[0] not in KNOWN]
    if unknown:
        raise AssertionError(f"{path}: {unknown} is nothing that this test carries out")
    return stage


class Image:
    """The stage, carried out. built: files of the earlier stage, by the end of their names."""

    def __init__(self, root, path, built):
        self.root, self.env, self.user, self.command, self.stop_signal = root, {}, "root", {}, "SIGTERM"
        for word, rest in last_stage(path):
            if word == "COPY":
                source, target = rest.replace("--from=build ", "").split()
                pattern = re.escape(os.path.basename(source)).replace(r"\*", ".*")
                (found,) = [file for file in built if re.fullmatch(pattern, os.path.basename(file))]
                shutil.copy(found, root.path + target)
            elif word == "RUN":
                root.run("sh", "-c", rest)
            elif word == "USER":
                self.user = rest
            elif word == "ENV":
                self.env.update(dict(pair.split("=", 1) for pair in shlex.split(rest)))
            elif word in ("ENTRYPOINT", "CMD"):
                self.command[word] = json.loads(rest)
            elif word == "STOPSIGNAL":
                self.stop_signal = rest

    def words(self, *instead):
        """The command with which a container of it begins; `instead` of CMD."""
        return ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups", "--inh-caps=-all", "--no-new-privs",
                *self.command["ENTRYPOINT"], *(instead or self.command["CMD"])]

    def start(self, *instead, **options):
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **self.env}
        return subprocess.Popen(self.root.command(*self.words(*instead)), env={**env, **options.pop("env", {})}, text=True, **options)
