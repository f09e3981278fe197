/* Prompts for `hone generate`: read, encoded and checked before the weights are, so that a mistake
 * in the last line costs no generation. */
#include "cli/generate.h"

#include "base/memory.h"
#include "cli/json_lines.h"
#include "model/model_config.h"

#include <string.h>

enum status generate_texts_open(const struct generate_request *request, struct generate_texts *out)
{
    struct model_config config;

    *out = (struct generate_texts){.tokenizer = NULL};
    TRY(model_config_load(request->model, &config));
    out->n_positions = config.max_positions;
    TRY(tokenizer_load(request->model, &out->tokenizer));
    TRY(chat_template_open(request->chat, request->model, out->tokenizer, &out->chat));
    if (tokenizer_vocab_size(out->tokenizer) > config.vocab_size) {
        return status_set(STATUS_BAD_FORMAT,
                          "%s: tokenizer.json has ids up to %zu, config.json a vocabulary of %zu",
                          request->model, tokenizer_vocab_size(out->tokenizer) - 1,
                          config.vocab_size);
    }
    return STATUS_OK;
}

void generate_texts_close(struct generate_texts *texts)
{
    tokenizer_destroy(texts->tokenizer);
    *texts = (struct generate_texts){.tokenizer = NULL};
}

/* --- One prompt --- */

static enum status check_ids(const struct generate_texts *texts, const struct token_list *ids)
{
    if (ids->n_dropped > 0) {
        return status_set(STATUS_BAD_FORMAT,
                          "%zu characters of the prompt have no token in this model's vocabulary",
                          ids->n_dropped);
    }
    if (ids->count >= texts->n_positions) {
        return status_set(STATUS_BAD_FORMAT,
                          "the prompt has %zu tokens, the model %zu positions for it and what "
                          "follows",
                          ids->count, texts->n_positions);
    }
    return STATUS_OK;
}

enum status generate_encode(const struct generate_request *request,
                            const struct generate_texts *texts, const struct json *prompt,
                            const struct json *tools, struct token_list *out)
{
    const struct chat_options options = {.system_prompt = request->system_prompt,
                                         .tools = tools,
                                         .parse_special = request->parse_special};
    struct chat_prompt encoded;

    *out = (struct token_list){.ids = NULL};
    TRY(chat_encode_with(texts->tokenizer, texts->chat, prompt, &options, &encoded));
    const enum status status = check_ids(texts, &encoded.ids);
    if (status == STATUS_OK) {
        *out = encoded.ids;
        encoded.ids = (struct token_list){.ids = NULL};
    }
    chat_prompt_dispose(&encoded);
    return status;
}

enum status generate_room(const struct generate_request *request,
                          const struct generate_texts *texts, size_t n_prompt, size_t *out)
{
    const size_t n_left = texts->n_positions - n_prompt;

    *out = request->max_tokens < n_left ? request->max_tokens : n_left;
    if (request->has_max_tokens && request->max_tokens > n_left) {
        return status_set(STATUS_BAD_FORMAT,
                          "a prompt of %zu tokens and --max-tokens %zu exceed the model's %zu "
                          "positions",
                          n_prompt, request->max_tokens, texts->n_positions);
    }
    return STATUS_OK;
}

static enum status add_prompt(const struct generate_request *request,
                              const struct generate_texts *texts, const struct json *prompt,
                              const struct json *tools, struct generate_rows *rows)
{
    struct generate_row row = {.max_tokens = 0};

    if (rows->count == rows->room) {
        const size_t room = rows->room == 0 ? 16 : 2 * rows->room;
        TRY(memory_resize(rows->count * sizeof(row), room, sizeof(row), &rows->items));
        rows->room = room;
    }
    TRY(generate_encode(request, texts, prompt, tools, &row.ids));
    const enum status status = generate_room(request, texts, row.ids.count, &row.max_tokens);
    if (status != STATUS_OK) {
        token_list_dispose(&row.ids);
        return status;
    }
    const size_t length = row.ids.count + row.max_tokens;
    rows->longest = length > rows->longest ? length : rows->longest;
    rows->items[rows->count++] = row;
    return STATUS_OK;
}

void generate_rows_dispose(struct generate_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        token_list_dispose(&rows->items[i].ids);
    }
    memory_free(rows->items);
    *rows = (struct generate_rows){.items = NULL};
}

/* --- Rows of a file --- */

struct row_context {
    const struct generate_request *request;
    const struct generate_texts *texts;
    struct generate_rows *rows;
};

static enum status add_row(void *context, const struct json *row)
{
    const struct row_context *to = context;
    const struct json *messages = json_get(row, "messages");
    const struct json *prompt = json_get(row, "prompt");
    const bool has_messages = json_is(messages, JSON_ARRAY);
    const bool has_prompt = json_is(prompt, JSON_STRING) || json_is(prompt, JSON_ARRAY);

    if (has_messages == has_prompt || (messages != NULL && prompt != NULL)) {
        return status_set(STATUS_BAD_FORMAT,
                          "want {\"messages\": [...]} or {\"prompt\": \"...\"}, one of them");
    }
    return add_prompt(to->request, to->texts, has_messages ? messages : prompt,
                      json_get(row, "tools"), to->rows);
}

/* --- Where prompts come from --- */

static enum status take_text(const struct generate_request *request,
                             const struct generate_texts *texts, const char *name, const char *text,
                             size_t n, struct generate_rows *rows)
{
    struct json *prompt = json_from_text(text, n);

    if (prompt == NULL) {
        return status_set(STATUS_NO_MEMORY, "no memory for the prompt");
    }
    const enum status status = add_prompt(request, texts, prompt, NULL, rows);
    json_destroy(prompt);
    /* A wrong prompt is a wrong command line, not a damaged file. */
    return status == STATUS_BAD_FORMAT
               ? status_set(STATUS_BAD_ARGUMENT, "%s: %s", name, status_message())
               : status;
}

static enum status read_rows(const struct generate_request *request,
                             const struct generate_texts *texts, struct generate_rows *rows)
{
    struct row_context context = {.request = request, .texts = texts, .rows = rows};
    const char *name = json_lines_name(request->file);
    char *text = NULL;
    size_t n = 0;

    TRY(json_lines_read(request->file, &text, &n));
    enum status status = json_lines_each(name, text, n, add_row, &context, NULL);
    if (status == STATUS_OK && rows->count == 0) {
        status = status_set(STATUS_BAD_ARGUMENT, "%s: there are no rows", name);
    }
    memory_free(text);
    return status;
}

/* Standard input as one prompt; the line break that ends it is not part of it. */
static enum status read_prompt(const struct generate_request *request,
                               const struct generate_texts *texts, struct generate_rows *rows)
{
    char *text = NULL;
    size_t n = 0;

    TRY(json_lines_read("-", &text, &n));
    const bool ends_line = n > 0 && text[n - 1] == '\n';
    const enum status status =
        take_text(request, texts, "standard input", text, n - (ends_line ? 1 : 0), rows);
    memory_free(text);
    return status;
}

enum status generate_rows_read(const struct generate_request *request,
                               const struct generate_texts *texts, struct generate_rows *out)
{
    *out = (struct generate_rows){.items = NULL};
    if (request->prompt != NULL) {
        return take_text(request, texts, "--prompt", request->prompt, strlen(request->prompt), out);
    }
    return request->file != NULL ? read_rows(request, texts, out)
                                 : read_prompt(request, texts, out);
}
