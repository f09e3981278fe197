#!/usr/bin/env python3
"""Chat templates against jinja2, set up as model libraries do: the published texts on random conversations, by name
and interpreted, and templates of our own that have every construct hone knows."""
import datetime
import json
import pathlib
import random
import sys
import tempfile
import warnings

import support

try:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox
except ImportError:
    jinja2 = None

ROWS = 250  # conversations per template
PUBLISHED = ["deepseek-v3", "llama3", "qwen3"]


# --- jinja2 ---


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return env


def special(config, name):
    token = config.get(name)
    return token["content"] if isinstance(token, dict) else token


def expected(text, config, rows):
    """What jinja2 makes of the rows."""
    template = environment().from_string(text)
    tokens = {name: special(config, name) for name in ("bos_token", "eos_token") if special(config, name) is not None}
    return [template.render(**{"tools": None, "documents": None, **tokens, **row}) for row in rows]


def compare(folder, model, name, text, rows):
    """hone and jinja2 give the same bytes for every row; name: the template's here."""
    config = json.loads((model / "tokenizer_config.json").read_text())
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    got = support.hone("tok", "render", model, "--chat", name, "--file", source, "--lossy", check=0).stdout.rstrip("\n").split("\n")
    want = expected(text, config, rows)
    assert len(got) == len(want), f"{name}: {len(got)} results of {len(want)} rows"
    for row, line, text_wanted in zip(rows, got, want):
        text_got = json.loads(line)["text"]
        assert text_got == text_wanted, f"{name}: {json.dumps(row)}\n  hone   {text_got!r}\n  jinja2 {text_wanted!r}"
    return len(rows)


# --- Conversations ---

PIECES = ["a", "Hello, world!", " ", "\n", "\n\n", "\t", "\u00a0", "\u2003", "\u0085", "\u001c", "\ufeff", "é", "ß", "字字",
          "カタカナ", "😀", "👩‍👩‍👧", "e\u0301", "\u0130", "مرحبا", "12345", "{{ x }}", "{% if %}", "<think>", "</think>", "\\n", "\"", "'",
          "<｜User｜>", "<｜Assistant｜>", "<|im_end|>", "<|eot_id|>", "<tool_response>", "</tool_response>", "None", "\x01", "\x7f"]


def content(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(8)))


def arguments(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [arguments(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 8:
        return {content(rng): arguments(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, True, False, rng.randrange(-10**12, 10**12), rng.random() * 10**rng.randrange(-8, 20), content(rng),
            float(rng.randrange(1000))][kind]


def tool_call(rng, texts_only):
    given = {content(rng): arguments(rng) for _ in range(rng.randrange(3))}
    function = {"name": rng.choice(["now", "get_weather", "été"]),
                "arguments": json.dumps(given) if texts_only or rng.random() < 0.5 else given}
    return {"type": "function", "function": function}


def answer(rng, name):
    message = {"role": "assistant", "content": content(rng)}
    if name == "qwen3" and rng.random() < 0.3:
        message["reasoning_content"] = rng.choice([content(rng), None])
    if name != "llama3" and rng.random() < 0.3:
        message["tool_calls"] = [tool_call(rng, name == "deepseek-v3") for _ in range(rng.randrange(1, 4))]
        if name == "deepseek-v3":
            message["content"] = rng.choice([None, message["content"]])
    return message


def conversation(rng, name):
    """A row that the published template `name` takes."""
    roles = ["user", "assistant", "system"] + ([] if name == "llama3" else ["tool"])
    messages = []
    for _ in range(rng.randrange(1, 8)):
        role = rng.choice(roles)
        messages.append(answer(rng, name) if role == "assistant" else {"role": role, "content": content(rng)})
    row = {"messages": messages, "add_generation_prompt": rng.random() < 0.5}
    if name == "qwen3" and rng.random() < 0.4:
        row["tools"] = [{"type": "function", "function": {"name": "f", "parameters": arguments(rng)}}
                        for _ in range(rng.randrange(3))]
    if name == "qwen3" and rng.random() < 0.5:
        row["enable_thinking"] = rng.random() < 0.5
    return row


def published_templates(folder):
    for name in PUBLISHED:
        rng = random.Random(name)
        model = support.shared() / "data" / f"{name}-tokenizer"
        text = json.loads((model / "tokenizer_config.json").read_text())["chat_template"]
        rows = [conversation(rng, name) for _ in range(ROWS)]
        own = folder / f"{name}.jinja"
        own.write_bytes(text.encode())
        compare(folder, model, "auto", text, rows)
        compare(folder, model, own, text, rows)


# --- Templates of our own ---

OWN = ["""\
{%- macro part(title, body, open='<', close='>') -%}
    {{ open }}{{ title | trim }}{{ close }}{{ body }}{{ open ~ '/' ~ title ~ close }}
{% endmacro %}
{% macro line(x) %}{{ part('l', x | tojson) }}{% endmacro %}
{{- bos_token -}}
{% set ns = namespace(n=0, seen=[], text='') %}
  {# counted #}
{% for m in messages if m.role != 'system' %}
    {%- set ns.n = ns.n + (m.content or '') | length -%}
    {% set ns.seen = ns.seen + [m.role] %}
    {{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }} {{ part(m.role, m.content | default('?', true)) }}
    {% if loop.nextitem is defined and loop.nextitem.role == m.role %}again{% endif %}
    {% if m.role == 'tool' %}{% continue %}{% endif %}
    {{ line({'c': m.content, "n": ns.n, 'l': [loop.first, loop.last, none]}) -}}
{% else %}
    nothing
{% endfor %}
{{ ns.seen | join(', ') }} {{ messages | map(attribute='role') | map('upper') | join('|') }}
""", """\
{% for m in messages %}
  {%- for key, value in m.items() %}
{{ key }}={{ value | tojson(indent=2) }};
  {%- endfor %}
{%+ if m.tool_calls is defined and m.tool_calls %}
   {%- for call in m.tool_calls %}
     {%- set given = call.function.arguments %}
     {%- if given is string %}{% set given = given | from_json %}{% endif %}
     {%- for k in given %}{{ k }}: {{ given[k] | tojson(sort_keys=true, separators=(',', ':')) }} {% endfor %}
     {{- given | tojson(ensure_ascii=true) }}{{ given is mapping }}{{ given.items() | list | length }}
   {%- endfor %}
  {% endif +%}
{% endfor %}
{% raw %} {{ not this }} {% if %} {% endraw %}
tail
""", """\
{%- for m in messages[::-1] -%}
{%- if loop.index0 > 3 %}{% break %}{% endif -%}
[{{ m['content'][1:-1] }}|{{ m.content[::2] }}|{{ m.content[::-1] }}|{{ (m.content or 'x')[-1] }}]
{{ m.content.split('\\n') | length }} {{ m.content.split() | join('·') }} {{ m.content.strip() }} {{ m.content.lstrip('aé ') -}}
{{ m.content.startswith('<') }} {{ m.content.endswith('\\n') }} {{ '</think>' in m.content }} {{ m.content.replace('a', 'bb') }}
{% endfor -%}
{% set block %}
  {{ messages | length }} {{ range(3, 20, 5) | join('-') }} {{ 'x' if messages else 'y' }}
{% endset %}
{{ block | trim }}{{ messages[99] is defined }}{{ (messages | first).role }}{{ (messages | last)['role'] }}
"""]

ATOMS = ["m", "m[0].c", "m[-1]['r']", "s", "i", "t", "n", "u", "''", "'a'", "\"é\\n\\x41\"", "0", "1", "7", "true", "none", "[1, 'a', []]",
         "{'k': [1, {'z': none}], \"b\": i is defined}", "(1, 2)", "[]", "{}", "m[0]", "d"]
SUFFIXES = ["", "", "", " | length", " | tojson", " | default('D', true)", "[0]", "[-1]", "[1:]", "[:-1]", "[::2]",
            "[::-1]", ".strip()", ".split('-')", ".c", "['c']", " is defined", " is none", " is string", " is mapping", " is sequence",
            " is not boolean", " is number", " | list", " | first", " | last", " | tojson(indent=1)", " is in [1, 'a']",
            " | map(attribute='c') | list", ".get('c', 'G')", " | items | list", ".replace('-', '')", " | reverse | list"]
OPERATORS = [" + ", " == ", " != ", " in ", " not in ", " and ", " or "]
SCALARS = ["s", "i", "t", "n", "u", "''", "' x\\t'", "d.r", "d.e", "m[0].c", "-7", "m[0].c | upper", "true", "'aB-c it\\'s (dE 1e2' | title", "'aB cD' | capitalize", "'aB'.lower()"]
SCALAR_SUFFIXES = ["", " | trim", " | string", " | length", "[::-1]", ".split()", " | safe"]
NUMBERS = ["0", "1", "7", "-3", "i", "t", "-i", "s | length", "(m | length)"]
NUMBER_OPERATORS = [" + ", " - ", " * ", " // ", " % ", " < ", " <= ", " > ", " >= ", " == "]


def expression(rng, depth=0):
    kind = rng.randrange(8)
    if depth > 2 or kind < 2:
        return rng.choice(ATOMS)
    if kind == 7:
        return f"({rng.choice(SCALARS)} ~ {rng.choice(SCALARS)}){rng.choice(SCALAR_SUFFIXES)}"
    if kind == 6:
        return f"({rng.choice(NUMBERS)}{rng.choice(NUMBER_OPERATORS)}{rng.choice(NUMBERS)})"
    if kind == 2:
        return f"({expression(rng, depth + 1)})" + rng.choice(SUFFIXES)
    if kind == 3:
        return "not " + expression(rng, depth + 1) if depth == 0 else f"(not {expression(rng, depth + 1)})"
    if kind == 4:
        return f"({expression(rng, depth + 1)} if {expression(rng, depth + 1)} else {expression(rng, depth + 1)})"
    return f"({expression(rng, depth + 1)}{rng.choice(OPERATORS)}{expression(rng, depth + 1)}){rng.choice(SUFFIXES)}"


VARIABLES = {"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": False,
             "m": [{"r": "u", "c": "Hi"}, {"r": "a", "c": " yo "}], "s": "a-b-é", "i": 7, "t": True, "n": None,
             "d": {"r": 0.1, "e": 1e22, "k": "k", "l": [1, 2.0, -3]}}


def usable(env, text):
    """jinja2 takes it, and writes it as something else than Python's notation of a list or the like."""
    try:
        value = env.compile_expression(text, undefined_to_none=False)(**VARIABLES)
        return isinstance(value, (str, int, float, bool, type(None), jinja2.Undefined)) and str(value) is not None
    except Exception:  # whatever Python has against it
        return False


def random_expressions(rng):
    env = environment()
    found = []
    while len(found) < 1000:
        text = expression(rng)
        if usable(env, text):
            found.append("{{ " + text + " }}")
    return "\n".join(found)


def blanks(rng):
    return "".join(rng.choice([" ", "  ", "\n", "\n\n", "\t", "x", "é", "\r\n", "\u00a0", "-", "}"]) for _ in range(rng.randrange(5)))


def tag(rng, inside):
    return "{%" + rng.choice(["", "-", "+"]) + f" {inside} " + rng.choice(["", "-", "+"]) + "%}"


def random_blanks(rng):
    """Tags with every kind of blanks around and inside of them."""
    parts = []
    for _ in range(500):
        parts += [blanks(rng), rng.choice([
            tag(rng, "if t") + blanks(rng) + tag(rng, "endif"),
            tag(rng, "for x in m") + blanks(rng) + "{{ x.c }}" + blanks(rng) + tag(rng, "endfor"),
            tag(rng, "set y = {'a': {'b': 1}}"), "{#" + rng.choice(["", "-"]) + blanks(rng) + rng.choice(["", "-"]) + "#}",
            "{{" + rng.choice(["", "-"]) + " s " + rng.choice(["", "-"]) + "}}", "{{ {'a': {'b': s}}['a']['b'] }}",
            "{% raw %}" + blanks(rng) + "{{ }}" + blanks(rng) + rng.choice(["{% endraw %}", "{%- endraw -%}"])])]
    return "".join(parts)


def own_templates(folder):
    model = folder / "demo"
    support.hone("model", "init", model, "--preset", "demo", "--seed", 5, check=0)
    rng = random.Random("own")
    rows = [conversation(rng, "qwen3") for _ in range(ROWS)]
    cases = [(text, rows) for text in OWN] + [(random_expressions(rng), [VARIABLES]), (random_blanks(rng), [VARIABLES])]
    for index, (text, its_rows) in enumerate(cases):
        path = folder / f"own{index}.jinja"
        path.write_bytes(text.encode())
        compare(folder, model, path, text, its_rows)


def main():
    if jinja2 is None or support.shared() is None:
        print("needs python3-jinja2 and the shared data")
        return support.SKIP
    warnings.simplefilter("ignore", SyntaxWarning)  # Python about the expressions
    with tempfile.TemporaryDirectory(prefix="hone-templates-") as folder:
        published_templates(pathlib.Path(folder))
        own_templates(pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
