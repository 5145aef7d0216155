#!/usr/bin/env python3
"""Writes tests/golden/templates.json: small templates with what Jinja2 makes of them.

    python3 tools/golden_template.py            writes the file anew
    python3 tools/golden_template.py --check    makes it again and compares

Needs transformers and jinja2, which run as in transformers' apply_chat_template. The cases are
those of CASES, and statements and expressions of tools/check_template.py that both sides render.
"""
import json
import os
import random
import sys

import check_template as check

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden",
                      "templates.json")
RANDOM = 400

CHAT = {"messages": [{"role": "system", "content": " Be brief. "},
                     {"role": "user", "content": "Grüße <|im_end|>"},
                     {"role": "assistant", "content": "Hi!\n", "tool_calls": [
                         {"function": {"name": "f", "arguments": {"a": 1.0, "b": [True, None]}}}]}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "It's \"f\""}}],
        "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}

CASES = [
    # white space
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "  {% if true %}\n  b\n  {%- endif %}\nc", "{%+ if true %} x {% endif +%}\ny",
    "   {{ 1 }}\n{{ 2 -}}\n  z", "{# c #}\nx {#- d -#} y\n", " \t{# c #}\nx", "a  {#+ c +#}\nb", "x\r\ny\rz\n", "\n\n", "",
    "{% raw %}{{ no }}{% endraw %}\nq", "  {% raw -%}  {% if %} {%- endraw -%}  e", "{{-1}}|{{- 2 -}} 3", "{{ '}}' }}{{ {'a': {'b': 1}}['a']['b'] }}",
    # literals and operators
    "{{ 1_000 }} {{ 1.50 }} {{ 1e3 }} {{ 2.5e-7 }} {{ 1e16 }} {{ 123456789.125 }} {{ 0.1 + 0.2 }} {{ -0.0 }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 / 3 }} {{ 6 / 3 }}",
    "{{ 'a' 'b' ~ 1 ~ none ~ true ~ 1.0 ~ [1] }}", "{{ 'x' * 3 }}{{ [1, 2] * 2 }}{{ (1,) + (2,) }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 > 2 }} {{ 1 == 1.0 == true }}",
    "{{ 'a' in 'abc' }} {{ 1 in [1] }} {{ 'k' in {'k': 1} }} {{ 'z' not in 'abc' }} {{ 1 in u }}", "{{ '' in 'abc' }} {{ '' in '' }} {{ 'a' in '' }} {{ 'a%s' is divisibleby 3 }} {{ '%d' is even }}", "{{ '' or 'x' }} {{ 0 and 1 }} {{ not '' }} {{ none or [] }}",
    "{{ 'y' if u is defined else 'n' }}[{{ 'y' if false }}]", "{{ 'tab\\t\\x41\\u00e9\\U0001F642\\101\\q\\'' }}", "{{ \"it's\" }} {{ ['it\\'s', 'say \"x\"', 'both\\'\"'] }}",
    "{{ [none, true, 1.0, 'é\\n\\x07\\u200b', (1,), (), {'a': {}}] }}", "{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{{ 1.5 is number }}{{ true is number }}{{ true is integer }}",
    "{{ 'abcdef'[1:4] }}{{ 'abcdef'[::-1] }}{{ [1,2,3][-1] }}{{ '日本語'[1] }}{{ '日本語'[:2] }}{{ [1,2,3][5:] }}", "{{ x[9] }}{{ 'abc'[9] }}{{ {}.q }}{{ none.q }}",
    # statements
    "{% for a in [1,2,3] %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}", "{% for a in [] %}x{% else %}none{% endfor %}",
    "{% for a in [1,2,3,4] if a is even %}{{ loop.index0 }}{{ a }}{{ loop.last }} {% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for a in [1,2] %}{% for b in 'xy' %}{{ a }}{{ b }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for a in [1,2,3,4,5] %}{% if a == 2 %}{% continue %}{% endif %}{% if a == 4 %}{% break %}{% endif %}{{ a }}{% endfor %}",
    "{% for a in [1] %}{% continue %}{% else %}else{% endfor %}", "{% set x = 1 %}{% for a in [1,2] %}{{ x }}{% set x = a + 5 %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(n=0) %}{% for a in [1,2,3] %}{% set ns.n = ns.n + a %}{% endfor %}{{ ns.n }}{{ ns }}", "{% set a, b = 1, 'q' %}{{ a }}{{ b }}{% set t = 1, %}{{ t }}",
    "{% set x %}  {{ 1 }} y {% endset %}[{{ x }}]{% set y | trim | upper %} abc {% endset %}[{{ y }}]", "{% macro m(a, b='d', c=a) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }} {{ m('x', c=3) }} {{ m(b=2, a=1) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}{{ m() }}", "{% macro m() %}<{{ caller(5) }}>{% endmacro %}{% call(n) m() %}n={{ n }}{% endcall %}",
    "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% filter upper %}abc{{ 'ß' }}{% endfilter %}",
    "{% if false %}1{% elif 0 %}2{% elif 'x' %}3{% else %}4{% endif %}", "a{% generation %}b{{ 'é' }}{% endgeneration %}c{% generation %}{% endgeneration %}", "{% print 1, 'a' %}",
    "{% for i in range(3) %}{% generation %}{% set q = i %}{{ q }}{% endgeneration %}{{ q }}|{% endfor %}", "{{ range(5)|list }}{{ range(5, 1, -2)|list }}{{ range(0) }}{{ range(1, 9, 3) }}",
    "{% for i in [1,1,2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}",
    # names that a scope sets after others have read them
    "{% for i in [1] %}[{{ bos_token }}]{% endfor %}{% set bos_token = 1 %}{{ bos_token }}", "{% macro m() %}[{{ bos_token }}]{% endmacro %}{{ m() }}{% set bos_token = 1 %}{{ m() }}",
    "{% macro m() %}[{{ bos_token }}]{% endmacro %}{{ bos_token }}{{ m() }}{% set bos_token = 1 %}{{ m() }}", "{% for i in [1, 2] %}{% for j in [1] %}[{{ eos_token }}]{% endfor %}{% set eos_token = i %}{{ eos_token }}{% endfor %}",
    "{% macro m() %}[{{ bos_token }}]{% endmacro %}{{ m() }}{% if true %}{% set bos_token = 1 %}{% endif %}{{ m() }}", "{% macro m() %}[{{ bos_token }}]{% endmacro %}{{ m() }}{% if 1 %}{% set bos_token = 1 %}{% elif 0 %}{% set bos_token = 3 %}{% else %}{% set bos_token = 2 %}{% endif %}{{ m() }}",
    "{% set y %}[{{ bos_token }}]{% endset %}{{ y }}{% set bos_token = 2 %}", "{% for i in [1] if bos_token %}{{ i }}{% else %}none{% endfor %}{% set bos_token = 2 %}", "{% filter upper %}[{{ bos_token }}]{% endfilter %}{% set bos_token = 1 %}",
    "{% generation %}[{{ bos_token }}]{% endgeneration %}{% set bos_token = 1 %}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}[{{ bos_token }}]{% endcall %}{% set bos_token = 1 %}", "{% with a = bos_token %}{{ a }}{% for i in [1] %}[{{ eos_token }}]{% endfor %}{% set eos_token = 3 %}{% endwith %}",
    "{% macro m(bos_token) %}{% for i in [1] %}[{{ bos_token }}{{ eos_token }}]{% endfor %}{% set bos_token, eos_token = 1, 2 %}{{ bos_token }}{% endmacro %}{{ m(7) }}{{ eos_token }}", "{% for i in [] %}{% else %}{% for i in [1] %}[{{ bos_token }}]{% endfor %}{% set bos_token = 1 %}{% endfor %}",
    "{% if true %}{% macro m() %}[{{ bos_token }}]{% endmacro %}{{ m() }}{% set bos_token = 1 %}{% endif %}{{ m() }}", "{% for messages in messages %}{{ messages.role }}{% endfor %}{% set messages = 1 %}", "{% set bos_token = bos_token ~ 1 %}{% for i in [1] %}{{ bos_token }}{% set bos_token = 3 %}{% endfor %}",
    "{% set n = 2 %}{{ -1 ** n }} {{ (-1) ** n }} {{ (1 - 3) ** n }} {{ -1 ** 2 }} {{ -n ** n }} {{ (-1 ** n) ** n }} {{ -0.0 ** n }} {{ -2.5 ** n }} {{ 2 ** -n }} {{ -1 ** (false > 5) }} {{ -3 ** (2 | abs) }} {{ -3 ** [n, 2][1] }}",
    # filters and methods
    "{{ {'a': [1, 'é<', none]}|tojson }}{{ {'a': [1, {}, []]}|tojson(indent=2) }}{{ ['é', '🙂']|tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ '<a>'|e }}{{ '<a>'|safe + '<b>' }}{{ '<b>' + '<a>'|e }}{{ ('<a>'|safe)|upper ~ '<' }}{{ ['<'|safe] }}", "{{ 'a b  c'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ ' a b '.rsplit(none, 1) }}{{ 'x'.split('y') }}",
    "{{ 'hello wORLD o\\'neil-x (y)'|title }}{{ 'hello wORLD o\\'neil'.title() }}{{ 'éA ΑΣ'|capitalize }}{{ 'ΟΔΟΣ ΟΔΟΣ.'|lower }}{{ 'ßﬁǆ'|upper }}", "{{ 'abc'|replace('b', 'é') }}{{ 'abc'.replace('', '-') }}{{ 'aaa'.replace('a', 'b', 2) }}",
    "{{ '%s is %d, %5.2f|%-4s|%04d|%r %%'|format('x', 3, 2.5, 'q', 7, 'z') }}{{ '%(a)s' % {'a': 1} }}{{ '{} {}'.format(1, 'b') }}{{ '{1}{0}{k}{{'.format('a', 'b', k=3) }}",
    "{{ [3, 1, 2]|sort }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A']|sort(case_sensitive=true) }}{{ [1, 2, 3]|sort(reverse=true)|join('-') }}{{ {'b': 1, 'A': 2}|dictsort }}", "{{ ' 12 '|int + '3.9'|int + 'x'|int(7) }}{{ '1e2'|float }}{{ 'x'|float }}{{ 2.5|round }}{{ 3.14159|round(2) }}{{ 2.1|round(0, 'ceil') }}{{ 1e20|string }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|first }}{{ messages|map(attribute='role')|join(',') }}{{ messages|rejectattr('tool_calls')|list|length }}", "{{ [1, 2, 3, 4, 5]|batch(2, 0)|list }}{{ [1, 1, 'a', 'A']|unique|list }}{{ [1, 2]|sum }}{{ ['b', 'a']|min }}{{ []|first }}{{ 'abc'|last }}",
    "{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}", "{{ u|default('d') }}{{ ''|default('d', true) }}{{ none|default('d') }}{{ u|length }}{{ u|list }}", "{{ strftime_now('%d %b %Y %H:%M:%S %A %j') }}",
    "{{ ' x '.strip() }}{{ 'xxaxx'.strip('x') }}{{ 'abcabc'.find('c') }}{{ 'abcabc'.rfind('c') }}{{ 'aXbX'.count('X') }}{{ 'a'.zfill(3) }}{{ 'ab'.center(5, '*') }}{{ 'a\\nb\\r\\nc'.splitlines() }}{{ 'abc'.partition('b') }}",
    # conversations
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{%- for m in messages %}\n{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n{%- else %}\n[{{ m.role }}] {{ m['content'] }}\n{%- endif %}\n{%- endfor %}",
    "{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}{% for m in messages if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{{ m.tool_calls[0]['function']['arguments'].items() | list }}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0].content %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ system.strip() }}{{ loop_messages|length }}",
    "{{ raise_exception('no') }}", "{{ nothing.x }}", "{{ 1 + 'a' }}", "{{ [1].append(2) }}", "{{ {}|items|list }}{{ 1 in 2 }}", "{{ ''.join([1]) }}", "{{ 'a' < 1 }}", "{% set ns = namespace(_a=1) %}", "{{ range(100001) }}",
]


def cases():
    """(template, variables, answer) of what is compared."""
    for text in CASES:
        yield text, CHAT
    for i in range(4 * RANDOM):
        rng = random.Random("golden %d" % i)
        make = check.Maker(rng)
        text = make.out(make.expr()) if i % 2 else make.statement() + make.space() + make.statement()
        yield text, check.statement_variables(rng)


def main():
    rows, made = [], 0
    for i, (text, variables) in enumerate(cases()):
        answer = check.jinja(text, variables)
        if i >= len(CASES):  # of the random ones, those that say something and say it alike
            if made == RANDOM or not 2 < len(answer.get("text", "")) < 200 or " at 0x" in answer["text"]:
                continue
            if "generation" in text and not (text + answer["text"]).isascii():
                continue  # spans in blocks of set are places in characters, not bytes
            if "groupby" in text or "wordcount" in text or ".is" in text or " is " in text and "er" in text:
                continue
            made += 1
        if "error" in answer:
            answer = {"refused": True}
        rows.append(dict({"template": text, "variables": variables}, **answer))
    out = "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n"
    if sys.argv[1:] == ["--check"]:
        with open(GOLDEN, encoding="utf-8") as f:
            if f.read() != out:
                sys.exit("golden_template.py: tests/golden/templates.json is not what this makes")
        print("tests/golden/templates.json: the same")
        return
    with open(GOLDEN, "w", encoding="utf-8") as f:
        f.write(out)
    print("tests/golden/templates.json: %d cases" % len(rows))


if __name__ == "__main__":
    main()
