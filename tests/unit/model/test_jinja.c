/* The template interpreter: rows of golden/tokenizer/templates.jsonl whose templates are known,
 * small templates with known results, what is refused and where, and its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/jinja.h"
#include "model/tokenizer_config.h"
#include "tests/support/support.h"

#include <stdio.h>
#include <string.h>

#define PATH_ROOM 1024
#define VARIABLES                                                                                  \
    "{\"m\":[{\"r\":\"u\",\"c\":\"Hi\"},{\"r\":\"a\",\"c\":\" yo \",\"d\":{\"k\":[1,2.5,null]}}]," \
    "\"n\":null,\"t\":true,\"s\":\"a-b-c\",\"i\":7}"

static struct json *parse(const char *text, size_t n)
{
    struct json *value;

    assert_ok(json_parse(text, n, 16, &value));
    return value;
}

static void expect_result(const char *template, const char *want)
{
    const struct jinja_constant bos = {"bos_token", "<s>", 3};
    struct json *variables = parse(VARIABLES, strlen(VARIABLES));
    const struct jinja_input input = {.variables = variables, .constants = &bos, .n_constants = 1};
    struct jinja *program;
    struct jinja_output out;

    assert_ok(jinja_compile(template, strlen(template), &program));
    assert_ok(jinja_render(program, &input, &out));
    assert_string_equal(out.text.bytes, want);
    assert_int_equal(out.text.count, out.marks.count);
    jinja_output_dispose(&out);
    jinja_destroy(program);
    json_destroy(variables);
}

static void expressions_have_the_values_of_jinja(void **state)
{
    (void)state;
    expect_result("{{ bos_token + m[0].c ~ i }}", "<s>Hi7");
    expect_result("{{ m[1]['c'] | trim }}|{{ m[-1].c.strip(' y') }}", "yo|o");
    expect_result("{{ s.split('-')[1] }}{{ s.split('-', 1)[1] }}{{ s.split('-') | join('+') }}",
                  "bb-ca+b+c");
    expect_result("{{ 1 + 2 * 3 - 7 // 2 }} {{ -7 % 3 }} {{ 2 < 3 and not 3 <= 2 }}", "4 2 True");
    expect_result("{{ m | length }}{{ s[0:1] }}{{ s[-1:] }}{{ s[:-2] }}", "2aca-b");
    expect_result("{{ x is defined }} {{ n is none }} {{ n is not none }} {{ s is string }}",
                  "False True False True");
    expect_result("{{ 'b' in s }} {{ 'z' not in s }} {{ 'r' in m[0] }} {{ 2 in [1, 2] }}",
                  "True True True True");
    expect_result("{{ x | default('d') }}{{ '' | default('e', true) }}{{ 'y' if t else 'n' }}",
                  "dey");
    expect_result("{{ m[1].d | tojson }}{{ m[0] | tojson }}",
                  "{\"k\": [1, 2.5, null]}{\"r\": \"u\", \"c\": \"Hi\"}");
    expect_result("{{ x }}{{ n }}{{ t }}{{ s.startswith('a') and s.endswith('c') }}",
                  "NoneTrueTrue");
}

static void statements_and_blanks_follow_jinja(void **state)
{
    (void)state;
    expect_result("{% for x in m %}{{ loop.index0 }}{{ x.r }}{% if not loop.last %}, {% endif %}"
                  "{% endfor %}",
                  "0u, 1a");
    expect_result("{% for x in m[::-1] %}{{ x.r }}{% endfor %}{% for x in q %}{% else %}-"
                  "{% endfor %}",
                  "au-");
    expect_result("{% set a = 1 %}{% for x in m %}{% set a = a + 1 %}{% endfor %}{{ a }}", "1");
    expect_result("{% set ns = namespace(a=1) %}{% for x in m %}{% set ns.a = ns.a + 1 %}"
                  "{% endfor %}{{ ns.a }}",
                  "3");
    expect_result("{% for k, v in m[0].items() %}{{ k }}={{ v }};{% endfor %}", "r=u;c=Hi;");
    expect_result("{% for x in m if x.r == 'a' %}{{ loop.length }}{% endfor %}", "1");
    expect_result("a  {%- if t -%}  b  {%- elif n %}c{% else %}d{% endif %} e\n", "ab e");
    expect_result("a\n  {% if t %}\n  b\n  {% endif %}\n c {# x #}\n", "a\n  b\n c ");
    expect_result("{{ 'a\\n' }}\n{{ \"b\\\"\" }}", "a\n\nb\"");
}

static void macros_filters_and_literals_follow_jinja(void **state)
{
    (void)state;
    expect_result("{% macro f(a, b='x', c=b) %}{{ a }}{{ b }}{{ c }}{% endmacro %}"
                  "{{ f(1) }} {{ f(1, b=2) }} {{ f(c=3, a='q') }} {{ f() }}",
                  "1xx 122 qx3 xx");
    expect_result("{% set g = 'G' %}{% macro f(x) %}{{ g }}{{ x }}{{ y }}{% set g = 1 %}"
                  "{% endmacro %}{% for y in [1] %}{{ f(y) }}{% endfor %}{{ g }}",
                  "G1G");
    expect_result("{% macro a() %}<{% endmacro %}{% macro b(x) %}{{ a() }}{{ x }}"
                  "{% endmacro %}{{ b('z') ~ b('w') }}",
                  "<z<w");
    expect_result("{{ m | map(attribute='r') | join(',') }} {{ [' a', 'b '] | map('trim') | list "
                  "| length }} {{ m | map(attribute='d.k', default='?') | first }}",
                  "u,a 2 ?");
    expect_result("{{ {'b': 1, \"a\": [true, none, 'é\\n']} | tojson }}"
                  "{{ {'b': 1, 'a': {}} | tojson(sort_keys=true, separators=(',', ':')) }}"
                  "{{ 'é😀' | tojson(ensure_ascii=true) }}",
                  "{\"b\": 1, \"a\": [true, null, \"é\\n\"]}{\"a\":{},\"b\":1}"
                  "\"\\u00e9\\ud83d\\ude00\"");
    expect_result("{{ [1, {'a': []}] | tojson(indent=2) }}", "[\n  1,\n  {\n    \"a\": []\n  }\n]");
    expect_result("{{ ('{\"a\": [1, 2.50]}' | from_json).a[1] }} {{ '3' | from_json + 1 }}",
                  "2.5 4");
    expect_result(
        "{{ s[::-1] }} {{ s[1:4:2] }} {{ [1, 2, 3, 4][::2] | join }} {{ s[0] }}{{ s[9] }}",
        "c-b-a -- 13 a");
    expect_result("{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}"
                  "{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}"
                  "{{ range(7, 0, -3) | join(' ') }}",
                  "027 4 1");
    expect_result("a\n {% raw %}\n{{ x }} {% if %}{% endraw %}\nb", "a\n\n{{ x }} {% if %}b");
    expect_result("{% set x %}1{{ s }}{% endset %}{{ x | length }}", "6");
    expect_result(
        "{% for x in m %}{{ loop.nextitem is defined }}{{ loop.previtem is defined }}{% endfor %}",
        "TrueFalseFalseTrue");
    expect_result("{{ 'x' in ['x'] and [1, [2]] == [1, [2]] }} {{ i is in [7] }} "
                  "{{ s is equalto 'a-b-c' }} {{ ' a  b ' .split() | join('|') }}",
                  "True True True a|b");
    expect_result("{{ 'a' 'b' }}{{ '\\x41\\u00e9\\d' }}{{ {'a': {'b': 1}}['a'].b }}", "abAé\\d1");
    expect_result("{{ 'a.b'.replace('.', '--') | capitalize }}{{ strftime_now is defined }}",
                  "A--bFalse");
    expect_result("a\r\n  {%- if t %}\r\nb{% endif %}\r\n", "ab");
}

static void what_is_not_known_is_refused_with_its_place(void **state)
{
    static const char *const cases[][2] = {
        {"a\n {{ x | wat }}", "2:9: this filter"},
        {"{% include 'x' %}", "1:4: this statement"},
        {"{% if x %}{% macro f() %}{% endmacro %}{% endif %}", "1:14: a macro inside"},
        {"{% macro f() %}{{ f() }}{% endmacro %}", "this function"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "this argument"},
        {"{% macro f() %}", "endmacro"},
        {"{% break %}", "outside of a loop"},
        {"{% raw %}{{", "raw block"},
        {"{{ x | tojson(indentation=2) }}", "this argument"},
        {"{{ x.replace('a') }}", "an argument is missing"},
        {"{{ x | map('wat') }}", "1:12: this filter"},
        {"{{ x | map }}", "map takes"},
        {"{{ namespace(1) }}", "name=value"},
        {"{{ x.items }}", "1:6: this attribute"},
        {"{{ loop.cycle }}", "1:9: this attribute"},
        {"{{ 1 < x < 3 }}", "chain"},
        {"{{ 1.5 }}", "not an integer"},
        {"{{ '\\N{DIGIT ONE}' }}", "escape"},
        {"{{ s[] }}", "1:5: a subscript"},
        {"{{ x ** 2 }}", "a value"},
        {"{{ x / 2 }}", "cannot stand"},
        {"{{ 'a' if x else }}", "a value"},
        {"{% set a, b = x %}", "expected ="},
        {"{% do x %}", "this statement"},
        {"{{ f(1) }}", "this function"},
        {"{{ x.format(1) }}", "this method"},
        {"{{ x is odd }}", "this test"},
        {"{% if x %}", "expected endif"},
        {"{% endif %}", "endif"},
        {"{{ x", "ends inside"},
        {"{{ 'x }}", "without end"},
        {"{# x", "comment"},
        {"{{ 1 + }}", "a value"},
        {"{{ a b }}", "should end"},
        {"{{ {1 2} }}", "expected :"},
    };
    struct jinja *program;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(jinja_compile(cases[i][0], strlen(cases[i][0]), &program), STATUS_BAD_FORMAT,
                      cases[i][1]);
        assert_null(program);
    }
}

static void expect_failure(const char *template, enum status status, const char *message)
{
    struct json *variables = parse(VARIABLES, strlen(VARIABLES));
    const struct jinja_input input = {.variables = variables};
    struct jinja *program;
    struct jinja_output out;

    assert_ok(jinja_compile(template, strlen(template), &program));
    assert_status(jinja_render(program, &input, &out), status, message);
    assert_null(out.text.bytes);
    jinja_destroy(program);
    json_destroy(variables);
}

static void mistakes_and_endless_work_end_with_a_message(void **state)
{
    (void)state;
    expect_failure("{{ raise_exception('no ' + s) }}", STATUS_BAD_FORMAT, "refuses: no a-b-c");
    expect_failure("{{ x.y.z }}", STATUS_BAD_FORMAT, "1:6: ");
    expect_failure("{{ s + n }}", STATUS_BAD_FORMAT, "1:6: ");
    expect_failure("{{ strftime_now('%Y') }}", STATUS_BAD_FORMAT, "date");
    expect_failure("{{ 'not json' | from_json }}", STATUS_BAD_FORMAT, "1:17: from_json");
    expect_failure("{{ 'é' | upper }}", STATUS_BAD_FORMAT, "ASCII");
    expect_failure("{{ {i: 1} }}", STATUS_BAD_FORMAT, "keys");
    expect_failure("{% for a in range(2000) %}{% for b in range(2000) %}{% endfor %}{% endfor %}",
                   STATUS_UNSUPPORTED, "1:30: more than 10^6 steps");
    expect_failure("{% for a in range(2000) %}{{ ('x' * 0) }}{% endfor %}", STATUS_BAD_FORMAT,
                   "whole numbers");
    expect_failure("{% set ns = namespace(x='0123456789abcdef') %}{% for a in range(11) %}"
                   "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{% for a in range(40) %}{{ ns.x }}"
                   "{% endfor %}",
                   STATUS_UNSUPPORTED, "1048576 bytes of output");
    expect_failure("{% set ns = namespace(l=m) %}"
                   "{% for a in s.split('-') %}{% for b in s.split('-') %}{% set ns.l = [ns.l,1] %}"
                   "{% endfor %}{% endfor %}{{ ns.l }}",
                   STATUS_BAD_FORMAT, "tojson");
    expect_failure("{% set ns = namespace(x='0123456789012345') %}{% for a in m %}{% for b in m %}"
                   "{% for c in m %}{% for d in m %}{% for e in m %}"
                   "{% set ns.x = ns.x + ns.x %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}"
                   "{% endfor %}{{ ns.x }}",
                   STATUS_UNSUPPORTED, "MiB");
}

static void every_byte_is_marked_as_template_or_data(void **state)
{
    static const char template[] = "a{{ m[0].c + 'b' }}{{ bos_token }}{{ (s + 'x')[1:] }}";
    const struct jinja_constant bos = {"bos_token", "<s>", 3};
    struct json *variables = parse(VARIABLES, strlen(VARIABLES));
    const struct jinja_input input = {.variables = variables, .constants = &bos, .n_constants = 1};
    struct jinja *program;
    struct jinja_output out;

    (void)state;
    assert_ok(jinja_compile(template, sizeof(template) - 1, &program));
    assert_ok(jinja_render(program, &input, &out));
    assert_string_equal(out.text.bytes, "aHib<s>-b-cx");
    assert_memory_equal(out.marks.bytes, "\1\0\0\1\1\1\1\0\0\0\0\1", 12);
    jinja_output_dispose(&out);
    jinja_destroy(program);
    json_destroy(variables);
}

/* --- The published templates --- */

static struct jinja *load_template(const char *name, struct json **config)
{
    char relative[64], path[PATH_ROOM];
    struct jinja *program;

    (void)snprintf(relative, sizeof(relative), "data/%s-tokenizer", name);
    assert_true(support_shared_path(relative, path, sizeof(path)));
    assert_ok(tokenizer_config_load(path, config));
    const struct json *template = json_get(*config, "chat_template");
    assert_ok(jinja_compile(json_text(template, ""), json_text_bytes(template), &program));
    return program;
}

static const struct json *content_of(const struct json *token)
{
    return json_is(token, JSON_OBJECT) ? json_get(token, "content") : token;
}

/* Renders the row and compares, if it is one of the template `name`. */
static bool check_row(const char *name, struct jinja *program,
                      const struct jinja_constant *constant, const struct json *row, size_t line)
{
    const struct jinja_input input = {.variables = row, .constants = constant, .n_constants = 1};
    struct jinja_output out;
    if (strcmp(json_text(json_get(row, "template"), ""), name) != 0) {
        return false;
    }
    assert_ok(jinja_render(program, &input, &out));
    if (strcmp(out.text.bytes, json_text(json_get(row, "text"), "")) != 0) {
        fail_msg("templates.jsonl:%zu: got %s", line, out.text.bytes);
    }
    jinja_output_dispose(&out);
    return true;
}

static size_t check_rows(const char *name, const char *rows, size_t n_rows)
{
    struct json *config;
    struct jinja *program = load_template(name, &config);
    const struct json *bos = content_of(json_get(config, "bos_token"));
    const struct jinja_constant constant = {"bos_token", json_text(bos, NULL),
                                            json_text_bytes(bos)};
    size_t line = 1, n_checked = 0;

    for (const char *at = rows; at < rows + n_rows; line++) {
        const char *end = strchr(at, '\n');
        struct json *row = parse(at, (size_t)(end - at));
        at = end + 1;
        n_checked += check_row(name, program, &constant, row, line) ? 1 : 0;
        json_destroy(row);
    }
    jinja_destroy(program);
    json_destroy(config);
    return n_checked;
}

static void published_templates_render_exactly_tools_included(void **state)
{
    char path[PATH_ROOM];
    char *rows;
    size_t n, n_checked = 0;

    (void)state;
    if (!support_shared_path("golden/tokenizer/templates.jsonl", path, sizeof(path))) {
        skip();
    }
    assert_ok(file_read(path, (size_t)64 << 20, &rows, &n));
    n_checked += check_rows("deepseek-v3", rows, n);
    n_checked += check_rows("llama3", rows, n);
    n_checked += check_rows("qwen3", rows, n);
    memory_free(rows);
    print_message("templates: %zu rows rendered\n", n_checked);
    assert_true(n_checked >= 260);
}

static enum status attempt_render(void *context)
{
    static const char template[] = "{% for x in m %}{{ (x.c + s) | trim }}{{ x | tojson }}"
                                   "{% set y = s.split('-') %}{% endfor %}";
    const struct jinja_input input = {.variables = context};
    struct jinja *program;
    struct jinja_output out = {0};

    TRY(jinja_compile(template, sizeof(template) - 1, &program));
    const enum status status = jinja_render(program, &input, &out);
    jinja_output_dispose(&out);
    jinja_destroy(program);
    return status;
}

static void rendering_survives_every_failed_allocation(void **state)
{
    struct json *variables = parse(VARIABLES, strlen(VARIABLES));

    (void)state;
    assert_true(support_fail_allocations(attempt_render, variables) > 5);
    json_destroy(variables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions_have_the_values_of_jinja),
        cmocka_unit_test(statements_and_blanks_follow_jinja),
        cmocka_unit_test(macros_filters_and_literals_follow_jinja),
        cmocka_unit_test(what_is_not_known_is_refused_with_its_place),
        cmocka_unit_test(mistakes_and_endless_work_end_with_a_message),
        cmocka_unit_test(every_byte_is_marked_as_template_or_data),
        cmocka_unit_test(published_templates_render_exactly_tools_included),
        cmocka_unit_test(rendering_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
