"""What was true at commit e33224f stays true: its saved sessions are read, and its clients go on working (tests/anchors)."""

import json
import os
import shutil
import sys
import tempfile

import grpc
import harness
from cases import ARGS, case, check, equal, serve
from harness import needles

ANCHORS = os.path.join(harness.SOURCE, "tests", "anchors")
sys.path.insert(0, ANCHORS)
import make_saved  # noqa: E402
import tiny_model  # noqa: E402


@case
def saved_before():
    """Sessions saved by an older program, on one and on three ranks, one of them half read: its tokens, from here on."""
    with open(os.path.join(ANCHORS, "saved", "saved.json"), encoding="utf-8") as file:
        saved = json.load(file)
    equal(saved["questions"], make_saved.QUESTIONS, "the questions")
    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(scratch, "tiny")
        tiny_model.write(model)
        for name, made in saved["sessions"].items():
            if made["kv"] == "f32" and ARGS.device != "cpu":
                continue  # no GPU takes it
            for ranks in (1, 3) if ARGS.full else (1,):
                folder = os.path.join(scratch, f"{name}-on-{ranks}")
                shutil.copytree(os.path.join(ANCHORS, "saved", name), folder)
                with serve(*make_saved.OPTIONS, "--save-dir", folder, "--kv", made["kv"], model=model, ranks=ranks,
                           threads=1) as server:
                    client = server.client()
                    if "append_id" in made:
                        check(client.Get(session_id="doc").tokens >= made["tokens"], f"{name}: what was read is there")
                        text = make_saved.document()[:made["text_bytes"]].encode()
                        done = client.append("doc", text, append_id=made["append_id"])
                        equal(done.session.tokens, made["total_tokens"], f"{name}: tokens when it is read to its end")
                    else:
                        equal(client.Restore(session_id="doc").session.tokens, made["tokens"], f"{name}: tokens")
                    equal(make_saved.answers(client), made["answers"], f"{name} on {ranks} ranks: the answers' tokens")
        print(f"{len(saved['sessions'])} sessions saved by {saved['commit']}")


@case
def stubs_before():
    """A client with generated stubs of an older duo.proto: create, append, ask, save, restore."""
    sys.path.insert(0, os.path.join(ANCHORS, "python"))
    from duo.v1 import duo_pb2, duo_pb2_grpc
    document, questions = needles(2000, 3)
    with tempfile.TemporaryDirectory() as folder, \
            serve("--sessions", "3", "--max-session-tokens", "6000", "--save-dir", folder) as server, \
            grpc.insecure_channel(server.address) as channel:
        sessions = duo_pb2_grpc.SessionsStub(channel)
        created = sessions.Create(duo_pb2.CreateRequest(id="doc", max_tokens=5000), timeout=60)
        equal((created.id, created.max_tokens, created.residence), ("doc", 5000, duo_pb2.RESIDENCE_OPEN), "what was created")

        def pieces():
            yield duo_pb2.AppendRequest(session_id="doc", append_id="a")
            for at in range(0, len(document), 1000):
                yield duo_pb2.AppendRequest(offset=at, text=document[at:at + 1000])
        *_, read = sessions.Append(pieces(), timeout=300 * harness.patience)
        check(read.done and read.received_bytes == len(document), f"the last progress: {read}")
        equal(read.session.tokens, read.total_tokens, "tokens of the session")

        def ask(session):
            found = []
            for question, _ in questions:
                text, request = "", duo_pb2.AskRequest(session_id=session, text=question, max_new_tokens=12, stop=["\n"])
                for part in sessions.Ask(request, timeout=60 * harness.patience):
                    text += part.text
                check(part.done and part.finish == "stop" and part.stats.history_tokens == read.total_tokens, f"{part}")
                found.append(text)
            return found
        answers = ask("doc")
        check(all(a.startswith(e) for a, (_, e) in zip(answers, questions)), f"{answers} to {questions}")
        saved = sessions.Save(duo_pb2.SaveRequest(session_id="doc"), timeout=60)
        check(0 < saved.bytes_written <= saved.bytes_total, f"{saved}")
        sessions.Close(duo_pb2.CloseRequest(session_id="doc"), timeout=60)
        equal([s.residence for s in sessions.List(duo_pb2.ListRequest(), timeout=60).sessions], [duo_pb2.RESIDENCE_SAVED],
              "where it is after it was closed")
        restored = sessions.Restore(duo_pb2.RestoreRequest(session_id="doc", new_id="again"), timeout=60)
        equal((restored.session.id, restored.session.tokens), ("again", read.total_tokens), "what was restored")
        equal(ask("again"), answers, "answers of the restored session")
