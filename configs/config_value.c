/* Owns the values of settings: from a node of the tree into the configuration, by the type that the
 * table gives, and from there back to text and JSON. */
#include "base/file.h"
#include "base/memory.h"
#include "configs/config_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Numbers --- */

static bool parse_real(const char *text, double *out)
{
    if (*text == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0') {
        return false; /* strtod alone would take inf, nan and hexadecimal */
    }
    char *end = NULL;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out);
}

/* Digits, then nothing or one of `suffixes`, whose factor is in the same place of `factors`. */
static bool parse_whole(const char *text, const char *const *suffixes, const uint64_t *factors,
                        uint64_t *out)
{
    if (*text < '0' || *text > '9') {
        return false;
    }
    char *end = NULL;
    errno = 0;
    const uint64_t n = strtoull(text, &end, 10);
    if (errno != 0) {
        return false;
    }
    end += strspn(end, " ");
    for (size_t i = 0; suffixes[i] != NULL; i++) {
        if (strcmp(end, suffixes[i]) == 0) {
            *out = n * factors[i];
            return n <= UINT64_MAX / factors[i];
        }
    }
    return false;
}

static bool parse_size(const char *text, enum setting_kind kind, uint64_t *out)
{
    static const char *const none[] = {"", NULL};
    static const char *const bytes[] = {"", "B", "KiB", "MiB", "GiB", NULL};
    static const uint64_t factors[] = {1, 1, 1ull << 10, 1ull << 20, 1ull << 30};
    return parse_whole(text, kind == SETTING_BYTES ? bytes : none,
                       kind == SETTING_BYTES ? factors : factors + 1, out);
}

static bool parse_seconds(const char *text, double *out)
{
    char number[64];
    const size_t n = strlen(text);
    if (n == 0 || n >= sizeof number) {
        return false;
    }
    const char unit = text[n - 1];
    const double factor = unit == 'm' ? 60 : unit == 'h' ? 3600 : 1;
    const bool has_unit = unit == 's' || unit == 'm' || unit == 'h';
    memcpy(number, text, n + 1);
    number[has_unit ? n - 1 : n] = '\0';
    if (!parse_real(number, out)) {
        return false;
    }
    *out *= factor;
    return true;
}

static bool is_whole(enum setting_kind kind)
{
    return kind == SETTING_SIZE || kind == SETTING_BYTES || kind == SETTING_U64 ||
           kind == SETTING_I64;
}

static void store_number(const struct setting *row, void *base, double real, uint64_t whole)
{
    char *const at = (char *)base + row->offset;
    if (row->kind == SETTING_SIZE || row->kind == SETTING_BYTES) {
        const size_t value = (size_t)whole;
        memcpy(at, &value, sizeof value);
    } else if (is_whole(row->kind)) { /* uint64_t, or an int64_t that is not negative */
        memcpy(at, &whole, sizeof whole);
    } else {
        memcpy(at, &real, sizeof real);
    }
}

static void bind_number(struct binder *binder, const struct setting *row, void *base,
                        const struct config_node *node, bool *is_bound)
{
    char range[CONFIG_TEXT_MAX];
    double real = 0;
    uint64_t whole = 0;
    bool is_number = false;
    if (is_whole(row->kind)) {
        is_number = parse_size(node->text, row->kind, &whole);
        real = (double)whole;
    } else if (row->kind == SETTING_SECONDS) {
        is_number = parse_seconds(node->text, &real);
    } else {
        is_number = parse_real(node->text, &real);
    }
    if (!is_number) {
        const char *const want = is_whole(row->kind)            ? "a whole number"
                                 : row->kind == SETTING_SECONDS ? "a duration such as 30s or 2h"
                                                                : "a number";
        bind_error(binder, node, "\"%.60s\" is not %s (%s)", node->text, want,
                   setting_range(row, range, sizeof range));
        return;
    }
    if (real < row->min || real > row->max) {
        bind_error(binder, node, "%.60s is outside %s", node->text,
                   setting_range(row, range, sizeof range));
        return;
    }
    store_number(row, base, real, whole);
    *is_bound = true;
}

/* --- Words --- */

static void bind_bool(struct binder *binder, const struct setting *row, void *base,
                      const struct config_node *node, bool *is_bound)
{
    const bool value = strcmp(node->text, "true") == 0;
    if (!value && strcmp(node->text, "false") != 0) {
        bind_error(binder, node, "\"%.60s\" is neither true nor false", node->text);
        return;
    }
    memcpy((char *)base + row->offset, &value, sizeof value);
    *is_bound = true;
}

_Static_assert(sizeof(enum loss_type) == sizeof(unsigned), "enums are stored as unsigned");

static void bind_enum(struct binder *binder, const struct setting *row, void *base,
                      const struct config_node *node, bool *is_bound)
{
    char range[CONFIG_TEXT_MAX];
    for (unsigned i = 0; row->names[i] != NULL; i++) {
        if (strcmp(node->text, row->names[i]) == 0) {
            memcpy((char *)base + row->offset, &i, sizeof i);
            *is_bound = true;
            return;
        }
    }
    bind_error(binder, node, "\"%.60s\" is not one of %s", node->text,
               setting_range(row, range, sizeof range));
}

static bool is_path_kind(enum setting_kind kind, const char *text)
{
    if (*text == '\0') {
        return false;
    }
    return kind == SETTING_PATH ||
           (kind == SETTING_SOURCES && strcmp(text, "-") != 0 && strncmp(text, "cmd:", 4) != 0);
}

/* A copy of the text in the configuration's arena; a path becomes relative to the working folder.
 */
static enum status copy_text(struct binder *binder, const struct setting *row, const char *text,
                             char **out)
{
    struct arena *const arena = binder->config->arena;
    if (!is_path_kind(row->kind, text)) {
        return arena_copy_text(arena, text, strlen(text), out);
    }
    char *path = NULL;
    TRY(path_join(binder->folder, text, &path));
    const enum status status = arena_copy_text(arena, path, strlen(path), out);
    memory_free(path);
    return status;
}

static enum status bind_text(struct binder *binder, const struct setting *row, void *base,
                             const struct config_node *node, bool *is_bound)
{
    char *copy = NULL;
    TRY(copy_text(binder, row, node->text, &copy));
    memcpy((char *)base + row->offset, &copy, sizeof(char *));
    *is_bound = true;
    return STATUS_OK;
}

/* A list of texts; one text counts as a list of one. */
static enum status bind_texts(struct binder *binder, const struct setting *row, void *base,
                              const struct config_node *node, bool *is_bound)
{
    struct text_list list = {.count = node->kind == NODE_LIST ? node->count : 1};
    const struct config_node *item = node->kind == NODE_LIST ? node->first : node;
    TRY(arena_alloc(binder->config->arena, list.count + 1, sizeof list.items[0], &list.items));
    for (size_t i = 0; i < list.count; i++, item = item->next) {
        if (item->kind != NODE_SCALAR || *item->text == '\0') {
            bind_error(binder, item, "item %zu is not a text", i + 1);
            return STATUS_OK;
        }
        TRY(copy_text(binder, row, item->text, &list.items[i]));
    }
    memcpy((char *)base + row->offset, &list, sizeof list);
    *is_bound = true;
    return STATUS_OK;
}

/* --- Objects --- */

static struct json *scalar_to_json(const struct config_node *node)
{
    double real = 0;
    uint64_t whole = 0;
    const char *const text = node->text;
    const bool is_negative = *text == '-';
    if (node->is_quoted) {
        return json_from_text(text, strlen(text));
    }
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        return json_from_bool(*text == 't');
    }
    if (*text == '\0' || strcmp(text, "null") == 0 || strcmp(text, "~") == 0) {
        return json_null_create();
    }
    if (parse_size(text + is_negative, SETTING_SIZE, &whole) && whole <= INT64_MAX) {
        return json_from_int(is_negative ? -(int64_t)whole : (int64_t)whole);
    }
    if (parse_real(text, &real)) {
        return json_from_number(real);
    }
    return json_from_text(text, strlen(text));
}

static enum status node_to_json(const struct config_node *node, struct json **out)
{
    *out = NULL;
    struct json *value = node->kind == NODE_SCALAR ? scalar_to_json(node)
                         : node->kind == NODE_MAP  ? json_object_create()
                                                   : json_array_create();
    if (value == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory for a scorer's configuration");
    }
    enum status status = STATUS_OK;
    for (const struct config_node *child = node->first; child != NULL && status == STATUS_OK;
         child = child->next) {
        struct json *item = NULL;
        status = node_to_json(child, &item); /* at most CONFIG_DEPTH_MAX deep */
        if (status == STATUS_OK) {
            status = node->kind == NODE_MAP ? json_put(value, child->key, item)
                                            : json_append(value, item);
        }
    }
    if (status != STATUS_OK) {
        json_destroy(value);
        return status;
    }
    *out = value;
    return STATUS_OK;
}

static enum status bind_object(struct binder *binder, const struct setting *row, void *base,
                               const struct config_node *node, bool *is_bound)
{
    if (node->kind != NODE_MAP) {
        bind_error(binder, node, "want a mapping, {key: value}");
        return STATUS_OK;
    }
    struct json *value = NULL;
    struct json *old = NULL;
    TRY(node_to_json(node, &value));
    memcpy(&old, (char *)base + row->offset, sizeof(struct json *));
    json_destroy(old);
    memcpy((char *)base + row->offset, &value, sizeof(struct json *));
    *is_bound = true;
    return STATUS_OK;
}

enum status value_bind(struct binder *binder, const struct setting *row, void *base,
                       const struct config_node *node, bool *is_bound)
{
    *is_bound = false;
    if (row->kind == SETTING_TEXTS || row->kind == SETTING_SOURCES) {
        return bind_texts(binder, row, base, node, is_bound);
    }
    if (row->kind == SETTING_OBJECT) {
        return bind_object(binder, row, base, node, is_bound);
    }
    if (node->kind != NODE_SCALAR) {
        bind_error(binder, node, "want one value, not a %s",
                   node->kind == NODE_MAP ? "mapping" : "list");
        return STATUS_OK;
    }
    if (row->kind == SETTING_TEXT || row->kind == SETTING_PATH) {
        return bind_text(binder, row, base, node, is_bound);
    }
    if (row->kind == SETTING_BOOL) {
        bind_bool(binder, row, base, node, is_bound);
    } else if (row->kind == SETTING_ENUM) {
        bind_enum(binder, row, base, node, is_bound);
    } else {
        bind_number(binder, row, base, node, is_bound);
    }
    return STATUS_OK;
}
