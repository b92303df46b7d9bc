#!/usr/bin/env python3
"""`duo chat` as a program that writes to it sees it: answers, a document, what is taken back, what is written, Ctrl-C.

    chat_test.py --duo build/duo [--source DIR]

The demo model gets a template of its own, in which a turn is a question and its answer. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile

from checks import Checks, arguments, demo_model

TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}\nAnswer: {% else %}{{ m['content'] }}\n"
            "{% endif %}{% endfor %}")
QUESTION = "Question: What is the passcode for the {}?"
FACTS = {"rapid tower": "499748", "amber falcon": "402113"}


def model_with_template(source, folder):
    path = os.path.join(folder, "needle-chat")
    os.mkdir(path)
    for name in os.listdir(demo_model(source)):
        os.symlink(os.path.abspath(os.path.join(demo_model(source), name)), os.path.join(path, name))
    with open(os.path.join(path, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(TEMPLATE)
    return path


def chat(duo, model, lines, *more):
    return subprocess.run([duo, "chat", "--model", model, "--device", "cpu", "--max-tokens", "8000", "--max-new-tokens", "8", *more],
                          input="".join(line + "\n" for line in lines), capture_output=True, text=True, check=False, timeout=120)


def try_interrupt(checks, duo, model):
    """Ctrl-C in an answer ends the answer, not the conversation."""
    command = [duo, "chat", "--model", model, "--device", "cpu", "--max-new-tokens", "20000", "--max-tokens", "30000"]
    code, said = interrupted(command, "/quit\n")
    checks.expect(code == 0 and "stopped" in said, f"Ctrl-C: exit {code}, {said[-500:]!r}")


def interrupted(command, then):
    """A chat whose first answer is stopped by Ctrl-C and that gets these lines then: exit status and stderr."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as talk:
        talk.stdin.write("Question: Who?\n")
        talk.stdin.flush()
        talk.stdout.read(20)  # it is answering
        talk.send_signal(signal.SIGINT)
        talk.stdin.write(then)
        talk.stdin.close()
        talk.stdout.read()
        said = talk.stderr.read()
        return talk.wait(), said


class Served:
    """`duo serve` with the model, until it has listened."""

    def __init__(self, duo, model):
        self.process = subprocess.Popen([duo, "serve", "--model", model, "--device", "cpu", "--threads", "1", "--log", "json", "--listen",
                                         "127.0.0.1:0", "--http", "none", "--sessions", "6", "--max-session-tokens", "30000"],
                                        stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            event = json.loads(line)
            if event["event"] == "listening":
                self.address = f"127.0.0.1:{event['port']}"
                return
        raise AssertionError("the server has ended")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def try_server(checks, duo, model, document):
    """The same conversation with a served model; what it leaves there, how it goes on, and Ctrl-C."""
    first, second = (QUESTION.format(key) for key in FACTS)
    with Served(duo, model) as server:
        def talk(lines, *more):
            return subprocess.run([duo, "chat", "--server", server.address, "--max-new-tokens", "8", *more],
                                  input="".join(line + "\n" for line in lines), capture_output=True, text=True, check=False, timeout=120)

        def sessions():
            return subprocess.run([duo, "client", "list", "--server", server.address], capture_output=True, text=True, check=True).stdout

        done = talk([f"/file {document}", first, second, "/undo", second, "/undo", "/undo", "/quit"])
        local = chat(duo, model, [f"/file {document}", first, second, "/undo", second, "/quit"])
        checks.expect(done.returncode == 0 and done.stdout == local.stdout, f"{done.stdout!r}, in this process {local.stdout!r}; {done.stderr}")
        checks.expect(done.stderr.count("nothing to take back") == 1, f"one turn is taken back: {done.stderr!r}")
        checks.expect("chat-" not in sessions(), f"left behind: {sessions()}")
        talk([f"/file {document}", first, "/quit"], "--session", "notes")
        again = talk([second, "/quit"], "--session", "notes")
        checks.expect(again.stdout.startswith("402113") and "notes" in sessions(), f"it goes on: {again.stdout!r} {again.stderr!r}")
        begun = talk(["/new", second, "/system Be brief.", "/quit"], "--session", "notes")
        checks.expect("402113" not in begun.stdout and "/new" in begun.stderr, f"/new begins again: {begun.stdout!r} {begun.stderr!r}")
        code, said = interrupted([duo, "chat", "--server", server.address, "--max-new-tokens", "20000"], "/undo\n/quit\n")
        checks.expect(code == 0 and "your turn is taken back" in said, f"Ctrl-C: exit {code}, {said!r}")
    gone = subprocess.run([duo, "chat", "--server", server.address], input="", capture_output=True, text=True, check=False, timeout=60)
    checks.expect(gone.returncode == 1 and gone.stderr.startswith("error: ") and gone.stderr.count("\n") == 1, f"a server that is gone: {gone.stderr!r}")
    for words in ([], ["--server", "x:1", "--model", "y"], ["--model", "y", "--session", "z"]):
        wrong = subprocess.run([duo, "chat", *words], input="", capture_output=True, text=True, check=False, timeout=60)
        checks.expect(wrong.returncode == 2, f"duo chat {words}: exit {wrong.returncode}")
    # What a model in this process would be run with says nothing of a server's; values of the environment are no flags.
    for flag, value in (("--kv", "int4"), ("--weights", "int8"), ("--attention", "full"), ("--device", "cpu"), ("--threads", "2"),
                        ("--speculate", "off"), ("--max-tokens", "4000"), ("--pattern", "none")):
        idle = subprocess.run([duo, "chat", "--server", server.address, flag, value], input="", capture_output=True, text=True, check=False,
                              timeout=60)
        checks.expect(idle.returncode == 2 and f"{flag}: is of a model in this process" in idle.stderr and "server's own" in idle.stderr,
                      f"{flag} with --server: exit {idle.returncode}, {idle.stderr!r}")
    idle = subprocess.run([duo, "chat", "--server", server.address], input="", capture_output=True, text=True, check=False, timeout=60,
                          env=dict(os.environ, DUO_KV="int4"))
    checks.expect(idle.returncode == 1, f"a variable is no flag of duo chat: exit {idle.returncode}, {idle.stderr!r}")


def main():
    args = arguments(__doc__, "--duo").parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        model = model_with_template(args.source, folder)
        document, saved = os.path.join(folder, "facts.txt"), os.path.join(folder, "saved.json")
        with open(document, "w", encoding="utf-8") as file:
            file.write("".join(f"Note: the passcode for the {key} is {value}.\n" for key, value in FACTS.items()))
        first, second = (QUESTION.format(key) for key in FACTS)
        done = chat(args.duo, model, [f"/file {document}", first, second, "/undo", second, f"/save {saved}", "/nothing", "/quit"])
        checks.expect(done.returncode == 0, f"exit {done.returncode}: {done.stderr}")
        for value, times in (("499748", 1), ("402113", 2)):
            checks.expect(done.stdout.count(value) == times, f"{value} comes {done.stdout.count(value)} times in {done.stdout!r}")
        checks.expect("no such command" in done.stderr and "/undo" in done.stderr, "an unknown command gets the list")
        with open(saved, encoding="utf-8") as file:
            turns = json.load(file)
        checks.expect([turn["role"] for turn in turns] == ["user", "assistant"] * 2, f"what was saved: {turns}")
        checks.expect(turns[0]["content"].startswith("Note: the passcode"), "the document is in the first turn")
        # The same by `duo generate`, which reads all of it anew, once the last answer is left out.
        with open(saved, "w", encoding="utf-8") as file:
            json.dump(turns[:-1], file)
        again = subprocess.run([args.duo, "generate", "--model", model, "--device", "cpu", "--messages", saved, "--max-new-tokens", "8"],
                               capture_output=True, text=True, check=False, timeout=120)
        checks.expect(again.stdout.rstrip("\n") == turns[-1]["content"].rstrip("\n"), f"{again.stdout!r}, not {turns[-1]['content']!r}")
        none = chat(args.duo, model, ["/undo", "/new", "/quit"])
        checks.expect("nothing to take back" in none.stderr and none.stdout == "", none.stderr)
        try_interrupt(checks, args.duo, model)
        try_server(checks, args.duo, model, document)
    plain = chat(args.duo, demo_model(args.source), ["x"])
    checks.expect(plain.returncode == 1 and plain.stderr.count("error: ") == 1, f"a model without a template: {plain.stderr!r}")
    return checks.exit_code()


if __name__ == "__main__":
    sys.exit(main())
