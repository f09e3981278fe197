/* JSON: hostile text refused with its place, values read with fallbacks, canonical printing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "tests/support/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct json *parse(const char *text)
{
    struct json *value;

    assert_ok(json_parse(text, strlen(text), 8, &value));
    return value;
}

static void assert_prints(const struct json *value, const char *wanted)
{
    char *text;
    size_t n;

    assert_ok(json_print(value, &text, &n));
    assert_string_equal(text, wanted);
    assert_int_equal(n, strlen(wanted));
    memory_free(text);
}

static void values_are_found_by_key_path_and_index(void **state)
{
    struct json *value = parse("{\"a\":{\"b\":[1,2.5,\"x\",true,null]},\"n\":-7}");
    const struct json *list = json_path(value, "a.b");

    (void)state;
    assert_int_equal(json_count(list), 5);
    assert_int_equal(json_int(json_at(list, 0), 9), 1);
    assert_int_equal(json_int(json_at(list, 1), 9), 2);
    assert_true(json_number(json_at(list, 1), 9) == 2.5);
    assert_string_equal(json_text(json_at(list, 2), "-"), "x");
    assert_int_equal(json_text_bytes(json_at(list, 2)), 1);
    assert_true(json_bool(json_at(list, 3), false));
    assert_true(json_is(json_at(list, 4), JSON_NULL));
    assert_null(json_at(list, 5));
    assert_int_equal(json_int(json_get(value, "n"), 9), -7);
    assert_null(json_path(value, "a.b.c"));
    assert_null(json_path(value, "a.x"));
    assert_null(json_get(list, "a"));
    assert_int_equal(json_int(NULL, 9), 9);
    assert_string_equal(json_text(json_get(value, "n"), "-"), "-");
    assert_int_equal(json_count(json_get(value, "n")), 0);
    json_destroy(value);
}

static void members_are_visited_once_each(void **state)
{
    struct json *value = parse("{\"a\":1,\"b\":2,\"c\":4}");
    struct json_iterator member = {.object = value};
    int64_t sum = 0;

    (void)state;
    while (json_next(&member)) {
        assert_int_equal(member.key_bytes, 1);
        sum += json_int(member.value, 0);
    }
    assert_int_equal(sum, 7);
    struct json_iterator none = {.object = json_get(value, "a")};
    assert_false(json_next(&none));
    json_destroy(value);
}

static void bad_text_is_refused_with_its_place(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"", ""},
        {"{", "1:1"},
        {"{\"a\":1,\n \"a\":2}", "2:"},
        {"[1,]", "1:"},
        {"[1] x", "1:"},
        {"[1e999]", "real number overflow"},
        {"[99999999999999999999]", "too big integer"},
        {"[\"\xff\"]", "decode byte 0xff"},
        {"[\"\\u0000\"]", "\\u0000"},
        {"[\"\\ud800\"]", "\\uD800"},
        {"[NaN]", "1:"},
        {"[\n [[[[[[[[]]]]]]]]]", "2:9: JSON nests deeper than 8"},
        {"[\"a\nb\"]", "unexpected newline"},
    };
    struct json *value;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_status(json_parse(cases[i].text, strlen(cases[i].text), 8, &value),
                      STATUS_BAD_FORMAT, cases[i].why);
        assert_null(value);
    }
    assert_status(json_parse("{\"a\":\"x\0\"}", 10, 8, &value), STATUS_BAD_FORMAT, NULL);
}

static void brackets_inside_strings_are_no_nesting(void **state)
{
    struct json *value = parse("[\"[[[[[[[[[[[[\\\"[[[[[\\\\\"]");

    (void)state;
    assert_string_equal(json_text(json_at(value, 0), ""), "[[[[[[[[[[[[\"[[[[[\\");
    json_destroy(value);
}

static void nul_escapes_are_read_only_where_allowed(void **state)
{
    struct json *value;

    (void)state;
    assert_ok(json_parse_with_nul("\"a\\u0000b\"", 10, 8, &value));
    assert_int_equal(json_text_bytes(value), 3);
    assert_memory_equal(json_text(value, ""), "a\0b", 4);
    json_destroy(value);
}

static void printing_is_canonical_and_reads_back(void **state)
{
    struct json *value = parse(" { \"b\" : 0.1, \"a\" : [ 1, -0.0, 1.5e10, \"\\u00e9\\n\" ] } ");

    (void)state;
    assert_prints(value, "{\"a\":[1,-0.0,15000000000.0,\"\xc3\xa9\\n\"],\"b\":0.1}");
    assert_prints(json_get(value, "b"), "0.1");
    json_destroy(value);
}

static void numbers_are_printed_with_the_digits_they_need(void **state)
{
    struct json *value = parse("[ 1e-5, 0.3, 0.30000000000000004, 1.7976931348623157e308 ]");

    (void)state;
    assert_prints(json_at(value, 0), "1e-5");
    assert_prints(json_at(value, 1), "0.3");
    assert_prints(json_at(value, 2), "0.30000000000000004");
    assert_prints(json_at(value, 3), "1.7976931348623157e308");
    json_destroy(value);
}

static void builders_make_what_they_say(void **state)
{
    struct json *object = json_object_create();
    struct json *list = json_array_create();

    (void)state;
    assert_ok(json_append(list, json_from_bool(true)));
    assert_ok(json_append(list, json_from_number((double)NAN)));
    assert_ok(json_append(list, json_from_number((double)INFINITY)));
    assert_ok(json_append(list, json_null_create()));
    assert_ok(json_append(list, json_from_int(INT64_MIN)));
    assert_ok(json_put(object, "list", list));
    assert_ok(json_put(object, "text", json_from_text("a\xff\xe2\x82z", 5)));
    assert_prints(object, "{\"list\":[true,null,null,null,-9223372036854775808],"
                          "\"text\":\"a\xef\xbf\xbd\xef\xbf\xbdz\"}");
    assert_status(json_put(object, "none", NULL), STATUS_NO_MEMORY, "none");
    struct json *kept = json_retain(json_get(object, "text"));
    json_destroy(object);
    assert_int_equal(json_text_bytes(kept), 8);
    json_destroy(kept);
    json_destroy(NULL);
}

static void large_texts_are_printed_whole(void **state)
{
    struct json *list = json_array_create();
    char *text;
    size_t n;

    (void)state;
    for (int64_t i = 0; i < 20000; i++) {
        assert_ok(json_append(list, json_from_int(1000000 + i)));
    }
    assert_ok(json_print(list, &text, &n));
    assert_int_equal(n, 20000 * 8 + 1);
    json_destroy(list);
    assert_ok(json_parse(text, n, 1, &list));
    assert_int_equal(json_int(json_at(list, 19999), 0), 1019999);
    json_destroy(list);
    memory_free(text);
}

static void numbers_outside_int64_are_clamped(void **state)
{
    struct json *value = parse("[1e30,-1e30]");

    (void)state;
    assert_true(json_int(json_at(value, 0), 0) == INT64_MAX);
    assert_true(json_int(json_at(value, 1), 0) == INT64_MIN);
    json_destroy(value);
}

static void files_are_named_when_they_are_bad(void **state)
{
    char folder[128];
    char path[160];
    struct json *value;

    (void)state;
    support_temp_dir(folder, sizeof(folder));
    (void)snprintf(path, sizeof(path), "%s/a.json", folder);
    assert_ok(file_write_atomic(path, "{\"a\":\n}", 7));
    assert_status(json_load(path, 100, 8, &value), STATUS_BAD_FORMAT, "a.json: 2:1");
    assert_status(json_load(path, 6, 8, &value), STATUS_BAD_FORMAT, "larger than 6");
    assert_ok(file_write_atomic(path, "{\"a\":5}", 7));
    assert_ok(json_load(path, 7, 8, &value));
    assert_int_equal(json_int(json_get(value, "a"), 0), 5);
    json_destroy(value);
    support_temp_dir_remove(folder);
}

static void broken_utf8_is_repaired_part_by_part(void **state)
{
    static const struct {
        const char *text, *wanted;
    } cases[] = {
        {"plain", "plain"},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"\xc0\x80", "??"},           /* overlong */
        {"\xe0\x80\x80", "???"},      /* overlong */
        {"\xed\xa0\x80", "???"},      /* surrogate */
        {"\xf4\x90\x80\x80", "????"}, /* past U+10FFFF */
        {"\xe2\x82", "?"},            /* cut */
        {"\xf0\x9f\x98z", "?z"},
        {"\x80z\xff", "?z?"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char wanted[64];
        size_t n_wanted = 0;
        char *text;
        size_t n;
        bool is_lossy;
        const bool has_mark = strchr(cases[i].wanted, '?') != NULL;
        for (const char *c = cases[i].wanted; *c != '\0'; c++) {
            memcpy(wanted + n_wanted, *c == '?' ? "\xef\xbf\xbd" : c, *c == '?' ? 3 : 1);
            n_wanted += *c == '?' ? 3 : 1;
        }
        assert_ok(utf8_repair(cases[i].text, strlen(cases[i].text), &text, &n, &is_lossy));
        assert_int_equal(n, n_wanted);
        assert_memory_equal(text, wanted, n);
        assert_int_equal(is_lossy, has_mark);
        memory_free(text);
    }
    uint32_t code;
    assert_int_equal(utf8_sequence("\xf0\x9f\x98\x80", 4, &code), 4);
    assert_int_equal(code, 0x1f600);
    assert_int_equal(utf8_sequence("", 0, &code), 0);
}

static enum status read_and_print(void *context)
{
    static const char text[] = "{\"a\":[1,2.5,\"\\u00e9x\",{\"b\":null}],\"c\":{\"d\":true}}";
    struct json *value;
    char *printed = NULL;

    (void)context;
    TRY(json_parse(text, sizeof(text) - 1, 8, &value));
    const enum status status = json_print(value, &printed, NULL);
    json_destroy(value);
    memory_free(printed);
    return status;
}

static void short_memory_is_reported_at_every_point(void **state)
{
    (void)state;
    assert_true(support_fail_allocations(read_and_print, NULL) > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_found_by_key_path_and_index),
        cmocka_unit_test(members_are_visited_once_each),
        cmocka_unit_test(bad_text_is_refused_with_its_place),
        cmocka_unit_test(brackets_inside_strings_are_no_nesting),
        cmocka_unit_test(nul_escapes_are_read_only_where_allowed),
        cmocka_unit_test(printing_is_canonical_and_reads_back),
        cmocka_unit_test(numbers_are_printed_with_the_digits_they_need),
        cmocka_unit_test(builders_make_what_they_say),
        cmocka_unit_test(large_texts_are_printed_whole),
        cmocka_unit_test(numbers_outside_int64_are_clamped),
        cmocka_unit_test(files_are_named_when_they_are_bad),
        cmocka_unit_test(broken_utf8_is_repaired_part_by_part),
        cmocka_unit_test(short_memory_is_reported_at_every_point),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
