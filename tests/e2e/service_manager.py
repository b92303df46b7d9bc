"""What a service manager does for a unit, where none runs: it reads the unit and its drop-ins, and hears what the service says on
NOTIFY_SOCKET, and from which process. Standard library only."""

import os
import re
import socket
import struct
import time

PATIENCE = 300  # seconds for what takes one or two: the machine may build something else, too


class Unit:
    """A unit's [Service] with its drop-ins: a setting's values in order, of which one that is empty forgets those before it."""

    def __init__(self, *texts):
        self.settings = {}
        for text in texts:
            section = re.search(r"^\[Service\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
            for name, value in re.findall(r"^(\w+)=(.*)$", section, re.M):
                self.settings[name] = [*self.settings.get(name, []), value] if value else []

    def last(self, name):
        return self.settings[name][-1]

    def environment(self):
        return dict(pair.split("=", 1) for line in self.settings.get("Environment", []) for pair in line.split())


class Manager:
    """Listens on a socket at this path."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        if os.path.exists(path):
            os.unlink(path)
        self.socket.bind(path)
        os.chmod(path, 0o777)

    def next(self, timeout):
        """The process that sent it, and a message; None when there is none in this time."""
        self.socket.settimeout(timeout)
        try:
            text, more, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(struct.calcsize("3i")))
        except socket.timeout:
            return None
        return struct.unpack("3i", more[0][2])[0], text.decode()

    def hears(self, word, process, timeout=PATIENCE):
        """Every message up to the one that has the word, as (sender, text). Fails as soon as the process has ended without it."""
        heard, until = [], time.monotonic() + timeout
        while not heard or word not in heard[-1][1].split("\n"):
            ended = process.poll() is not None
            message = self.next(0.2)
            if message is not None:
                heard.append(message)
            elif ended or time.monotonic() > until:
                raise TimeoutError(f"no {word} {f'before the end with {process.returncode}' if ended else f'within {timeout} s'}: {heard}")
        return heard
