/* Owns the shapes of query results. */
#include "cli/table.h"

#include "base/arena.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"

#include <inttypes.h>
#include <string.h>

#define COLUMNS_MAX 256u
#define LINE_ROOM 4096u

struct table_row {
    struct table_row *next;
    const char **cells;
};
struct table {
    struct arena *arena;
    size_t cell_max, n_columns, n_rows;
    const char *names[COLUMNS_MAX];
    size_t widths[COLUMNS_MAX];
    bool is_text[COLUMNS_MAX];
    struct table_row *first, *last;
    char *scratch; /* cell_max + 1 */
};

enum status table_create(size_t cell_max, struct table **out)
{
    struct table *table;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*table), &table));
    table->cell_max = cell_max;
    enum status status = arena_create((size_t)1 << 16, &table->arena);
    if (status == STATUS_OK) {
        status = memory_alloc(cell_max + 1, 1, &table->scratch);
    }
    if (status != STATUS_OK) {
        table_destroy(table);
        return status;
    }
    *out = table;
    return STATUS_OK;
}

void table_destroy(struct table *table)
{
    if (table == NULL) {
        return;
    }
    arena_destroy(table->arena);
    memory_free(table->scratch);
    memory_free(table);
}

/* Columns on a terminal: one a code point, which is right but for wide scripts. */
static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0u) != 0x80u ? 1 : 0;
    }
    return width;
}

static enum status keep(struct table *table, size_t column, const char *text, const char **out)
{
    char *copy = NULL;

    TRY(arena_copy_text(table->arena, text, strlen(text), &copy));
    const size_t width = width_of(copy);
    table->widths[column] = width > table->widths[column] ? width : table->widths[column];
    *out = copy;
    return STATUS_OK;
}

enum status table_begin(struct table *table, const struct query *query)
{
    table->n_columns = query_columns(query);
    if (table->n_columns > COLUMNS_MAX) {
        return status_set(STATUS_BAD_ARGUMENT, "%zu columns; %u is the most", table->n_columns,
                          COLUMNS_MAX);
    }
    for (size_t i = 0; i < table->n_columns; i++) {
        const char *const name = query_name(query, i);
        TRY(keep(table, i, log_escape(name, strlen(name), table->scratch, table->cell_max + 1),
                 &table->names[i]));
    }
    return STATUS_OK;
}

/* The cell as shown, in scratch. */
static void show_cell(const struct table *table, const struct query *query, size_t column)
{
    const size_t room = table->cell_max + 1;
    size_t n;

    switch (query_kind(query, column)) {
    case DB_NULL:
        (void)snprintf(table->scratch, room, "-");
        break;
    case DB_INT:
        (void)snprintf(table->scratch, room, "%" PRId64, query_int(query, column));
        break;
    case DB_REAL:
        (void)snprintf(table->scratch, room, "%.6g", query_real(query, column));
        break;
    case DB_BLOB: {
        const unsigned char *const data = query_blob(query, column, &n);
        const size_t shown = n > 16 ? 16 : n;
        char hex[33];
        (void)snprintf(table->scratch, room, "x'%s%s' (%zu bytes)", hash_hex(data, shown, hex),
                       n > shown ? "..." : "", n);
        break;
    }
    case DB_TEXT: {
        const char *const text = query_text(query, column, &n);
        (void)log_escape(text, n, table->scratch, room);
        break;
    }
    }
}

enum status table_add(struct table *table, const struct query *query)
{
    struct table_row *row = NULL;

    TRY(arena_alloc(table->arena, 1, sizeof(*row), (void *)&row));
    TRY(arena_alloc(table->arena, table->n_columns, sizeof(*row->cells), (void *)&row->cells));
    for (size_t i = 0; i < table->n_columns; i++) {
        const enum db_kind kind = query_kind(query, i);
        table->is_text[i] = table->is_text[i] || kind == DB_TEXT || kind == DB_BLOB;
        show_cell(table, query, i);
        TRY(keep(table, i, table->scratch, &row->cells[i]));
    }
    if (table->last != NULL) {
        table->last->next = row;
    } else {
        table->first = row;
    }
    table->last = row;
    table->n_rows++;
    return STATUS_OK;
}

size_t table_rows(const struct table *table)
{
    return table->n_rows;
}

static void pad(size_t n, FILE *stream)
{
    for (size_t i = 0; i < n; i++) {
        (void)fputc(' ', stream);
    }
}

static void print_cells(const struct table *table, const char *const *cells, FILE *stream)
{
    for (size_t i = 0; i < table->n_columns; i++) {
        const size_t rest = table->widths[i] - width_of(cells[i]);
        pad(i > 0 ? 2 : 0, stream);
        pad(table->is_text[i] ? 0 : rest, stream);
        (void)fputs(cells[i], stream);
        pad(table->is_text[i] && i + 1 < table->n_columns ? rest : 0, stream);
    }
    (void)fputc('\n', stream);
}

void table_print(const struct table *table, FILE *stream)
{
    print_cells(table, table->names, stream);
    for (const struct table_row *row = table->first; row != NULL; row = row->next) {
        print_cells(table, row->cells, stream);
    }
}

static void csv_text(const char *text, size_t n, FILE *stream)
{
    const bool is_formula = n > 0 && strchr("=+-@", text[0]) != NULL && text[0] != '\0';
    const bool needs_quotes = memchr(text, '"', n) != NULL || memchr(text, ',', n) != NULL ||
                              memchr(text, '\n', n) != NULL || memchr(text, '\r', n) != NULL;

    if (needs_quotes) {
        (void)fputc('"', stream);
    }
    if (is_formula) {
        (void)fputc('\'', stream);
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"') {
            (void)fputc('"', stream);
        }
        (void)fputc(text[i], stream);
    }
    if (needs_quotes) {
        (void)fputc('"', stream);
    }
}

static void print_hex(const unsigned char *data, size_t n, FILE *stream)
{
    for (size_t i = 0; i < n; i++) {
        (void)fprintf(stream, "%02x", data[i]);
    }
}

void csv_print_names(const struct query *query, FILE *stream)
{
    for (size_t i = 0; i < query_columns(query); i++) {
        const char *const name = query_name(query, i);
        (void)fputs(i > 0 ? "," : "", stream);
        csv_text(name, strlen(name), stream);
    }
    (void)fputc('\n', stream);
}

static void csv_cell(const struct query *query, size_t column, FILE *stream)
{
    const enum db_kind kind = query_kind(query, column);
    size_t n;

    if (kind == DB_INT) {
        (void)fprintf(stream, "%" PRId64, query_int(query, column));
    } else if (kind == DB_REAL) {
        (void)fprintf(stream, "%.17g", query_real(query, column));
    } else if (kind == DB_TEXT) {
        const char *const text = query_text(query, column, &n);
        csv_text(text, n, stream);
    } else if (kind == DB_BLOB) {
        const unsigned char *const data = query_blob(query, column, &n);
        print_hex(data, n, stream);
    }
}

void csv_print_row(const struct query *query, FILE *stream)
{
    for (size_t i = 0; i < query_columns(query); i++) {
        (void)fputs(i > 0 ? "," : "", stream);
        csv_cell(query, i, stream);
    }
    (void)fputc('\n', stream);
}

static struct json *blob_to_json(const struct query *query, size_t column)
{
    size_t n;
    char *hex = NULL;

    const unsigned char *const data = query_blob(query, column, &n);
    if (memory_alloc(2 * n + 1, 1, &hex) != STATUS_OK) {
        return NULL;
    }
    struct json *const value = json_from_text(hash_hex(data, n, hex), 2 * n);
    memory_free(hex);
    return value;
}

static struct json *cell_to_json(const struct query *query, size_t column)
{
    const char *text;
    size_t n;

    switch (query_kind(query, column)) {
    case DB_INT:
        return json_from_int(query_int(query, column));
    case DB_REAL:
        return json_from_number(query_real(query, column));
    case DB_TEXT:
        text = query_text(query, column, &n);
        return json_from_text(text, n);
    case DB_BLOB:
        return blob_to_json(query, column);
    case DB_NULL:
        break;
    }
    return json_null_create();
}

struct json *row_to_json(const struct query *query)
{
    struct json *const object = json_object_create();

    for (size_t i = 0; i < query_columns(query); i++) {
        if (json_put(object, query_name(query, i), cell_to_json(query, i)) != STATUS_OK) {
            json_destroy(object);
            return NULL;
        }
    }
    return object;
}

/* One line without its newline, in pieces that fit the buffer and end between characters. */
static void print_line(const char *text, size_t n, FILE *stream)
{
    char shown[LINE_ROOM];
    size_t begin = 0;

    while (begin < n) {
        size_t end = n - begin > LINE_ROOM / 8 ? begin + LINE_ROOM / 8 : n;
        while (end < n && end > begin + 1 && ((unsigned char)text[end] & 0xc0u) == 0x80u) {
            end--;
        }
        (void)fputs(log_escape(text + begin, end - begin, shown, sizeof(shown)), stream);
        begin = end;
    }
}

void print_text(const char *text, size_t n, FILE *stream)
{
    size_t begin = 0;

    for (size_t i = 0; i <= n; i++) {
        if (i < n && text[i] != '\n') {
            continue;
        }
        (void)fputs("  ", stream);
        print_line(text + begin, i - begin, stream);
        (void)fputc('\n', stream);
        begin = i + 1;
    }
}
