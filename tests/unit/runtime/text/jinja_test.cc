// What the comparison with jinja2 (tests/golden/jinja_parity.py) cannot show: where a rendered text came from, the
// limits, the messages. A few constructs stand here besides, for a build without Python.
#include <gtest/gtest.h>

#include <string>

#include "runtime/text/jinja/template.h"

namespace duo::jinja {
namespace {

Inputs Given(nlohmann::ordered_json given = nlohmann::ordered_json::object()) {
  Inputs inputs;
  inputs.given = std::move(given);
  inputs.own = {{"bos_token", "<s>"}};
  inputs.clock = [](const std::string& format) { return "now:" + format; };
  return inputs;
}

// What was given stands in guillemets.
std::string Render(std::string_view source, const Inputs& inputs) {
  const auto parsed = Template::Parse(source, "t.jinja");
  if (!parsed.ok()) return "refused: " + std::string(parsed.status().message());
  const auto pieces = parsed->Render(inputs);
  if (!pieces.ok()) return "refused: " + std::string(pieces.status().message());
  std::string text;
  for (const Piece& piece : *pieces) text += piece.given ? "«" + piece.text + "»" : piece.text;
  return text;
}

const nlohmann::ordered_json kTalk = {
    {"messages", {{{"role", "user"}, {"content", " <b>Hi\n"}}, {{"role", "assistant"}, {"content", "Yo, <s>"}}}}};

TEST(Jinja, WhatWasGivenKeepsItsOriginThroughEverythingThatIsDoneToIt) {
  const Inputs in = Given(kTalk);
  EXPECT_EQ(Render("{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}", in),
            "<s><|user|>« <b>Hi\n»<|end|><|assistant|>«Yo, <s>»<|end|>");
  EXPECT_EQ(Render("{{ '<' ~ messages[0].content | trim ~ '>' }}", in), "<«<b>Hi»>");
  EXPECT_EQ(Render("{{ ('[' + messages[0].content + ']') | upper | replace('B', '-') }}", in), "[« <»-«>HI\n»]");
  EXPECT_EQ(Render("{{ messages[1].content.split(', ') | join(' | ') }}", in), "«Yo» | «<s>»");
  EXPECT_EQ(Render("{{ messages[1].content[::-1] }}{{ messages[1].content[4:] }}", in), "«>s< ,oY<s>»");
  EXPECT_EQ(Render("{{ messages[0].content | tojson }}", in), "\"« <b>Hi\\n»\"");
  EXPECT_EQ(Render("{{ [messages[1].content] }}", in), "['«Yo, <s>»']");
  EXPECT_EQ(Render("{{ '%s|%s' % (messages[1].content, 'x') }}{{ '{}!'.format(messages[1].content) }}", in),
            "«Yo, <s>»|x«Yo, <s>»!");
  EXPECT_EQ(Render("{% set x %}a{{ messages[1].content }}b{% endset %}{{ x[1:] }}{{ x | indent(2, true) }}", in),
            "«Yo, <s>»b  a«Yo, <s>»b");
}

TEST(Jinja, ARoleIsTheTemplatesOwnOnlyWhereItIsAPlainWord) {
  Inputs in = Given({{"messages", {{{"role", "tool_x-1"}}, {{"role", "a|><|b"}}, {{"content", "user"}}}}});
  EXPECT_EQ(Render("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", in),
            "<|tool_x-1|><|«a|><|b»|><||>«user»");
}

TEST(Jinja, TheClockIsTheCallers) { EXPECT_EQ(Render("{{ strftime_now('%Y') }}", Given()), "now:%Y"); }

TEST(Jinja, RefusalsNameLineAndColumn) {
  const Inputs in = Given(kTalk);
  EXPECT_EQ(Render("a\nbé {{ 1 + }}", in), "refused: t.jinja: line 2, column 11: expected an expression, found }}");
  EXPECT_EQ(Render("{% if true %}", in), "refused: t.jinja: line 1, column 4: this if has no endif");
  EXPECT_EQ(Render("\n\n{{ nope.x }}", in), "refused: t.jinja: line 3, column 9: 'nope' is undefined");
  EXPECT_EQ(Render("{{ raise_exception('only ' ~ 'users') }}", in),
            "refused: t.jinja: line 1, column 4: the template refuses: only users");
  EXPECT_EQ(Render("{% include 'x' %}", in),
            "refused: t.jinja: line 1, column 4: the statement include has no meaning in a chat template");
  EXPECT_EQ(
      Render("{{ messages | pprint }}", in),
      "refused: t.jinja: line 1, column 15: the filters pprint, striptags, urlize and wordwrap are not supported in "
      "chat templates");
  EXPECT_EQ(Render("{{ messages.append(1) }}", in).substr(0, 39), "refused: t.jinja: line 1, column 13: ac");
}

TEST(Jinja, AHostileTemplateEndsWithASentence) {
  const char* const shared =
      "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
      "{{ ns.l == ns.l[:] }}{{ ns.l | tojson }}";
  for (const char* source : {
           shared,
           "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
           "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
           "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
           "{{ 'x' * 1000000000 }}",
           "{{ [0] * 1000000000 }}",
           "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
           "{{ '%999999999d' % 1 }}",
           "{{ '{:999999999}'.format(1) }}",
           "{{ 'a'.center(1000000000) }}",
           "{% set ns = namespace() %}{% set ns.me = [ns] %}{{ ns }}",
           "{{ range(9999999) }}",
       }) {
    EXPECT_EQ(Render(source, Given()).substr(0, 30), "refused: t.jinja: line 1, colu") << source;
  }
  const std::string deep = "{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}";
  EXPECT_NE(Render(deep, Given()).find("nested too deeply"), std::string::npos);
}

TEST(Jinja, ALargeDocumentIsNoHostileTemplate) {
  std::string document;
  while (document.size() < (4u << 20)) document += "A line of a long document. \xC3\xA9\n";
  const Inputs in = Given({{"messages", {{{"role", "user"}, {"content", document}}}}});
  const std::string text = Render("{% for m in messages %}{{ '[' + m.content.strip() + ']' | trim }}{% endfor %}", in);
  EXPECT_EQ(text.size(), document.size() - 1 + 2 + 4);
}

TEST(Jinja, ScopesAreJinjas) {
  const Inputs in = Given({{"s", "given"}});
  EXPECT_EQ(Render("{% for i in [1, 2] %}{% set s = i %}{{ s }}{% endfor %}{{ s }}", in), "12«given»");
  EXPECT_EQ(Render("{% for i in [1] %}{{ s }}{% endfor %}{% set s = 'late' %}{{ s }}", in), "late");
  EXPECT_EQ(Render("{% macro m() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ m() }}{% set x = 2 %}{{ m() }}", in), "12");
  EXPECT_EQ(
      Render("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", in),
      "3");
}

TEST(Jinja, InputsThatTheEngineCannotHoldAreRefused) {
  nlohmann::ordered_json deep = 1;
  for (int i = 0; i < 200; ++i) deep = nlohmann::ordered_json::array({deep});
  EXPECT_EQ(Render("x", Given({{"deep", deep}})),
            "refused: t.jinja: the input's lists and objects lie too deeply in each other");
  EXPECT_EQ(Render("x", Given({{"n", 18446744073709551615u}})),
            "refused: t.jinja: the input has a whole number larger than 64 bits");
}

}  // namespace
}  // namespace duo::jinja
