"""Sessions outlive their server: crashes, drains, other ranks and devices, full disks."""

import concurrent.futures
import os
import random
import signal
import subprocess
import tempfile
import time

import grpc
from cases import ARGS, ask_all, case, check, equal, free_counters, serve
from harness import code_of, needles


def start_durable(folder, *more):
    return serve("--sessions", "4", "--max-session-tokens", "80000", "--save-dir", folder, "--checkpoint-tokens", "1024",
                 *more)


@case
def crash():
    """kill -9 while reading: the session is there up to its last checkpoint, goes on, and answers as if nothing was."""
    rounds, tokens = (10, 32000) if ARGS.full else (2, 8000)
    document, questions = needles(tokens)
    rng = random.Random(5)
    with tempfile.TemporaryDirectory() as folder, start_durable(folder) as server:
        client = server.client()
        client.Create(id="ref", max_tokens=tokens * 2)
        done = client.append("ref", document)
        expected = ask_all(client, "ref", questions)
        total = done.total_tokens
    for round_number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            with start_durable(folder) as server:
                client = server.client()
                client.Create(id="doc", max_tokens=tokens * 2, durable=True)
                failed = concurrent.futures.ThreadPoolExecutor(1).submit(
                    lambda: code_of(lambda: client.append("doc", document, append_id="a")))
                moment, killed_at = rng.uniform(0.02, 0.95) * total, 0
                while killed_at < moment:
                    check(not failed.done(), "the document was read or refused before the server could be killed")
                    killed_at = client.Get(session_id="doc").tokens
                    time.sleep(rng.uniform(0, 0.05))
                server.kill()
                failed.exception()
            begun = time.time()
            with start_durable(folder) as server:
                client = server.client()
                found = client.Get(session_id="doc")
                check(found.tokens >= killed_at - 2 * 1024, f"killed at {killed_at} tokens, found {found.tokens}")
                done = client.append("doc", document, append_id="a")  # attaches to what goes on by itself
                equal(done.session.tokens, total, "tokens after the restart")
                equal(ask_all(client, "doc", questions), expected, "answers after the restart")
                print(f"round {round_number}: killed at {killed_at}, found {found.durable_tokens}, done "
                      f"{time.time() - begun:.1f} s after the restart")


@case
def ranks():
    """Saved on one rank, restored on three, and back: the same answers."""
    tokens = 12000 if ARGS.full else 3000
    document, questions = needles(tokens)
    with tempfile.TemporaryDirectory() as folder:
        def run(count, names, save_as=None):
            with serve("--sessions", "3", "--max-session-tokens", str(tokens * 2), "--save-dir", folder, ranks=count,
                       threads=1) as server:
                client = server.client()
                if names is None:
                    client.Create(id="one", max_tokens=tokens + 2000)
                    client.append("one", document)
                    result = ask_all(client, "one", questions)
                    saved = client.Save(session_id="one")
                    print(f"1 rank: {saved.bytes_total} B in {saved.seconds:.2f} s")
                    client.Close(session_id="one")
                    return result
                restored = client.Restore(session_id=names, new_id=save_as or "")
                print(f"{count} ranks: {restored.bytes_read} B read in {restored.seconds:.2f} s")
                server.signal(signal.SIGHUP)  # under mpirun to the script, which makes it rank 0's
                server.wait_for("reloaded")
                result = ask_all(client, save_as or names, questions)
                if save_as:
                    client.Save(session_id=save_as)
                    client.Close(session_id=save_as)
                client.Drain()
                equal(server.process.wait(60), 0, "exit code")
                return result
        expected = run(1, None)
        equal(run(3, "one", "three"), expected, "answers on 3 ranks")
        equal(run(1, "three"), expected, "answers back on 1 rank")


@case
def devices():
    """Saved on the CPU, restored on the GPU, extended, saved, and restored on the CPU: the same answers."""
    if ARGS.device != "cuda":
        print("    not run: it needs --device cuda")
        return
    tokens = 12000 if ARGS.full else 3000
    document, questions = needles(tokens)
    more, asked_more = needles(1000, 2, seed=7)
    with tempfile.TemporaryDirectory() as folder:
        options = ("--sessions", "3", "--max-session-tokens", str(tokens * 2), "--save-dir", folder, "--kv", "bf16")
        with serve(*options, device="cpu", threads=8) as server:
            client = server.client()
            client.Create(id="doc", max_tokens=tokens + 3000)
            client.append("doc", document)
            expected = ask_all(client, "doc", questions)
            client.Save(session_id="doc")
            client.append("doc", more)
            expected_more = ask_all(client, "doc", questions + asked_more)
            client.Close(session_id="doc")
        with serve(*options) as server:
            client = server.client()
            restored = client.Restore(session_id="doc")
            print(f"on the GPU: {restored.bytes_read} B read in {restored.seconds:.3f} s")
            equal(ask_all(client, "doc", questions), expected, "answers on the GPU")
            client.append("doc", more)
            equal(ask_all(client, "doc", questions + asked_more), expected_more, "answers to what was added on the GPU")
            client.Save(session_id="doc")
            client.Close(session_id="doc")
        with serve(*options, device="cpu", threads=8) as server:
            client = server.client()
            client.Restore(session_id="doc")
            equal(ask_all(client, "doc", questions + asked_more), expected_more, "answers back on the CPU")


def read_file(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def write_file(data, *path):
    with open(os.path.join(*path), "wb") as file:
        file.write(data)


def fails_to_save(client, folder, code, word):
    """Saves "doc", which must fail like this, leave nothing half-written and the session as it was."""
    found, sentence = code_of(lambda: client.Save(session_id="doc"))
    check(found == code and word in sentence, f"{found} {sentence}")
    equal([s.residence for s in client.List().sessions], [1], "sessions after a failed save")
    check(not os.path.exists(os.path.join(folder, "doc", "manifest")), "no half-written session is visible")


@case
def disk_trouble():
    """A directory that cannot be written, a full disk: a clear error, the session unharmed, nothing half-written."""
    document, questions = needles(3000, 3)

    def with_trouble(user, trouble):
        with tempfile.TemporaryDirectory() as folder:
            os.chown(folder, -1 if user is None else user, -1)
            with serve("--sessions", "3", "--max-session-tokens", "8000", "--save-dir", folder, user=user) as server:
                client = server.client()
                client.Create(id="doc", max_tokens=6000)
                client.append("doc", document)
                expected = ask_all(client, "doc", questions)
                trouble(server, client, folder)
                equal(ask_all(client, "doc", questions), expected, "answers after failed saves")
                client.Save(session_id="doc")
                client.append("doc", b" A little more text.")
                saved = client.Save(session_id="doc")
                check(saved.bytes_written < saved.bytes_total, "the second save writes what is new only")

    def read_only(_, client, folder):
        os.chmod(folder, 0o555)
        fails_to_save(client, folder, grpc.StatusCode.PERMISSION_DENIED, "Permission denied")
        os.chmod(folder, 0o755)

    def full(server, client, folder):  # a limit on the size of files looks like a full disk
        prlimit = ["prlimit", "--pid", str(server.process.pid)]
        subprocess.run([*prlimit, "--fsize=65536:unlimited"], check=True)
        fails_to_save(client, folder, grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot write")
        subprocess.run([*prlimit, "--fsize=unlimited"], check=True)
        write_file(b"in the way", folder, "doc")
        code, sentence = code_of(lambda: client.Save(session_id="doc"))
        check(code != grpc.StatusCode.OK and "doc" in sentence, f"{code} {sentence}")
        os.unlink(os.path.join(folder, "doc"))

    with_trouble(65534 if os.geteuid() == 0 else None, read_only)  # root may write everywhere
    with_trouble(None, full)


@case
def full_disk():
    """Durable ingest onto a disk that fills up (a small tmpfs, which needs root): the append ends with the reason, the
    last checkpoint stays usable, and with room again the append goes on."""
    document, questions = needles(8000, 4)
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "none", folder], capture_output=True,
                          check=False).returncode != 0:
            print("    not run: mounting a tmpfs is not allowed here")
            return
        try:
            with start_durable(folder) as server:
                client = server.client()
                client.Create(id="doc", max_tokens=12000, durable=True)
                code, sentence = code_of(lambda: client.append("doc", document, append_id="a"))
                check(code == grpc.StatusCode.RESOURCE_EXHAUSTED and "No space left" in sentence, f"{code} {sentence}")
                stopped = client.Get(session_id="doc")
                check(stopped.durable_tokens >= 1024, f"checkpoints up to {stopped.durable_tokens}")
                server.kill()
            subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
            with start_durable(folder) as server:
                client = server.client()
                done = client.append("doc", document, append_id="a")
                client.Create(id="ref", max_tokens=12000)
                client.append("ref", document)
                equal(ask_all(client, "doc", questions), ask_all(client, "ref", questions), "answers")
                print(f"full after {stopped.durable_tokens} of {done.session.tokens} tokens")
        finally:
            subprocess.run(["umount", folder], check=True)


def rank_zero(ancestor):
    """The process of rank 0 below `ancestor`."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if b"OMPI_COMM_WORLD_RANK=0" not in read_file("/proc", name, "environ").split(b"\0"):
                continue
            parent = int(name)
            while parent > 1 and parent != ancestor:
                parent = int(read_file("/proc", str(parent), "stat").rpartition(b")")[2].split()[1])
        except OSError:
            continue
        if parent == ancestor:
            return int(name)
    raise AssertionError("rank 0 was not found")


@case
def drain():
    """TERM to one process, to rank 0 and to the script; `duo client drain`: all is saved, and there after a restart."""
    document, questions = needles(3000, 3)
    more = document * (3 if ARGS.device == "cpu" else 120)  # so much that the signal finds it half read
    room = 8000 + 4000 * (len(more) // len(document))
    for ranks, how in ((1, "TERM"), (2, "duo client drain"), (2, "TERM to rank 0"), (2, "TERM")):
        with tempfile.TemporaryDirectory() as folder:
            options = ("--sessions", "4", "--max-session-tokens", str(room), "--kv-tokens", str(3 * room), "--save-dir", folder)
            with serve(*options, ranks=ranks, threads=1) as server:
                client = server.client()
                for name in ("a", "b"):
                    client.Create(id=name, max_tokens=room)
                    client.append(name, document)
                expected = ask_all(client, "a", questions)
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    running = pool.submit(lambda: client.ask("a", questions[0][0]))
                    reading = pool.submit(lambda: code_of(lambda: server.client().append("b", more, append_id="x")))
                    time.sleep(0.7)
                    if how == "duo client drain":
                        told = subprocess.run([ARGS.duo, "client", "drain", "--server", server.address],
                                              capture_output=True, text=True, check=True).stdout
                        check("2 sessions saved" in told, told)
                    elif how == "TERM to rank 0":
                        os.kill(rank_zero(server.process.pid), signal.SIGTERM)
                    else:
                        server.signal(signal.SIGTERM)
                    running.result()
                    code, sentence = reading.result()
                    check(code == grpc.StatusCode.UNAVAILABLE, f"a running append: {code} {sentence}")
                equal(server.process.wait(60), 0, "exit code")
            with serve(*options, ranks=ranks, threads=1) as server:
                client = server.client()
                equal([s.residence for s in client.List().sessions], [2, 2], "residence after the restart")
                equal(ask_all(client, "a", questions), expected, "answers after the restart")
                begun = client.Get(session_id="b")
                done = client.append("b", more, append_id="x")
                print(f"{ranks} ranks, {how}: \"b\" had {begun.tokens} tokens, now {done.session.tokens}")
                client.Drain()
                server.process.wait(60)


@case
def idle():
    """An idle session is moved out, to disk or to host memory, and its room is free; a question brings it back."""
    document, questions = needles(2500, 3)
    for where in (None, "/dev/shm"):
        if where is not None and not os.access(where, os.W_OK):
            continue
        with tempfile.TemporaryDirectory(dir=where) as folder, \
                serve("--sessions", "4", "--max-session-tokens", "8000", "--save-dir", folder, "--idle-out", "1") as server:
            client = server.client()
            before = free_counters(client)
            client.Create(id="doc", max_tokens=6000)
            client.append("doc", document)
            expected = ask_all(client, "doc", questions)
            for _ in range(2):
                deadline = time.time() + 30
                while client.Get(session_id="doc").residence != 2:
                    check(time.time() < deadline, "it is moved out")
                    time.sleep(0.2)
                equal(free_counters(client), before, "counters while it is out")
                equal(ask_all(client, "doc", questions), expected, "answers when it is back")
            check(client.Pin(session_id="doc", pinned=True).pinned, "it is pinned")  # and back in the cache
            time.sleep(3)
            equal(client.Get(session_id="doc").residence, 1, "where a pinned session is after three times the idle time")
            client.Save(session_id="doc")
            client.Close(session_id="doc")
            check(client.Get(session_id="doc").pinned and client.Restore(session_id="doc").session.pinned, "a save keeps it")
            client.Pin(session_id="doc", pinned=False)
            deadline = time.time() + 30
            while client.Get(session_id="doc").residence != 2:
                check(time.time() < deadline, "it is moved out when it is no more pinned")
                time.sleep(0.2)
            stats = client.Stats()
            print(f"{where or 'disk'}: {stats.saved_bytes} B out, {stats.restored_bytes} B back")
