/* Decoding with and without drafts, side by side: two engines over one policy answer the same
 * prompts, wave by wave in turns, so that both meet the same machine, each wave REPEATS times, of
 * which the quickest counts. What they draw must be the same to the last bit. */
#include "cli/bench_speculate.h"

#include "base/memory.h"
#include "cli/generate.h"
#include "model/model_cost.h"
#include "model/precision.h"
#include "rollout/engine.h"

#include <float.h>
#include <string.h>

#define SEED 1u
#define CHUNK_ROWS ((size_t)512)
#define REPEATS ((size_t)3)

/* Turns that computed no prompt, and all of them. */
struct work_done {
    double decode_seconds, seconds;
    size_t n_decoded, n_drawn; /* tokens of these turns */
};

/* One of the two engines, and what it has done so far. */
struct side {
    struct engine *engine;
    struct work_done done;
};

struct comparison {
    const struct bench_subject *subject;
    const struct generate_rows *rows;
    size_t batch;
    struct side plain, drafting;
    /* What the plain side drew in the present wave, (batch, longest row) each. */
    int32_t *tokens;
    float *logp;
    size_t *n_tokens; /* (batch) */
    size_t n_rows;    /* answered by both sides, the first wave apart */
    double n_keys;    /* that the last token of each row saw half-way, summed */
};

/* --- One wave --- */

static const struct generate_row *row_of(const struct comparison *c, uint64_t group)
{
    return &c->rows->items[(group - GENERATE_GROUP_FIRST) % c->rows->count];
}

/* Row `first` + i of the file, counted on behind its end with other noise, is group 1 + that. */
static enum status submit(const struct comparison *c, struct side *side, size_t first)
{
    static const int32_t samples[] = {0};

    for (size_t i = 0; i < c->batch; i++) {
        const uint64_t group = GENERATE_GROUP_FIRST + first + i;
        const struct generate_row *row = row_of(c, group);
        const struct engine_request request = {.seed = SEED,
                                               .group = group,
                                               .prompt = row->ids.ids,
                                               .n_prompt = row->ids.count,
                                               .samples = samples,
                                               .n_samples = 1,
                                               .max_tokens = row->max_tokens,
                                               .sampling = {.temperature = 1, .top_p = 1}};
        TRY(engine_submit(side->engine, &request));
    }
    return STATUS_OK;
}

static enum status tick(struct engine *engine, struct work_done *done,
                        const struct completion **completions, size_t *n)
{
    const struct engine_stats before = engine_stats(engine);
    const double begin = bench_now();
    TRY(engine_tick(engine, completions, n));
    const double spent = bench_now() - begin;
    const struct engine_stats after = engine_stats(engine);
    const size_t n_drawn = (size_t)(after.n_tokens - before.n_tokens);

    done->seconds += spent;
    done->n_drawn += n_drawn;
    if (after.n_prompt_tokens == before.n_prompt_tokens) {
        done->decode_seconds += spent;
        done->n_decoded += n_drawn;
    }
    return STATUS_OK;
}

/* Keeps what the plain side drew, or compares the other side's with it. */
static enum status take(struct comparison *c, const struct completion *completion, size_t first,
                        bool is_plain)
{
    const size_t i = (size_t)(completion->group - GENERATE_GROUP_FIRST) - first;
    const size_t n = completion->n_tokens;
    int32_t *tokens = c->tokens + i * c->rows->longest;
    float *logp = c->logp + i * c->rows->longest;

    if (is_plain) {
        c->n_tokens[i] = n;
        c->n_keys += (double)row_of(c, completion->group)->ids.count + (double)n / 2;
        memcpy(tokens, completion->tokens, n * sizeof(*tokens));
        memcpy(logp, completion->logprobs, n * sizeof(*logp));
        return STATUS_OK;
    }
    if (n != c->n_tokens[i] || memcmp(tokens, completion->tokens, n * sizeof(*tokens)) != 0 ||
        memcmp(logp, completion->logprobs, n * sizeof(*logp)) != 0) {
        return status_set(STATUS_INEXACT, "row %zu: drafts changed what was drawn",
                          (first + i) % c->rows->count);
    }
    return STATUS_OK;
}

/* A turn, and what it finished. */
static enum status turn(struct comparison *c, struct side *side, size_t first,
                        struct work_done *done)
{
    const struct completion *completions = NULL;
    size_t n = 0;

    TRY(tick(side->engine, done, &completions, &n));
    for (size_t i = 0; i < n; i++) {
        TRY(take(c, &completions[i], first, side == &c->plain));
    }
    return STATUS_OK;
}

static enum status run_wave(struct comparison *c, struct side *side, size_t first,
                            struct work_done *done)
{
    *done = (struct work_done){.seconds = 0};
    engine_forget_prompts(side->engine);
    TRY(submit(c, side, first));
    while (!engine_is_idle(side->engine)) {
        TRY(turn(c, side, first, done));
    }
    return STATUS_OK;
}

static void keep_quickest(const struct work_done *wave, struct work_done *best)
{
    if (wave->decode_seconds < best->decode_seconds) {
        best->decode_seconds = wave->decode_seconds;
        best->n_decoded = wave->n_decoded;
    }
    if (wave->seconds < best->seconds) {
        best->seconds = wave->seconds;
        best->n_drawn = wave->n_drawn;
    }
}

static void add_wave(struct side *side, const struct work_done *wave)
{
    side->done.decode_seconds += wave->decode_seconds;
    side->done.seconds += wave->seconds;
    side->done.n_decoded += wave->n_decoded;
    side->done.n_drawn += wave->n_drawn;
}

/* The same rows on either side. */
static enum status run_both(struct comparison *c, size_t first)
{
    struct work_done plain = {.seconds = DBL_MAX, .decode_seconds = DBL_MAX};
    struct work_done drafting = plain;

    for (size_t i = 0; i < REPEATS; i++) {
        struct work_done wave;

        bench_wait_quiet(c->subject->meter);
        TRY(run_wave(c, &c->plain, first, &wave));
        keep_quickest(&wave, &plain);
        TRY(run_wave(c, &c->drafting, first, &wave));
        keep_quickest(&wave, &drafting);
    }
    add_wave(&c->plain, &plain);
    add_wave(&c->drafting, &drafting);
    return STATUS_OK;
}

static void begin_count(struct comparison *c)
{
    c->plain.done = (struct work_done){.seconds = 0};
    c->drafting.done = (struct work_done){.seconds = 0};
    c->n_keys = 0;
}

/* A wave that warms up, then as many as the time of the case allows, one at least. */
static enum status run_waves(struct comparison *c, struct engine_stats *before)
{
    size_t first = 0;

    TRY(run_both(c, first));
    begin_count(c);
    *before = engine_stats(c->drafting.engine);
    const double deadline = bench_now() + c->subject->seconds;

    do {
        first += c->batch;
        TRY(run_both(c, first));
        c->n_rows += c->batch;
    } while (bench_now() < deadline);
    return STATUS_OK;
}

/* --- What came of it --- */

static double rate_of(size_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static enum status report(const struct comparison *c, const struct engine_stats *before)
{
    const struct bench_subject *subject = c->subject;
    const struct engine_stats stats = engine_stats(c->drafting.engine);
    const double context = c->n_keys / (double)(REPEATS * c->n_rows);
    const struct bench_speculation result = {
        .preset = subject->label,
        .dtype = precision_name(subject->precision),
        .batch = c->batch,
        .n_drafts = subject->n_drafts,
        .n_rows = c->n_rows,
        .n_tokens = c->drafting.done.n_drawn,
        .n_turns = (size_t)(stats.n_turns - before->n_turns),
        .n_turn_tokens = (size_t)(stats.n_turn_tokens - before->n_turn_tokens),
        .n_fed = (size_t)(stats.n_fed - before->n_fed),
        .n_right = (size_t)(stats.n_right - before->n_right),
        .context = context,
        .tokens_per_s = rate_of(c->drafting.done.n_decoded, c->drafting.done.decode_seconds),
        .plain_tokens_per_s = rate_of(c->plain.done.n_decoded, c->plain.done.decode_seconds),
        .all_tokens_per_s = rate_of(c->drafting.done.n_drawn, c->drafting.done.seconds),
        .plain_all_tokens_per_s = rate_of(c->plain.done.n_drawn, c->plain.done.seconds),
        .flop_per_token = model_forward_flops(&subject->config, context, true, true),
        .peak = bench_meter_peak(subject->meter)};

    return bench_report_speculation(&result, subject->is_json);
}

/* --- The two engines --- */

static struct engine_options options_of(const struct bench_subject *subject, size_t batch,
                                        size_t longest, size_t n_drafts)
{
    return (struct engine_options){.max_num_seqs = batch,
                                   .max_batch_tokens = batch * (1 + n_drafts) + CHUNK_ROWS,
                                   .max_sequence = longest,
                                   .n_drafts = n_drafts,
                                   .precision = subject->precision,
                                   .cache = subject->cache};
}

static enum status open_comparison(struct comparison *c, struct policy *policy)
{
    const size_t longest = c->rows->longest;
    const struct engine_options plain = options_of(c->subject, c->batch, longest, 0);
    const struct engine_options drafting =
        options_of(c->subject, c->batch, longest, c->subject->n_drafts);
    size_t n = 0;

    if (!size_multiply(c->batch, longest, &n)) {
        return status_set(STATUS_NO_MEMORY, "%zu completions of %zu tokens overflow a size",
                          c->batch, longest);
    }
    TRY(memory_alloc(n, sizeof(*c->tokens), &c->tokens));
    TRY(memory_alloc(n, sizeof(*c->logp), &c->logp));
    TRY(memory_alloc(c->batch, sizeof(*c->n_tokens), &c->n_tokens));
    TRY(engine_create(policy, &plain, &c->plain.engine));
    TRY(engine_create(policy, &drafting, &c->drafting.engine));
    return engine_measure(c->drafting.engine);
}

static enum status compare(const struct bench_subject *subject, const struct generate_rows *rows,
                           struct policy *policy, size_t batch)
{
    struct comparison c = {.subject = subject, .rows = rows, .batch = batch};
    struct engine_stats before = {.n_tokens = 0};
    enum status status = open_comparison(&c, policy);

    if (status == STATUS_OK) {
        status = run_waves(&c, &before);
    }
    if (status == STATUS_OK) {
        status = report(&c, &before);
    }
    engine_destroy(c.drafting.engine);
    engine_destroy(c.plain.engine);
    memory_free(c.n_tokens);
    memory_free(c.logp);
    memory_free(c.tokens);
    return status;
}

static enum status compare_all(const struct bench_subject *subject,
                               const struct generate_rows *rows)
{
    const size_t *batches = subject->batches;
    struct policy *policy = NULL;
    size_t largest = 0;

    for (size_t i = 0; i < subject->n_batches; i++) {
        largest = batches[i] > largest ? batches[i] : largest;
    }
    const struct engine_options options =
        options_of(subject, largest, rows->longest, subject->n_drafts);
    const struct policy_options made_for = engine_policy_options(&options);

    TRY(policy_load(subject->backend, subject->dir, &made_for, &policy));
    enum status status = engine_rehearse(subject->backend, policy_config(policy), &options);
    for (size_t i = 0; i < subject->n_batches && status == STATUS_OK; i++) {
        status = compare(subject, rows, policy, batches[i]);
    }
    policy_destroy(policy);
    return status;
}

/* --- Prompts --- */

static enum status with_rows(const struct bench_subject *subject,
                             const struct generate_request *request)
{
    struct generate_texts texts = {.tokenizer = NULL};
    struct generate_rows rows = {.items = NULL};
    enum status status = generate_texts_open(request, &texts);

    if (status == STATUS_OK) {
        status = generate_rows_read(request, &texts, &rows);
    }
    generate_texts_close(&texts);
    if (status == STATUS_OK) {
        status = compare_all(subject, &rows);
    }
    generate_rows_dispose(&rows);
    return status;
}

enum status bench_speculate(const struct bench_subject *subject,
                            const struct bench_prompts *prompts)
{
    const struct generate_request request = {.model = subject->dir,
                                             .file = prompts->file,
                                             .chat = "auto",
                                             .system_prompt = "",
                                             .max_tokens = prompts->max_tokens};

    if (subject->config.n_mtp_modules == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "%s has no MTP module, so nothing makes drafts",
                          subject->dir);
    }
    return with_rows(subject, &request);
}
