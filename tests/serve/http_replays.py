"""Benchmarks and evaluations that are too large to install, replayed from their public descriptions: what they send, and how
they read what comes. vLLM's `vllm bench serve` (openai and openai-chat), guidellm, lm-eval's local-completions."""

import json
import math
import os

from http_harness import ChatModel, Server, case, check, equal
from http_openai import QUESTION, greedy

RECORDED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lm_eval_requests.json")


def vllm_messages(pieces):
    """vLLM strips every piece that it reads from its socket before it looks for the ends of messages, and takes what is left
    for a whole message where it is JSON."""
    buffer = ""
    for piece in pieces:
        piece = piece.strip()
        if not piece:
            continue
        buffer += piece.decode()
        while "\n\n" in buffer:
            message, buffer = buffer.split("\n\n", 1)
            if message.strip():
                yield message.strip()
        if buffer.startswith("data: "):
            content = buffer[len("data: "):].strip()
            try:
                content == "[DONE]" or json.loads(content)
            except ValueError:
                continue
            yield buffer.strip()
            buffer = ""


def vllm_reads(pieces, text_of):
    """What vLLM's benchmark has of a stream: its text, its usage, how many chunks had a choice, whether it ended."""
    text, usage, chunks, done = "", None, 0, False
    for message in vllm_messages(pieces):
        if message.startswith(":"):
            continue
        chunk = message.removeprefix("data: ")
        done = chunk == "[DONE]"
        data = {} if done else json.loads(chunk)
        if data.get("choices"):
            text += text_of(data["choices"][0]) or ""
            chunks += 1
        elif data.get("usage"):
            usage = data["usage"]
    return text, usage, chunks, done


VLLM = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, "temperature": 0}


@case
def vllm_bench():
    """vLLM's benchmark: its payloads, its way of reading streams, comments that come while a prompt waits included."""
    with ChatModel() as model, Server("--questions", "1", "--http-comments", "0.1", model=model) as server:
        completion = {"model": "needle-chat", "prompt": QUESTION, "repetition_penalty": 1.0, "max_tokens": 20, "logprobs": None, **VLLM}
        chat = {"model": "needle-chat", "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
                "max_completion_tokens": 20, **VLLM}
        for path, payload, text_of in (("/v1/completions", completion, lambda choice: choice.get("text")),
                                       ("/v1/chat/completions", chat, lambda choice: choice.get("delta", choice.get("message")).get("content"))):
            whole = server.post(path, {**payload, "stream": False, "stream_options": None}).json()
            equal(whole["usage"]["completion_tokens"], 20, "ignore_eos writes all tokens")
            for waits in (False, True):
                busy = server.raw()
                if waits:  # another answer has the only place, so that comments come first
                    busy.send_request("POST", "/v1/completions", greedy(max_tokens=3000, stop=None, ignore_eos=True, stream=True))
                    busy.until(b"data: ")
                with server.raw() as raw:
                    raw.send_request("POST", path, payload, x_request_id="bench-1")
                    status, headers = raw.head()
                    equal((status, headers["x-request-id"]), (200, "bench-1"), "the head")
                    chunks, pieces = raw.chunks(), []
                    if waits:
                        pieces += [next(chunks), next(chunks)]
                        check(all(piece == b":\n\n" for piece in pieces), f"comments: {pieces}")
                    busy.socket.close()
                    text, usage, counted, done = vllm_reads([*pieces, *chunks], text_of)
                equal(text, text_of(whole["choices"][0]), f"{path}: the text, behind comments: {waits}")
                equal((usage["completion_tokens"], done), (20, True), f"{path}: its usage and its end")
                equal(usage["prompt_tokens"], whole["usage"]["prompt_tokens"], f"{path}: the prompt's length")
                check(counted >= 2, f"{path}: a first chunk and others: {counted}")


@case
def guidellm():
    """guidellm: the checks before it begins, a stream read line by line to exactly `data: [DONE]`, usage on each chunk; an
    error in the middle is one."""
    with ChatModel() as model, Server(model=model) as server:
        equal(server.get("/health").status, 200, "/health")
        name = server.get("/v1/models").json()["data"][0]["id"]
        stream = {"model": name, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        text = {"prompt": QUESTION, "max_tokens": 9, "stop": None, "ignore_eos": True, **stream}
        chat = {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}], "max_completion_tokens": 9,
                "stop": None, "ignore_eos": True, **stream}
        for path, payload in (("/v1/completions", text), ("/v1/chat/completions", chat)):
            lines = server.post(path, payload).body.decode().splitlines()
            check(lines[-2:] == ["data: [DONE]", ""], f"{path}: the last lines: {lines[-2:]}")
            ids, usages, said = set(), [], 0
            for line in lines[:-2]:
                if not line.strip().startswith("data:"):
                    continue
                data = json.loads(line.strip()[len("data:"):].strip())
                ids.add(data["id"])
                choice = (data.get("choices") or [{}])[0]
                said += bool(choice.get("text") or choice.get("delta", {}).get("content"))
                usages.append(data["usage"])
            equal((len(ids), usages[-1]["completion_tokens"]), (1, 9), f"{path}: one id, and the last usage")
            check(said >= 1 and all(a["completion_tokens"] <= b["completion_tokens"] for a, b in zip(usages, usages[1:])), usages)
            whole = server.post(path, {**payload, "stream": None, "stream_options": None}).json()
            equal(whole["usage"]["completion_tokens"], 9, f"{path}: not streamed")


@case
def lm_eval_requests():
    """What lm-eval's local-completions sent for a task of its own (tests/serve/lm_eval_local.py recorded it), answered so that it
    scores the task as it did: log-likelihoods and greedy flags of continuations, and texts until a stop."""
    with open(RECORDED, encoding="utf-8") as file:
        recorded = json.load(file)
    with Server() as server:
        for entry in recorded:
            answer = server.post("/v1/completions", entry["request"])
            equal(answer.status, 200, answer)
            choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
            equal(len(choices), len(entry["answers"]), "an answer to each prompt")
            for choice, expected, prompt in zip(choices, entry["answers"], entry["request"]["prompt"]):
                if "text" in expected:
                    equal(choice["text"], expected["text"], "a text")
                    continue
                logprobs, begin = choice["logprobs"], len(prompt) - expected["tokens"]
                own = slice(begin, -1)  # the last token is the one that was drawn
                total = sum(logprobs["token_logprobs"][own])
                check(math.isclose(total, expected["loglikelihood"], abs_tol=1e-3 * expected["tokens"]), (total, expected))
                is_greedy = all(token == max(best, key=best.get)
                                for token, best in zip(logprobs["tokens"][own], logprobs["top_logprobs"][own]))
                equal(is_greedy, expected["is_greedy"], "whether it is what the model would say")
