"""kill -9 at random moments of appends, saves, rewinds, moves to disk and drains: nothing that was promised is lost."""

import random
import tempfile
import threading
import time

from cases import ARGS, case, check, equal, serve
from harness import grpc, needles


class Doc:
    """What the answers so far say of a durable session: tokens, and what may have changed them since."""

    def __init__(self):
        self.tokens = 0
        self.under_way = None  # ("append", id, text) or ("rewind", tokens)
        self.appends = 0


class Caller(threading.Thread):
    """Calls on a server until that is gone."""

    def __init__(self, client, docs, text, rng):
        super().__init__()
        self.client, self.docs, self.text, self.rng = client, docs, text, rng
        self.failure, self.last = None, "nothing"

    def run(self):
        try:
            while self.one_call():
                pass
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.failure = error

    def one_call(self):
        name = self.rng.choice(sorted(self.docs))
        doc = self.docs[name]
        what = self.rng.random()
        if doc.tokens > 5000 or (what < 0.2 and doc.tokens > 0):
            to = self.rng.randrange(doc.tokens)
            self.last, doc.under_way = f"rewind of {name}", ("rewind", to)
            cut = self.client.Rewind(session_id=name, tokens=to)
            equal((cut.tokens, cut.durable_tokens), (to, to), "a rewind")
            doc.tokens, doc.under_way = to, None
        elif what < 0.65:
            doc.appends += 1
            begin, length = self.rng.randrange(len(self.text) // 2), self.rng.randrange(200, 6000)
            doc.under_way = ("append", f"a{doc.appends}", self.text[begin:begin + length])
            self.last = f"append to {name}"
            done = self.client.append(name, doc.under_way[2], doc.under_way[1])
            equal(done.session.tokens, doc.tokens + done.total_tokens, "tokens after an append")
            doc.tokens, doc.under_way = done.session.tokens, None
        elif what < 0.8:
            self.last = f"save of {name}"
            self.client.Save(session_id=name)
        elif what < 0.95:
            self.last = f"question on {name}"
            self.client.ask(name, "?", max_new_tokens=3)
        else:
            self.last = "a time without a call"  # in which sessions are moved out
            time.sleep(0.8)
        return True


def settle(client, docs):
    """After a restart: what was promised is there; what was under way happened or did not. Returns what was found."""
    for name, doc in docs.items():
        found = client.Get(session_id=name)
        kind = doc.under_way[0] if doc.under_way else None
        if kind == "rewind":
            check(found.tokens in (doc.tokens, doc.under_way[1]), f"{name}: {found.tokens}, {doc.tokens} or {doc.under_way[1]} expected")
            doc.tokens = found.tokens
        elif kind == "append":
            check(found.tokens >= doc.tokens, f"{name}: {found.tokens} tokens, {doc.tokens} were promised")
            done = client.append(name, doc.under_way[2], doc.under_way[1])
            equal(done.session.tokens, doc.tokens + done.total_tokens, f"{name}, whose append went on")
            doc.tokens = done.session.tokens
        else:
            equal(found.tokens, doc.tokens, f"{name}: tokens")
        doc.under_way = None
        if doc.tokens > 0:
            client.ask(name, "?", max_new_tokens=2)  # its pages can be read


@case
def kills():
    """kill -9 at random moments of appends, saves, rewinds, moves to disk and drains: what was promised is there."""
    rounds = 100 if ARGS.full else 10
    rng = random.Random(11)
    text, _ = needles(8000)
    with tempfile.TemporaryDirectory() as folder:
        docs = {name: Doc() for name in ("a", "b", "c")}
        options = ("--sessions", "4", "--max-session-tokens", "8000", "--kv-tokens", "40000", "--save-dir", folder,
                   "--checkpoint-tokens", "512", "--idle-out", "0.5")
        for number in range(rounds):
            with serve(*options, threads=1) as server:
                client = server.client()
                if number == 0:
                    for name in docs:
                        client.Create(id=name, max_tokens=8000, durable=True)
                        first = client.append(name, text[:400], "first")
                        docs[name].tokens = first.session.tokens
                else:
                    settle(client, docs)
                caller = Caller(server.client(), docs, text, rng)
                caller.start()
                time.sleep(rng.uniform(0.05, 2.5))
                draining = rng.random() < 0.25
                if draining:
                    threading.Thread(target=lambda: server.client().call("Drain", server.client().message("Drain")),
                                     daemon=True).start()
                    time.sleep(rng.uniform(0, 0.3))
                server.kill()
                caller.join()
                check(caller.failure is None, f"round {number}, {caller.last}: {caller.failure}")
                print(f"round {number}: killed during {caller.last}{', draining' if draining else ''}; "
                      f"{[doc.tokens for doc in docs.values()]} tokens", flush=True)
        with serve(*options, threads=1) as server:
            settle(server.client(), docs)
