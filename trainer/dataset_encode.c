/* Owns the way from rows to ids: which rows can be used, and what the policy sees of them. */
#include "base/memory.h"
#include "trainer/dataset_internal.h"

#include <stdio.h>
#include <string.h>

/* --- Shapes --- */

static bool is_blank_text(const struct json *value)
{
    const char *text = json_text(value, "");

    for (size_t i = 0; i < json_text_bytes(value); i++) {
        if (strchr(" \t\r\n", text[i]) == NULL || text[i] == '\0') {
            return false;
        }
    }
    return true;
}

/* null, no text, no messages, or messages without any text. Other shapes are not empty but wrong,
 * and refused where they are encoded. */
static bool is_empty(const struct json *value)
{
    if (json_is(value, JSON_STRING)) {
        return is_blank_text(value);
    }
    if (!json_is(value, JSON_ARRAY)) {
        return json_is(value, JSON_NULL);
    }
    for (size_t i = 0; i < json_count(value); i++) {
        const struct json *content = json_get(json_at(value, i), "content");
        if (!json_is(content, JSON_STRING) || !is_blank_text(content)) {
            return false;
        }
    }
    return true;
}

static enum status wrap_row(enum status status, const struct dataset_row *row)
{
    return status == STATUS_OK ? status : status_wrap(status, "%s:%zu", row->path, row->line);
}

/* A completion is a text, or the one assistant message of a list. */
static enum status completion_text(const struct dataset_row *row, const struct json **out)
{
    const struct json *message = json_at(row->completion, 0);
    const bool is_message = json_count(row->completion) == 1 &&
                            strcmp(json_text(json_get(message, "role"), ""), "assistant") == 0;

    *out = is_message ? json_get(message, "content") : row->completion;
    if (!json_is(*out, JSON_STRING)) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s:%zu: the completion is neither a text nor one assistant message",
                          row->path, row->line);
    }
    return STATUS_OK;
}

/* --- Encoding --- */

enum status dataset_encode_prompt(const struct dataset *dataset, const struct dataset_row *row,
                                  struct chat_prompt *out)
{
    const struct dataset_encoding *e = &dataset->encoding;
    const struct json *tools = json_get(row->row, "tools");
    const struct chat_options options = {
        .system_prompt = e->system_prompt,
        .parse_special = e->parse_special,
        .tools = json_is(tools, JSON_ARRAY) ? tools : NULL,
        .variables = json_get(row->row, "chat_template_kwargs"),
    };

    return wrap_row(chat_encode_with(e->tokenizer, e->chat, row->prompt, &options, out), row);
}

static enum status join(const struct token_list *prompt, const struct token_list *completion,
                        int32_t eos, struct dataset_example *out)
{
    const size_t count = prompt->count + completion->count + 1;

    TRY(memory_alloc(count, sizeof(*out->tokens.ids), &out->tokens.ids));
    if (prompt->count > 0) {
        memcpy(out->tokens.ids, prompt->ids, prompt->count * sizeof(*prompt->ids));
    }
    if (completion->count > 0) {
        memcpy(out->tokens.ids + prompt->count, completion->ids,
               completion->count * sizeof(*completion->ids));
    }
    out->tokens.ids[count - 1] = eos;
    out->tokens.count = count;
    out->tokens.n_dropped = prompt->n_dropped + completion->n_dropped;
    out->n_prompt = prompt->count;
    return STATUS_OK;
}

enum status dataset_encode_example(const struct dataset *dataset, const struct dataset_row *row,
                                   struct dataset_example *out)
{
    const struct dataset_encoding *e = &dataset->encoding;
    const int32_t eos = e->eos_id >= 0 ? e->eos_id : tokenizer_eos(e->tokenizer);
    const struct json *text = NULL;
    struct chat_prompt prompt = {0};
    struct token_list completion = {0};

    *out = (struct dataset_example){0};
    if (eos < 0) {
        return status_set(STATUS_BAD_CONFIG, "the tokenizer names no eos_token to end completions");
    }
    TRY(completion_text(row, &text));
    TRY(dataset_encode_prompt(dataset, row, &prompt));
    enum status status = tokenizer_encode(e->tokenizer, json_text(text, ""), json_text_bytes(text),
                                          true, &completion);
    if (status == STATUS_OK) {
        status = join(&prompt.ids, &completion, eos, out);
    }
    token_list_dispose(&completion);
    chat_prompt_dispose(&prompt);
    return status;
}

void dataset_example_dispose(struct dataset_example *example)
{
    token_list_dispose(&example->tokens);
    *example = (struct dataset_example){0};
}

/* --- Which rows can be used --- */

struct row_size {
    size_t n_prompt, n_total, n_dropped;
};

static enum status measure_row(const struct dataset *dataset, const struct dataset_row *row,
                               struct row_size *size)
{
    struct dataset_example example;
    struct chat_prompt prompt;

    if (dataset->use == DATASET_SFT) {
        TRY(dataset_encode_example(dataset, row, &example));
        *size = (struct row_size){example.n_prompt, example.tokens.count, example.tokens.n_dropped};
        dataset_example_dispose(&example);
        return STATUS_OK;
    }
    TRY(dataset_encode_prompt(dataset, row, &prompt));
    *size = (struct row_size){prompt.ids.count, 0, prompt.ids.n_dropped};
    chat_prompt_dispose(&prompt);
    return STATUS_OK;
}

static bool is_over(size_t n, size_t limit)
{
    return limit > 0 && n > limit;
}

static enum status judge_row(struct dataset *dataset, size_t index, const struct dataset_row *row,
                             struct dataset_counts *counts)
{
    const struct dataset_encoding *e = &dataset->encoding;
    struct row_size size = {0};

    counts->n_without_answer += dataset->use == DATASET_PROMPTS && row->answer == NULL ? 1 : 0;
    if (is_empty(row->prompt) || (dataset->use == DATASET_SFT && is_empty(row->completion))) {
        counts->n_empty++;
        return STATUS_OK;
    }
    TRY(measure_row(dataset, row, &size));
    counts->longest_prompt =
        size.n_prompt > counts->longest_prompt ? size.n_prompt : counts->longest_prompt;
    if (size.n_dropped > 0) {
        counts->n_unencodable++;
    } else if (is_over(size.n_prompt, e->max_prompt_length) ||
               is_over(size.n_total, e->max_total_length)) {
        counts->n_too_long++;
    } else {
        dataset->usable[dataset->n_usable++] = (uint32_t)index;
        counts->longest_total =
            size.n_total > counts->longest_total ? size.n_total : counts->longest_total;
    }
    return STATUS_OK;
}

static enum status judge_rows(struct dataset *dataset, struct dataset_counts *counts)
{
    for (size_t i = 0; i < dataset->n_entries; i++) {
        struct dataset_row row;
        TRY(dataset_row_read(dataset, i, &row));
        const enum status status = judge_row(dataset, i, &row, counts);
        dataset_row_dispose(&row);
        TRY(status);
    }
    return STATUS_OK;
}

const char *dataset_counts_text(const struct dataset_counts *counts, char *out, size_t room)
{
    const struct {
        size_t n;
        const char *what;
    } parts[] = {
        {counts->n_too_long, "too long"},
        {counts->n_empty, "empty"},
        {counts->n_unencodable, "with characters the tokenizer lacks"},
        {counts->n_duplicates, "duplicate (kept)"},
        {counts->n_without_answer, "without answer (kept)"},
    };

    (void)snprintf(out, room, "%zu rows, %zu usable", counts->n_rows, counts->n_usable);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        const size_t used = strlen(out);
        if (parts[i].n > 0) {
            (void)snprintf(out + used, room - used, ", %zu %s", parts[i].n, parts[i].what);
        }
    }
    return out;
}

/* One line that says why nothing is left. */
static enum status refuse_nothing(const struct dataset *dataset,
                                  const struct dataset_counts *counts)
{
    const struct dataset_encoding *e = &dataset->encoding;
    char text[256];

    return status_set(
        STATUS_BAD_CONFIG,
        "%s%s: no usable rows: %s (longest prompt %zu tokens, max_prompt_length %zu%s)",
        dataset->sources[0].path, dataset->n_sources > 1 ? ", ..." : "",
        dataset_counts_text(counts, text, sizeof(text)), counts->longest_prompt,
        e->max_prompt_length, e->max_prompt_length == 0 ? " = no limit" : "");
}

static enum status keep_encoding(struct dataset *dataset, const struct dataset_encoding *encoding)
{
    const char *system = encoding->system_prompt == NULL ? "" : encoding->system_prompt;
    char *copy = NULL;

    TRY(memory_copy_text(system, strlen(system), &copy));
    memory_free(dataset->system_prompt);
    dataset->system_prompt = copy;
    dataset->encoding = *encoding;
    dataset->encoding.system_prompt = copy;
    return STATUS_OK;
}

enum status dataset_prepare(struct dataset *dataset, const struct dataset_encoding *encoding,
                            struct dataset_counts *counts)
{
    *counts = (struct dataset_counts){.n_rows = dataset->n_entries,
                                      .n_duplicates = dataset->n_duplicates};
    TRY(keep_encoding(dataset, encoding));
    if (dataset->usable == NULL) {
        TRY(memory_alloc(dataset->n_entries, sizeof(*dataset->usable), &dataset->usable));
    }
    dataset->n_usable = 0;
    TRY(judge_rows(dataset, counts));
    counts->n_usable = dataset->n_usable;
    return dataset->n_usable > 0 ? STATUS_OK : refuse_nothing(dataset, counts);
}
