#include "cli/tok_render.h"

#include "base/log.h"
#include "base/memory.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

static enum status fill_row(const struct chat_prompt *prompt, struct json *row)
{
    struct json *ids = json_array_create();

    TRY(json_put(row, "ids", ids));
    for (size_t i = 0; i < prompt->ids.count; i++) {
        TRY(json_append(ids, json_from_int(prompt->ids.ids[i])));
    }
    return json_put(row, "text", json_from_text(prompt->text, prompt->text_bytes));
}

static enum status print_prompt(const struct chat_prompt *prompt, bool wants_json)
{
    const size_t room = 8 * prompt->text_bytes + 8; /* every byte may become an escape */
    char *line = NULL;

    if (wants_json) {
        struct json *row = json_object_create();
        const enum status status = fill_row(prompt, row);
        if (status != STATUS_OK) {
            json_destroy(row);
            return status;
        }
        return cli_print_json(row);
    }
    TRY(memory_alloc(room, 1, &line));
    (void)puts(log_escape(prompt->text, prompt->text_bytes, line, room));
    memory_free(line);
    return STATUS_OK;
}

enum status tok_render_row(const struct tokenizer *tokenizer, enum chat_template chat,
                           const struct json *row, bool wants_json, struct tok_losses *losses)
{
    const struct json *messages = json_get(row, "messages");
    const struct json *asks = json_get(row, "add_generation_prompt");
    const struct chat_options options = {
        .tools = json_get(row, "tools"),
        .variables = row,
        .is_closed = json_is(asks, JSON_BOOL),
        .asks_for_answer = json_bool(asks, false),
    };
    struct chat_prompt prompt;

    TRY(chat_encode_with(tokenizer, chat, messages == NULL ? json_get(row, "prompt") : messages,
                         &options, &prompt));
    enum status status = print_prompt(&prompt, wants_json);
    if (status == STATUS_OK) {
        /* Which ones a character by itself cannot tell: the template's tokens are not text. */
        status = tok_tell_losses(tokenizer, "tok render", "", 0, prompt.ids.n_dropped, losses);
    }
    chat_prompt_dispose(&prompt);
    return status;
}

enum status tok_render_text(const struct tokenizer *tokenizer, enum chat_template chat,
                            const char *text, bool wants_json, struct tok_losses *losses)
{
    struct json *row = json_object_create();
    enum status status = json_put(row, "prompt", json_from_text(text, strlen(text)));

    if (status == STATUS_OK) {
        status = tok_render_row(tokenizer, chat, row, wants_json, losses);
    }
    json_destroy(row);
    return status;
}
