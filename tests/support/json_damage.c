/* Owns the places of json_damage.h: characters of the structure, bytes of strings, keys. */
#include "tests/support/json_damage.h"

#include "base/random.h"

#include <stdbool.h>
#include <string.h>

#define DEEP_LEVELS 5000u

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What a place must be. */
enum want { WANT_STRUCTURE, WANT_STRING, WANT_COLON, WANT_KEY };

/* A comma between digits may go: another number is left. */
static bool is_structure(const char *text, size_t n, size_t i)
{
    const char c = text[i];

    if (c == ',') {
        return i > 0 && i + 1 < n && !(is_digit(text[i - 1]) && is_digit(text[i + 1]));
    }
    return c != '\0' && strchr("{}[]:", c) != NULL;
}

static bool is_wanted(const char *text, size_t n, size_t i, bool is_in_string, enum want want)
{
    if (want == WANT_STRING) {
        return is_in_string && text[i] != '"' && text[i - 1] != '\\';
    }
    if (is_in_string) {
        return false;
    }
    if (want == WANT_STRUCTURE) {
        return is_structure(text, n, i);
    }
    if (want == WANT_COLON) {
        return text[i] == ':';
    }
    const size_t space = text[i] == '{' ? strspn(text + i + 1, " \n") : 0;
    return text[i] == '{' && text[i + 1 + space] == '"';
}

/* The number of wanted places, or with `nth` below it the offset of that one. */
static size_t scan(const char *text, size_t n, enum want want, size_t nth)
{
    bool is_in_string = false;
    size_t count = 0;

    for (size_t i = 0; i < n; i++) {
        if (is_wanted(text, n, i, is_in_string, want)) {
            if (count == nth) {
                return i;
            }
            count++;
        }
        if (text[i] == '\\' && is_in_string) {
            i++;
        } else if (text[i] == '"') {
            is_in_string = !is_in_string;
        }
    }
    return count;
}

static size_t find_place(const char *text, size_t n, enum want want, uint64_t place)
{
    const size_t count = scan(text, n, want, SIZE_MAX);

    return scan(text, n, want,
                count == 0 ? 0 : (size_t)random_below(place, RANDOM_TEST, 0, want, count));
}

/* text with text[at .. at + n_gone) replaced. */
static enum status replace(const char *text, size_t n, size_t at, size_t n_gone, const char *by,
                           size_t n_by, struct text_buffer *out)
{
    TRY(text_buffer_put(out, text, at));
    TRY(text_buffer_put(out, by, n_by));
    return text_buffer_put(out, text + at + n_gone, n - at - n_gone);
}

static enum status swap(const char *text, size_t n, uint64_t place, struct text_buffer *out)
{
    static const char from[] = "{}[]:,";
    static const char to[] = "[]{},:";
    const size_t at = find_place(text, n, WANT_STRUCTURE, place);

    return replace(text, n, at, 1, &to[strchr(from, text[at]) - from], 1, out);
}

/* The first key of an object once more, in front. */
static enum status repeat_key(const char *text, size_t n, uint64_t place, struct text_buffer *out)
{
    const size_t begin = find_place(text, n, WANT_KEY, place) + 1;
    const char *key = strchr(text + begin, '"');
    const size_t n_key = strcspn(key + 1, "\"") + 2;

    TRY(text_buffer_put(out, text, begin));
    TRY(text_buffer_put(out, key, n_key));
    TRY(text_buffer_put(out, ":0,", 3));
    return text_buffer_put(out, text + begin, n - begin);
}

static enum status nest(const char *text, size_t n, uint64_t place, struct text_buffer *out)
{
    const size_t at = find_place(text, n, WANT_COLON, place) + 1;

    TRY(text_buffer_put(out, text, at));
    for (unsigned i = 0; i < DEEP_LEVELS; i++) {
        TRY(text_buffer_put(out, place % 2 == 0 ? "[" : "{\"a\":", place % 2 == 0 ? 1 : 5));
    }
    return text_buffer_put(out, text + at, n - at);
}

static enum status put_tail(const char *text, size_t n, uint64_t place, struct text_buffer *out)
{
    static const char *const tails[] = {"x", "{}", ",", "]", "\"", "1"};

    TRY(text_buffer_put(out, text, n));
    return text_buffer_put(out, tails[place % 6], strlen(tails[place % 6]));
}

/* The text without what may be missing at its end. */
static size_t length_of(const char *text, size_t n)
{
    while (n > 0 && text[n - 1] != '}') {
        n--;
    }
    return n;
}

enum status json_damage(const char *text, size_t n, enum json_damage damage, uint64_t place,
                        struct text_buffer *out)
{
    const char control = (char)(1 + place % 31);

    switch (damage) {
    case DAMAGE_CUT:
        return text_buffer_put(out, text,
                               (size_t)random_below(place, RANDOM_TEST, 1, 0, length_of(text, n)));
    case DAMAGE_DROP:
        return replace(text, n, find_place(text, n, WANT_STRUCTURE, place), 1, "", 0, out);
    case DAMAGE_SWAP:
        return swap(text, n, place, out);
    case DAMAGE_UTF8:
        return replace(text, n, find_place(text, n, WANT_STRING, place), 0,
                       place % 2 == 0 ? "\xFF" : "\xC0\x80", place % 2 == 0 ? 1 : 2, out);
    case DAMAGE_CONTROL:
        return replace(text, n, find_place(text, n, WANT_STRING, place), 0, &control, 1, out);
    case DAMAGE_TWICE:
        return repeat_key(text, n, place, out);
    case DAMAGE_DEEP:
        return nest(text, n, place, out);
    case DAMAGE_TAIL:
        return put_tail(text, n, place, out);
    case DAMAGE_HEAD:
        return replace(text, n, 0, 0, "\xEF\xBB\xBF", 3, out);
    case DAMAGE_NUMBER:
    case JSON_DAMAGES:
        break;
    }
    return replace(text, n, find_place(text, n, WANT_COLON, place) + 1, 0,
                   place % 2 == 0 ? "NaN," : "-Infinity,", place % 2 == 0 ? 4 : 10, out);
}

const char *json_damage_name(enum json_damage damage)
{
    static const char *const names[JSON_DAMAGES] = {"cut",   "drop", "swap", "utf8", "control",
                                                    "twice", "deep", "tail", "head", "number"};

    return names[damage];
}
