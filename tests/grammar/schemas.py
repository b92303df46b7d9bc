"""Random JSON schemas, and texts that are nearly right. From a seed alone."""

import copy
import random

PATTERNS = ["^[a-z]+$", "^[A-Z]{2}[0-9]{3}$", "ab", "^(red|green|blue)$", "^[0-9]{4}-[0-9]{2}$", "x.y$"]
WORDS = ["name", "age", "id", "tags", "size", "next", "value", "kind", "a b", "quote\"d", "äß"]
# What the grammars do not have: each is refused by name.
UNSUPPORTED = [{"type": "array", "uniqueItems": True}, {"not": {"type": "null"}}, {"type": "integer", "multipleOf": 3},
               {"type": "object", "minProperties": 1}, {"type": "object", "patternProperties": {"^a": True}},
               {"oneOf": [{"minimum": 1}, {"maximum": 5}]}, {"if": {"type": "null"}, "then": True},
               {"type": "array", "contains": {"type": "null"}}, {"type": "string", "pattern": r"(?=a)b"}]


def scalar(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return {"type": "string"}
    if kind == 1:
        low = rng.randrange(4)
        return {"type": "string", "minLength": low, "maxLength": low + rng.randrange(6)}
    if kind == 2:
        return {"type": "string", "pattern": rng.choice(PATTERNS)}
    if kind == 3:
        low = rng.randrange(-200, 200)
        schema = {"type": "integer"}
        if rng.random() < 0.7:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.7:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + 2 + rng.randrange(500)
        return schema
    if kind == 4:
        low = rng.randrange(-80, 80) / 4
        schema = {"type": "number"}
        if rng.random() < 0.6:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.6:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + 0.5 + rng.randrange(100) / 8
        return schema
    if kind == 5:
        return {"enum": rng.sample(["red", "green", 1, 2.5, None, True, "a\nb", [1, "x"], {"k": 1}], 3)}
    if kind == 6:
        return {"const": rng.choice(["fixed", 7, None, False])}
    if kind == 7:
        return {"type": rng.sample(["string", "integer", "boolean", "null"], 2)}
    return {"type": rng.choice(["boolean", "null"])}


def schema(rng, depth=0):
    if depth > 3 or rng.random() < 0.25 * depth:
        return scalar(rng)
    kind = rng.randrange(6)
    if kind <= 2:
        names = rng.sample(WORDS, rng.randrange(1, 5))
        out = {"type": "object", "properties": {name: schema(rng, depth + 1) for name in names}}
        needed = [name for name in names if rng.random() < 0.5]
        if needed:
            out["required"] = needed
        if rng.random() < 0.6:
            out["additionalProperties"] = False if rng.random() < 0.7 else scalar(rng)
        return out
    if kind == 3:
        out = {"type": "array", "items": schema(rng, depth + 1)}
        if rng.random() < 0.5:
            out["minItems"] = rng.randrange(3)
        if rng.random() < 0.5:
            out["maxItems"] = out.get("minItems", 0) + rng.randrange(1, 4)
        if rng.random() < 0.2:
            out["prefixItems"] = [scalar(rng), scalar(rng)]
        return out
    if kind == 4:
        return {"anyOf": [schema(rng, depth + 1) for _ in range(rng.randrange(2, 4))]}
    return scalar(rng)


def random_schema(seed):
    """A schema, and one without references whose instances are most likely its own."""
    rng = random.Random(seed)
    out = schema(rng)
    flat = out
    if rng.random() < 0.15:  # a tree that holds itself

        def node(children):
            return {"type": "object", "properties": {"value": out, "children": {"type": "array", "items": children, "maxItems": 2}},
                    "required": ["value"], "additionalProperties": False}

        flat = node(node({"not": {}}))
        return {"$ref": "#/$defs/node", "$defs": {"node": node({"$ref": "#/$defs/node"})}}, flat
    if rng.random() < 0.1:
        out = {"type": "object", "properties": {"part": rng.choice(UNSUPPORTED), "rest": {"type": "null"}}}
    return out, flat


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], path + (key,))
    if isinstance(value, list):
        for index in range(len(value)):
            yield from _places(value[index], path + (index,))


def near_miss(rng, instance):
    """The instance with one thing changed; it may still be valid."""
    value = copy.deepcopy(instance)
    path = rng.choice(list(_places(value)))
    parent, here = None, value
    for step in path:
        parent, here = here, here[step]
    kind = rng.randrange(4)
    if isinstance(here, dict) and kind == 0 and here:
        del here[rng.choice(sorted(here))]
        return value
    if isinstance(here, dict) and kind == 1:
        here[rng.choice(WORDS)] = rng.choice([None, 3, "new"])
        return value
    if isinstance(here, list) and kind == 0 and here:
        here.pop()
        return value
    if isinstance(here, list) and kind == 1:
        here.append(copy.deepcopy(here[0]) if here else None)
        return value
    if isinstance(here, str) and kind == 0:
        new = here + "z"
    elif isinstance(here, int) and not isinstance(here, bool) and kind <= 2:
        new = here + rng.choice([-1, 1, -1000, 1000])
    else:
        new = rng.choice([None, True, 5, -3, 0.25, "other", [], {}, [1], {"name": "x"}])
    if parent is None:
        return new
    parent[path[-1]] = new
    return value
