"""The table of cases, and what all of them use."""

import argparse

from harness import Server

ARGS = argparse.Namespace()  # serve_test.py's or http_test.py's
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(found, expected, what):
    check(found == expected, f"{what}: found {found!r}, expected {expected!r}")


def serve(*more, **options):
    options.setdefault("device", ARGS.device)
    return Server(ARGS.duo, *more, **options)


def ask_all(client, session, questions):
    return [client.ask(session, q)[0] for q, _ in questions]


def free_counters(client):
    s = client.Stats()
    return {"pages_free": s.pages_free, "pages_available": s.pages_available, "split_pages_free": s.split_pages_free,
            "rings_free": s.rings_free, "sessions_open": s.sessions_open, "running": s.requests_running,
            "waiting": s.requests_waiting}
