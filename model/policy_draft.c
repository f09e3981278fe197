/* Owns drafting: the MTP modules (model.md 9) over the rows of the last policy_extend, with caches
 * of their own. Every row needs its entry in the last module's layer, but only the last row of a
 * sequence needs what comes out of it, so the others stop at the entries. What is drafted changes
 * no draw of the model; a row that a module has seen with a wrong token (module m reads m tokens
 * further than the trunk has gone) only makes later drafts worse. */
#include "model/policy_internal.h"

#include <string.h>

/* A call's spans as far as the buffers hold their rows. */
struct drafting {
    struct policy *policy;
    struct policy_cache *cache;
    const struct policy_draft_args *args;
    size_t first_span, n_spans; /* of the call's */
    size_t first_row, n_rows;
    int32_t *active; /* spans that want the draft that is being made, ascending */
    size_t n_active;
    bool is_lost; /* a logit was not finite */
};

static size_t wanted(const struct policy_draft_args *args, size_t span)
{
    return args->n_drafts == NULL ? 0 : args->n_drafts[span];
}

static int32_t *drafts_of(const struct drafting *d, size_t span)
{
    return d->args->drafts + span * d->args->drafts_stride;
}

/* The page of the last position that a draft of the span reads or writes exists. */
static enum status check_span(const struct policy *policy, const struct policy_cache *cache,
                              const struct policy_draft_args *args, size_t index)
{
    const struct kv_span *span = &args->spans[index];
    const size_t n_drafts = wanted(args, index);
    const size_t n_tokens = span->n_cached + span->n_rows + (n_drafts > 0 ? n_drafts - 1 : 0);

    if (n_drafts > policy_max_drafts(policy) || n_drafts > args->drafts_stride ||
        span->n_rows == 0 || span->n_rows > policy->options.max_rows ||
        n_tokens > policy->config.max_positions) {
        return status_set(STATUS_BAD_ARGUMENT,
                          "%zu drafts behind %zu rows at position %zu, sized for %zu and %zu",
                          n_drafts, span->n_rows, span->n_cached, policy_max_drafts(policy),
                          policy->options.max_rows);
    }
    for (size_t i = 0; i * KV_BLOCK_TOKENS < n_tokens; i++) {
        if (span->blocks[i] < 0 || (size_t)span->blocks[i] >= cache->n_pages) {
            return status_set(STATUS_BAD_ARGUMENT, "drafts behind span %zu name page %d of %zu",
                              index, (int)span->blocks[i], cache->n_pages);
        }
    }
    return STATUS_OK;
}

static enum status check_args(const struct policy *policy, const struct policy_cache *cache,
                              const struct policy_draft_args *args)
{
    if (policy_draft_modules(policy) == 0) {
        return status_set(STATUS_BAD_ARGUMENT, "this policy was not made for drafts");
    }
    TRY(policy_check_tokens(policy, "token", args->tokens, args->n_rows));
    TRY(policy_check_spans(cache, args->spans, args->n_spans, args->n_rows));
    for (size_t i = 0; i < args->n_rows; i++) {
        if (args->rows[i] < 0 || (size_t)args->rows[i] >= policy->n_extended ||
            args->positions[i] < 0 || (size_t)args->positions[i] >= policy->config.max_positions) {
            return status_set(STATUS_BAD_ARGUMENT,
                              "draft row %zu is row %d at position %d, the last forward had %zu", i,
                              (int)args->rows[i], (int)args->positions[i], policy->n_extended);
        }
    }
    for (size_t i = 0; i < args->n_spans; i++) {
        TRY(check_span(policy, cache, args, i));
    }
    return STATUS_OK;
}

/* The module's rows, from host arrays in staging: tokens, positions, rows it reads. */
static enum status upload(const struct drafting *d, struct policy_mtp_module *module)
{
    const int32_t *staging = d->policy->staging;
    const size_t t = d->policy->options.max_rows, n = module->n_rows;

    TRY(policy_upload_rows(d->policy, module->tokens, staging, n));
    TRY(policy_upload_rows(d->policy, module->positions, staging + t, n));
    return policy_upload_rows(d->policy, module->rows, staging + 2 * t, n);
}

static struct policy_block_rows block_rows(const struct drafting *d,
                                           const struct policy_mtp_module *module, size_t index)
{
    return (struct policy_block_rows){
        .n_rows = module->n_rows,
        .positions = module->positions,
        .spans = module->spans,
        .n_spans = module->n_spans,
        .pages = policy_cache_layer(d->cache, d->policy->config.n_layers + index)};
}

/* The token `ahead` rows behind row j of the span: drawn, drafted, or the last one known. */
static int32_t token_ahead(const struct drafting *d, size_t span, size_t j, size_t ahead)
{
    const struct kv_span *s = &d->args->spans[span];
    const size_t n_drafts = wanted(d->args, span);

    if (j + ahead < s->n_rows) {
        return d->args->tokens[s->first_row + j + ahead];
    }
    const size_t draft = j + ahead - s->n_rows;
    return draft < n_drafts ? drafts_of(d, span)[draft]
                            : d->args->tokens[s->first_row + s->n_rows - 1];
}

/* Every row of the spans, for a module that meets them first. */
static enum status place_all(struct drafting *d, size_t index)
{
    const size_t t = d->policy->options.max_rows;
    struct policy_mtp_module *module = &d->policy->modules[index];
    int32_t *tokens = d->policy->staging, *positions = tokens + t, *rows = positions + t;

    module->n_rows = d->n_rows;
    module->n_spans = d->n_spans;
    d->n_active = 0;
    for (size_t i = 0; i < d->n_spans; i++) {
        const size_t span = d->first_span + i;
        const struct kv_span *s = &d->args->spans[span];
        const size_t first = s->first_row - d->first_row;

        module->spans[i] = *s;
        module->spans[i].first_row = first;
        for (size_t j = 0; j < s->n_rows; j++) {
            tokens[first + j] = token_ahead(d, span, j, index);
            positions[first + j] = d->args->positions[s->first_row + j];
            rows[first + j] = index == 0 ? d->args->rows[s->first_row + j] : (int32_t)(first + j);
        }
        if (wanted(d->args, span) > index) {
            d->active[d->n_active++] = (int32_t)span;
        }
    }
    return upload(d, module);
}

/* One row for each active span: its last one. The rows to read go to policy->target_rows. */
static enum status place_last(struct drafting *d, struct policy_mtp_module *module)
{
    const size_t t = d->policy->options.max_rows;
    int32_t *positions = d->policy->staging + t, *rows = positions + t;

    for (size_t i = 0; i < d->n_active; i++) {
        const struct kv_span *s = &d->args->spans[d->active[i]];
        const size_t last = s->first_row + s->n_rows - 1;

        rows[i] = (int32_t)(last - d->first_row);
        positions[i] = d->args->positions[last];
        module->spans[i] = (struct kv_span){.first_row = i,
                                            .n_rows = 1,
                                            .n_cached = s->n_cached + s->n_rows - 1,
                                            .blocks = s->blocks};
    }
    TRY(policy_upload_rows(d->policy, d->policy->target_rows, rows, d->n_active));
    return policy_upload_rows(d->policy, module->positions, positions, d->n_active);
}

static bool is_end(const struct model_config *config, int32_t token)
{
    for (size_t i = 0; i < config->n_eos_ids; i++) {
        if (config->eos_ids[i] == token) {
            return true;
        }
    }
    return false;
}

/* Behind an end token nothing follows. */
static bool goes_on(const struct drafting *d, size_t span, size_t draft)
{
    return wanted(d->args, span) > draft &&
           !is_end(&d->policy->config, drafts_of(d, span)[draft - 1]);
}

/* One row more for each span that goes on to draft `draft`, behind the module's own last output. */
static enum status place_next(struct drafting *d, size_t index, size_t draft)
{
    const size_t t = d->policy->options.max_rows;
    struct policy_mtp_module *module = &d->policy->modules[index];
    int32_t *tokens = d->policy->staging, *positions = tokens + t, *rows = positions + t;
    size_t n = 0;

    for (size_t i = 0; i < d->n_active; i++) {
        const size_t span = (size_t)d->active[i];
        const struct kv_span *s = &d->args->spans[span];
        const size_t position = s->n_cached + s->n_rows - 1 + draft - index;

        if (!goes_on(d, span, draft)) {
            continue;
        }
        d->active[n] = (int32_t)span;
        tokens[n] = drafts_of(d, span)[draft - 1];
        positions[n] = (int32_t)position;
        rows[n] = (int32_t)i;
        module->spans[n] = (struct kv_span){
            .first_row = n, .n_rows = 1, .n_cached = position, .blocks = s->blocks};
        n++;
    }
    d->n_active = n;
    module->n_rows = n;
    module->n_spans = n;
    return upload(d, module);
}

static enum status gather_last(const struct drafting *d, const float *src, float *dst)
{
    const size_t stride = d->policy->sizes.d_stride;

    return d->policy->backend->ops->gather_rows(d->policy->backend,
                                                &(struct rows_args){.src = src,
                                                                    .src_stride = stride,
                                                                    .rows = d->policy->target_rows,
                                                                    .dst = dst,
                                                                    .dst_stride = stride,
                                                                    .n_rows = d->n_active,
                                                                    .d = d->policy->sizes.d});
}

/* Draws draft `draft` of the active spans from their rows x behind the module's layer. */
static enum status draw_drafts(struct drafting *d, size_t index, size_t draft, const float *x,
                               float *normed)
{
    struct policy *policy = d->policy;
    const size_t stride = policy->sizes.d_stride;

    TRY(policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = x,
                                                 .x_stride = stride,
                                                 .w = policy->weights + policy->modules[index].norm,
                                                 .y = normed,
                                                 .y_stride = stride,
                                                 .n_rows = d->n_active,
                                                 .d = policy->sizes.d,
                                                 .eps = (float)policy->config.rms_norm_eps}));
    for (size_t i = 0; i < d->n_active; i++) {
        policy->host_draws[i] = d->args->draws[d->active[i]];
        policy->host_draws[i].position += (uint32_t)draft;
    }
    for (size_t i = 0; i < d->n_active; i += policy->logit_rows) {
        const size_t left = d->n_active - i;
        const size_t n = left < policy->logit_rows ? left : policy->logit_rows;
        const enum status status = policy_draw(policy, normed + i * stride, policy->host_draws + i,
                                               n, policy->staging + i, policy->host_values);

        if (status == STATUS_NUMERICS) {
            d->is_lost = true;
            return STATUS_OK;
        }
        TRY(status);
    }
    for (size_t i = 0; i < d->n_active; i++) {
        drafts_of(d, (size_t)d->active[i])[draft] = policy->staging[i];
    }
    return STATUS_OK;
}

/* A module that another one reads: the layer over every row. */
static enum status run_whole(struct drafting *d, size_t index)
{
    struct policy *policy = d->policy;
    const size_t layer = policy->config.n_layers + index;
    const struct policy_activations *a = policy_activations_of(policy, layer);
    struct policy_mtp_module *module = &policy->modules[index];
    const struct policy_block_rows rows = block_rows(d, module, index);

    TRY(policy_mtp_input(policy, index, policy_mtp_source(policy, index), a->h_in));
    TRY(policy_block_forward(policy, &policy->layers[layer], a, &rows));
    if (d->n_active == 0) {
        return STATUS_OK;
    }
    TRY(place_last(d, module));
    TRY(gather_last(d, a->h_out, policy->head_x));
    return draw_drafts(d, index, index, policy->head_x, policy->head_x);
}

/* The last module: entries of every row, the layer over the last row of each active span. */
static enum status run_last(struct drafting *d, size_t index)
{
    struct policy *policy = d->policy;
    const struct policy_layer *layer = &policy->layers[policy->config.n_layers + index];
    const struct policy_activations *a =
        policy_activations_of(policy, policy->config.n_layers + index);
    struct policy_mtp_module *module = &policy->modules[index];
    const bool is_narrowed = d->n_active < d->n_rows;
    struct policy_activations wide = *a;

    wide.h_in = is_narrowed ? module->embedded : a->h_in; /* free once the input is formed */
    TRY(policy_mtp_input(policy, index, policy_mtp_source(policy, index), wide.h_in));
    if (is_narrowed) {
        const struct policy_block_rows all = block_rows(d, module, index);

        TRY(policy_block_entries(policy, layer, &wide, &all));
    }
    if (d->n_active == 0) {
        return STATUS_OK;
    }
    if (is_narrowed) {
        TRY(place_last(d, module));
        TRY(gather_last(d, module->embedded, a->h_in));
        module->n_rows = d->n_active;
        module->n_spans = d->n_active;
    }
    const struct policy_block_rows rows = block_rows(d, module, index);

    TRY(policy_block_forward(policy, layer, a, &rows));
    return draw_drafts(d, index, index, a->h_out, module->normed);
}

/* The last module once more, on its own output and the token that it drafted. */
static enum status go_on(struct drafting *d, size_t index, size_t draft)
{
    struct policy *policy = d->policy;
    const size_t layer = policy->config.n_layers + index;
    const struct policy_activations *a = policy_activations_of(policy, layer);
    struct policy_mtp_module *module = &policy->modules[index];
    /* In the place of the trunk's output behind its norm stands the module's behind its own. */
    const bool reads_normed = index == 0 && !policy->config.has_pre_norm_mtp;

    TRY(place_next(d, index, draft));
    if (d->n_active == 0) {
        return STATUS_OK;
    }
    const struct policy_block_rows rows = block_rows(d, module, index);

    TRY(policy_mtp_input(policy, index, reads_normed ? module->normed : a->h_out, a->h_in));
    TRY(policy_block_forward(policy, &policy->layers[layer], a, &rows));
    return draw_drafts(d, index, draft, a->h_out, module->normed);
}

static enum status draft_spans(struct drafting *d)
{
    const size_t n_modules = policy_draft_modules(d->policy);

    for (size_t i = 0; i < n_modules && !d->is_lost; i++) {
        TRY(place_all(d, i));
        TRY(i + 1 < n_modules ? run_whole(d, i) : run_last(d, i));
    }
    for (size_t i = n_modules; d->n_active > 0 && !d->is_lost; i++) {
        TRY(go_on(d, n_modules - 1, i));
    }
    return STATUS_OK;
}

/* As many spans from first_span on as the buffers hold. */
static void take_spans(struct drafting *d)
{
    const struct policy_draft_args *args = d->args;
    size_t end = d->first_span;

    d->n_rows = 0;
    d->first_row = args->spans[end].first_row;
    while (end < args->n_spans &&
           d->n_rows + args->spans[end].n_rows <= d->policy->options.max_rows) {
        d->n_rows += args->spans[end++].n_rows;
    }
    d->n_spans = end - d->first_span;
}

enum status policy_draft(struct policy *policy, struct policy_cache *cache,
                         const struct policy_draft_args *args)
{
    struct drafting d = {
        .policy = policy, .cache = cache, .args = args, .active = policy->host_merge};

    TRY(check_args(policy, cache, args));
    for (size_t i = 0; i < args->n_spans; i++) {
        for (size_t j = 0; j < wanted(args, i); j++) {
            drafts_of(&d, i)[j] = -1;
        }
    }
    while (d.first_span < args->n_spans && !d.is_lost) {
        take_spans(&d);
        TRY(draft_spans(&d));
        d.first_span += d.n_spans;
    }
    return STATUS_OK;
}
