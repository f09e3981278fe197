/* Sampling and scoring of `hone eval`. */
#include "cli/eval_run.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/waits.h"
#include "cli/cli.h"
#include "cli/eval_acceptance.h"
#include "cli/eval_samples.h"
#include "cli/local_engine.h"
#include "model/precision.h"
#include "trainer/setup.h"

#include <assert.h>
#include <string.h>

#define SEED_EVAL UINT64_C(0x6576616c) /* draws of evaluation are not those of training */
#define GROUP_EVAL (UINT64_C(1) << 40) /* nor are their groups */
#define PROMPT_ROWS ((size_t)1024)     /* of a forward, beside one row a sequence */

/* A row whose samples are being drawn or scored. */
struct open_row {
    struct dataset_row row;
    struct chat_prompt prompt;
    struct source_tally *source; /* NULL: one too many */
    struct json **objects;       /* (num_generations) what the samples' file gets, or all NULL */
    size_t index;                /* in the order of evaluation */
    size_t n_left, n_passed;
    struct open_row *next_free;
};

struct evaluation {
    const struct eval_request *request;
    const struct run_config *config;
    struct setup_data data;
    struct local_engine local;
    struct scoring *scoring;
    struct eval_acceptance *acceptance; /* NULL without an MTP module */
    struct eval_tally tally;
    struct eval_samples *file;         /* NULL: not asked for */
    struct open_row *rows, *free_rows; /* (n_open) */
    struct json **objects;             /* (n_open, num_generations) */
    size_t n_open;
    int32_t *samples; /* 0, 1, ... num_generations - 1 */
    size_t n_rows, n_begun;
    struct sampling_params sampling;
};

static enum status open_engine(struct evaluation *e)
{
    const struct run_config *config = e->config;
    const size_t n_samples = e->n_rows * config->eval.num_generations;
    const size_t n_seqs =
        n_samples < config->rollout.max_num_seqs ? n_samples : config->rollout.max_num_seqs;
    const size_t longest_prompt = e->data.counts.longest_prompt < config->data.max_prompt_length
                                      ? e->data.counts.longest_prompt
                                      : config->data.max_prompt_length;
    const size_t max_sequence = longest_prompt + config->rollout.max_completion_length;
    const size_t n_useful = n_seqs + PROMPT_ROWS;
    const size_t n_wanted =
        config->rollout.max_batch_tokens < n_useful ? config->rollout.max_batch_tokens : n_useful;
    /* What the MTP pass needs: a whole sample at once. */
    const size_t n_rows = n_wanted > max_sequence ? n_wanted : max_sequence;
    const struct engine_options engine_options = {
        .max_num_seqs = n_seqs,
        .max_batch_tokens = n_rows,
        .max_sequence = max_sequence,
        .kv_cache_bytes = config->rollout.kv_cache_bytes,
        .n_drafts = config->rollout.speculate,
        .spec_max_batch = config->rollout.spec_max_batch,
        .precision = precision_of(config->model.dtype),
        .cache = precision_cache(config->model.kv_cache_dtype, precision_of(config->model.dtype))};

    TRY(local_engine_open(config->model.path, config->run.device, config->run.threads,
                          &engine_options, &e->local));
    if (policy_config(e->local.policy)->n_mtp_modules > 0) {
        TRY(eval_acceptance_create(e->local.policy, n_rows, &e->acceptance));
    }
    return STATUS_OK;
}

/* Room for the rows of all sequences that run, and as many that are scored. */
static enum status open_rows(struct evaluation *e)
{
    const size_t n_generations = e->config->eval.num_generations;
    const size_t n_open = 2 * (e->config->rollout.max_num_seqs / n_generations + 1);

    TRY(memory_alloc(n_open, sizeof(*e->rows), &e->rows));
    e->n_open = n_open;
    TRY(memory_alloc(n_open * n_generations, sizeof(struct json *), &e->objects));
    TRY(memory_alloc(n_generations, sizeof(*e->samples), &e->samples));
    for (size_t i = 0; i < n_open; i++) {
        e->rows[i].objects = e->objects + i * n_generations;
        e->rows[i].next_free = e->free_rows;
        e->free_rows = &e->rows[i];
    }
    for (size_t i = 0; i < n_generations; i++) {
        e->samples[i] = (int32_t)i;
    }
    return STATUS_OK;
}

static enum status open_tally(struct evaluation *e)
{
    const size_t n = e->config->eval.num_generations;
    const char *wanted = e->request->pass_at;
    struct pass_at_list pass_at;

    pass_at_default(n, &pass_at);
    if (wanted != NULL && !pass_at_parse(wanted, n, &pass_at)) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "--k %.60s: want ascending numbers from 1 to %zu, the samples of a row, "
                          "at most %zu of them",
                          wanted, n, PASS_AT_MAX);
    }
    if (n > 1 && e->config->eval.temperature == 0.0) {
        log_warn("eval", "eval.temperature is 0: the %zu samples of a row are all the same", n);
    }
    return eval_tally_init(e->scoring, &pass_at, &e->tally);
}

static enum status open_evaluation(struct evaluation *e)
{
    struct run_config rows_config = *e->config;
    const size_t n_max = e->config->eval.max_rows;
    const char *path = e->request->samples_path;

    if (e->config->data.eval.count == 0) {
        return status_set(STATUS_BAD_CONFIG, "data.eval is not set: there are no rows to evaluate");
    }
    rows_config.data.train = e->config->data.eval; /* the same checks, other rows */
    TRY(cli_check_model(e->config->model.path, true));
    TRY(setup_data_open(&rows_config, DATASET_PROMPTS, &e->data));
    e->n_rows = dataset_usable(e->data.dataset);
    if (n_max > 0 && n_max < e->n_rows) {
        e->n_rows = n_max;
    }
    e->sampling = (struct sampling_params){.temperature = (float)e->config->eval.temperature,
                                           .top_k = (int32_t)e->config->rollout.top_k,
                                           .top_p = (float)e->config->rollout.top_p,
                                           .min_p = (float)e->config->rollout.min_p};
    TRY(scoring_create(e->config, &e->scoring));
    TRY(open_tally(e));
    TRY(open_rows(e));
    TRY(open_engine(e));
    return path == NULL ? STATUS_OK
                        : eval_samples_open(path, e->n_rows * e->config->eval.num_generations,
                                            e->scoring, &e->file);
}

static void close_row(struct evaluation *e, struct open_row *row)
{
    for (size_t i = 0; i < e->config->eval.num_generations; i++) {
        json_destroy(row->objects[i]);
        row->objects[i] = NULL;
    }
    chat_prompt_dispose(&row->prompt);
    dataset_row_dispose(&row->row);
    *row = (struct open_row){.objects = row->objects, .next_free = e->free_rows};
    e->free_rows = row;
}

static void close_evaluation(struct evaluation *e)
{
    for (size_t i = 0; i < e->n_open; i++) {
        if (e->rows[i].n_left > 0) {
            close_row(e, &e->rows[i]);
        }
    }
    memory_free(e->rows);
    memory_free(e->objects);
    memory_free(e->samples);
    eval_acceptance_destroy(e->acceptance);
    local_engine_close(&e->local);
    eval_tally_dispose(&e->tally);
    scoring_destroy(e->scoring);
    setup_data_close(&e->data);
}

/* Reads the next row and asks the engine for its samples. */
static enum status begin_row(struct evaluation *e)
{
    struct open_row *row = e->free_rows;
    const size_t index = dataset_row_at(e->data.dataset, 0, e->n_begun, false);

    TRY(dataset_row_read(e->data.dataset, index, &row->row));
    const enum status status = dataset_encode_prompt(e->data.dataset, &row->row, &row->prompt);
    if (status != STATUS_OK) {
        dataset_row_dispose(&row->row);
        return status;
    }
    e->free_rows = row->next_free;
    row->index = e->n_begun;
    row->n_left = e->config->eval.num_generations;
    e->n_begun++;
    TRY(eval_tally_source(&e->tally, row->row.data_source, &row->source));
    const struct engine_request request = {.seed = e->config->run.seed ^ SEED_EVAL,
                                           .group = GROUP_EVAL + index,
                                           .prompt = row->prompt.ids.ids,
                                           .n_prompt = row->prompt.ids.count,
                                           .samples = e->samples,
                                           .n_samples = e->config->eval.num_generations,
                                           .max_tokens = e->config->rollout.max_completion_length,
                                           .sampling = e->sampling,
                                           .tag = row};
    return engine_submit(e->local.engine, &request);
}

static enum status submit_score(struct evaluation *e, const struct completion *completion,
                                const char *text, size_t text_bytes)
{
    const struct open_row *row = completion->tag;
    const size_t n_generations = e->config->eval.num_generations;
    const size_t slot = (size_t)(row - e->rows); /* unique among those in flight */
    const struct score_sample sample = {.sample_id =
                                            (int64_t)(slot * n_generations + completion->sample),
                                        .group_id = (int64_t)completion->group,
                                        .idx = (int32_t)completion->sample,
                                        .finish = finish_name(completion->finish),
                                        .prompt = row->prompt.text,
                                        .prompt_bytes = row->prompt.text_bytes,
                                        .completion = text,
                                        .completion_bytes = text_bytes,
                                        .row = row->row.row,
                                        .answer = row->row.answer,
                                        .data_source = row->row.data_source,
                                        .n_tokens = completion->n_tokens};

    return scoring_submit(e->scoring, &sample);
}

/* What the samples' file will say of it, once it is scored. */
static enum status describe(struct evaluation *e, const struct completion *completion,
                            const char *text, size_t text_bytes)
{
    struct open_row *row = completion->tag;
    const struct eval_sample sample = {.row = &row->row,
                                       .prompt = &row->prompt,
                                       .completion = completion,
                                       .text = text,
                                       .text_bytes = text_bytes,
                                       .row_index = row->index};

    return e->file == NULL ? STATUS_OK
                           : eval_samples_describe(&sample, &row->objects[completion->sample]);
}

static enum status measure_acceptance(struct evaluation *e, const struct completion *completion)
{
    const struct open_row *row = completion->tag;
    const struct accepted_sample sample = {.prompt = row->prompt.ids.ids,
                                           .completion = completion->tokens,
                                           .n_prompt = row->prompt.ids.count,
                                           .n_completion = completion->n_tokens,
                                           .draw = {.seed = e->config->run.seed ^ SEED_EVAL,
                                                    .group = completion->group,
                                                    .sample = completion->sample,
                                                    .sampling = e->sampling}};

    return e->acceptance == NULL ? STATUS_OK : eval_acceptance_add(e->acceptance, &sample);
}

static enum status take_completion(struct evaluation *e, const struct completion *completion)
{
    const struct open_row *row = completion->tag;
    const size_t n_end = completion->finish == FINISH_STOP ? 1 : 0;
    char *text = NULL;
    size_t text_bytes = 0;

    eval_tally_add_completion(&e->tally, row->source, completion);
    TRY(measure_acceptance(e, completion));
    TRY(tokenizer_decode(e->data.tokenizer, completion->tokens, completion->n_tokens - n_end, false,
                         false, &text, &text_bytes));
    enum status status = describe(e, completion, text, text_bytes);
    if (status == STATUS_OK) {
        status = submit_score(e, completion, text, text_bytes);
    }
    memory_free(text);
    return status;
}

static enum status draw_samples(struct evaluation *e)
{
    const struct completion *completions = NULL;
    size_t n = 0;
    const int64_t since_us = clock_now_us();

    TRY(engine_tick(e->local.engine, &completions, &n));
    e->tally.sampling_seconds += (double)(clock_now_us() - since_us) * 1e-6;
    for (size_t i = 0; i < n; i++) {
        TRY(take_completion(e, &completions[i]));
    }
    return STATUS_OK;
}

static enum status take_result(struct evaluation *e, const struct score_result *result)
{
    const size_t n_generations = e->config->eval.num_generations;
    struct open_row *row = &e->rows[(size_t)result->sample_id / n_generations];
    const size_t sample = (size_t)result->sample_id % n_generations;
    const bool passes = eval_tally_add_result(&e->tally, row->source, result);
    struct json *object = row->objects[sample];

    row->objects[sample] = NULL;
    row->n_passed += passes ? 1 : 0;
    if (object != NULL) {
        TRY(eval_samples_add(e->file, row->index * n_generations + sample, object, result, passes));
    }
    if (--row->n_left == 0) {
        eval_tally_add_row(&e->tally, row->source, n_generations, row->n_passed);
        close_row(e, row);
    }
    return STATUS_OK;
}

/* Moves the scorers; waits for them only when nothing is left to sample. */
static enum status score(struct evaluation *e)
{
    const struct score_result *results = NULL;
    size_t n = 0;

    assert(e->rows != NULL);
    if (engine_is_idle(e->local.engine) && scoring_in_flight(e->scoring) > 0) {
        struct wait_item items[WAIT_ITEMS_MAX];
        const size_t n_items = scoring_wait_items(e->scoring, items, WAIT_ITEMS_MAX);

        TRY(socket_wait(items, n_items, scoring_timeout_ms(e->scoring, clock_now_us())));
    }
    TRY(scoring_tick(e->scoring, clock_now_us(), &results, &n));
    for (size_t i = 0; i < n; i++) {
        TRY(take_result(e, &results[i]));
    }
    return STATUS_OK;
}

/* As many rows as there is room for. */
static enum status begin_rows(struct evaluation *e)
{
    while (e->n_begun < e->n_rows && e->free_rows != NULL) {
        TRY(begin_row(e));
    }
    return STATUS_OK;
}

static void tell_waits(const struct evaluation *e)
{
    if (waits_are_asked()) {
        scoring_tell_waits(e->scoring);
        waits_end();
    }
}

static enum status run_evaluation(struct evaluation *e)
{
    const int64_t since_us = clock_now_us();

    while (e->n_begun < e->n_rows || !engine_is_idle(e->local.engine) ||
           scoring_in_flight(e->scoring) > 0) {
        if (process_signal_caught() != 0) {
            return status_set(STATUS_CANCELLED, "interrupted");
        }
        TRY(begin_rows(e));
        TRY(draw_samples(e));
        TRY(score(e));
        tell_waits(e);
    }
    if (e->acceptance != NULL) {
        TRY(eval_acceptance_finish(e->acceptance, &e->tally.n_drafted, &e->tally.n_accepted));
    }
    e->tally.seconds = (double)(clock_now_us() - since_us) * 1e-6;
    return STATUS_OK;
}

enum status eval_run(const struct eval_request *request)
{
    struct evaluation e = {.request = request, .config = request->config};
    enum status status = open_evaluation(&e);

    if (status == STATUS_OK) {
        status = run_evaluation(&e);
    }
    const enum status closed = eval_samples_close(e.file);
    status = status == STATUS_OK ? closed : status;
    if (status == STATUS_OK && request->wants_json) {
        status = eval_report_json(&e.tally);
    } else if (status == STATUS_OK) {
        eval_report_table(&e.tally);
    }
    close_evaluation(&e);
    return status;
}
