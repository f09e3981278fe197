/* Prompts for `hone generate`: read, encoded and checked before the weights are, so that a mistake
 * in the last line costs no generation. */
#include "cli/generate.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text_buffer.h"
#include "model/model_config.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define FILE_BYTES_MAX ((size_t)4 << 30)
#define READ_BYTES ((size_t)1 << 16)
#define DEPTH_MAX 32u

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

static enum status add_row(const struct generate_request *request,
                           const struct generate_texts *texts, const struct json *row,
                           struct generate_rows *rows)
{
    const struct json *messages = json_get(row, "messages");
    const struct json *prompt = json_get(row, "prompt");
    const bool has_messages = json_is(messages, JSON_ARRAY);
    const bool has_prompt = json_is(prompt, JSON_STRING) || json_is(prompt, JSON_ARRAY);

    if (has_messages == has_prompt || (messages != NULL && prompt != NULL)) {
        return status_set(STATUS_BAD_FORMAT,
                          "want {\"messages\": [...]} or {\"prompt\": \"...\"}, one of them");
    }
    return add_prompt(request, texts, has_messages ? messages : prompt, json_get(row, "tools"),
                      rows);
}

static bool is_blank(const char *line, size_t n)
{
    return strspn(line, " \t\r") >= n;
}

/* Where a line stands, for messages. */
struct place {
    const char *file;
    size_t line;
};

static enum status parse_line(const struct place *place, const char *line, size_t n,
                              struct json **out)
{
    const enum status status = json_parse_with_nul(line, n, DEPTH_MAX, out);

    if (status == STATUS_BAD_FORMAT) {
        /* the parser saw one line: "1:column: what" */
        const char *colon = strchr(status_message(), ':');

        return status_set(status, "%s:%zu:%s", place->file, place->line,
                          colon == NULL ? " broken JSON" : colon + 1);
    }
    return status;
}

/* line[n] is a line break or the text's NUL. */
static enum status add_line(const struct generate_request *request,
                            const struct generate_texts *texts, const struct place *place,
                            const char *line, size_t n, struct generate_rows *rows)
{
    struct json *row = NULL;

    if (is_blank(line, n)) {
        return STATUS_OK;
    }
    TRY(parse_line(place, line, n, &row));
    const enum status status = add_row(request, texts, row, rows);
    json_destroy(row);
    return status == STATUS_OK ? status : status_wrap(status, "%s:%zu", place->file, place->line);
}

static enum status add_lines(const struct generate_request *request,
                             const struct generate_texts *texts, const char *name, const char *text,
                             size_t n, struct generate_rows *rows)
{
    static const char bom[] = "\xef\xbb\xbf";
    const size_t n_bom = n >= 3 && memcmp(text, bom, 3) == 0 ? 3 : 0;
    struct place place = {.file = name};

    for (const char *at = text + n_bom; at < text + n;) {
        const char *end = memchr(at, '\n', (size_t)(text + n - at));

        end = end == NULL ? text + n : end;
        place.line++;
        TRY(add_line(request, texts, &place, at, (size_t)(end - at), rows));
        at = end + 1;
    }
    if (rows->count == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there are no rows", name);
    }
    return STATUS_OK;
}

/* --- Where prompts come from --- */

static enum status read_input(struct text_buffer *out)
{
    ssize_t n = 1;

    while (n > 0) {
        TRY(text_buffer_reserve(out, READ_BYTES));
        n = read(STDIN_FILENO, out->bytes + out->count, READ_BYTES);
        out->count += n > 0 ? (size_t)n : 0;
        if (out->count > FILE_BYTES_MAX) {
            return status_set(STATUS_BAD_FORMAT, "standard input: more than %zu bytes",
                              FILE_BYTES_MAX);
        }
    }
    if (n < 0) {
        return errno == EINTR ? status_set(STATUS_CANCELLED, "interrupted")
                              : status_set(STATUS_IO, "standard input: %s", strerror(errno));
    }
    return text_buffer_put(out, "", 0); /* the NUL behind it */
}

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

static enum status read_standard_input(const struct generate_request *request,
                                       const struct generate_texts *texts,
                                       struct generate_rows *rows)
{
    struct text_buffer input = {.bytes = NULL};
    enum status status = read_input(&input);

    if (status == STATUS_OK && request->file != NULL) {
        status = add_lines(request, texts, "(standard input)", input.bytes, input.count, rows);
    } else if (status == STATUS_OK) {
        const bool ends_line = input.count > 0 && input.bytes[input.count - 1] == '\n';

        status = take_text(request, texts, "standard input", input.bytes,
                           input.count - (ends_line ? 1 : 0), rows);
    }
    text_buffer_dispose(&input);
    return status;
}

static enum status read_file(const struct generate_request *request,
                             const struct generate_texts *texts, struct generate_rows *rows)
{
    char *text = NULL;
    size_t n = 0;

    if (!file_exists(request->file)) {
        return status_set(STATUS_BAD_ARGUMENT, "%s: there is no such file", request->file);
    }
    TRY(file_read(request->file, FILE_BYTES_MAX, &text, &n));
    const enum status status = add_lines(request, texts, request->file, text, n, rows);
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
    if (request->file == NULL || strcmp(request->file, "-") == 0) {
        return read_standard_input(request, texts, out);
    }
    return read_file(request, texts, out);
}
