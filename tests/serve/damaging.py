"""Saved sessions that are damaged are refused, and nothing else is disturbed."""

import json
import os
import random
import re
import shutil
import struct
import tempfile

import grpc
import harness
from cases import ARGS, ask_all, case, check, equal, free_counters, serve
from harness import code_of, needles
from saving import read_file, write_file


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def places_to_damage(path, count, rng):
    """(file, offset) of `count` bytes of a saved session, at least one in every section and the rest anywhere."""
    manifest = read_file(path, "manifest").decode()
    body = json.loads(manifest[:manifest.rindex("crc32c")])
    code_bytes, param_bytes = {"f32": (4, 0), "bf16": (2, 0), "int8": (1, 4)}[body["kv_format"]]
    page_bytes = 128 * 2 * (64 * code_bytes + param_bytes)
    places = []
    table = read_file(path, body["sections_file"]["name"])
    count_of_sections = struct.unpack_from("<q", table)[0]
    sections = [struct.unpack_from("<6iqI", table, 16 + 36 * i) for i in range(count_of_sections)]
    for _, _, first, _, pages, generation, offset, _ in sections:
        places.append((f"{generation}-pages-{first // 512:05d}", offset + rng.randrange(pages * (page_bytes + 4))))
    # The marker and the lock are no part of the session.
    files = sorted(name for name in os.listdir(path) if not name.startswith(".") and not name.endswith("-lock"))
    while len(places) < count:
        name = rng.choice(files)
        places.append((name, rng.randrange(os.path.getsize(os.path.join(path, name)))))
    return places, len(sections), files


@case
def damage():
    """Every flipped bit of a saved session is found; so are missing and foreign files, and nothing else is disturbed."""
    flips = 200 if ARGS.full else 30
    document, questions = needles(3000, 3)
    rng = random.Random(11)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "doc")
        options = ("--sessions", "3", "--max-session-tokens", "8000", "--save-dir", folder)
        with serve(*options) as server:
            client = server.client()
            for name in ("doc", "running"):
                client.Create(id=name, max_tokens=6000)
                client.append(name, document)
            expected = ask_all(client, "doc", questions)
            client.Save(session_id="doc")
            client.Close(session_id="doc")
            free = free_counters(client)

            def refused(codes, what):
                code, sentence = code_of(lambda: client.Restore(session_id="doc"))
                check(code in codes, f"{what}: {code} {sentence}")
                return sentence

            places, sections, files = places_to_damage(path, flips, rng)
            for name, at in places:
                good = read_file(path, name)
                bad = bytearray(good)
                bad[at] ^= 1 << rng.randrange(8)
                write_file(bad, path, name)
                refused([grpc.StatusCode.DATA_LOSS], f"{name} with a flipped bit at {at}")
                write_file(good, path, name)
            for name in files:
                os.rename(os.path.join(path, name), os.path.join(path, "away"))
                refused([grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND], f"{name} missing")
                os.rename(os.path.join(path, "away"), os.path.join(path, name))
            good = read_file(path, "manifest")
            newer = re.sub(rb'"version":[0-9]+', b'"version":1000', good[:good.rindex(b"crc32c")])
            write_file(newer + b"crc32c %08x\n" % crc32c(newer), path, "manifest")
            sentence = refused([grpc.StatusCode.FAILED_PRECONDITION], "a format of the future")
            check("version" in sentence, sentence)
            write_file(good, path, "manifest")
            equal(free_counters(client), free, "counters after refused restores")
            equal(ask_all(client, "running", questions), expected, "answers of the session that ran meanwhile")
            client.Restore(session_id="doc")
            equal(ask_all(client, "doc", questions), expected, "answers of the undamaged session")
            client.Close(session_id="doc")
            print(f"{len(places)} flipped bits in {sections} sections and {len(files)} files, all found")
        other = os.path.join(folder, ".other-model")
        shutil.copytree(harness.MODEL, other)
        weights = bytearray(read_file(other, "model.safetensors"))
        weights[-2] ^= 1
        write_file(weights, other, "model.safetensors")
        pattern = ("--pattern", os.path.join(harness.SOURCE, "attn_patterns", "needle-6m"))
        for what, more, word in (("other heads", {"args": ("--sparsity", "0.25")}, "heads"),
                                 ("another KV format", {"args": ("--kv", "int8")}, "--kv"),
                                 ("another model", {"args": pattern, "model": other}, "model")):
            with serve(*options, *more.pop("args"), **more) as server:
                code, sentence = code_of(lambda: server.client().Restore(session_id="doc"))
                check(code == grpc.StatusCode.FAILED_PRECONDITION and word in sentence, f"{what}: {code} {sentence}")
