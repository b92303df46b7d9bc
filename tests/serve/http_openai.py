"""OpenAI's routes on raw bytes: completions and chats, whole and as streams, their errors and limits."""

import json
import threading
import time

from http_harness import Server, case, check, equal, events_of

QUESTION = "The passcode for the rapid tower is 499748. The sky is blue.\nQuestion: What is the passcode for the rapid tower?\nAnswer: "


def greedy(**more):
    return {"model": "any", "prompt": QUESTION, "max_tokens": 12, "temperature": 0, "stop": "\n", **more}


@case
def completions():
    """Texts, token ids and lists of both, whole and streamed, give one answer; usage and finish say what was done."""
    with Server() as server:
        model = server.get("/v1/models").json()["data"][0]
        equal((model["id"], model["object"]), ("needle-6m", "model"), "the model")
        check(model["max_model_len"] > 1000, model)
        equal(server.get("/v1/models/needle-6m").json(), model, "one model")
        equal(server.get("/v1/models/org/other").error()["code"], "model_not_found", "another model")
        answer = server.post("/v1/completions", greedy())
        equal(answer.status, 200, answer)
        body = answer.json()
        text = body["choices"][0]["text"]
        check("499748" in text, body)
        equal(body["object"], "text_completion", "the object")
        equal(body["choices"][0]["finish_reason"], "stop", "the finish")
        usage = body["usage"]
        equal(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"], "usage")
        answer, events = server.stream("/v1/completions", greedy(stream=True))
        equal(answer.headers["content-type"], "text/event-stream", "a stream's type")
        equal(events[-1], b"[DONE]", "a stream's end")
        chunks = [json.loads(event) for event in events[:-1]]
        equal("".join(c["choices"][0]["text"] for c in chunks), text, "the streamed text")
        equal(len({c["id"] for c in chunks}), 1, "ids of a stream")
        check(all(c["object"] == "text_completion" and "usage" not in c and c["created"] for c in chunks), chunks)
        finishes = [c["choices"][0]["finish_reason"] for c in chunks]
        equal((finishes[-1], set(finishes[:-1])), ("stop", {None}), "finishes")
        _, events = server.stream("/v1/completions", greedy(stream=True, stream_options={"include_usage": True}))
        last = json.loads(events[-2])
        equal((last["choices"], last["usage"]), ([], usage), "the usage chunk")
        _, events = server.stream("/v1/completions", greedy(stream=True, stream_options={"continuous_usage_stats": True}))
        check(all("usage" in json.loads(event) for event in events[:-1]), "usage on each chunk")
        both = server.post("/v1/completions", greedy(prompt=[QUESTION, "Question: What"])).json()
        equal([c["index"] for c in both["choices"]], [0, 1], "two prompts")
        equal(both["choices"][0]["text"], text, "the first of two prompts")
        _, events = server.stream("/v1/completions", greedy(prompt=[QUESTION, QUESTION], stream=True))
        texts = ["", ""]
        for event in events[:-1]:
            choice = json.loads(event)["choices"][0]
            texts[choice["index"]] += choice["text"]
        equal(texts, [text, text], "two streamed prompts")
        cut = server.post("/v1/completions", greedy(max_tokens=1, stop=None)).json()
        equal((cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]), ("length", 1), "a cut answer")


@case
def disconnects():
    """A client that is gone stops its answer within a step, streamed or not, and what it held is free again."""
    with Server() as server:
        for stream in (True, False):
            raw = server.raw()
            raw.send_request("POST", "/v1/completions", greedy(max_tokens=3000, stop=None, ignore_eos=True, stream=stream))
            if stream:
                raw.until(b"data: ")
            server.wait_until("the answer begins", lambda: server.metrics()['duo_requests{state="running"}'] == 1)
            begun = time.time()
            raw.socket.close()
            server.wait_until("the answer stops", lambda: server.metrics()['duo_requests{state="running"}'] == 0, 5)
            print(f"stream={stream}: stopped within {time.time() - begun:.2f} s")
        equal(server.post("/v1/completions", greedy()).status, 200, "the server afterwards")
