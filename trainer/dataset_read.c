/* Owns reading JSON lines: where rows begin and end, that each is a sound object, and which of its
 * columns is what. */
#include "base/memory.h"
#include "trainer/dataset_internal.h"

#include <stdio.h>
#include <string.h>

#define LINE_BYTES_MAX ((size_t)16 << 20)
#define ROW_DEPTH_MAX 32u
#define DETECT_ROWS 100u
#define CANDIDATES_MAX 8u
#define LIST_ROOM 512u

/* In order of preference; the first that any of the first rows has wins. */
static const char *const candidates[N_COLUMNS][CANDIDATES_MAX] = {
    [COLUMN_PROMPT] = {"prompt", "messages", "question", "problem", "input", "query"},
    [COLUMN_ANSWER] = {"answer", "ground_truth", "reward_model.ground_truth",
                       "reward_spec.ground_truth", "label", "solution", "target"},
    [COLUMN_COMPLETION] = {"completion"},
    [COLUMN_SOURCE] = {"data_source", "source", "dataset", "task"},
};
static const char *const column_names[N_COLUMNS] = {"prompt", "answer", "completion", "source"};

/* --- Lines --- */

enum status dataset_parse_line(const struct dataset_source *source,
                               const struct dataset_entry *entry, struct json **out)
{
    const char *text = (const char *)source->map.data + entry->offset;
    const enum status status = json_parse_with_nul(text, entry->bytes, ROW_DEPTH_MAX, out);

    if (status == STATUS_BAD_FORMAT) {
        /* the parser saw one line: "1:column: what" */
        const char *colon = strchr(status_message(), ':');
        return status_set(status, "%s:%u:%s", source->path, entry->line,
                          colon == NULL ? " broken JSON" : colon + 1);
    }
    TRY(status);
    if (!json_is(*out, JSON_OBJECT)) {
        json_destroy(*out);
        *out = NULL;
        return status_set(STATUS_BAD_FORMAT, "%s:%u:1: not a JSON object", source->path,
                          entry->line);
    }
    return STATUS_OK;
}

struct line_walk {
    const char *text;
    size_t n, at;
    size_t line;
};

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ' && text[i] != '\t') {
            return false;
        }
    }
    return true;
}

static struct line_walk start_walk(const struct dataset_source *source)
{
    static const char bom[] = "\xef\xbb\xbf";
    const char *text = (const char *)source->map.data;
    const size_t n = source->map.bytes;
    const bool has_bom = n >= sizeof(bom) - 1 && memcmp(text, bom, sizeof(bom) - 1) == 0;

    return (struct line_walk){.text = text, .n = n, .at = has_bom ? sizeof(bom) - 1 : 0};
}

/* The next line that is not blank, without LF or CRLF; *bytes may be over the limit. */
static bool next_line(struct line_walk *walk, size_t *offset, size_t *bytes)
{
    while (walk->at < walk->n) {
        const char *start = walk->text + walk->at;
        const char *end = memchr(start, '\n', walk->n - walk->at);
        size_t n = end == NULL ? walk->n - walk->at : (size_t)(end - start);
        *offset = walk->at;
        walk->at += end == NULL ? n : n + 1;
        walk->line++;
        n -= n > 0 && start[n - 1] == '\r' ? 1 : 0;
        if (!is_blank(start, n)) {
            *bytes = n;
            return true;
        }
    }
    return false;
}

static enum status take_line(const struct dataset_source *source, struct line_walk *walk,
                             struct dataset_entry *entry, bool *is_end)
{
    size_t offset = 0, bytes = 0;

    *is_end = !next_line(walk, &offset, &bytes);
    if (*is_end) {
        return STATUS_OK;
    }
    if (bytes > LINE_BYTES_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s:%zu:%zu: a line of %zu bytes, want at most %zu",
                          source->path, walk->line, LINE_BYTES_MAX + 1, bytes, LINE_BYTES_MAX);
    }
    if (walk->line > UINT32_MAX) {
        return status_set(STATUS_BAD_FORMAT, "%s: more than 2^32 lines", source->path);
    }
    *entry = (struct dataset_entry){
        .offset = offset, .bytes = (uint32_t)bytes, .line = (uint32_t)walk->line};
    return STATUS_OK;
}

/* --- Columns --- */

/* Best candidate (lowest rank) of each column that a row has, into ranks. */
static void rank_columns(const struct json *row, size_t ranks[N_COLUMNS])
{
    for (size_t column = 0; column < N_COLUMNS; column++) {
        for (size_t i = 0; i < ranks[column] && candidates[column][i] != NULL; i++) {
            if (json_path(row, candidates[column][i]) != NULL) {
                ranks[column] = i;
            }
        }
    }
}

/* Decides the keys of a source from its first rows, given keys first. */
static enum status detect_keys(const struct dataset *dataset, struct dataset_source *source)
{
    size_t ranks[N_COLUMNS] = {CANDIDATES_MAX, CANDIDATES_MAX, CANDIDATES_MAX, CANDIDATES_MAX};
    struct line_walk walk = start_walk(source);
    struct dataset_entry entry = {0};
    bool is_end = false;

    for (size_t i = 0; i < DETECT_ROWS; i++) {
        struct json *row = NULL;
        TRY(take_line(source, &walk, &entry, &is_end));
        if (is_end) {
            break;
        }
        TRY(dataset_parse_line(source, &entry, &row));
        rank_columns(row, ranks);
        json_destroy(row);
    }
    for (size_t column = 0; column < N_COLUMNS; column++) {
        source->keys[column] =
            ranks[column] < CANDIDATES_MAX ? candidates[column][ranks[column]] : "";
        if (dataset->given_keys[column] != NULL) {
            source->keys[column] = dataset->given_keys[column];
        }
    }
    return STATUS_OK;
}

static void append_name(char *out, size_t room, const char *name)
{
    const size_t used = strlen(out);

    (void)snprintf(out + used, room - used, "%s%.40s", used > 0 ? ", " : "", name);
}

/* One line: where, which column, what was looked for, what is there. */
static enum status refuse_missing(const struct dataset_source *source, size_t line,
                                  const struct json *row, enum dataset_column column)
{
    char wanted[LIST_ROOM] = "";
    char present[LIST_ROOM] = "";
    struct json_iterator it = {.object = row};

    if (*source->keys[column] != '\0') {
        append_name(wanted, sizeof(wanted), source->keys[column]);
    }
    for (size_t i = 0;
         *source->keys[column] == '\0' && i < CANDIDATES_MAX && candidates[column][i] != NULL;
         i++) {
        append_name(wanted, sizeof(wanted), candidates[column][i]);
    }
    while (json_next(&it)) {
        append_name(present, sizeof(present), it.key);
    }
    return status_set(STATUS_BAD_CONFIG, "%s:%zu: no %s column; looked for %s; columns present: %s",
                      source->path, line, column_names[column], wanted,
                      *present == '\0' ? "(none)" : present);
}

static bool is_required(const struct dataset *dataset, enum dataset_column column)
{
    switch (column) {
    case COLUMN_PROMPT:
        return true;
    case COLUMN_ANSWER:
        return dataset->needs_answer || dataset->given_keys[COLUMN_ANSWER] != NULL;
    case COLUMN_COMPLETION:
        return dataset->use == DATASET_SFT;
    case COLUMN_SOURCE:
    case N_COLUMNS:
        break;
    }
    return false;
}

static enum status check_columns(const struct dataset *dataset, const struct dataset_source *source,
                                 size_t line, const struct json *row)
{
    for (size_t i = 0; i < N_COLUMNS; i++) {
        const enum dataset_column column = (enum dataset_column)i;
        const char *key = source->keys[column];
        if (is_required(dataset, column) && (*key == '\0' || json_path(row, key) == NULL)) {
            return refuse_missing(source, line, row, column);
        }
    }
    return STATUS_OK;
}

/* --- Indexing --- */

static enum status hash_row(const struct json *row, struct digest256 *out)
{
    char *text = NULL;
    size_t n = 0;

    TRY(json_print(row, &text, &n));
    *out = hash_sha256(text, n);
    memory_free(text);
    return STATUS_OK;
}

static enum status append_entry(struct dataset *dataset, const struct dataset_entry *entry)
{
    if (dataset->n_entries == UINT32_MAX) {
        return status_set(STATUS_BAD_CONFIG, "more than 2^32 rows");
    }
    if (dataset->n_entries == dataset->entries_room) {
        const size_t room = dataset->entries_room == 0 ? 1024 : 2 * dataset->entries_room;
        TRY(memory_resize(dataset->n_entries * sizeof(*dataset->entries), room,
                          sizeof(*dataset->entries), &dataset->entries));
        dataset->entries_room = room;
    }
    dataset->entries[dataset->n_entries++] = *entry;
    return STATUS_OK;
}

static enum status index_line(struct dataset *dataset, const struct dataset_source *source,
                              struct dataset_entry *entry)
{
    struct json *row = NULL;

    TRY(dataset_parse_line(source, entry, &row));
    enum status status = check_columns(dataset, source, entry->line, row);
    if (status == STATUS_OK) {
        status = hash_row(row, &entry->sha);
    }
    json_destroy(row);
    return status == STATUS_OK ? append_entry(dataset, entry) : status;
}

enum status dataset_index_source(struct dataset *dataset, size_t source_index)
{
    struct dataset_source *source = &dataset->sources[source_index];
    struct dataset_entry entry = {0};
    bool is_end = false;

    TRY(detect_keys(dataset, source));
    struct line_walk walk = start_walk(source);
    for (;;) {
        TRY(take_line(source, &walk, &entry, &is_end));
        if (is_end) {
            return STATUS_OK;
        }
        entry.source = (uint32_t)source_index;
        TRY(index_line(dataset, source, &entry));
        source->n_rows++;
    }
}
