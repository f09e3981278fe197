/* Owns the dataset as others see it: opening files, rows, and the order they come in. */
#include "trainer/dataset.h"

#include "base/memory.h"
#include "base/random.h"
#include "trainer/dataset_internal.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>

#define SOURCES_MAX 65536u

/* --- Opening --- */

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text);
    const size_t n_end = strlen(end);

    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* What could be read after one more step of the user's. */
static enum status refuse_kind(const char *path)
{
    if (ends_with(path, ".parquet")) {
        return status_set(STATUS_UNSUPPORTED,
                          "%s: parquet is not read; convert it: duckdb -c \"COPY (FROM '%s') TO "
                          "'rows.jsonl' (FORMAT json)\"",
                          path, path);
    }
    if (ends_with(path, ".zst") || ends_with(path, ".gz")) {
        return status_set(STATUS_UNSUPPORTED, "%s: compressed files are not read; unpack it first",
                          path);
    }
    if (strcmp(path, "-") == 0 || strncmp(path, "cmd:", 4) == 0) {
        return status_set(STATUS_UNSUPPORTED, "%s: rows must be in a file", path);
    }
    return STATUS_OK;
}

static enum status add_source(struct dataset *dataset, const char *path)
{
    TRY(refuse_kind(path));
    if (dataset->n_sources == SOURCES_MAX) {
        return status_set(STATUS_BAD_CONFIG, "more than %u data files", SOURCES_MAX);
    }
    TRY(memory_resize(dataset->n_sources * sizeof(*dataset->sources), dataset->n_sources + 1,
                      sizeof(*dataset->sources), &dataset->sources));
    struct dataset_source *source = &dataset->sources[dataset->n_sources];
    TRY(memory_copy_text(path, strlen(path), &source->path));
    const enum status status = file_map_open(path, &source->map);
    if (status != STATUS_OK) {
        memory_free(source->path);
        source->path = NULL;
        return status;
    }
    dataset->n_sources++;
    return STATUS_OK;
}

/* A file's own name wins over the pattern it may look like. glob sorts by bytes: no locale is set
 * anywhere. */
static enum status add_path(struct dataset *dataset, const char *path)
{
    glob_t found;
    enum status status = STATUS_OK;

    if (strpbrk(path, "*?[") == NULL || file_exists(path)) {
        return add_source(dataset, path);
    }
    const int result = glob(path, 0, NULL, &found);
    if (result != 0) {
        return status_set(result == GLOB_NOSPACE ? STATUS_NO_MEMORY : STATUS_IO, "%s: %s", path,
                          result == GLOB_NOMATCH ? "no file matches" : "cannot be searched");
    }
    for (size_t i = 0; i < found.gl_pathc && status == STATUS_OK; i++) {
        status = add_source(dataset, found.gl_pathv[i]);
    }
    globfree(&found);
    return status;
}

static enum status keep_key(const char *key, char **out)
{
    if (key == NULL || *key == '\0' || strcmp(key, "auto") == 0) {
        return STATUS_OK;
    }
    return memory_copy_text(key, strlen(key), out);
}

static enum status keep_options(struct dataset *dataset, const struct dataset_options *options)
{
    dataset->use = options->use;
    dataset->needs_answer = options->needs_answer;
    TRY(keep_key(options->prompt_key, &dataset->given_keys[COLUMN_PROMPT]));
    TRY(keep_key(options->answer_key, &dataset->given_keys[COLUMN_ANSWER]));
    return keep_key(options->completion_key, &dataset->given_keys[COLUMN_COMPLETION]);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

/* Rows that are equal to another one, by the first 64 bits of their digests. */
static enum status count_duplicates(struct dataset *dataset)
{
    uint64_t *keys = NULL;

    TRY(memory_alloc(dataset->n_entries, sizeof(*keys), &keys));
    for (size_t i = 0; i < dataset->n_entries; i++) {
        memcpy(&keys[i], dataset->entries[i].sha.bytes, sizeof(keys[i]));
    }
    qsort(keys, dataset->n_entries, sizeof(*keys), compare_u64);
    dataset->n_duplicates = 0;
    for (size_t i = 1; i < dataset->n_entries; i++) {
        dataset->n_duplicates += keys[i] == keys[i - 1] ? 1 : 0;
    }
    memory_free(keys);
    return STATUS_OK;
}

static enum status fill(struct dataset *dataset, const struct text_list *paths,
                        const struct dataset_options *options)
{
    TRY(keep_options(dataset, options));
    for (size_t i = 0; i < paths->count; i++) {
        TRY(add_path(dataset, paths->items[i]));
    }
    for (size_t i = 0; i < dataset->n_sources; i++) {
        TRY(dataset_index_source(dataset, i));
    }
    if (dataset->n_entries == 0) {
        return status_set(STATUS_BAD_CONFIG, "%s%s: no rows",
                          paths->count == 0 ? "data" : paths->items[0],
                          paths->count > 1 ? " and the other data files" : "");
    }
    return count_duplicates(dataset);
}

enum status dataset_open(const struct text_list *paths, const struct dataset_options *options,
                         struct dataset **out)
{
    struct dataset *dataset = NULL;

    *out = NULL;
    TRY(memory_alloc(1, sizeof(*dataset), &dataset));
    const enum status status = fill(dataset, paths, options);
    if (status != STATUS_OK) {
        dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return STATUS_OK;
}

void dataset_close(struct dataset *dataset)
{
    if (dataset == NULL) {
        return;
    }
    for (size_t i = 0; i < dataset->n_sources; i++) {
        file_map_close(&dataset->sources[i].map);
        memory_free(dataset->sources[i].path);
    }
    for (size_t i = 0; i < N_COLUMNS; i++) {
        memory_free(dataset->given_keys[i]);
    }
    memory_free(dataset->system_prompt);
    memory_free(dataset->usable);
    memory_free(dataset->entries);
    memory_free(dataset->sources);
    memory_free(dataset);
}

/* --- Rows --- */

size_t dataset_rows(const struct dataset *dataset)
{
    return dataset->n_entries;
}

size_t dataset_files(const struct dataset *dataset)
{
    return dataset->n_sources;
}

size_t dataset_duplicates(const struct dataset *dataset)
{
    return dataset->n_duplicates;
}

struct dataset_file dataset_file_at(const struct dataset *dataset, size_t file_index)
{
    const struct dataset_source *source = &dataset->sources[file_index];

    return (struct dataset_file){
        .path = source->path,
        .prompt_key = source->keys[COLUMN_PROMPT],
        .answer_key = source->keys[COLUMN_ANSWER],
        .completion_key = source->keys[COLUMN_COMPLETION],
        .source_key = source->keys[COLUMN_SOURCE],
        .n_rows = source->n_rows,
    };
}

/* The value of a column, NULL when absent or null. */
static struct json *column_of(const struct dataset_source *source, const struct json *row,
                              enum dataset_column column)
{
    const char *key = source->keys[column];
    struct json *value = *key == '\0' ? NULL : json_path(row, key);

    return json_is(value, JSON_NULL) ? NULL : value;
}

static bool is_white(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Text after the last "####", without white space around it; NULL when there is no such mark. */
static const char *after_marks(const char *text, size_t n, size_t *n_out)
{
    const char *found = NULL;

    for (size_t i = 0; i + 4 <= n; i++) {
        found = memcmp(text + i, "####", 4) == 0 ? text + i + 4 : found;
    }
    if (found == NULL) {
        return NULL;
    }
    const char *end = text + n;
    while (found < end && is_white(*found)) {
        found++;
    }
    while (end > found && is_white(end[-1])) {
        end--;
    }
    *n_out = (size_t)(end - found);
    return found;
}

static enum status read_answer(struct json *value, struct json **out)
{
    size_t n = 0;
    const char *text = after_marks(json_text(value, ""), json_text_bytes(value), &n);

    if (value == NULL) {
        *out = NULL;
        return STATUS_OK;
    }
    *out = text == NULL ? json_retain(value) : json_from_text(text, n);
    return *out == NULL ? status_set(STATUS_NO_MEMORY, "no memory for an answer of %zu bytes", n)
                        : STATUS_OK;
}

enum status dataset_row_read(const struct dataset *dataset, size_t row_index,
                             struct dataset_row *out)
{
    *out = (struct dataset_row){0};
    if (row_index >= dataset->n_entries) {
        return status_set(STATUS_BAD_ARGUMENT, "row %zu of %zu", row_index, dataset->n_entries);
    }
    const struct dataset_entry *entry = &dataset->entries[row_index];
    const struct dataset_source *source = &dataset->sources[entry->source];
    TRY(dataset_parse_line(source, entry, &out->row));
    out->prompt = column_of(source, out->row, COLUMN_PROMPT);
    if (dataset->use == DATASET_SFT) {
        out->completion = column_of(source, out->row, COLUMN_COMPLETION);
    }
    out->data_source = json_text(column_of(source, out->row, COLUMN_SOURCE), "");
    out->path = source->path;
    out->line = entry->line;
    (void)hash_hex(entry->sha.bytes, sizeof(entry->sha.bytes), out->sha);
    const enum status status =
        read_answer(column_of(source, out->row, COLUMN_ANSWER), &out->answer);
    if (status != STATUS_OK) {
        dataset_row_dispose(out);
    }
    return status;
}

void dataset_row_dispose(struct dataset_row *row)
{
    json_destroy(row->answer);
    json_destroy(row->row);
    *row = (struct dataset_row){0};
}

/* --- Order --- */

size_t dataset_usable(const struct dataset *dataset)
{
    return dataset->n_usable;
}

size_t dataset_row_at(const struct dataset *dataset, uint64_t seed, uint64_t cursor, bool shuffle)
{
    const uint64_t n = dataset->n_usable;
    const uint64_t epoch = cursor / n;
    const uint64_t place = cursor % n;

    return dataset->usable[shuffle ? random_permute(seed, epoch, place, n) : place];
}
