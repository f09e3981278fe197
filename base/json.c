/* Owns the meeting with jansson, which has enum constants of the same names as hone's kinds. They
 * are renamed while its header is read; its json_is_* macros must therefore not be used here. */
#define JSON_OBJECT JANSSON_OBJECT
#define JSON_ARRAY JANSSON_ARRAY
#define JSON_STRING JANSSON_STRING
#define JSON_INTEGER JANSSON_INTEGER
#define JSON_REAL JANSSON_REAL
#define JSON_TRUE JANSSON_TRUE
#define JSON_FALSE JANSSON_FALSE
#define JSON_NULL JANSSON_NULL
#include <jansson.h>
#undef JSON_OBJECT
#undef JSON_ARRAY
#undef JSON_STRING
#undef JSON_INTEGER
#undef JSON_REAL
#undef JSON_TRUE
#undef JSON_FALSE
#undef JSON_NULL

#include "base/file.h"
#include "base/json_internal.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

#define PATH_KEY_ROOM 128

/* jansson's parser takes some failed allocations for syntax errors, drops bytes after others and
 * asserts on the rest: they are noted here, and it gets a second try so that it comes to an end. */
static _Thread_local bool ran_short, is_parsing;

static void *take_block(size_t n)
{
    void *block = memory_library_alloc(n);

    ran_short = ran_short || block == NULL;
    return block == NULL && is_parsing ? memory_library_alloc(n) : block;
}

/* Before main: jansson's tables get a random seed and its heap is hone's, once and for all. */
__attribute__((constructor)) static void adopt_jansson(void)
{
    json_set_alloc_funcs(take_block, memory_library_free);
    json_object_seed(0);
}

static json_t *inner(struct json *value)
{
    return (json_t *)(void *)value;
}

static const json_t *inner_const(const struct json *value)
{
    return (const json_t *)(const void *)value;
}

static struct json *outer(json_t *value)
{
    return (struct json *)(void *)value;
}

/* jansson's iterators and setters take no const, though they only read here. */
static json_t *inner_mutable(const struct json *value)
{
    const union {
        const struct json *given;
        json_t *taken;
    } same = {.given = value};

    return same.taken;
}

/* ---- Reading ---- */

/* Where a text first nests deeper than depth_max: the offset, or n when nowhere. Brackets inside
 * strings do not count; malformed text is left to the parser. */
static size_t find_too_deep(const char *text, size_t n, unsigned depth_max)
{
    size_t depth = 0;
    bool is_in_string = false;

    for (size_t i = 0; i < n; i++) {
        const char c = text[i];
        if (is_in_string) {
            i += c == '\\' ? 1 : 0;
            is_in_string = c != '"';
            continue;
        }
        is_in_string = c == '"';
        if (c == '{' || c == '[') {
            depth++;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
        if (depth > depth_max) {
            return i;
        }
    }
    return n;
}

static enum status refuse_depth(const char *text, size_t offset, unsigned depth_max)
{
    size_t line = 1;
    size_t column = 1;

    for (size_t i = 0; i < offset; i++) {
        column = text[i] == '\n' ? 1 : column + 1;
        line += text[i] == '\n' ? 1 : 0;
    }
    return status_set(STATUS_BAD_FORMAT, "%zu:%zu: JSON nests deeper than %u levels", line, column,
                      depth_max);
}

static enum status parse(const char *text, size_t n, unsigned depth_max, size_t flags,
                         struct json **out)
{
    json_error_t error;

    *out = NULL;
    const size_t too_deep = find_too_deep(text, n, depth_max);
    if (too_deep < n) {
        return refuse_depth(text, too_deep, depth_max);
    }
    ran_short = false;
    is_parsing = true;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | flags, &error);
    is_parsing = false;
    if (ran_short) {
        json_decref(value);
        return status_set(STATUS_NO_MEMORY, "no memory for a JSON text of %zu bytes", n);
    }
    if (value == NULL) {
        return status_set(STATUS_BAD_FORMAT, "%d:%d: %s", error.line, error.column, error.text);
    }
    *out = outer(value);
    return STATUS_OK;
}

enum status json_parse(const char *text, size_t n, unsigned depth_max, struct json **out)
{
    return parse(text, n, depth_max, 0, out);
}

enum status json_parse_with_nul(const char *text, size_t n, unsigned depth_max, struct json **out)
{
    return parse(text, n, depth_max, JSON_ALLOW_NUL, out);
}

enum status json_load(const char *path, size_t bytes_max, unsigned depth_max, struct json **out)
{
    char *text;
    size_t n;

    *out = NULL;
    TRY(file_read(path, bytes_max, &text, &n));
    const enum status status = parse(text, n, depth_max, 0, out);
    memory_free(text);
    return status == STATUS_OK ? STATUS_OK : status_wrap(status, "%s", path);
}

void json_destroy(struct json *value)
{
    json_decref(inner(value));
}

struct json *json_retain(struct json *value)
{
    return outer(json_incref(inner(value)));
}

/* ---- Looking ---- */

enum json_kind json_kind_of(const struct json *value)
{
    static const enum json_kind kinds[] = {
        [JANSSON_OBJECT] = JSON_OBJECT, [JANSSON_ARRAY] = JSON_ARRAY,
        [JANSSON_STRING] = JSON_STRING, [JANSSON_INTEGER] = JSON_INT,
        [JANSSON_REAL] = JSON_REAL,     [JANSSON_TRUE] = JSON_BOOL,
        [JANSSON_FALSE] = JSON_BOOL,    [JANSSON_NULL] = JSON_NULL,
    };

    return value == NULL ? JSON_NULL : kinds[json_typeof(inner_const(value))];
}

bool json_is(const struct json *value, enum json_kind kind)
{
    return json_kind_of(value) == kind;
}

struct json *json_get(const struct json *object, const char *key)
{
    return json_is(object, JSON_OBJECT) ? outer(json_object_get(inner_const(object), key)) : NULL;
}

struct json *json_path(const struct json *object, const char *dotted_key)
{
    const struct json *current = object;
    char key[PATH_KEY_ROOM];

    for (;;) {
        const size_t n = strcspn(dotted_key, ".");
        if (n >= sizeof(key)) {
            return NULL;
        }
        memcpy(key, dotted_key, n);
        key[n] = '\0';
        struct json *next = json_get(current, key);
        if (next == NULL || dotted_key[n] == '\0') {
            return next;
        }
        current = next;
        dotted_key += n + 1;
    }
}

struct json *json_at(const struct json *array, size_t index)
{
    return json_is(array, JSON_ARRAY) ? outer(json_array_get(inner_const(array), index)) : NULL;
}

size_t json_count(const struct json *value)
{
    const enum json_kind kind = json_kind_of(value);

    if (kind == JSON_ARRAY) {
        return json_array_size(inner_const(value));
    }
    return kind == JSON_OBJECT ? json_object_size(inner_const(value)) : 0;
}

bool json_next(struct json_iterator *iterator)
{
    if (!json_is(iterator->object, JSON_OBJECT)) {
        return false;
    }
    json_t *object = inner_mutable(iterator->object);
    iterator->position = iterator->position == NULL
                             ? json_object_iter(object)
                             : json_object_iter_next(object, iterator->position);
    if (iterator->position == NULL) {
        return false;
    }
    iterator->key = json_object_iter_key(iterator->position);
    iterator->key_bytes = json_object_iter_key_len(iterator->position);
    iterator->value = outer(json_object_iter_value(iterator->position));
    return true;
}

/* INT64_MIN for what lies below, INT64_MAX above, the fallback for what is no number. */
static int64_t truncate_real(double value, int64_t fallback)
{
    if (isnan(value)) {
        return fallback;
    }
    if (value >= 0x1p63) {
        return INT64_MAX;
    }
    return value < -0x1p63 ? INT64_MIN : (int64_t)value;
}

int64_t json_int(const struct json *value, int64_t fallback)
{
    const enum json_kind kind = json_kind_of(value);

    if (kind == JSON_INT) {
        return json_integer_value(inner_const(value));
    }
    return kind == JSON_REAL ? truncate_real(json_real_value(inner_const(value)), fallback)
                             : fallback;
}

double json_number(const struct json *value, double fallback)
{
    const enum json_kind kind = json_kind_of(value);

    if (kind == JSON_INT) {
        return (double)json_integer_value(inner_const(value));
    }
    return kind == JSON_REAL ? json_real_value(inner_const(value)) : fallback;
}

bool json_bool(const struct json *value, bool fallback)
{
    return json_is(value, JSON_BOOL) ? json_typeof(inner_const(value)) == JANSSON_TRUE : fallback;
}

const char *json_text(const struct json *value, const char *fallback)
{
    return json_is(value, JSON_STRING) ? json_string_value(inner_const(value)) : fallback;
}

size_t json_text_bytes(const struct json *value)
{
    return json_is(value, JSON_STRING) ? json_string_length(inner_const(value)) : 0;
}

/* ---- Building ---- */

struct json *json_object_create(void)
{
    return outer(json_object());
}

struct json *json_array_create(void)
{
    return outer(json_array());
}

struct json *json_from_int(int64_t value)
{
    return outer(json_integer(value));
}

struct json *json_from_number(double value)
{
    return outer(isfinite(value) ? json_real(value) : json_null());
}

struct json *json_from_bool(bool value)
{
    return outer(json_boolean(value));
}

struct json *json_from_text(const char *text, size_t n)
{
    char *repaired;
    size_t n_repaired;
    bool is_lossy;

    json_t *value = json_stringn(text, n); /* checks the UTF-8 itself */
    if (value == NULL && utf8_repair(text, n, &repaired, &n_repaired, &is_lossy) == STATUS_OK) {
        value = json_stringn(repaired, n_repaired);
        memory_free(repaired);
    }
    return outer(value);
}

struct json *json_null_create(void)
{
    return outer(json_null());
}

/* jansson refuses NULL values and cycles, and keys that are not UTF-8; both are faults of ours, so
 * what is left is short memory. */
enum status json_put(struct json *object, const char *key, struct json *value)
{
    if (json_object_set_new(inner(object), key, inner(value)) != 0) {
        return status_set(STATUS_NO_MEMORY, "no memory for the JSON member \"%.64s\"", key);
    }
    return STATUS_OK;
}

enum status json_append(struct json *array, struct json *value)
{
    if (json_array_append_new(inner(array), inner(value)) != 0) {
        return status_set(STATUS_NO_MEMORY, "no memory for a JSON array item");
    }
    return STATUS_OK;
}

/* ---- Printing ---- */

struct print_buffer {
    char *text;
    size_t used;
    size_t room;
    enum status failure; /* kept, since jansson ignores what some of its calls return */
};

static int print_more(const char *piece, size_t n, void *context)
{
    struct print_buffer *buffer = context;

    if (buffer->failure == STATUS_OK && n >= buffer->room - buffer->used) {
        const size_t room = 2 * buffer->room + n;
        buffer->failure = memory_resize(buffer->used, room, 1, &buffer->text);
        buffer->room = buffer->failure == STATUS_OK ? room : buffer->room;
    }
    if (buffer->failure != STATUS_OK) {
        return -1;
    }
    memcpy(buffer->text + buffer->used, piece, n);
    buffer->used += n;
    return 0;
}

enum status json_print(const struct json *value, char **out, size_t *n_out)
{
    struct print_buffer buffer = {.room = 256};

    *out = NULL;
    TRY(memory_alloc(buffer.room, 1, &buffer.text));
    ran_short = false;
    const int failed = json_dump_callback(inner_const(value), print_more, &buffer,
                                          JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY |
                                              JSON_REAL_PRECISION((size_t)json_digits(value)));
    if (failed != 0 || ran_short || buffer.failure != STATUS_OK) {
        memory_free(buffer.text);
        return status_set(STATUS_NO_MEMORY, "no memory for JSON text of %zu bytes or more",
                          buffer.used);
    }
    buffer.text[buffer.used] = '\0';
    *out = buffer.text;
    if (n_out != NULL) {
        *n_out = buffer.used;
    }
    return STATUS_OK;
}
