"""The Python package: built as a wheel, installed, and used as its users would, with threads and with asyncio."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading

import harness
from cases import case, check, equal, serve
from needle_document import build, read_text


def installed(folder):
    """The package's wheel, built from a copy of its source and unpacked into the folder."""
    for part in ("launcher/python", "proto"):
        shutil.copytree(os.path.join(harness.SOURCE, part), os.path.join(folder, part))
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheels = os.path.join(folder, "wheels")
    for words in (["wheel", "--no-build-isolation", "--no-deps", "-w", wheels, os.path.join(folder, "launcher", "python")],
                  ["install", "--no-deps", "--no-index", "--find-links", wheels, "--target", os.path.join(folder, "there"), "duo-sessions"]):
        done = subprocess.run(pip + words, capture_output=True, text=True, check=False)
        check(done.returncode == 0, f"pip {words[0]}: {done.stderr[-1500:]}")
    check(os.path.exists(os.path.join(folder, "there", "duo_sessions", "py.typed")), "it says that it is typed")
    return os.path.join(folder, "there")


class Cut:
    """A proxy that breaks its first connection after so many bytes, and then lets everything through."""

    def __init__(self, port, after):
        import socket
        self.port, self.after = port, after
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connect = lambda: socket.create_connection(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server, left = self.connect(), self.after
            self.after = None
            threading.Thread(target=self._pass, args=(client, server, left), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, None), daemon=True).start()

    @staticmethod
    def _pass(source, target, left):
        try:
            while data := source.recv(65536):
                target.sendall(data)
                if left is not None:
                    left -= len(data)
                    if left < 0:
                        break
        except OSError:
            pass
        for one in (source, target):
            try:
                one.shutdown(2)
            except OSError:
                pass


@case
def python_package():
    """duo-sessions: waits for a server that starts, resumes an append that broke, answers, with threads and with asyncio."""
    for name in ("wheel", "setuptools", "grpc"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
    made = build(read_text([os.path.join(harness.SOURCE, "LICENSE")]), 9000, 2, 3)
    question = made["questions"][0]
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, installed(folder))
        from duo_sessions import AsyncClient, Client
        with Client("127.0.0.1:1") as nobody:
            check(not nobody.ready(), "nobody is ready")
            try:
                nobody.wait_until_ready(timeout=0.5)
                raise AssertionError("a server that is not there was waited for")
            except TimeoutError:
                pass
        with serve("--max-session-tokens", "8000") as server:
            with Client(server.address) as client:
                client.wait_until_ready(60)
                client.create("book")
                seen = []
                with Client(Cut(server.port, 5000).address) as shaky:  # takes the append up again
                    done = shaky.append("book", made["document"], on_progress=seen.append)
                check(done.done and done.session.tokens == client.get("book").tokens > 1000 and seen, f"what was read: {done}")
                answer = client.ask("book", question["ask"], stop=["\n"], max_new_tokens=12)
                check(question["answer"] in answer.text and answer.finish == "stop", f"an answer: {answer}")
                equal([one.id for one in client.list()], ["book"], "sessions")

            example = os.path.join(harness.SOURCE, "launcher", "python", "example", "example.py")  # as its first lines say to run it
            shown = subprocess.run([sys.executable, example, "--server", server.address], capture_output=True, text=True, check=False,
                                   env=dict(os.environ, PYTHONPATH=os.path.join(folder, "there")))
            check(shown.returncode == 0, f"the example: {shown.stderr[-1500:]}")
            for answer in ("402113", "771950", "083364"):
                check(shown.stdout.count(answer) == 2, f"the example is not told {answer}: {shown.stdout}")

            async def with_asyncio():
                async with AsyncClient(server.address) as client:
                    await client.wait_until_ready(60)
                    both = await asyncio.gather(*(client.ask("book", one["ask"], stop=["\n"], max_new_tokens=12) for one in made["questions"]))
                    for one, found in zip(made["questions"], both):
                        check(one["answer"] in found.text, f"an answer with asyncio: {found.text!r}")
                    await client.close("book")
                    return await client.list()

            equal(asyncio.run(with_asyncio()), [], "sessions in the end")
