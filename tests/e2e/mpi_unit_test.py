#!/usr/bin/env python3
"""The unit with its drop-in for several ranks, as a service manager would run it on two: its ExecStart says READY only when
questions are answered, its ExecReload makes the ranks forget a token and take another, its stop saves and leaves no process.

    mpi_unit_test.py --duo build/duo [--source DIR]

Skipped without mpirun. Standard library only.
"""

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from checks import Checks, arguments, demo_model
from package_test import installed
from service_manager import PATIENCE, Manager, Unit

RANKS = 2
OLD, NEW = "the-old-token-of-anna", "the-new-token-of-anna"
TEXT = "The passcode for the rapid tower is 499748.\n"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def descendants(pid):
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                for child in map(int, file.read().split()):
                    found += [child, *descendants(child)]
    except OSError:
        pass  # it has just ended
    return found


def ranks_below(pid):
    """The ranks among a process's descendants: number -> process."""
    found = {}
    for child in descendants(pid):
        try:
            with open(f"/proc/{child}/environ", "rb") as file:
                for variable in file.read().split(b"\0"):
                    if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                        found[int(variable.split(b"=")[1])] = child
        except OSError:
            pass  # it has just ended
    return found


class Operator:
    """The files that an operator writes, and the unit with its drop-in as they say where things are."""

    def __init__(self, folder, source, duo):
        self.folder, self.duo = folder, os.path.abspath(duo)
        self.port, self.rpc = free_port(), free_port()
        self.places = {"/usr/bin/duo": self.duo, "/usr/share/duo/mpi": os.path.join(os.path.abspath(source), "launcher", "mpi"),
                       "/etc/duo/secrets": folder, "/etc/duo/serve.toml": os.path.join(folder, "serve.toml"),
                       "/usr/share/duo/needle-6m": os.path.abspath(demo_model(source)), "/var/lib/duo": os.path.join(folder, "state"),
                       "127.0.0.1:50051": f"127.0.0.1:{self.rpc}", "127.0.0.1:8000": f"127.0.0.1:{self.port}", "#token-file": "token-file"}
        self.tokens = os.path.join(folder, "tokens")
        os.mkdir(self.places["/var/lib/duo"])
        package = os.path.join(source, "launcher", "package", "systemd")
        self.unit = Unit(*(self.placed(os.path.join(package, name)) for name in ("duo.service.in", "mpi.conf")))
        with open(self.places["/etc/duo/serve.toml"], "w", encoding="utf-8") as file:
            file.write(self.placed(os.path.join(package, "serve.toml.in")))

    def placed(self, path):
        with open(path, encoding="utf-8") as file:
            text = installed(file.read())
        for there, here in self.places.items():
            text = text.replace(there, here)
        return text

    def write_tokens(self, token):
        with open(self.tokens, "w", encoding="ascii") as file:
            file.write(f"{token} anna admin\n")
        os.chmod(self.tokens, 0o600)

    def ask(self, path, token=None, body=None):
        """The status and the answer; None for both where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers["Authorization"] = "Bearer " + token
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return None, None
        finally:
            connection.close()

    def status(self, token):
        return self.ask("/duo/v1/state", token)[0]

    def client(self, *words):
        done = subprocess.run([self.duo, "client", *words, "--server", f"127.0.0.1:{self.rpc}", "--token-file", self.tokens],
                              capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode != 0:
            raise AssertionError(f"duo client {words}: {done.stderr}")


class Service:
    """The unit, started."""

    def __init__(self, operator, checks):
        self.operator, self.unit, self.checks = operator, operator.unit, checks
        words = self.unit.last("ExecStart").split()
        checks.expect(words[1] == "4", f"how many ranks mpi.conf proposes: {words}")
        words[1] = str(RANKS)
        path = os.path.join(operator.folder, "notify")
        self.manager = Manager(path)
        # A hyperthread counts as a slot, however few cores this machine has.
        env = {**os.environ, **self.unit.environment(), "NOTIFY_SOCKET": path, "STATE_DIRECTORY": operator.places["/var/lib/duo"],
               "DUO_THREADS": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
        self.main = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        atexit.register(self.kill)  # what fails leaves no server behind
        self.log = []
        threading.Thread(target=lambda: self.log.extend(self.main.stderr), daemon=True).start()

    def kill(self):
        started = descendants(self.main.pid)
        self.main.kill()
        for pid in started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def becomes_ready(self, token):
        before = self.operator.ask("/ready")
        self.checks.expect(before[0] in (None, 503), f"ready before it says so: {before}")
        heard = self.manager.hears("READY=1", self.main)
        asked = self.operator.ask("/v1/completions", token, {"model": "needle-6m", "prompt": TEXT, "max_tokens": 1})
        self.checks.expect(self.operator.ask("/ready")[0] == 200 and asked[0] == 200, f"ready, and it answers {asked}")
        self.checks.expect(any("STATUS=loading" in text for _, text in heard), f"what it says while it loads: {heard}")
        self.ranks = ranks_below(self.main.pid)
        self.checks.expect(sorted(self.ranks) == list(range(RANKS)), f"ranks below the unit's main process: {self.ranks}")
        senders = {sender for sender, _ in heard}
        self.checks.expect(senders == {self.ranks.get(0)}, f"{senders} spoke, of {self.ranks}")
        # Another process than the main one is listened to only by this.
        self.checks.expect(self.unit.last("NotifyAccess") == "all" or senders == {self.main.pid}, "who may speak for the unit")

    def reload(self):
        """As the unit says: by its command, to its main process."""
        words = [str(self.main.pid) if word == "$MAINPID" else word for word in self.unit.last("ExecReload").split()]
        subprocess.run(words, check=True, timeout=PATIENCE)

    def stop(self):
        """As the unit says: TERM to the main process alone with KillMode=mixed, else to all of them."""
        begun, started = time.monotonic(), descendants(self.main.pid)
        targets = [self.main.pid]
        if self.unit.last("KillMode") != "mixed":
            targets += started
        for pid in targets:
            os.kill(pid, signal.SIGTERM)
        heard = self.manager.hears("STOPPING=1", self.main)
        code = self.main.wait(PATIENCE)
        self.checks.expect(heard[-1][0] == self.ranks[0], f"who says that it stops: {heard}, of {self.ranks}")
        self.checks.expect(code == 0, f"exit code {code}: {''.join(self.log[-20:])}")
        left = [pid for pid in started if os.path.exists(f"/proc/{pid}")]
        self.checks.expect(not left, f"processes that are left when the main one has ended: {left}")
        print(f"stopped in {time.monotonic() - begun:.1f} s")


def check_reload(operator, service, checks):
    operator.write_tokens(NEW)
    checks.expect((operator.status(OLD), operator.status(NEW)) == (200, 401), "a file that changes alone changes nothing")
    service.reload()
    until = time.monotonic() + PATIENCE
    while operator.status(NEW) != 200 and time.monotonic() < until and service.main.poll() is None:
        time.sleep(0.05)
    checks.expect((operator.status(OLD), operator.status(NEW)) == (401, 200),
                  f"after a reload: the old token {operator.status(OLD)}, the new {operator.status(NEW)}\n{''.join(service.log[-20:])}")
    checks.expect(ranks_below(service.main.pid) == service.ranks, f"the same ranks serve on: {service.ranks}")


def main():
    parser = arguments(__doc__, "--duo")
    args = parser.parse_args()
    if shutil.which("mpirun") is None:
        print("skipped: mpirun is not installed")
        return 77
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(folder, args.source, args.duo)
        operator.write_tokens(OLD)
        first = Service(operator, checks)
        first.becomes_ready(OLD)
        operator.client("create", "book", "--max-tokens", "2000")
        operator.client("append", "book", "--text", TEXT)
        check_reload(operator, first, checks)
        before = json.loads(operator.ask("/duo/v1/sessions/book", NEW)[1])["tokens"]
        first.stop()
        second = Service(operator, checks)
        second.becomes_ready(NEW)
        status, answer = operator.ask("/duo/v1/sessions/book", NEW)
        checks.expect(status == 200 and json.loads(answer)["tokens"] == before > 10, f"after a stop: {status} {answer}, {before} tokens before")
        second.stop()
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
