"""The usual clients, unchanged: openai with strict validation, langchain-openai, the llm command."""

import os
import subprocess
import sys
import tempfile

from http_answers import ENOUGH, FIND, TOOLS_TEMPLATE
from http_harness import ChatModel, Server, case, check, equal
from http_openai import QUESTION


def answered(text):
    check("499748" in text, f"the answer: {text!r}")


@case
def openai_client():
    """openai's client, which checks every body against its types: models, completions, chats, responses, errors."""
    import openai
    with ChatModel() as model, Server("--max-session-tokens", "4096", model=model) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.http}/v1", api_key="none", max_retries=0,
                               _strict_response_validation=True)
        equal([m.id for m in client.models.list()], ["needle-chat"], "models")
        equal(client.models.retrieve("needle-chat").object, "model", "one model")
        common = {"model": "needle-chat", "temperature": 0, "max_tokens": 12, "stop": "\n"}
        made = client.completions.create(prompt=QUESTION, **common)
        answered(made.choices[0].text)
        # Its type of a completion has no finish_reason of null, which OpenAI's own streams have until the last chunk.
        loose = openai.OpenAI(base_url=client.base_url, api_key="none", max_retries=0)
        answered("".join(c.choices[0].text for c in loose.completions.create(prompt=QUESTION, stream=True, **common)))
        messages = [{"role": "user", "content": QUESTION}]
        made = client.chat.completions.create(messages=messages, **common)
        answered(made.choices[0].message.content)
        equal(made.usage.total_tokens, made.usage.prompt_tokens + made.usage.completion_tokens, "usage")
        text, usage = "", None
        for chunk in client.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True}, **common):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage or usage
        answered(text)
        equal(usage.total_tokens, made.usage.total_tokens, "a stream's usage")
        made = client.responses.create(model="needle-chat", input=QUESTION, temperature=0, max_output_tokens=12)
        answered(made.output_text)
        kinds = [e.type for e in client.responses.create(model="needle-chat", input=QUESTION, temperature=0, max_output_tokens=12,
                                                         stream=True)]
        equal((kinds[0], kinds[-1]), ("response.created", "response.incomplete"), "a response's events")
        try:
            client.chat.completions.create(messages=messages, model="x", tools=[{"type": "function", "function": {"name": "f"}}])
            raise AssertionError("tools were taken")
        except openai.BadRequestError as error:
            equal(error.param, "tools", "what is refused")
        try:
            client.completions.create(prompt=[1] * 5000, model="x")
            raise AssertionError("a prompt beyond the window was taken")
        except openai.BadRequestError as error:
            equal(error.code, "context_length_exceeded", "an overflow")


@case
def openai_tools():
    """openai's client with tools and thinking: calls in chats and responses, whole and streamed, their types checked."""
    import openai
    with ChatModel(TOOLS_TEMPLATE) as model, Server(model=model) as server:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.http}/v1", api_key="none", max_retries=0,
                               _strict_response_validation=True)
        chat = {"model": "x", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": ENOUGH,
                "temperature": 1, "seed": 1, "tools": [{"type": "function", "function": {"name": "look_up", "parameters": FIND}}], "tool_choice": "required"}
        call, = client.chat.completions.create(**chat).choices[0].message.tool_calls
        streamed = [c for chunk in client.chat.completions.create(stream=True, **chat) for c in chunk.choices[0].delta.tool_calls or []]
        equal("".join(c.function.arguments for c in streamed), call.function.arguments, "the same arguments streamed")
        ask = {"model": "x", "input": QUESTION, "temperature": 1, "extra_body": {"seed": 1}, "max_output_tokens": ENOUGH,
               "tool_choice": "required",
               "tools": [{"type": "function", "name": "look_up", "parameters": FIND, "strict": True}]}
        made, = client.responses.create(**ask).output
        equal((made.type, made.name, made.arguments), ("function_call", "look_up", call.function.arguments), "a response's call")
        with client.responses.stream(**ask) as events:
            kinds = [event.type for event in events]
            equal(events.get_final_response().output[0].arguments, made.arguments, "what the client puts together")
        equal(kinds[-1], "response.completed", kinds)


@case
def langchain_client():
    """langchain-openai's chat, whole and streamed."""
    from langchain_openai import ChatOpenAI
    with ChatModel() as model, Server(model=model) as server:
        llm = ChatOpenAI(base_url=f"http://127.0.0.1:{server.http}/v1", api_key="none", model="needle-chat", temperature=0,
                         max_tokens=12, stop_sequences=["\n"], max_retries=0)
        answered(llm.invoke(QUESTION).content)
        answered("".join(chunk.content for chunk in llm.stream(QUESTION)))


@case
def llm_command():
    """The llm command with a line in extra-openai-models.yaml."""
    import llm  # noqa: F401: is it there?
    with ChatModel() as model, Server(model=model) as server, tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "extra-openai-models.yaml"), "w", encoding="ascii") as file:
            file.write(f"- model_id: duo\n  model_name: needle-chat\n  api_base: http://127.0.0.1:{server.http}/v1\n")
        env = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "none", "LLM_LOAD_PLUGINS": ""}
        for more in ([], ["--no-stream"]):
            done = subprocess.run([sys.executable, "-m", "llm", "-m", "duo", "-o", "temperature", "0", "-o", "max_tokens", "12",
                                   *more, QUESTION], env=env, capture_output=True, text=True, timeout=120, check=False)
            equal(done.returncode, 0, done.stderr)
            answered(done.stdout)
