/* Owns rehearsals: the largest passes of a policy, gone through by a backend that computes nothing,
 * so that the memory its ops need beside the policy's is known, and taken, before the first one.
 * The policy that rehearses is hollow: it has buffers and lists, but no weights. */
#include "base/memory.h"
#include "model/policy_internal.h"

#include <string.h>

struct drill {
    struct policy *policy;
    const struct policy_rehearsal *rehearsal;
    struct sampling_params sampling;
    size_t room;               /* rows, or spans and drafts */
    int32_t *zeros, *rows;     /* (room): tokens and targets; 0, 1, 2 ... */
    int32_t *listed;           /* (room) rows that a module has targets for; draws of draft calls */
    size_t *counts;            /* (room + 1) offsets, or drafts wanted */
    float *ones, *out, *spare; /* (room) */
    struct sample_row *draws;  /* (room) */
    struct kv_span *spans;     /* (room) */
    int32_t *blocks;           /* of all spans */
    size_t n_blocks;
    bool learns; /* backward passes too */
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* --- Training, and log-probabilities of what was sampled --- */

/* Rows of a batch of n in sequences as long as they come that have `ahead` tokens behind them. */
static size_t list_rows(struct drill *drill, size_t n, size_t ahead)
{
    const size_t longest = drill->rehearsal->longest;
    size_t n_listed = 0;

    for (size_t i = 0; i < n; i++) {
        const size_t end = smaller((i / longest + 1) * longest, n);

        if (i + ahead < end) {
            drill->listed[n_listed++] = (int32_t)i;
        }
    }
    return n_listed;
}

static enum status module_forward(struct drill *drill, size_t n_rows, size_t module)
{
    const struct policy_mtp_args args = {.module = module,
                                         .target_rows = drill->listed,
                                         .targets = drill->zeros,
                                         .n_targets = list_rows(drill, n_rows, module + 2),
                                         .detached = true,
                                         .draws = drill->draws,
                                         .drawn = drill->rows + drill->room};

    return policy_mtp_forward(drill->policy, &args, drill->out);
}

static enum status learn_rows(struct drill *drill, size_t n_rows)
{
    const size_t n_modules = drill->policy->config.n_mtp_modules;

    for (size_t i = 0; i < n_modules; i++) {
        TRY(module_forward(drill, n_rows, i));
    }
    for (size_t i = 0; i < n_modules; i++) {
        TRY(policy_mtp_backward(drill->policy, drill->ones));
    }
    return policy_backward(drill->policy, drill->ones, drill->ones);
}

static enum status pack_rows(struct drill *drill, size_t n_rows)
{
    struct policy_batch batch = {.tokens = drill->zeros,
                                 .n_rows = n_rows,
                                 .offsets = drill->counts,
                                 .target_rows = drill->rows,
                                 .targets = drill->zeros,
                                 .n_targets = n_rows,
                                 .sampling = drill->sampling};

    drill->counts[0] = 0;
    while (drill->counts[batch.n_sequences] < n_rows) {
        const size_t end = drill->counts[batch.n_sequences] + drill->rehearsal->longest;

        drill->counts[++batch.n_sequences] = smaller(end, n_rows);
    }
    TRY(policy_forward(drill->policy, &batch, drill->out, drill->spare));
    return drill->learns ? learn_rows(drill, n_rows) : STATUS_OK;
}

/* --- Sampling --- */

/* n spans of n_each rows behind as much as a sequence holds, each on pages of its own. */
static void place_spans(struct drill *drill, size_t n, size_t n_each)
{
    const size_t per_span = drill->n_blocks / drill->room;

    for (size_t i = 0; i < n; i++) {
        drill->spans[i] = (struct kv_span){.first_row = i * n_each,
                                           .n_rows = n_each,
                                           .n_cached = drill->rehearsal->longest - n_each,
                                           .blocks = drill->blocks + i * per_span};
    }
}

static enum status draft_rows(struct drill *drill, struct policy_cache *cache, size_t n,
                              size_t n_each)
{
    for (size_t i = 0; i < n; i++) {
        drill->counts[i] = policy_max_drafts(drill->policy);
        drill->spans[i].n_cached -= smaller(drill->spans[i].n_cached, drill->counts[i]);
    }
    return policy_draft(
        drill->policy, cache,
        &(struct policy_draft_args){.rows = drill->rows,
                                    .tokens = drill->zeros,
                                    .positions = drill->zeros,
                                    .n_rows = n * n_each,
                                    .spans = drill->spans,
                                    .n_spans = n,
                                    .n_drafts = drill->counts,
                                    .draws = drill->draws,
                                    .drafts = drill->listed,
                                    .drafts_stride = policy_max_drafts(drill->policy)});
}

/* One pass over n spans of n_each rows with n_draws draws. */
static enum status extend_rows(struct drill *drill, struct policy_cache *cache, size_t n,
                               size_t n_each)
{
    const size_t n_drafts = policy_max_drafts(drill->policy);

    place_spans(drill, n, n_each);
    TRY(policy_extend(drill->policy, cache,
                      &(struct policy_extend_args){.tokens = drill->zeros,
                                                   .positions = drill->zeros,
                                                   .n_rows = n * n_each,
                                                   .spans = drill->spans,
                                                   .n_spans = n,
                                                   .draw_rows = drill->rows,
                                                   .draws = drill->draws,
                                                   .n_draws = n * smaller(n_each, 1 + n_drafts),
                                                   .drawn = drill->listed,
                                                   .logp = drill->out}));
    return n_drafts > 0 && n * n_drafts <= drill->room ? draft_rows(drill, cache, n, n_each)
                                                       : STATUS_OK;
}

/* Decoding with and without drafts, and a prompt, of sequences as long as they get. */
static enum status sample_rows(struct drill *drill, struct policy_cache *cache, size_t n)
{
    const size_t longest = drill->rehearsal->longest;
    const size_t n_each = larger(smaller(1 + policy_max_drafts(drill->policy), longest), 1);
    const size_t n_prompt = larger(smaller(n, longest), 1);

    TRY(extend_rows(drill, cache, smaller(n, drill->policy->options.max_draws), 1));
    if (n >= n_each) {
        TRY(extend_rows(drill, cache, smaller(n / n_each, drill->policy->options.max_draws),
                        n_each));
    }
    return extend_rows(drill, cache, n / n_prompt, n_prompt);
}

/* --- Both --- */

static enum status run_size(struct drill *drill, struct policy_cache *cache, size_t n_rows)
{
    return cache == NULL ? pack_rows(drill, n_rows) : sample_rows(drill, cache, n_rows);
}

/* What a pass needs does not always grow with its rows, so several numbers of them are tried. */
static enum status run_sizes(struct drill *drill, struct policy_cache *cache)
{
    static const size_t eighths[] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    const size_t max_rows = drill->policy->options.max_rows;
    enum status status = run_size(drill, cache, smaller(max_rows, POLICY_FEW_ROWS));

    for (size_t i = 0; i < sizeof(eighths) / sizeof(eighths[0]) && status == STATUS_OK; i++) {
        status = run_size(drill, cache, larger(max_rows * eighths[i] / 8, 1));
    }
    return status;
}

static enum status run_sampling(struct drill *drill)
{
    /* Nothing is read or written: any address will do. */
    struct policy_cache cache = {
        .policy = drill->policy, .data = drill->policy->buffers, .n_pages = drill->n_blocks};

    TRY(memory_alloc(cache.n_pages, sizeof(*cache.writers), &cache.writers));
    const enum status status = run_sizes(drill, &cache);
    memory_free(cache.writers);
    return status;
}

static enum status run_passes(struct drill *drill)
{
    return drill->rehearsal->samples ? run_sampling(drill) : run_sizes(drill, NULL);
}

/* A part may get nearly all rows, when the others are behind long contexts. */
static enum status run_part(void *context, size_t index, struct backend *part)
{
    struct drill *const drill = context;
    struct backend *const whole = drill->policy->backend;
    (void)index;

    drill->policy->backend = part;
    const enum status status = run_passes(drill);
    drill->policy->backend = whole;
    return status;
}

/* By all threads together, and by each alone what is cut into parts: not the backward passes. */
static enum status run_uncut_and_cut(struct drill *drill)
{
    struct backend *backend = drill->policy->backend;
    const size_t n_parts = drill->policy->n_parts;
    enum status status;

    drill->policy->n_parts = 0; /* nothing is cut further */
    drill->learns = drill->policy->options.is_trainable;
    status = run_passes(drill);
    drill->learns = false;
    if (status == STATUS_OK && backend->n_parts > 1) {
        status = backend->ops->run_parts(backend, backend->n_parts, run_part, drill);
    }
    drill->policy->n_parts = n_parts;
    return status;
}

static enum status run_all(struct drill *drill)
{
    const enum policy_indexer_loss loss = drill->rehearsal->indexer_loss;

    if (drill->policy->options.is_trainable && loss != POLICY_INDEXER_OFF) {
        TRY(policy_set_indexer_loss(drill->policy, loss, 1));
    }
    return run_uncut_and_cut(drill);
}

static void fill_lists(struct drill *drill)
{
    for (size_t i = 0; i < drill->room; i++) {
        drill->rows[i] = (int32_t)i;
        drill->ones[i] = 1;
        drill->draws[i].sampling = drill->sampling;
    }
    for (size_t i = 0; i < drill->n_blocks; i++) {
        drill->blocks[i] = (int32_t)i;
    }
}

static enum status create_spans(struct drill *drill)
{
    TRY(memory_alloc(drill->room + 1, sizeof(size_t), &drill->counts));
    TRY(memory_alloc(drill->room, sizeof(struct sample_row), &drill->draws));
    TRY(memory_alloc(drill->room, sizeof(struct kv_span), &drill->spans));
    return memory_alloc(drill->n_blocks, sizeof(int32_t), &drill->blocks);
}

static enum status create_lists(struct drill *drill)
{
    const size_t n = drill->room;

    TRY(memory_alloc(n, sizeof(int32_t), &drill->zeros));
    TRY(memory_alloc(2 * n, sizeof(int32_t), &drill->rows)); /* and what modules draw */
    TRY(memory_alloc(n, sizeof(int32_t), &drill->listed));
    TRY(memory_alloc(n, sizeof(float), &drill->ones));
    TRY(memory_alloc(n, sizeof(float), &drill->out));
    TRY(memory_alloc(n, sizeof(float), &drill->spare));
    TRY(create_spans(drill));
    fill_lists(drill);
    return STATUS_OK;
}

static void destroy_lists(struct drill *drill)
{
    memory_free(drill->blocks);
    memory_free(drill->spans);
    memory_free(drill->draws);
    memory_free(drill->spare);
    memory_free(drill->out);
    memory_free(drill->ones);
    memory_free(drill->counts);
    memory_free(drill->listed);
    memory_free(drill->rows);
    memory_free(drill->zeros);
}

static enum status run(struct policy *policy, const struct policy_rehearsal *rehearsal)
{
    const size_t room = larger(policy->options.max_rows, policy->options.max_draws);
    const size_t per_span = (rehearsal->longest + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS + 1;
    struct drill drill = {
        .policy = policy, .rehearsal = rehearsal, .sampling = rehearsal->sampling, .room = room};
    enum status status;

    if (drill.sampling.temperature == 0) {
        drill.sampling.temperature = 1; /* 0 has no gradient */
    }

    if (rehearsal->samples && !size_multiply(room, per_span, &drill.n_blocks)) {
        return status_set(STATUS_NO_MEMORY, "%zu spans of %zu tokens overflow a size", room,
                          rehearsal->longest);
    }
    status = create_lists(&drill);
    if (status == STATUS_OK) {
        backend_rehearse(policy->backend, true);
        status = run_all(&drill);
        backend_rehearse(policy->backend, false);
    }
    destroy_lists(&drill);
    return status;
}

enum status policy_rehearse(struct backend *backend, const struct model_config *config,
                            const struct policy_options *options,
                            const struct policy_rehearsal *rehearsal)
{
    struct policy_options hollow = *options;
    struct policy *policy = NULL;

    if (rehearsal->longest == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "a rehearsal of sequences without a token");
    }
    hollow.recomputes = true; /* the same passes with fewer buffers */
    TRY(policy_create_hollow(backend, config, &hollow, &policy));
    const enum status status = run(policy, rehearsal);
    policy_destroy(policy);
    return status;
}
