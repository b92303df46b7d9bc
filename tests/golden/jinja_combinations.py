"""Templates made at random from the language's constructs, for jinja_parity.py. Expressions are made for the type that is
wanted, so that most templates run; one in eighty is of some other type."""

STRINGS = ["s", "t", "u", "empty", "quote", "html", "lines", "bos_token", "'a'", "'x y z'", "\"it's\"", "'\\n'", "'\u00e9\u65e5'", "'Hello'"]
INTS = ["n", "neg", "zero", "0", "1", "2", "-3", "10", "yes"]
FLOATS = ["x", "y", "whole", "tiny", "2.5", "1e20", "-0.5"]
LISTS = ["seq", "words", "mixed", "nested", "pairs", "people", "[]", "[1, 'a', none]", "range(4)", "(1, 2)", "[s, n]"]
DICTS = ["dic", "json", "deep", "people[0]", "{}", "{'a': 1, 'b': [2]}", "{'k': s, n: 1}"]
OTHERS = ["nothing", "missing", "none", "true", "no", "missing", "n", "s", "seq"]


class Maker:
    def __init__(self, rng):
        self.rng = rng
        self.names = []
        self.macros = []
        self.in_loop = 0
        self.budget = 60

    def pick(self, items):
        return self.rng.choice(items)

    def chance(self, p):
        return self.rng.random() < p

    # Expressions
    def any(self, depth):
        return self.pick([self.string, self.integer, self.real, self.list, self.dict, self.boolean, self.other])(depth)

    def other(self, depth):
        return self.pick(OTHERS + self.names + self.names)

    def string(self, depth):
        if self.chance(1 / 80):
            return self.other(depth)
        if depth <= 0:
            return self.pick(STRINGS)
        d = depth - 1
        return self.pick([
            lambda: "%s ~ %s" % (self.string(d), self.any(d)),
            lambda: "(%s + %s)" % (self.string(d), self.string(d)),
            lambda: "%s[%s:%s]" % (self.atom(self.string(d)), self.bound(), self.bound()),
            lambda: "%s[::%s]" % (self.atom(self.string(d)), self.pick(["-1", "2", "-2", "1"])),
            lambda: "%s.%s()" % (self.atom(self.string(d)), self.pick(["strip", "upper", "lower", "title", "capitalize", "lstrip", "rstrip", "swapcase"])),
            lambda: "%s.%s(%s)" % (self.atom(self.string(d)), self.pick(["strip", "lstrip", "rstrip", "removeprefix", "removesuffix"]), self.string(0)),
            lambda: "%s.replace(%s, %s)" % (self.atom(self.string(d)), self.string(0), self.string(0)),
            lambda: "%s | %s" % (self.string(d), self.pick(["trim", "upper", "lower", "title", "capitalize", "string", "escape", "safe", "reverse", "indent", "indent(2, true)", "truncate(12)", "center(9)", "e"])),
            lambda: "%s | string" % self.any(d),
            lambda: "%s | tojson" % self.any(d),
            lambda: "%s | tojson(indent=%s)" % (self.pick([self.dict, self.list])(d), self.pick(["0", "1", "4", "none"])),
            lambda: "%s | join(%s)" % (self.list(d), self.string(0)),
            lambda: "%s.join(%s | map('string'))" % (self.atom(self.string(0)), self.list(d)),
            lambda: "%s | default(%s)" % (self.other(d), self.string(d)),
            lambda: "(%s if %s else %s)" % (self.string(d), self.boolean(d), self.string(d)),
            lambda: "%s %% (%s,)" % (self.pick(["'<%s>'", "'%5s|'", "'%-4s|'", "'%r'"]), self.any(d)),
            lambda: "'{}-{}'.format(%s, %s)" % (self.any(d), self.any(d)),
            lambda: "%s.split(%s)[%s]" % (self.atom(self.string(d)), self.pick(["", "' '", "','", "'l', 1"]), self.pick(["0", "-1"])),
            lambda: "%s * %s" % (self.atom(self.string(d)), self.pick(["0", "2", "3"])),
            lambda: self.call(d),
        ])()

    def bound(self):
        return self.pick(["", "", "0", "1", "2", "-1", "-2", "5", "n"])

    def atom(self, expression):
        return "(%s)" % expression if any(c in expression for c in " |~+*%") or expression[0] == "-" else expression

    def integer(self, depth):
        if self.chance(1 / 80):
            return self.other(depth)
        if depth <= 0:
            return self.pick(INTS)
        d = depth - 1
        return self.pick([
            lambda: "%s %s %s" % (self.atom(self.integer(d)), self.pick(["+", "-", "*"]), self.atom(self.integer(d))),
            lambda: "%s %s %s" % (self.atom(self.integer(d)), self.pick(["//", "%"]), self.pick(["2", "3", "-4", "n"])),
            lambda: "%s | length" % self.pick([self.list, self.string, self.dict])(d),
            lambda: "%s | int" % self.any(d),
            lambda: "%s | abs" % self.integer(d),
            lambda: "-%s" % self.atom(self.integer(d)),
            lambda: "%s.count(%s)" % (self.atom(self.string(d)), self.string(0)),
            lambda: "%s.find(%s)" % (self.atom(self.string(d)), self.string(0)),
            lambda: "loop.%s" % self.pick(["index", "index0", "revindex", "length"]) if self.in_loop else "n",
            lambda: "(%s | select('integer') | sum)" % self.list(d),
        ])()

    def real(self, depth):
        if depth <= 0:
            return self.pick(FLOATS)
        d = depth - 1
        return self.pick([
            lambda: "%s %s %s" % (self.atom(self.real(d)), self.pick(["+", "-", "*"]), self.atom(self.integer(d))),
            lambda: "%s / %s" % (self.atom(self.integer(d)), self.pick(["2", "3", "-7", "0.5"])),
            lambda: "%s | round(%s)" % (self.real(d), self.pick(["", "1", "2", "0", "1, 'floor'", "0, 'ceil'"])),
            lambda: "%s | float" % self.any(d),
        ])()

    def list(self, depth):
        if self.chance(1 / 80):
            return self.other(depth)
        if depth <= 0:
            return self.pick(LISTS)
        d = depth - 1
        return self.pick([
            lambda: "[%s]" % ", ".join(self.any(d) for _ in range(self.rng.randint(0, 3))),
            lambda: "%s[%s:%s]" % (self.atom(self.list(d)), self.bound(), self.bound()),
            lambda: "%s | list" % self.pick([self.list, self.string, self.dict])(d),
            lambda: "%s | %s | list" % (self.list(d), self.pick(["reverse", "unique", "map('string')", "select", "reject('none')", "select('defined')", "map('default', 'q')", "batch(2)", "slice(2)", "reject('string')", "select('number')", "map('upper')", "map('length')", "map('tojson')"])),
            lambda: "%s | map('string') | sort" % self.list(d),
            lambda: "%s | sort(attribute='name', reverse=%s)" % (self.pick(["people", "people[:2]"]), self.pick(["true", "false"])),
            lambda: "people | selectattr('age', %s) | list" % self.pick(["'gt', 25", "'none'", "'defined'", "'equalto', 31"]),
            lambda: "people | map(attribute=%s) | list" % self.pick(["'name'", "'age'", "'zip'", "'name.0'"]),
            lambda: "%s.split(%s)" % (self.atom(self.string(d)), self.pick(["", "' '", "'l'", "'o', 1"])),
            lambda: "%s.splitlines()" % self.atom(self.string(d)),
            lambda: "%s.%s() | list" % (self.atom(self.dict(d)), self.pick(["items", "keys", "values"])),
            lambda: "%s | items | list" % self.dict(d),
            lambda: "%s | dictsort" % self.pick(["dic", "people[1]", "{'b': 1, 'a': 2}"]),
            lambda: "%s + %s" % (self.pick(["seq", "words", "[1]"]), self.pick(["nested", "pairs", "[2]"])),
        ])()

    def dict(self, depth):
        if depth <= 0:
            return self.pick(DICTS)
        d = depth - 1
        return self.pick([
            lambda: "{%s}" % ", ".join("%s: %s" % (self.pick(["'k'", "'a b'", "1", "none", self.string(0)]), self.any(d)) for _ in range(self.rng.randint(0, 3))),
            lambda: "dict(%s)" % ", ".join("%s=%s" % (k, self.any(d)) for k in self.rng.sample(["a", "b", "c"], self.rng.randint(0, 3))),
            lambda: self.pick(DICTS),
        ])()

    def boolean(self, depth):
        if depth <= 0:
            return self.pick(["yes", "no", "true", "false", "seq", "empty", "missing"])
        d = depth - 1
        return self.pick([
            lambda: "%s %s %s" % (self.atom(self.any(d)), self.pick(["==", "!="]), self.atom(self.any(d))),
            lambda: "%s %s %s" % (self.atom(self.integer(d)), self.pick(["<", ">", "<=", ">="]), self.atom(self.real(d))),
            lambda: "%s < %s" % (self.atom(self.string(d)), self.atom(self.string(d))),
            lambda: "%s %s %s" % (self.atom(self.string(0)), self.pick(["in", "not in"]), self.atom(self.string(d))),
            lambda: "%s %s %s" % (self.atom(self.any(d)), self.pick(["in", "not in"]), self.atom(self.list(d))),
            lambda: "%s in %s" % (self.atom(self.string(0)), self.atom(self.dict(d))),
            lambda: "%s is %s%s" % (self.atom(self.any(d)), self.pick(["", "not "]), self.pick(["defined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "undefined", "callable"])),
            lambda: "%s is %s" % (self.atom(self.integer(d)), self.pick(["odd", "even", "divisibleby 3", "eq 2", "gt(1)"])),
            lambda: "(%s %s %s)" % (self.boolean(d), self.pick(["and", "or"]), self.boolean(d)),
            lambda: "not %s" % self.boolean(d),
            lambda: "%s.startswith(%s)" % (self.atom(self.string(d)), self.string(0)),
            lambda: "loop.%s" % self.pick(["first", "last"]) if self.in_loop else "yes",
        ])()

    def call(self, depth):
        if not self.macros:
            return self.pick(STRINGS)
        name = self.pick(self.macros)
        return "%s(%s)" % (name, ", ".join(self.any(depth - 1) for _ in range(self.rng.randint(0, 2))))

    # Statements
    def tag(self, inside):
        return "{%%%s %s %s%%}" % (self.pick(["", "", "", "-", "+"]), inside, self.pick(["", "", "", "-", "+"]))

    def data(self):
        return self.pick(["text", " ", "\n", "  \n  ", "a\n", "\n b", "{ not a tag }", "\t", "<|x|>\n\n", ""])

    def name(self):
        return self.pick(["a", "b", "c", "s", "n", "v"])

    def body(self, depth):
        return "".join(self.statement(depth) for _ in range(self.rng.randint(1, 4)))

    def loop_body(self, depth):
        self.in_loop += 1
        made = self.body(depth)
        if self.chance(0.2):
            made += self.tag("if " + self.boolean(1)) + self.tag(self.pick(["break", "continue"])) + self.tag("endif") + self.data()
        self.in_loop -= 1
        return made

    def statement(self, depth):
        self.budget -= 1
        if depth <= 0 or self.budget <= 0:
            return self.pick([self.data, self.output])()
        d = depth - 1
        return self.pick([
            self.data, self.output, self.output, self.output,
            lambda: self.tag("if " + self.boolean(2)) + self.body(d) + self.tag("endif"),
            lambda: self.tag("if " + self.boolean(2)) + self.body(d) + self.tag("elif " + self.boolean(1)) + self.body(d) + self.tag("else") + self.body(d) + self.tag("endif"),
            lambda: self.loop(d), lambda: self.loop(d),
            lambda: self.assign(d), lambda: self.assign(d),
            lambda: self.macro(d),
            lambda: self.tag("set %s%s" % (self.name(), self.pick(["", " | upper", " | trim", " | replace('a', 'b')"]))) + self.body(d) + self.tag("endset"),
            lambda: self.tag("filter " + self.pick(["upper", "trim", "replace('e', '3') | title", "indent"])) + self.body(d) + self.tag("endfilter"),
            lambda: self.tag("with %s = %s" % (self.name(), self.any(1))) + self.body(d) + self.tag("endwith"),
            lambda: "{#%s note #}" % self.pick(["", "-", "+"]) + self.data(),
            lambda: self.tag("raw") + self.pick(["{{ x }}", "{% if %}", " \n"]) + self.tag("endraw"),
            lambda: self.tag("generation") + self.body(d) + self.tag("endgeneration"),
            lambda: "{% set ns = namespace(v=" + self.any(1) + ") %}" + self.tag("for i in " + self.list(0)) + "{% set ns.v = " + self.pick(["i", "ns.v ~ i", "loop.index"]) + " %}" + self.tag("endfor") + "{{ ns.v }}",
        ])()

    def output(self):
        return "{{%s %s %s}}" % (self.pick(["", "", "-"]), self.any(2), self.pick(["", "", "-"]))

    def assign(self, depth):
        name = self.name()
        made = self.tag("set %s = %s" % (name, self.any(2)))
        self.names.append(name)
        return made

    def loop(self, depth):
        target, source = self.pick([("i", self.list(1)), ("i", self.list(1)), ("s", self.list(0)), ("k, w", "dic.items()"), ("k, w", "pairs"), ("i", "people"), ("i", self.string(1)), ("k", self.dict(0))])
        condition = " if " + self.pick(["i", "i is string", "i is not none", "i != 1"]) if target == "i" and self.chance(0.3) else ""
        self.names.append(target.split(",")[0])
        made = self.tag("for %s in %s%s" % (target, source, condition)) + self.loop_body(depth)
        if self.chance(0.2):
            made += self.tag("else") + self.body(depth)
        self.names.pop()
        return made + self.tag("endfor")

    def macro(self, depth):
        name = self.pick(["m", "f", "g"])
        loops, self.in_loop = self.in_loop, 0
        made = self.tag("macro %s(p, q=%s)" % (name, self.any(1)))
        self.names += ["p", "q"]
        made += self.body(depth) + self.pick(["", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller }}"])
        del self.names[-2:]
        self.in_loop = loops
        made += self.tag("endmacro")
        if self.chance(0.7):
            self.macros.append(name)
        if self.chance(0.3):
            made += self.tag("call %s(%s)" % (name, self.any(1))) + self.data() + self.output() + self.tag("endcall")
        return made


def template(rng):
    maker = Maker(rng)
    return "".join(maker.statement(3) for _ in range(rng.randint(1, 6)))
