"""Conversations at random, for the comparison of chat templates: system turns or none, tools and their answers, thinking,
odd white space, quotes, marks of all scripts, and what looks like a special token."""

TEXTS = [
    "Hello.", "What is 2 + 2?", "It's \"quoted\", isn't it?", "a\\b\\n", "tab\there", "  leading", "trailing \n\n", "\n", "",
    "\u3000wide\u3000", "caf\u00e9 \u00df \u0130 \u01c5", "\U0001F600\u200d\U0001F680", "\u0627\u0644\u0633\u0644\u0627\u0645",
    "\u65e5\u672c\u8a9e\u306e\u6587", "<b>&amp;</b>", "{{ not.a.template }}", "{% if x %}", "line one\nline two\r\nline three",
    "\x1c\x1f", "\u2028sep", "</think>", "<think>\nhm\n</think>\n\nyes", "a <think> in the middle", "0", "None", "[1, 2]",
    "{\"a\": [1, 2.5, null, true]}", "x" * 300, "\u00a0nbsp\u00a0", "\x7f\x00", "<tool_response>\nok\n</tool_response>",
]
FIELDS = {"city": "Paris", "days": 3, "deep": {"list": [1, 2.5, -0.0, 1e20, 1e-7, None, True], "text": "a'b\"c\n\u00e9"}, "empty": {},
          "none": None, "flag": False, "items": [], "\u00fcn": "\u2028"}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather \"now\" <b>&</b> it's \u00e9",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Which city", "enum": ["Paris", "\u65e5\u672c"]},
            "days": {"type": "integer", "default": 3, "minimum": 0},
            "unit": {"type": ["string", "null"], "description": ""}}, "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "search", "description": "Search\nfor things",
        "parameters": {"type": "object", "properties": {
            "query": {"type": "string"},
            "options": {"type": "object", "properties": {"deep": {"type": "boolean"}}, "additionalProperties": False},
            "tags": {"type": "array", "items": {"type": "string"}}}, "required": []},
        "return": {"type": "string", "description": "What was found"}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def text(rng):
    return " ".join(rng.choice(TEXTS) for _ in range(rng.randint(1, 3)))


def content(rng):
    if rng.random() < 0.08:
        return [{"type": "text", "text": text(rng)} for _ in range(rng.randint(1, 3))]
    return text(rng)


def arguments(rng):
    keys = [k for k in FIELDS if rng.random() < 0.4]
    rng.shuffle(keys)
    return {k: FIELDS[k] for k in keys}


def tool_turns(rng, count):
    calls = []
    for i in range(rng.randint(1, 2)):
        call = {"type": "function", "function": {"name": rng.choice(TOOLS)["function"]["name"], "arguments": arguments(rng)}}
        if rng.random() < 0.7:
            call["id"] = "call%05d" % (count + i)
        calls.append(call)
    answer = {"role": "assistant", "content": rng.choice(["", text(rng)]), "tool_calls": calls}
    if rng.random() < 0.2:
        del answer["content"]
    turns = [answer]
    for call in calls:
        turn = {"role": "tool", "content": text(rng), "name": call["function"]["name"]}
        if "id" in call:
            turn["tool_call_id"] = call["id"]
        turns.append(turn)
    return turns


def conversation(rng, bos="<s>", eos="</s>"):
    """The variables of one rendering: (given, own)."""
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": content(rng)})
    with_tools = rng.random() < 0.4
    for turn in range(rng.randint(1, 6)):
        role = "user" if turn % 2 == 0 else "assistant"
        if rng.random() < 0.03:
            role = rng.choice(["user", "assistant", "system", "developer", "tool", "odd role"])
        message = {"role": role, "content": content(rng)}
        if role == "assistant" and rng.random() < 0.3:
            message["reasoning_content"] = text(rng)
        if role == "assistant" and with_tools and rng.random() < 0.5:
            messages.extend(tool_turns(rng, len(messages)))
        messages.append(message)
    given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": rng.random() < 0.7}
    if with_tools:
        given["tools"] = [t for t in TOOLS if rng.random() < 0.6] or [TOOLS[0]]
    if rng.random() < 0.1:
        given["documents"] = [{"title": text(rng), "text": text(rng)} for _ in range(rng.randint(1, 2))]
    for name in ("enable_thinking", "thinking", "keep_past_thinking"):
        if rng.random() < 0.2:
            given[name] = rng.random() < 0.5
    if rng.random() < 0.1:
        given["reasoning_effort"] = rng.choice(["low", "medium", "high"])
    return given, {"bos_token": bos, "eos_token": eos}
