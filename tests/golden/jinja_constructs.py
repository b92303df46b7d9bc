"""Templates that use every construct of the language once or more, for jinja_parity.py. What a line shows is its own
comment: most are a few expressions whose texts stand between bars. Some are refused, on purpose."""

VARIABLES = {
    "s": "Hello, World", "t": "  padded\t\n", "u": "\u00c4\u00df\u01c6 \u0130\u03a3 na\u00efve \U0001F600e\u0301", "empty": "",
    "n": 7, "neg": -7, "zero": 0, "big": 9007199254740993, "x": 2.5, "y": -0.1, "whole": 3.0, "tiny": 1e-7, "huge": 1e22,
    "yes": True, "no": False, "nothing": None,
    "seq": [3, 1, 2], "words": ["b", "A", "c", "a"], "mixed": [1, "a", None, 2.5, True, [1], {"k": 1}],
    "nested": [[1, 2], [3], []], "pairs": [["k", 1], ["l", 2]], "dic": {"b": 1, "A": 2, "c": [1, 2], "items": "own"},
    "deep": {"a": {"b": {"c": [10, {"d": "end"}]}}}, "quote": "it's \"both\" \\ \n\t\x00\x7f\u00a0\u2028\u00e9\U0001F600",
    "people": [{"name": "Ann", "age": 31, "city": "Rome"}, {"name": "bob", "age": 25, "city": "Oslo"},
               {"name": "Cid", "age": 31, "city": "rome"}, {"name": "dee", "age": None}],
    "html": "<b>\"&'</b>", "lines": "one\n\n two\r\nthree\x0bfour\u2028five", "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}],
    "bos_token": "<s>", "json": {"a": [1, 2.0, None, True, "\u00e9</script>\n\"\\\x07\x7f"], "b": {}, "c": [], "1": {"z": 1e16, "y": 1.5e-5}},
}

# Each expression alone, printed.
EXPRESSIONS = """
1 + 2 * 3 - 4 / 2 || 7 // 2 || -7 // 2 || 7 % 3 || -7 % 3 || 7 % -3 || 7.5 // 2 || -7.5 % 2 || 2 ** 10 || 2 ** -1 || 2 ** 3 ** 2 || -2 ** 2 || 4 / 2 || 1 / 3
1_000 || 0x1F || 0o17 || 0b101 || 1e3 || 1.5e-7 || 1_0.2_5 || 1e16 || 123456789012345678.0 || 1e15 || 0.1 + 0.2 || 1e22 || -0.0 || 100000000000000000000.0
big + 1 || big * 1.0 || n / zero || n // zero || n % zero || x // zero || -9223372036854775807 - 1
"a" + "b" || "a" ~ 1 ~ none ~ true ~ 2.0 ~ [1] || "ab" * 3 || 3 * "ab" || [1] * 2 || [1] + [2] || (1,) + (2,) || "a" + 1 || 1 + "a" || [1] + (2,) || none + 1
true + true || true * 3 || not yes || not "" || not nothing || -yes || +n || -s
1 == 1.0 || 1 == true || "1" == 1 || [1, 2] == [1.0, 2] || (1, 2) == [1, 2] || {"a": 1} == {"a": true} || none == false || missing == missing || missing == none
1 < 2 < 3 || 1 < 2 > 3 || 1 < 3 > 2 == 2 || "a" < "b" || [1, 2] < [1, 3] || "a" < 1 || none < 1 || 1 != 2 != 1 || (1, "a") < (1, "b") || [1, "a"] < [1, 2] || 2 >= 2.0 || true < 2
1 in [1, 2] || 3 not in [1, 2] || "ell" in s || "" in s || 1 in "1" || "b" in dic || "zz" in dic || 1 in {1: 2} || [1] in mixed || none in mixed || 1 in none || missing in [1] || "a" in missing || "a" in ("a", "b") || 2 in range(3)
yes and n || no and n || no or s || empty or nothing || yes or missing.foo || no and missing.foo || n if yes else s || n if no || (n if no) is defined || "a" if no else "b" if no else "c" || 1 if yes if no else 2
s[0] || s[-1] || s[99] || s[1:4] || s[::-1] || s[::2] || s[-3:] || s[:-3] || s[5:2] || s[10:100] || s[::-2] || u[1] || u[2:5] || u[::-1] || s[1:2:3] || s["0"] || s[none:2] || s[1.0]
seq[0] || seq[-1] || seq[3] || seq[1:] || seq[::-1] || seq[5:] || seq["a"] || seq[true] || mixed[1:3] || (1, 2, 3)[1:] || range(10)[2:8:3] || range(5)[-1] || seq[:2][0] || nested[0][1] || missing[1:] || nothing[1:] || dic[1:]
dic.b || dic["A"] || dic.items || dic["items"] || dic.items() || dic.keys() || dic.values() || dic.get("b") || dic.get("z") || dic.get("z", 5) || dic.nothing || dic["nothing"] || dic[1] || dic[[1]] || dic.get([1]) || dic.keys || dic.items is callable
deep.a.b.c[1].d || deep["a"]["b"].c.0 || deep.a.x || deep.a.x.y || deep.a["x"]["y"] || deep.a.b.c.1.d || missing || missing.x || missing["x"] || missing() || missing is defined || nothing.x || nothing["x"] || n.x || n["x"] || s.nope || s.nope.x || s["upper"]()
[1, 2.0, "a", none, true, (1,), (), {}, [], {"k": "v"}] || (1, 2) || (1,) || () || [1, 2,] || {"a": 1, "b": [1], 1: 2, none: 3, (1, 2): 4} || {1: "a", true: "b", 1.0: "c"} || {[1]: 2} || 1, 2 || [missing, "a"]
none || true || false || None || True || False || nothing || quote || [quote] || {"k": quote} || u || [u] || ["'"] || ['"'] || ["'\\""]
"a\\n\\t\\\\\\'\\"b" || 'it\\'s' || "\\x41\\u00e9\\U0001F600\\101\\0" || "\\q\\z" || "a" "b" 'c' || "\\N{BULLET}" || "\\\u00e9" || "\\N{NO SUCH NAME}" || "\\x4"
s.upper() || s.lower() || s.title() || s.capitalize() || s.swapcase() || s.casefold() || u.upper() || u.lower() || u.title() || u.capitalize() || u.swapcase() || u.casefold() || "\u0149\u01c4\ufb01\u0390 \u00df".title() || "\u039f\u03a3 \u03a3 A\u03a3b".lower()
t.strip() || t.lstrip() || t.rstrip() || s.strip("Hd") || s.lstrip("leH") || s.rstrip("dl") || "xxaxx".strip("x") || "\u3000a\x1c\u2028".strip() || s.strip(none) || "a".strip(chars="a") || u.strip("\u00c4e\u0301")
"a,b,,c".split(",") || "a,b,c".split(",", 1) || "a,b,c".rsplit(",", 1) || " a  b c ".split() || " a  b c ".split(none, 1) || " a  b c ".rsplit(none, 1) || " a b ".split(" ") || "".split() || "".split(",") || "a".split("") || "a,b".split(sep=",", maxsplit=0) || "a b".split(maxsplit=1) || "a--b".split("--")
"a.b.c".partition(".") || "a.b.c".rpartition(".") || "abc".partition(".") || "abc".rpartition(".") || lines.splitlines() || lines.splitlines(true) || "".splitlines() || "\\n".splitlines()
s.startswith("He") || s.startswith("lo", 3) || s.startswith(("x", "H")) || s.startswith("") || s.endswith("ld") || s.endswith(("a", "d")) || s.endswith("o", 0, 5) || s.startswith("H", 99) || s.startswith([1]) || u.startswith("\u00c4") || u.endswith("\u0301", -1)
s.replace("l", "L") || s.replace("l", "L", 1) || s.replace("", "-") || "".replace("", "x") || s.replace("zz", "y") || u.replace("\u00df", "ss") || s.replace("l", "LL", 0) || s.replace("l", "", -1)
s.find("o") || s.find("o", 5) || s.rfind("o") || s.index("o") || s.index("z") || s.find("z") || u.find("n") || s.count("l") || s.count("") || s.count("l", 3) || s.count("l", 3, -2) || u.rfind("\u0301") || s.find("", 3, 1)
",".join(words) || ",".join([]) || ",".join([1]) || ",".join("abc") || ", ".join(dic) || "-".join(dic.keys()) || "x".join(missing)
s.removeprefix("Hello") || s.removesuffix("World") || "7".zfill(3) || "-7".zfill(4) || "+7".zfill(1) || "ab".center(7) || "ab".center(6, "*") || "abc".center(6) || "ab".ljust(4) ~ "|" || "ab".rjust(4) || "a\tb".expandtabs(4) || "a\tbc\td".expandtabs() || "ab".center(5, "xy")
"abc".isalpha() || "a1".isalnum() || "12".isdigit() || "\u00b2".isdigit() || "\u00b2".isdecimal() || "\u00bd".isnumeric() || " \t".isspace() || "Ab".isupper() || "AB1".isupper() || "ab1".islower() || "Ab Cd".istitle() || "aB".istitle() || "".isalpha() || "a b".isidentifier() || "ab".isidentifier() || "\u00e9".isascii() || "\n".isprintable() || "".isprintable() || "\u01c5".isupper() || "1".isupper()
"{} {}".format(1, "a") || "{1} {0}".format(1, 2) || "{a}".format(a=1) || "{0.a}".format(1) || "{m[b]}".format(m=dic) || "{:>5}|{:<5}|{:^5}".format("a", "b", "c") || "{:05d}".format(42) || "{:.2f}".format(2.345) || "{:x} {:X} {:#x} {:b} {:o}".format(255, 255, 255, 5, 8) || "{:,}".format(1234567) || "{{}}".format() || "{".format() || "{} {0}".format(1) || "{!r}".format("a") || "{:>{w}}".format("a", w=4) || "{:+d} {: d}".format(5, 5) || "{:e}".format(1234.5) || "{:%}".format(0.25) || "{:*^7}".format("a") || "{:10.3}".format("abcdef") || "{}".format(none) || "{:5}".format(none) || "{:d}".format("a") || "{0[0]}".format(seq) || "{:g} {:G}".format(1e10, 1e-10) || "{:5}|".format(true) || "{:_}".format(1234567) || "{:,.2f}".format(1234567.891) || "{:08.3f}".format(-3.14159) || "{:.3}".format(3.14159) || "{:c}".format(65)
"%s %s" % (1, "a") || "%d" % 3.7 || "%5.2f|" % 2.345 || "%05d" % 42 || "%-5s|" % "a" || "%r" % "a" || "%x %X %#x %o" % (255, 255, 255, 8) || "%(a)s %(b)d" % {"a": 1, "b": 2} || "%%" % () || "%s" % [1, 2] || "%s %s" % (1,) || "%s" % (1, 2) || "%s" % dic || "%e %g %G" % (1234.5, 1e10, 1e-10) || "%+d % d" % (5, 5) || "%c" % "a" || "%c" % 65 || "%*d" % (5, 42) || "%.3s" % "abcdef" || "%d" % "a" || "%q" % 1 || "%s" % missing || "%.5d" % 42 || "a" % 1 || "a" % dic
seq.index(1) || seq.count(1) || seq.append(4) || seq.pop() || seq.copy() || dic.update({}) || dic.pop("b") || (1, 2, 1).count(1) || seq.index(9) || seq.append is defined || dic.copy() || seq.sort() || seq.append || s.__class__ || s.__class__.__mro__ || dic.__len__ is defined || dic._x || (3.5).is_integer() || (3.0).is_integer()
t | trim || s | trim("Hd") || s | upper || s | lower || u | title || "hello-world (foo) [bar] <baz> it's" | title || s | capitalize || 5 | upper || nothing | lower || missing | upper || s | center(20) || s | length || u | length || seq | length || dic | length || missing | length || 5 | length
missing | default("d") || empty | default("d") || empty | default("d", true) || nothing | default("d") || nothing | d("d", true) || missing | default || zero | default(5, boolean=true) || missing.x | default("d") || deep.a.x | default("d")
seq | join || seq | join(", ") || people | join(", ", attribute="name") || words | join("-") || mixed | join("|") || missing | join || 5 | join || "abc" | join("-") || seq | join(5)
seq | first || seq | last || [] | first || [] | last || s | first || s | last || dic | first || dic | last || missing | first || missing | last || 5 | first || (seq | map("string")) | last || words | select("in", ["a", "b"]) | first
seq | sort || words | sort || words | sort(case_sensitive=true) || seq | sort(reverse=true) || people | sort(attribute="name") | map(attribute="name") | join(" ") || people | sort(attribute="age,name") | join || people[:3] | sort(attribute="age,name") | map(attribute="name") | list || mixed | sort || dic | sort || s | sort | join || people[:3] | sort(attribute="city", reverse=true) | map(attribute="name") | list || [[2, 1], [1, 2]] | sort
dic | dictsort || dic | dictsort(true) || dic | dictsort(false, "value") || {"b": 1, "a": 2} | dictsort(by="value") || {"b": 1, "a": 2} | dictsort(reverse=true) || seq | dictsort || missing | dictsort || {"a": 1, 2: 1} | dictsort
seq | reverse | list || seq | reverse | list || s | reverse || u | reverse || dic | reverse | list || (seq | select) | reverse || missing | reverse | list || 5 | reverse
words | unique | list || words | unique(case_sensitive=true) | list || [1, 1.0, true, "1"] | unique | list || [[1]] | unique | list || people | unique(attribute="age") | map(attribute="name") | list
seq | min || seq | max || words | min || words | max || words | min(case_sensitive=true) || [] | max || people[:3] | max(attribute="age") || s | max || mixed | max || [1, 1.0] | max
seq | sum || people[:3] | sum(attribute="age") || [] | sum || [1.5, 2] | sum || words | sum || seq | sum(start=10) || nested | sum(start=[]) || missing | sum || ["a"] | sum(start="")
people | map(attribute="name") | list || people | map(attribute="zip") | list || people | map(attribute="zip", default="?") | list || words | map("upper") | list || words | map("replace", "a", "X") | join || words | map | list || words | map("nofilter") | list || words | map("nofilter") is iterable || missing | map("upper") | list || [] | map | list || nested | map("sum") | list || people | map(attribute="name.0") | list || nested | map(attribute=0) | list || words | map("upper", 1) | list
seq | select("odd") | list || seq | select | list || mixed | select("string") | list || seq | select("gt", 1) | list || seq | reject("even") | list || seq | reject("equalto", 2) | list || people | selectattr("age") | map(attribute="name") | list || people | selectattr("age", "equalto", 31) | list | length || people | rejectattr("age", "none") | list | length || people | selectattr("city", "defined") | list | length || people | selectattr | list || seq | select("nope") | list || seq | select("nope") is iterable || missing | select | list || people | selectattr("name", "in", ["Ann"]) | map(attribute="age") | first || (seq | select) | length || (seq | select)[0] is defined || (seq | select) is sequence || (seq | select) and "yes"
people | groupby("age") | length || people[:3] | groupby("age") | map("first") | list || people[:3] | groupby("city") | map(attribute="grouper") | list || people[:3] | groupby("city", case_sensitive=true) | map(attribute="grouper") | list || people | groupby("city", default="?") | map(attribute="list") | map("length") | list || people[:3] | groupby("age") | first | list | length
seq | batch(2) | list || seq | batch(2, "-") | list || seq | slice(2) | list || range(7) | slice(3) | list || range(7) | slice(3, "x") | list || seq | batch(0) | list || seq | slice(0) | list
n | int || "42" | int || " 42 " | int || "4_2" | int || "4x" | int || "4x" | int(7) || "42.9" | int || "1e3" | int || "ff" | int(base=16) || "0xff" | int(0, 16) || "0b11" | int(base=2) || x | int || y | int || nothing | int || nothing | int(3) || missing | int || seq | int(9) || "inf" | int(5) || "nan" | int(5) || yes | int || "-0012" | int || "0x1f" | int(base=0) || "" | int || "--5" | int
n | float || "2.5" | float || " 1e3 " | float || "abc" | float || "abc" | float(1) || nothing | float || "inf" | float || "nan" | float || yes | float || "1_0.5" | float || missing | float || "0x10" | float
x | round || 2.5 | round || 3.5 | round || 2.675 | round(2) || 42.55 | round(1, "floor") || 42.55 | round(1, "ceil") || 42 | round || 1234 | round(-2) || 1250 | round(-2) || 1350 | round(-2) || x | round(method="nope") || s | round || 0.5 | round || 1e300 | round(2) || -2.5 | round || 42.55 | round | int || 1234.5 | round(-2) || y | round(3)
neg | abs || y | abs || s | abs || missing | abs || true | abs
s | string || n | string || n | string | length || nothing | string || seq | string || html | escape || html | e | upper || html | safe || html | forceescape || html | escape | escape || "<" + (html | safe) || (html | safe) + "<" || (html | escape) ~ "<" || html | safe | replace("<", "[") || [html | safe] || (html | safe).replace("b", "<") || (html | safe) is string || (html | safe) is escaped || html is escaped || (html | safe) * 2 || "%s" | safe | format("<") || ("%s" | safe) % "<" || "," | safe | string ~ "<" || ("," | safe).join(["<", ">" | safe]) || (html | safe)[1:4] || (html | safe) | length || (html | safe) | tojson || "{}" | safe | upper || ("{}" | safe).format("<")
s | replace("o", "0") || s | replace("o", "0", 1) || 5 | replace(5, 6) || s | replace("l", 1) || nothing | replace("N", "n") || html | replace("<", "&lt;")
json | tojson || json | tojson(indent=2) || json | tojson(true) || json | tojson(ensure_ascii=true, sort_keys=true) || json | tojson(separators=(",", ":")) || seq | tojson(indent=0) || seq | tojson(indent="--") || quote | tojson || quote | tojson(ensure_ascii=true) || u | tojson(ensure_ascii=true) || (1, 2) | tojson || missing | tojson || nothing | tojson || x | tojson || huge | tojson || {1: 2, none: 3, true: 4, 1.5: 5} | tojson || dic.keys() | tojson || range(3) | tojson || {"b": 1, "a": {"d": 1, "c": 2}} | tojson(sort_keys=true, indent=1) || {"a": 1, 2: 3} | tojson(sort_keys=true) || {(1, 2): 3} | tojson || [] | tojson(indent=2) || {"a": []} | tojson(indent=2) || json | tojson(indent=none)
lines | indent || lines | indent(2) || lines | indent(2, true) || lines | indent(2, blank=true) || lines | indent("> ") || lines | indent(width=1, first=true) || 5 | indent || "" | indent(2, true) || missing | indent
s | truncate(8) || s | truncate(8, true) || s | truncate(8, true, "") || s | truncate(8, false, "..", 0) || s | truncate || "a b c d e f g" | truncate(7, leeway=0) || s | truncate(1)
"%s and %s" | format(1, 2) || "%(a)s" | format(a=1) || "%s" | format(1, a=2) || "a b_c-d e\u0301" | wordcount || 1000 | filesizeformat || 1 | filesizeformat || 999 | filesizeformat || 1500000 | filesizeformat || 1024 | filesizeformat(true) || 123456789 | filesizeformat(binary=true) || "a b&c/d?\u00e9" | urlencode || {"a b": "c/d", "e": 1} | urlencode || {"class": "<a>", "id": none, "n": 1} | xmlattr || {"a b": 1} | xmlattr || {"a": 1} | xmlattr(false)
dic | items | list || missing | items | list || seq | items | list || seq | items is iterable || dic | attr("items") is callable || dic | attr("b") is defined || s | attr("upper") is callable || s | list || dic | list || nothing | list || nested | list || 5 | list || (seq | map("string") | list) == ["3", "1", "2"]
n is odd || n is even || neg is odd || x is odd || n is divisibleby 7 || n is divisibleby(2) || s is odd || n is number || yes is number || x is float || n is float || n is integer || yes is integer || yes is boolean || yes is true || no is false || 1 is true || nothing is none || missing is none || missing is defined || missing is undefined || s is defined
s is string || seq is string || dic is mapping || seq is mapping || seq is sequence || s is sequence || dic is sequence || missing is sequence || nothing is sequence || n is iterable || s is iterable || missing is iterable || dic is iterable || range(2) is sequence || dic.items() is sequence || dic.items() is iterable || n is callable || range is callable || "upper" is filter || "nope" is filter || "odd" is test || "nope" is test
"abc" is lower || "ABC" is upper || "Abc" is lower || 5 is lower || n is eq 7 || n is equalto 7 || n is ne 7 || n is gt 5 || n is greaterthan 5 || n is lt 5 || n is lessthan 5 || n is ge 7 || n is le 6 || n is sameas 7 || yes is sameas true || n is sameas true || n is in [7] || n is not in [7] || n is in(seq) || s is not none || n is not defined || not n is defined || n is defined and s is defined || n is defined or x || n is nope || n is defined is defined || n is in missing
n is eq 3 + 4 || n is divisibleby 2 or yes || n is number ~ "!" || -1 | abs || -n | abs || (-n) | abs || not n | string || 1 + 2 | string || "a" ~ "b" | upper || [1, 2] | length + 1 || s[0] | upper ~ s[1:] || n in seq | string || "x" in s and "H" in s || 1 if n is odd else 2 || 3 * 2 | string || s.upper() | lower
range(3) || range(1, 4) || range(5, 0, -2) || range(0) | list || range(3) | list || range(3) | last || range(2) == range(2) || range(0, 10, 3) | list || range(200000) || range(1, 2, 0) || range("a") || range(3).start || range(true) || range(3)[1] || 1 in range(3) || range(3) | reverse | list || range(3) | string
dict(a=1, b=2) || dict(dic) | length || dict([["a", 1]]) || dict(dic, z=1)["z"] || dict(5) || dict() || dict([[1]]) || dict(pairs) || dict(a=1).a || dict(dic.items()) | length
namespace(a=1).a || namespace().x || namespace(a=1)["a"] || namespace(a=1) || namespace({"a": 2}).a || namespace(_a=1) || namespace(a=1) is mapping || namespace(a=1) is iterable || namespace(a=1).x is defined || namespace(pairs).k
cycler("a", "b").next() || cycler("a").current || cycler() || joiner()() || strftime_now("%Y-%m-%d %H:%M:%S %j %a %b %A %B %p %y %%") || strftime_now("%-d %e") || strftime_now() || raise_exception("no") || raise_exception() || bos_token ~ s
lipsum is defined or true || [][0] || [][0] is defined || {}["a"] is defined || "abc"[5] is defined || (seq | first) + 1 || (missing or "x") ~ "y" || [1, [2, [3]]][1][1][0] || (1, 2) | join("-") || {"a": {"b": 1}}.a.b || {"get": 1}.get || {"get": 1}["get"] || "{{ s }}" || '{% if %}' || "}}" ~ "%}" || {"a": {}} || {"a": {"b": {}}}
n.real is defined or true || s.join is callable || deep.a.b.c[0] is number || people[0].name.upper()[0] || people[-1]["name"] || people[0].get("age") + 1 || people | length > 3 and people[3].age is none || (people | selectattr("age") | list)[0].name || people | map(attribute="age") | select("number") | sum
"a" not in s and "H" in s || not ("a" in s) || not 1 == 2 || 1 == 1 and 2 == 2 or missing.x || (1 or 2) and 3 || 1 or 2 and 3 || not no and yes || not (no and yes)
s == "Hello, World" || s is eq("Hello, World") || s != s || s <= s || seq == [3, 1, 2] || seq != nested || nested == [[1, 2], [3], []] || dic == dic || json == json || (missing) == (nothing)
"\u00e9" < "z" || "\U0001F600" > "\uffff" || "a" < "B" || "" < "a" || [] < [1] || () < (1,) || [[1, 2]] < [[1, 3]] || {} < {} || 1.5 < 2 || none == none || [none] == [none] || nan == nan
1 if missing else 2 || 1 if [] else 2 || 1 if [0] else 2 || 1 if {} else 2 || 1 if "0" else 2 || 1 if 0.0 else 2 || 1 if none else 2 || 1 if (seq | select) else 2 || 1 if namespace() else 2 || 1 if range(0) else 2
s | upper | lower | title | trim | length || seq | map("string") | map("upper") | join(",") || words | sort | reverse | list || words | select("lower") | reject("eq", "a") | list || people | map(attribute="age") | reject("none") | map("string") | join("/")
(s)[0:1] || (s ~ t)[0] || (seq + [4])[-1] || s.split(",")[1].strip().upper() || " ".join(s.split()) || s.split()[0][:-1] || s.replace(",", "").split(" ")[::-1] || "-".join(s.lower()) || s.partition(", ")[2]
"""

# Whole templates: statements, scopes, white space.
TEMPLATES = [
    # if
    "{% if yes %}a{% endif %}|{% if no %}a{% else %}b{% endif %}|{% if no %}a{% elif yes %}b{% else %}c{% endif %}|{% if no %}x{% elif no %}y{% endif %}",
    "{% if yes: %}colon{% endif %}", "{% if 1, 2 %}tuple{% endif %}", "{% if (a if b) %}x{% endif %}", "{% if %}x{% endif %}",
    # for
    "{% for i in seq %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.depth }}/{{ loop.depth0 }}:{{ i }};{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}|{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in nothing %}x{% endfor %}", "{% for i in 5 %}x{% endfor %}",
    "{% for k, v in dic.items() %}{{ k }}={{ v }};{% endfor %}|{% for k in dic %}{{ k }}{% endfor %}|{% for k, v in dic | dictsort %}{{ k }}{% endfor %}",
    "{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in nested %}{{ a }}{% endfor %}", "{% for (a, b), c in [[[1, 2], 3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in seq if i > 1 %}{{ i }}{{ loop.index }}{{ loop.last }}{{ loop.length }};{% endfor %}",
    "{% for i in seq if i > 9 %}x{% else %}none{% endfor %}",
    "{% for a, b in pairs if b > 1 %}{{ a }}{{ loop.first }}{% endfor %}",
    "{% for i in seq %}{{ loop.previtem is defined }}{{ loop.previtem }}{{ loop.nextitem is defined }}{{ loop.nextitem }};{% endfor %}",
    "{% for i in seq if i != 1 %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }};{% endfor %}",
    "{% for i in [1, 1, 2, 2, 1] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }};{% endfor %}", "{% for i in seq %}{{ loop.cycle() }}{% endfor %}",
    "{% for i in 'a\u00e9b' %}{{ i }}-{% endfor %}", "{% for i in seq | select %}{{ i }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for i in seq %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}|{% for i in seq %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in seq %}{% continue %}{% else %}else after continue{% endfor %}|{% for i in seq %}{% break %}{% else %}else after break{% endfor %}",
    "{% for i in seq %}{% for j in seq %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}",
    "{% for i in seq %}{% set outer = loop %}{% for j in [1, 2] %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}",
    "{% for n in tree recursive %}[{{ n.v }}{{ loop.depth }}{% if n.kids %}{{ loop(n.kids) }}{% endif %}]{% endfor %}",
    "{% for n in tree recursive %}{{ loop.depth0 }}{{ loop(n.kids) }}{% else %}leaf{% endfor %}", "{% for i in seq %}{{ loop(seq) }}{% endfor %}",
    "{% for n in tree if n.v recursive %}{{ n.v }}{{ loop(n.kids) }}{% endfor %}",
    "{% for loop in seq %}x{% endfor %}", "{% for i in seq %}{% set loop = 1 %}{% endfor %}", "{{ loop is defined }}", "{% break %}", "{% for i in seq %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}",
    "{% for i in seq %}a{% for %}", "{% for i in seq %}", "{% for i of seq %}{% endfor %}", "{% endfor %}", "{% for i in seq %}{% endif %}",
    "{% for i in range(3) %}{% set s = s ~ i %}{{ s }};{% endfor %}{{ s }}", "{% for i in seq %}{% if loop.first %}{% set q = i %}{% endif %}{{ q }}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for i in seq if not ns.found %}{{ i }}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(found=false) %}{% for i in seq if not ns.found %}{{ i }}{{ loop.last }}{% set ns.found = true %}{% endfor %}",
    "{% set g = seq | map('string') %}{% for i in g %}{{ i }}{% break %}{% endfor %}|{{ g | list }}",
    "{% for x in x | list %}{{ x }}{% endfor %}", "{% for seq in seq %}{{ seq }}{% endfor %}{{ seq }}",
    "{% for i in seq %}{{ i }}{% endfor %}{{ i }}", "{% for i in seq %}{% set keep = i %}{% endfor %}{{ keep is defined }}",
    # set and scopes
    "{% set a = 1 %}{{ a }}{% set a = a + 1 %}{{ a }}|{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set (a, b) = pairs[0] %}{{ a }}{{ b }}|{% set a = 1, %}{{ a }}",
    "{% set a, b = 1 %}", "{% set a, b = seq %}", "{% set 5 = 1 %}", "{% set s.x = 1 %}", "{% set none = 1 %}", "{% set a %}{{ s }}!{% endset %}{{ a }}{{ a is string }}",
    "{% set a | upper | replace('L', '_') %}{{ s }}!{% endset %}{{ a }}", "{% set a | nofilter %}x{% endset %}",
    "{% set ns = namespace(a=1) %}{% for i in seq %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{% set ns.b, c = 1, 2 %}{{ ns.b }}{{ c }}{% set ns.s %}x{{ ns.a }}{% endset %}{{ ns.s }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set missing.a = 1 %}", "{% set dic.a = 1 %}",
    "{% if yes %}{% set inside = 1 %}{% endif %}{{ inside }}{% if no %}{% set s = 2 %}{% endif %}{{ s }}",
    "{% for i in seq %}{{ s }}{% endfor %}{% set s = 'late' %}{{ s }}", "{{ s }}{% for i in seq %}{{ s }}{% endfor %}{% set s = 'late' %}{{ s }}",
    "{% macro m() %}{{ s }}{% endmacro %}{{ m() }}{% set s = 'late' %}{{ m() }}", "{% macro m() %}{{ s }}{% endmacro %}{{ m() }}{{ s }}{% set s = 'late' %}{{ m() }}",
    "{% for i in [1, 2] %}{% if i == 1 %}{% set s = 'in' %}{% endif %}{{ s }}{% endfor %}", "{% for i in [1, 2] %}{% if i == 2 %}{{ w }}{% endif %}{% set w = i %}{% endfor %}",
    "{% set w = 'root' %}{% for i in [1, 2] %}{{ w }}{% set w = w ~ i %}{{ w }};{% endfor %}{{ w }}",
    "{% with %}{% set a = 1 %}{{ a }}{% endwith %}{{ a }}|{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}|{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}|{% with a, b = (1, 2) %}{{ b }}{% endwith %}",
    "{% set a %}{% set b = 1 %}{{ b }}{% endset %}{{ a }}{{ b }}", "{% filter upper %}{% set b = 'x' %}{{ b }}{{ s }}{% endfilter %}{{ b }}",
    "{% filter upper | replace('O', '0') %}{{ s }}{% endfilter %}|{% filter trim %}  x {% endfilter %}|{% filter replace('a', s) %}banana{% endfilter %}", "{% filter nope %}x{% endfilter %}",
    # macros
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=5) }}|{{ m(b=1, a=2) }}|{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}|{{ m() }}|{{ m(*seq, **{'z': 1}) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(1, **{'b': 3}) }}{{ m(**{'a': 1, 'b': 2}) }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}", "{% macro m(a=b, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a, a) %}{% endmacro %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body {{ s }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b=5) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}|{% call m() %}x{% endcall %}", "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% call s %}x{% endcall %}",
    "{% macro m(caller) %}{% endmacro %}", "{% macro m(caller=none) %}{{ caller }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro m(x) %}{% set x = x ~ '!' %}{{ x }}{% endmacro %}{{ m('a') }}{{ x }}", "{{ m is defined }}{% macro m() %}x{% endmacro %}{{ m is defined }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}",
    "{% macro m(a, b) %}{% endmacro %}{{ m }}{{ m.arguments }}", "{% if yes %}{% macro m() %}in if{% endmacro %}{% endif %}{{ m() }}", "{% for i in seq %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% set ns = namespace() %}{% for i in seq %}{% macro m() %}<{{ i }}>{% endmacro %}{% set ns.m = m %}{{ ns.m() }}{% endfor %}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}",
    "{% macro m() %}{% macro inner(x) %}[{{ x }}]{% endmacro %}{{ inner(1) }}{{ inner(2) }}{% endmacro %}{{ m() }}{{ inner is defined }}", "{% macro m() -%}  x  {%- endmacro %}[{{ m() }}]{{ m() | length }}",
    "{{ words | map(m) }}", "{% macro m(a) %}{% for i in a %}{{ loop.index }}{{ i }}{% endfor %}{% endmacro %}{% for j in nested %}{{ m(j) }}{{ loop.index }};{% endfor %}",
    "{% macro m() %}{{ varargs | length }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(kwargs) %}{{ kwargs }}{% endmacro %}{{ m(1) }}", "{% macro m() %}{% set kwargs = 1 %}{{ kwargs }}{% endmacro %}{{ m() }}{{ m(a=1) }}",
    # white space
    "a \n {% if yes %} \n b \n {% endif %} \n c", "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if yes -%}\n  b\n  {%- endif -%}\nc\n", "a\n  {%+ if yes +%}\n  b\n  {%+ endif +%}\nc\n",
    "  {{ s }}  \n  {{- s -}}  \n x", "{{- s -}}", "a {#- c -#} b", "a\n  {# c #}\n  b", "a\n  {#+ c +#}\n  b", "a {# c #} b {# d\n e #}\n f", "x{# never ends", "{#-#}a{#- -#}", "\n\n{% if yes %}\n\na\n\n{% endif %}\n\n",
    "a\r\nb\rc\n{% if yes %}\r\nd{% endif %}\r\n", "ends\n", "ends\n\n", "\n", "", " ", "{% raw %}{{ s }}{% if %}{# x #}{% endraw %}", "  {% raw %}\n  {{ s }}\n  {% endraw %}\nb", "{%- raw -%}  {{ s }}  {%- endraw -%}  b", "{% raw %}x", "a {%+ raw %} {{ {%+ endraw +%} b",
    "{%if yes%}a{%endif%}", "{% if yes -%}   a {%- else %} b{% endif %}", "{{s}}{{ s}}{{s }}", "{{ '}}' }}{{ \"%}\" }}{{ '{{' }}", "{{ {'a': {'b': 1}} }}", "{ { s } }", "{{ s }", "{% if yes }", "}}%}#}", "{", "{{", "{%", "{{}}", "{{ }}", "{%%}", "{% %}",
    "\u3000{%- if yes %}\u2003x{% endif %}", "x \t{% if yes %}\t\ny{% endif %}", "a{% set x = 1 %}\nb{% set y = 2 -%}\n  c", "{% for i in seq -%}\n  {{ i }}\n{%- endfor %}\n", "{% for i in seq %}\n  {{ i }}\n{% endfor %}\n", "\t{% if yes %}x\n\t{% endif %}\n", "x{% if yes %}\n{% endif %}\n{{ s }}\n\n",
    "{{ s }}{{+ s }}", "{{ 5 -}}  x", "{{-5}}", "{{ -5 }}", "{%- set a = -5 -%} {{ a }}", "{{\n s\n | upper\n}}", "{% set a = {'k': [1,\n 2]} %}{{ a }}", "a\n\n   {%- if yes %}\n\n  b{% endif %}", "{# a #}{# b #}\n{# c #}\nx", "  {% if yes %}  {% endif %}  \ny",
    "{{ 'a\\\n b' }}",
    # others
    "{% print s, n %}", "{% print %}", "{% generation %}{{ s }}{% set inner = 1 %}{% endgeneration %}{{ inner }}", "{% for i in seq %}{% generation %}{{ i }}{{ loop.index }}{% endgeneration %}{% endfor %}", "{% generation %}x",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% unknown %}", "{% do seq.append(1) %}", "{{ s | nope }}", "{% if no %}{{ s | nope }}{% endif %}ok", "{% if no %}{% for i in seq %}{{ i | nope }}{% endfor %}{% endif %}ok", "{{ s is nope }}", "{{ 1 if yes else (s | nope) }}", "{{ (s | nope) if yes else 1 }}",
    "{{ a b }}", "{{ (1 }}", "{{ [1, }}", "{{ {1} }}", "{{ 1 + }}", "{{ * }}", "{{ s. }}", "{{ s[ }}", "{{ s[] }}", "{{ s[1, 2] is defined }}", "{{ s[1:2, 3] }}", "{{ f(a=1, 2) }}", "{{ f(a=1, a=2) }}", "{{ 'unclosed }}", "{{ @ }}", "{{ a ? b }}", "{{ s!r }}", "{{ 1__0 }}", "{{ 01 }}", "{{ 0x }}", "{{ 1.e5 }}", "{{ .5 }}", "{{ 5. }}", "{{ not }}", "{{ in }}", "{{ is }}", "{{ and }}", "{{ if }}", "{{ \u00e4 }}", "{% set \u00e4 = 1 %}{{ \u00e4 }}", "{{ a\u00b2 }}",
    "{{ raise_exception('stop') }}", "before{% if yes %}{{ raise_exception('stop ' ~ s) }}{% endif %}", "{{ seq.append(1) }}", "{% set x = dic.update({}) %}", "{% set j = joiner('; ') %}{% for i in seq %}{{ j() }}{{ i }}{% endfor %}", "{% set c = cycler('a', 'b') %}{% for i in seq %}{{ c.next() }}{{ c.current }}{% endfor %}{{ c.reset() }}{{ c.next() }}",
    "{{ ns }}{% set ns = namespace(a=[1], b='x') %}{{ ns }}", "{% set a = [1] %}{% set b = a %}{{ a is sameas b }}", "{% for k in json %}{{ k }}:{{ json[k] | tojson }};{% endfor %}", "{% for p in people %}{{ p.name }}{{ ', ' if not loop.last }}{% endfor %}",
    "{{ loop.index if loop is defined else 'no loop' }}", "{% for i in seq %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for k, g in people[:3] | groupby('age') %}{{ k }}:{% for p in g %}{{ p.name }}{% endfor %};{% endfor %}{% for g in people[:3] | groupby('age') %}{{ g.grouper }}{{ g.list | length }}{{ g[0] }}{% endfor %}",
    "{% set x = namespace(v=0) %}{% macro add(n) %}{% set x.v = x.v + n %}{% endmacro %}{{ add(2) }}{{ add(3) }}{{ x.v }}", "{{ [1, 2, 3] | map('string') | join }}{{ people | map(attribute='name') | map('upper') | join(',') }}",
    "{{ s }}{% set s %}x{% for i in seq %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}{% endset %}{{ s }}", "{% for i in seq %}{% set z %}{{ i }}{% if i == 1 %}{% continue %}{% endif %}{% endset %}{{ z }}{% endfor %}", "{% for i in seq %}{% filter upper %}a{% if i == 1 %}{% break %}{% endif %}b{% endfilter %}{% endfor %}",
    "{% for i in seq %}{% with a = i %}{{ a }}{% if i == 1 %}{% break %}{% endif %}{% endwith %}{% endfor %}", "{% for i in [] %}{% else %}{% for j in seq %}{{ j }}{% endfor %}{% endfor %}", "{% for i in seq %}{% for j in [] %}{% else %}{% break %}{% endfor %}{{ i }}{% endfor %}",
    "{{ missing ~ nothing ~ yes }}", "{{ 'a' if missing }}{{ ('a' if missing) ~ 'b' }}", "{{ (people | first).name }}{{ people | map(attribute='age') | list }}", "{% set a = missing %}{{ a is defined }}{{ a }}", "{% set a = missing.x %}", "{% if missing.x %}{% endif %}", "{% if missing and missing.x %}{% else %}ok{% endif %}",
]


# What duo leaves out, and refuses where jinja2 does not.
REFUSED = [
    "{{ 2 ** 100 }}", "{{ 9223372036854775807 + 1 }}", "{{ 1e30 | int }}", "{{ '\\ud800' }}", "{{ seq | map('string') }}", "{{ joiner }}", "{{ seq | pprint }}", "{{ 'a b' | wordwrap(1) }}",
    "{{ html | striptags }}", "{{ 'http://a.b' | urlize }}", "{{ [1] | random }}", "{% block x %}{% endblock %}", "{% autoescape true %}{{ html }}{% endautoescape %}", "{{ 'a'.encode() }}",
    "{{ 'x' * 100000000 }}", "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{% set ns = namespace(a=[]) %}{% for i in range(5000) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}",
]


def expressions():
    """Each expression of the lines above."""
    return [part for line in EXPRESSIONS.strip("\n").split("\n") for part in line.split(" || ")]
