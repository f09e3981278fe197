/* Drawing for `hone generate`: all rows through one engine, continuously batched; what a sample is
 * depends on seed, row and sample number alone, so batching changes no bit of it. */
#include "cli/generate.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "cli/cli.h"
#include "cli/local_engine.h"
#include "cli/ordered_lines.h"
#include "cli/sequence_score.h"
#include "cli/text_stream.h"
#include "model/precision.h"

#include <assert.h>
#include <string.h>

#define BATCH_TOKENS ((size_t)512) /* rows of a forward: the prefill chunk */

struct drawing {
    const struct generate_request *request;
    const struct generate_texts *texts;
    const struct generate_rows *rows;
    struct local_engine local;
    struct ordered_lines *lines;  /* NULL: the one sample is streamed */
    struct sequence_score *score; /* NULL: the engine's log-probabilities are wanted, or none */
    struct text_stream stream;
    int32_t *samples; /* 0, 1, ... n_samples - 1 */
    size_t n_submitted;
};

/* --- A completion as an object or a line --- */

static struct json *json_of_ids(const int32_t *ids, size_t n)
{
    struct json *array = json_array_create();

    for (size_t i = 0; array != NULL && i < n; i++) {
        if (json_append(array, json_from_int(ids[i])) != STATUS_OK) {
            json_destroy(array);
            return NULL;
        }
    }
    return array;
}

static struct json *json_of_logprobs(const float *logprobs, size_t n)
{
    struct json *array = json_array_create();

    for (size_t i = 0; array != NULL && i < n; i++) {
        if (json_append(array, json_from_number((double)logprobs[i])) != STATUS_OK) {
            json_destroy(array);
            return NULL;
        }
    }
    return array;
}

static size_t row_of(const struct completion *completion)
{
    return (size_t)(completion->group - GENERATE_GROUP_FIRST);
}

/* What was drawn greedily had no other choice, which says nothing: its log-probabilities are the
 * model's own, at temperature 1. */
static enum status put_logprobs(const struct drawing *d, const struct completion *completion,
                                struct json *object)
{
    const struct token_list *prompt = &d->rows->items[row_of(completion)].ids;
    const float *logprobs = completion->logprobs;

    if (d->score != NULL) {
        TRY(sequence_score_run(d->score, prompt->ids, prompt->count, completion->tokens,
                               completion->n_tokens, &logprobs));
    }
    return json_put(object, "logprobs", json_of_logprobs(logprobs, completion->n_tokens));
}

static enum status fill_object(const struct drawing *d, const struct completion *completion,
                               const char *text, size_t text_bytes, struct json *object)
{
    const struct token_list *prompt = &d->rows->items[row_of(completion)].ids;
    const char *finish = finish_name(completion->finish);

    TRY(json_put(object, "row", json_from_int((int64_t)row_of(completion))));
    TRY(json_put(object, "sample", json_from_int(completion->sample)));
    TRY(json_put(object, "text", json_from_text(text, text_bytes)));
    TRY(json_put(object, "prompt_ids", json_of_ids(prompt->ids, prompt->count)));
    TRY(json_put(object, "ids", json_of_ids(completion->tokens, completion->n_tokens)));
    if (d->request->wants_logprobs) {
        TRY(put_logprobs(d, completion, object));
    }
    return json_put(object, "finish", json_from_text(finish, strlen(finish)));
}

static enum status print_object(const struct drawing *d, const struct completion *completion,
                                const char *text, size_t text_bytes, char **out)
{
    struct json *object = json_object_create();
    enum status status = fill_object(d, completion, text, text_bytes, object);

    if (status == STATUS_OK) {
        status = json_print(object, out, NULL);
    }
    json_destroy(object);
    return status;
}

static enum status print_escaped(const char *text, size_t text_bytes, char **out)
{
    const size_t room = 4 * text_bytes + 1; /* every byte may become \xNN */

    TRY(memory_alloc(room, 1, out));
    (void)log_escape(text, text_bytes, *out, room);
    return STATUS_OK;
}

/* Tokens of the text: without the end token. */
static size_t text_tokens(const struct completion *completion)
{
    return completion->n_tokens - (completion->finish == FINISH_STOP ? 1 : 0);
}

static enum status add_line(struct drawing *d, const struct completion *completion)
{
    const size_t index = row_of(completion) * d->request->n_samples + completion->sample;
    char *text = NULL;
    char *line = NULL;
    size_t text_bytes = 0;

    TRY(tokenizer_decode(d->texts->tokenizer, completion->tokens, text_tokens(completion), false,
                         true, &text, &text_bytes));
    const enum status status = d->request->wants_json
                                   ? print_object(d, completion, text, text_bytes, &line)
                                   : print_escaped(text, text_bytes, &line);
    memory_free(text);
    return status == STATUS_OK ? ordered_lines_add(d->lines, index, line) : status;
}

/* --- The loop --- */

/* Keeps the engine's queue as long as a tick can need. */
static enum status submit_rows(struct drawing *d)
{
    while (d->n_submitted < d->rows->count &&
           engine_queued(d->local.engine) < 2 * d->request->max_num_seqs) {
        const struct generate_row *row = &d->rows->items[d->n_submitted];
        const struct engine_request work = {.seed = d->request->seed,
                                            .group = GENERATE_GROUP_FIRST + d->n_submitted,
                                            .prompt = row->ids.ids,
                                            .n_prompt = row->ids.count,
                                            .samples = d->samples,
                                            .n_samples = d->request->n_samples,
                                            .max_tokens = row->max_tokens,
                                            .sampling = d->request->sampling};
        TRY(engine_submit(d->local.engine, &work));
        d->n_submitted++;
    }
    return STATUS_OK;
}

static enum status show_progress(struct drawing *d)
{
    const int32_t *tokens = NULL;
    const size_t n = engine_drawn(d->local.engine, GENERATE_GROUP_FIRST, 0, &tokens);

    return n == 0 ? STATUS_OK : text_stream_show(&d->stream, tokens, n, false);
}

static enum status show_end(struct drawing *d, const struct completion *completion)
{
    TRY(text_stream_show(&d->stream, completion->tokens, text_tokens(completion), true));
    (void)fputc('\n', d->stream.stream);
    return STATUS_OK;
}

static enum status take_completion(struct drawing *d, const struct completion *completion)
{
    assert(row_of(completion) < d->rows->count);
    return d->lines != NULL ? add_line(d, completion) : show_end(d, completion);
}

/* One forward, and what it finished. */
static enum status draw_more(struct drawing *d)
{
    const struct completion *completions = NULL;
    size_t n = 0;

    TRY(submit_rows(d));
    TRY(engine_tick(d->local.engine, &completions, &n));
    for (size_t i = 0; i < n; i++) {
        TRY(take_completion(d, &completions[i]));
    }
    return d->lines == NULL && n == 0 ? show_progress(d) : STATUS_OK;
}

static enum status draw(struct drawing *d)
{
    while (d->n_submitted < d->rows->count || !engine_is_idle(d->local.engine)) {
        if (process_signal_caught() != 0) {
            return status_set(STATUS_CANCELLED, "interrupted");
        }
        TRY(draw_more(d));
    }
    return STATUS_OK;
}

static enum status open_engine(struct drawing *d, size_t n_all)
{
    const struct generate_request *request = d->request;
    const bool is_scored = request->wants_logprobs && request->sampling.temperature == 0.0F;
    const size_t n_seqs = n_all < request->max_num_seqs ? n_all : request->max_num_seqs;
    const size_t n_rows = n_seqs + BATCH_TOKENS;
    const struct engine_options options = {
        .max_num_seqs = n_seqs,
        .max_batch_tokens = is_scored && n_rows < d->rows->longest ? d->rows->longest : n_rows,
        .max_sequence = d->rows->longest,
        .n_drafts = request->n_drafts,
        .precision = request->precision,
        .cache = precision_cache(request->kv_cache, request->precision)};

    TRY(local_engine_open(request->model, request->device, request->n_threads, &options,
                          &d->local));
    return is_scored ? sequence_score_create(d->local.policy, d->rows->longest, &d->score)
                     : STATUS_OK;
}

static enum status open_drawing(struct drawing *d)
{
    const struct generate_request *request = d->request;
    const size_t n_all = d->rows->count * request->n_samples;

    TRY(memory_alloc(request->n_samples, sizeof(*d->samples), &d->samples));
    for (size_t i = 0; i < request->n_samples; i++) {
        d->samples[i] = (int32_t)i;
    }
    if (n_all > 1 || request->wants_json) {
        TRY(ordered_lines_create(n_all, stdout, &d->lines));
    }
    return open_engine(d, n_all);
}

enum status generate_draw(const struct generate_request *request,
                          const struct generate_texts *texts, const struct generate_rows *rows)
{
    struct drawing d = {.request = request,
                        .texts = texts,
                        .rows = rows,
                        .stream = {.tokenizer = texts->tokenizer, .stream = stdout}};
    enum status status = open_drawing(&d);

    if (status == STATUS_OK) {
        status = draw(&d);
    }
    if (status != STATUS_OK && status != STATUS_IO && status != STATUS_NO_SPACE &&
        d.lines != NULL) {
        /* What is complete is worth having, whatever went wrong with the rest. */
        const enum status written = ordered_lines_flush(d.lines);
        status = written == STATUS_OK ? status : written;
    } else if (status != STATUS_OK && d.stream.n_shown > 0) {
        (void)fputc('\n', stdout);
    }
    sequence_score_destroy(d.score);
    ordered_lines_destroy(d.lines);
    memory_free(d.samples);
    local_engine_close(&d.local);
    return status;
}
