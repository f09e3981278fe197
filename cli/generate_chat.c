/* A conversation: what is typed is a turn of the user, what is drawn one of the assistant. Every
 * turn goes through the chat template as a whole, like the rows of a file. */
#include "cli/generate.h"

#include "base/memory.h"
#include "base/process.h"
#include "cli/local_engine.h"
#include "cli/text_stream.h"
#include "model/precision.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_TOKENS ((size_t)512)
#define CONVERSATION_MAX ((size_t)1 << 15) /* tokens, where the model has more positions */
#define LINE_MAX_BYTES 65536u

static const char greeting[] =
    "Type a message and Enter. /new starts over, /quit or Ctrl-D leaves.\n";

struct conversation {
    const struct generate_request *request;
    struct generate_texts texts; /* positions: of this engine */
    struct local_engine local;
    struct json *messages;
    uint64_t group; /* of the next answer */
};

static enum status add_message(struct json *messages, const char *role, const char *text, size_t n)
{
    struct json *message = json_object_create();
    enum status status = json_put(message, "role", json_from_text(role, strlen(role)));

    if (status == STATUS_OK) {
        status = json_put(message, "content", json_from_text(text, n));
    }
    if (status != STATUS_OK) {
        json_destroy(message);
        return status;
    }
    return json_append(messages, message);
}

static enum status start_over(struct conversation *c)
{
    json_destroy(c->messages);
    c->messages = json_array_create();
    return c->messages == NULL ? status_set(STATUS_NO_MEMORY, "no memory for the conversation")
                               : STATUS_OK;
}

/* The messages so far and one more, as a list of their own. */
static enum status with_message(const struct conversation *c, const char *text, size_t n,
                                struct json **out)
{
    struct json *list = json_array_create();
    enum status status = STATUS_OK;

    *out = NULL;
    for (size_t i = 0; status == STATUS_OK && i < json_count(c->messages); i++) {
        status = json_append(list, json_retain(json_at(c->messages, i)));
    }
    if (status == STATUS_OK) {
        status = add_message(list, "user", text, n);
    }
    if (status != STATUS_OK) {
        json_destroy(list);
        return status;
    }
    *out = list;
    return STATUS_OK;
}

/* The answer's text becomes a message of the conversation. */
static enum status keep_answer(struct conversation *c, struct json *messages,
                               const struct completion *completion, size_t n_tokens)
{
    char *text = NULL;
    size_t n = 0;

    TRY(tokenizer_decode(c->texts.tokenizer, completion->tokens, n_tokens, false, true, &text, &n));
    const enum status status = add_message(messages, "assistant", text, n);
    memory_free(text);
    if (status == STATUS_OK) {
        json_destroy(c->messages);
        c->messages = json_retain(messages);
    }
    return status;
}

static enum status show_end(struct conversation *c, struct text_stream *stream,
                            struct json *messages, const struct completion *completion)
{
    const bool is_whole = completion->finish == FINISH_STOP;
    const size_t n_tokens = completion->n_tokens - (is_whole ? 1 : 0);

    TRY(text_stream_show(stream, completion->tokens, n_tokens, true));
    (void)fputs(is_whole ? "\n" : " ...\n", stdout);
    return keep_answer(c, messages, completion, n_tokens);
}

/* One token more. */
static enum status show_more(struct conversation *c, struct text_stream *stream,
                             struct json *messages)
{
    const struct completion *completions = NULL;
    const int32_t *tokens = NULL;
    size_t n = 0;

    TRY(engine_tick(c->local.engine, &completions, &n));
    if (n > 0) {
        return show_end(c, stream, messages, &completions[0]);
    }
    n = engine_drawn(c->local.engine, c->group, 0, &tokens);
    return n > 0 ? text_stream_show(stream, tokens, n, false) : STATUS_OK;
}

static enum status show_answer(struct conversation *c, struct json *messages)
{
    struct text_stream stream = {.tokenizer = c->texts.tokenizer, .stream = stdout};

    while (!engine_is_idle(c->local.engine)) {
        if (process_signal_caught() != 0) {
            return status_set(STATUS_CANCELLED, "interrupted");
        }
        TRY(show_more(c, &stream, messages));
    }
    return STATUS_OK;
}

static enum status answer(struct conversation *c, struct json *messages,
                          const struct token_list *prompt)
{
    static const int32_t samples[] = {0};
    struct engine_request work = {.seed = c->request->seed,
                                  .group = c->group,
                                  .prompt = prompt->ids,
                                  .n_prompt = prompt->count,
                                  .samples = samples,
                                  .n_samples = 1,
                                  .sampling = c->request->sampling};

    TRY(generate_room(c->request, &c->texts, prompt->count, &work.max_tokens));
    TRY(engine_submit(c->local.engine, &work));
    const enum status status = show_answer(c, messages);
    c->group++;
    return status;
}

/* One turn. What is wrong with a message is said, and the conversation goes on without it. */
static enum status take_turn(struct conversation *c, const char *text, size_t n)
{
    struct json *messages = NULL;
    struct token_list prompt = {.ids = NULL};

    TRY(with_message(c, text, n, &messages));
    enum status status = generate_encode(c->request, &c->texts, messages, NULL, &prompt);
    if (status == STATUS_OK) {
        status = answer(c, messages, &prompt);
    }
    if (status == STATUS_BAD_FORMAT) {
        (void)fprintf(stderr, "%s (/new starts over)\n", status_message());
        status = STATUS_OK;
    }
    token_list_dispose(&prompt);
    json_destroy(messages);
    return status;
}

/* False at the end of the input, or after a signal. The line break is cut off. */
static bool read_line(char *line, size_t room, size_t *n)
{
    (void)fputs("> ", stdout);
    (void)fflush(stdout);
    if (process_signal_caught() != 0 || fgets(line, (int)room, stdin) == NULL) {
        return false;
    }
    *n = strcspn(line, "\n");
    line[*n] = '\0';
    return true;
}

static enum status take_line(struct conversation *c, const char *line, size_t n)
{
    if (strcmp(line, "/new") == 0) {
        return start_over(c);
    }
    return n > 0 ? take_turn(c, line, n) : STATUS_OK;
}

static enum status converse(struct conversation *c, char *line)
{
    size_t n = 0;

    while (read_line(line, LINE_MAX_BYTES, &n)) {
        if (strcmp(line, "/quit") == 0) {
            return STATUS_OK;
        }
        TRY(take_line(c, line, n));
    }
    (void)fputc('\n', stdout);
    return process_signal_caught() != 0 ? status_set(STATUS_CANCELLED, "interrupted") : STATUS_OK;
}

enum status generate_chat(const struct generate_request *request,
                          const struct generate_texts *texts)
{
    struct conversation c = {.request = request, .texts = *texts, .group = GENERATE_GROUP_FIRST};
    char *line = NULL;

    c.texts.n_positions =
        texts->n_positions < CONVERSATION_MAX ? texts->n_positions : CONVERSATION_MAX;
    const struct engine_options options = {
        .max_num_seqs = 1,
        .max_batch_tokens = BATCH_TOKENS,
        .max_sequence = c.texts.n_positions,
        .n_drafts = request->n_drafts,
        .precision = request->precision,
        .cache = precision_cache(request->kv_cache, request->precision)};
    enum status status = memory_alloc(LINE_MAX_BYTES, 1, &line);
    if (status == STATUS_OK) {
        status = start_over(&c);
    }
    if (status == STATUS_OK) {
        status = local_engine_open(request->model, request->device, request->n_threads, &options,
                                   &c.local);
    }
    if (status == STATUS_OK) {
        (void)fputs(greeting, stdout);
        status = converse(&c, line);
    }
    local_engine_close(&c.local);
    json_destroy(c.messages);
    memory_free(line);
    return status;
}
