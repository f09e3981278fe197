/* Owns rows: JSON lines files as an indexed list of prompts, answers and completions
 * (data-and-ui.md 1). Every line is checked once at start; afterwards a row is parsed again when it
 * is asked for, so a million rows cost 64 bytes each. The order of rows is a function of (seed,
 * cursor): a resume needs only the cursor. */
#ifndef HONE_TRAINER_DATASET_H
#define HONE_TRAINER_DATASET_H

#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"
#include "configs/config.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dataset;

enum dataset_use {
    DATASET_PROMPTS, /* a prompt each, maybe an answer: RL, evaluation */
    DATASET_SFT      /* a prompt and a completion each */
};

/* Keys are dotted paths; NULL, "" or "auto" detects them in the first 100 rows of each file. A key
 * that is given must be in every row. */
struct dataset_options {
    enum dataset_use use;
    const char *prompt_key, *answer_key, *completion_key;
    bool needs_answer; /* a row without a detected answer column is an error too */
};

/* Opens files and globs (a glob's files sorted by name) in the order of the list. Errors: IO (names
 * the file), BAD_FORMAT with file:line:column (no JSON object, duplicate key, too deep, line over
 * 16 MiB), BAD_CONFIG (a column is missing: file:line, what was looked for, what is there; no rows
 * at all), UNSUPPORTED (parquet, compressed files). */
MUST_CHECK enum status dataset_open(const struct text_list *paths,
                                    const struct dataset_options *options, struct dataset **out);
void dataset_close(struct dataset *dataset); /* NULL is legal */

size_t dataset_rows(const struct dataset *dataset);       /* all rows, usable or not */
size_t dataset_files(const struct dataset *dataset);      /* after globbing */
size_t dataset_duplicates(const struct dataset *dataset); /* rows equal to an earlier one */

/* What was found in one file; strings are borrowed and "" when there is no such column. */
struct dataset_file {
    const char *path;
    const char *prompt_key, *answer_key, *completion_key, *source_key;
    size_t n_rows;
};
struct dataset_file dataset_file_at(const struct dataset *dataset, size_t file_index);

/* One row. The text of a GSM8K answer after the last "####" is the answer. */
struct dataset_row {
    struct json *row;              /* the whole object, for the scorers */
    const struct json *prompt;     /* borrowed from row: string or messages; NULL when absent */
    struct json *answer;           /* NULL when absent or null */
    const struct json *completion; /* borrowed; NULL for DATASET_PROMPTS */
    const char *data_source;       /* borrowed; "" when absent */
    char sha[DIGEST256_TEXT];      /* SHA-256 of the row's canonical JSON: its identity over runs */
    const char *path;              /* borrowed from the dataset */
    size_t line;                   /* from 1 */
};
/* Parses row row_index (of all rows). Caller disposes *out. */
MUST_CHECK enum status dataset_row_read(const struct dataset *dataset, size_t row_index,
                                        struct dataset_row *out);
void dataset_row_dispose(struct dataset_row *row);

/* How rows become ids. */
struct dataset_encoding {
    const struct tokenizer *tokenizer; /* kept until dataset_close */
    enum chat_template chat;
    const char *system_prompt; /* copied; "" or NULL: none */
    bool parse_special;        /* special tokens in prompts are tokens; completions always are */
    int32_t eos_id;            /* closes a completion; -1: the tokenizer's */
    size_t max_prompt_length;  /* tokens of the prompt; 0: no limit */
    size_t max_total_length;   /* SFT: prompt and completion; 0: no limit */
};

/* What dataset_prepare left out, and what it only counted. */
struct dataset_counts {
    size_t n_rows, n_usable;
    size_t n_too_long;       /* left out */
    size_t n_empty;          /* left out: prompt or completion empty or null */
    size_t n_unencodable;    /* left out: characters that the tokenizer has no token for */
    size_t n_duplicates;     /* kept: rows equal to another one */
    size_t n_without_answer; /* kept */
    size_t longest_prompt;   /* tokens, over all rows that are not empty */
    size_t longest_total;    /* SFT: tokens of the longest usable example, EOS included */
};
/* Encodes every row once and keeps the indices of the usable ones. Errors: BAD_CONFIG when none is
 * left (says how many were what), BAD_FORMAT with file:line (a prompt of a wrong shape). */
MUST_CHECK enum status dataset_prepare(struct dataset *dataset,
                                       const struct dataset_encoding *encoding,
                                       struct dataset_counts *counts);
/* "20000 rows, 19990 usable, 10 over max_prompt_length 64 ..." into out. Returns out. */
const char *dataset_counts_text(const struct dataset_counts *counts, char *out, size_t room);

/* Row index at position cursor of the endless order: epochs of the usable rows one after another,
 * each permuted by (seed, epoch) when shuffle, else in file order. After dataset_prepare. */
size_t dataset_row_at(const struct dataset *dataset, uint64_t seed, uint64_t cursor, bool shuffle);
size_t dataset_usable(const struct dataset *dataset);

/* The row's prompt as dataset_prepare encoded it. Caller disposes *out with chat_prompt_dispose. */
MUST_CHECK enum status dataset_encode_prompt(const struct dataset *dataset,
                                             const struct dataset_row *row,
                                             struct chat_prompt *out);
/* SFT: prompt, completion and EOS; the loss is on ids[n_prompt .. count). */
struct dataset_example {
    struct token_list tokens;
    size_t n_prompt;
};
MUST_CHECK enum status dataset_encode_example(const struct dataset *dataset,
                                              const struct dataset_row *row,
                                              struct dataset_example *out);
void dataset_example_dispose(struct dataset_example *example);

#endif
