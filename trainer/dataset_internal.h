/* Owns what the dataset's files share. Nothing outside trainer/dataset*.c includes it. */
#ifndef HONE_TRAINER_DATASET_INTERNAL_H
#define HONE_TRAINER_DATASET_INTERNAL_H

#include "base/file.h"
#include "trainer/dataset.h"

/* Columns by what they are for. */
enum dataset_column { COLUMN_PROMPT, COLUMN_ANSWER, COLUMN_COMPLETION, COLUMN_SOURCE, N_COLUMNS };

struct dataset_source {
    char *path;
    struct file_map map;
    const char *keys[N_COLUMNS]; /* "" none; points to the options' copies or to constants */
    size_t n_rows;
};

struct dataset_entry {
    uint64_t offset; /* of the line in its file */
    uint32_t bytes;  /* of the line, without its end */
    uint32_t line;
    uint32_t source;
    struct digest256 sha;
};

struct dataset {
    struct dataset_source *sources; /* (n_sources) */
    size_t n_sources;
    struct dataset_entry *entries; /* (n_entries), room for entries_room */
    size_t n_entries, entries_room;
    char *given_keys[N_COLUMNS]; /* NULL: detect */
    enum dataset_use use;
    bool needs_answer;
    size_t n_duplicates;
    uint32_t *usable; /* (n_usable) indices of entries */
    size_t n_usable;
    struct dataset_encoding encoding; /* after dataset_prepare; system_prompt is ours */
    char *system_prompt;
};

/* Indexes one mapped source: checks every line and its columns, appends the entries
 * (dataset_read.c). */
MUST_CHECK enum status dataset_index_source(struct dataset *dataset, size_t source_index);
/* Parses a line of a source. Errors: BAD_FORMAT with path:line:column. */
MUST_CHECK enum status dataset_parse_line(const struct dataset_source *source,
                                          const struct dataset_entry *entry, struct json **out);

#endif
