/* Owns the cut of a forward into parts: runs of spans that one thread each takes through the whole
 * step, from the embedding to the draws, without waiting for another one. Rows are independent of
 * one another (DESIGN 3), so a cut changes no bit. A part is the policy over again, its row buffers
 * beginning at the part's first row: parts share weights and pages, and write to rows of their own.
 *
 * What a cut costs: every part reads all weights, where a product that threads share reads its
 * panels once. It pays as soon as a part has arithmetic enough for every byte that it reads. */
#include "base/memory.h"
#include "model/model_cost.h"
#include "model/policy_internal.h"

/* Flop of a part for each byte of weights that it reads, at least: where a cache that the threads
 * share holds them, and where memory does. Measured by batches of 2 to 64 sequences; at half as
 * much from memory the cut loses up to 30 %. */
#define INTENSITY_CACHE 1.0
#define INTENSITY_MEMORY 10.0
#define CACHE_BYTES (24.0 * 1024 * 1024) /* most of the last cache of a few cores of a server */
/* The largest part's work over the mean: above, sharing every product is faster than waiting. */
#define IMBALANCE_MAX 1.15

size_t policy_n_activations(const struct policy *policy)
{
    return policy->options.is_trainable ? policy->config.n_layers + policy->config.n_mtp_modules
                                        : 1;
}

enum status policy_parts_create(struct policy *policy)
{
    const size_t n = policy->backend->n_parts;
    const struct model_config *config = &policy->config;

    if (n < 2) {
        return STATUS_OK;
    }
    TRY(memory_alloc(n, sizeof(*policy->parts), &policy->parts));
    policy->n_parts = n;
    for (size_t i = 0; i < n; i++) {
        TRY(memory_alloc(policy_n_activations(policy), sizeof(struct policy_activations),
                         &policy->parts[i].activations));
    }
    policy->row_work = model_forward_flops(config, 0, true, false);
    policy->key_work = model_forward_flops(config, 1, true, false) - policy->row_work;
    policy->draw_work = 2.0 * (double)(config->vocab_size * config->hidden_size);
    return STATUS_OK;
}

void policy_parts_destroy(struct policy *policy)
{
    for (size_t i = 0; i < policy->n_parts; i++) {
        memory_free(policy->parts[i].activations);
    }
    memory_free(policy->parts);
}

/* --- The view of a part --- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Row buffers that a model may lack stay NULL. */
static float *floats_at(float *rows, size_t row, size_t stride)
{
    return rows == NULL ? NULL : rows + row * stride;
}

static int32_t *ids_at(int32_t *rows, size_t row, size_t stride)
{
    return rows == NULL ? NULL : rows + row * stride;
}

static void move_attention(const struct policy_sizes *s, size_t row, struct policy_activations *a)
{
    a->normed_in = floats_at(a->normed_in, row, s->d_stride);
    a->rstd_in = floats_at(a->rstd_in, row, 1);
    a->rstd_q = floats_at(a->rstd_q, row, s->q_norms);
    a->rstd_kv = floats_at(a->rstd_kv, row, s->kv_norms);
    a->project = floats_at(a->project, row, s->project_stride);
    a->q = floats_at(a->q, row, s->q_stride);
    a->lse = floats_at(a->lse, row, s->heads);
    a->values = floats_at(a->values, row, s->value_stride);
    a->q_latent = floats_at(a->q_latent, row, s->q_rank_stride);
    a->latent = floats_at(a->latent, row, s->kv_rank_stride);
    a->q_absorbed = floats_at(a->q_absorbed, row, s->latent_stride);
    a->attended = floats_at(a->attended, row, s->latent_stride);
    a->index_project = floats_at(a->index_project, row, s->index_stride);
    a->index_mean = floats_at(a->index_mean, row, 1);
    a->index_rstd = floats_at(a->index_rstd, row, 1);
    a->index_key = floats_at(a->index_key, row, s->index_key_stride);
    a->index_q = floats_at(a->index_q, row, s->index_q_stride);
    a->selected = ids_at(a->selected, row, s->n_selected);
}

/* gate_up_stride: floats that a row has at least room for in this set. */
static void move_activations(const struct policy_sizes *s, size_t row, size_t gate_up_stride,
                             struct policy_activations *a)
{
    a->h_in = floats_at(a->h_in, row, s->d_stride);
    a->h_mid = floats_at(a->h_mid, row, s->d_stride);
    a->h_out = floats_at(a->h_out, row, s->d_stride);
    a->normed_mid = floats_at(a->normed_mid, row, s->d_stride);
    a->rstd_mid = floats_at(a->rstd_mid, row, 1);
    a->gate_up = floats_at(a->gate_up, row, gate_up_stride);
    a->scores = floats_at(a->scores, row, s->n_experts);
    a->route_weights = floats_at(a->route_weights, row, s->top_k);
    a->indices = ids_at(a->indices, row, s->top_k);
    a->expert_gate_up = floats_at(a->expert_gate_up, row, s->top_k * 2 * s->expert_width);
    move_attention(s, row, a);
}

static void view_activations(const struct policy *policy, struct policy_part *part)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t widest = larger(s->gate_up_stride[0], s->gate_up_stride[1]);
    const bool is_shared = !policy->options.is_trainable || policy->options.recomputes;

    for (size_t i = 0; i < policy_n_activations(policy); i++) {
        const bool is_moe = model_config_is_moe_layer(&policy->config, i);

        part->activations[i] = policy->activations[i];
        move_activations(s, part->first_row, is_shared ? widest : s->gate_up_stride[is_moe],
                         &part->activations[i]);
    }
    part->view.activations = part->activations;
}

/* Buffers of draws: rows logit_at .. of all that one logit row needs. */
static void view_draws(struct policy *view, size_t logit_at, size_t logit_rows)
{
    view->logit_rows = logit_rows;
    view->logits += logit_at * policy_stride(view->config.vocab_size);
    view->head_x += logit_at * view->sizes.d_stride;
    view->logp += logit_at;
    view->target_rows += logit_at;
    view->draws += logit_at;
    view->drawn += logit_at;
    view->host_values += logit_at;
}

void policy_part_view(const struct policy *policy, struct backend *backend,
                      struct policy_part *part)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t row = part->first_row;
    struct policy *view = &part->view;

    *view = *policy;
    view->backend = backend;
    view->first_row = row;
    view->first_draw = part->first_draw;
    view->tokens += row;
    view->positions += row;
    view->spans += part->first_span;
    view->router_logits = floats_at(view->router_logits, row, s->n_experts);
    view->ffn_hidden += row * policy_stride(larger(s->ffn_width[0], s->ffn_width[1]));
    view->normed += row * s->d_stride;
    view->rstd_final += row;
    view->trunk_out = floats_at(view->trunk_out, row, s->d_stride);
    view_activations(policy, part);
    view_draws(view, part->logit_at, part->logit_rows);
}

/* --- Where to cut --- */

/* Draws come with ascending rows, so that a run of rows has a run of draws. */
static bool are_ascending(const int32_t *rows, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if (rows[i] < rows[i - 1]) {
            return false;
        }
    }
    return true;
}

/* Draws of the span, from draw `at` on. */
static size_t count_draws(const struct policy_extend_args *args, const struct kv_span *span,
                          size_t at)
{
    size_t n = 0;

    while (at + n < args->n_draws &&
           (size_t)args->draw_rows[at + n] < span->first_row + span->n_rows) {
        n++;
    }
    return n;
}

static double span_work(const struct policy *policy, const struct kv_span *span, size_t n_draws)
{
    const double n_keys = (double)span->n_cached + 0.5 * (double)(span->n_rows + 1);

    return (double)span->n_rows * (policy->row_work + n_keys * policy->key_work) +
           (double)n_draws * policy->draw_work;
}

static double total_work(const struct policy *policy, const struct policy_extend_args *args)
{
    double work = (double)args->n_draws * policy->draw_work;

    for (size_t i = 0; i < args->n_spans; i++) {
        work += span_work(policy, &args->spans[i], 0);
    }
    return work;
}

static void take_span(struct policy_part *part, const struct kv_span *span, size_t n_draws,
                      double work)
{
    part->n_rows += span->n_rows;
    part->n_spans++;
    part->n_draws += n_draws;
    part->work += work;
}

/* Each span to the part in whose share of the work its middle lies; true when the parts are about
 * equal. */
static bool share_spans(struct policy *policy, const struct policy_extend_args *args, size_t n)
{
    const double total = total_work(policy, args);
    double done = 0, largest = 0;
    size_t n_drawn = 0, n_rows = 0, at = 0;

    for (size_t i = 0; i < n; i++) {
        struct policy_part *part = &policy->parts[i];
        const double end = total * (double)(i + 1) / (double)n;

        *part = (struct policy_part){.activations = part->activations,
                                     .first_row = n_rows,
                                     .first_span = at,
                                     .first_draw = n_drawn};
        for (; at < args->n_spans; at++) {
            const struct kv_span *span = &args->spans[at];
            const size_t n_draws = count_draws(args, span, n_drawn);
            const double work = span_work(policy, span, n_draws);

            if (i + 1 < n && done + work / 2 > end) {
                break;
            }
            take_span(part, span, n_draws, work);
            done += work;
            n_drawn += n_draws;
            n_rows += span->n_rows;
        }
        largest = part->work > largest ? part->work : largest;
    }
    return largest * (double)n <= total * IMBALANCE_MAX;
}

/* Marks the pages that spans of part `index` write to. */
static void mark_pages(struct policy_cache *cache, const struct policy_part *part, size_t index,
                       const struct kv_span *spans)
{
    for (size_t i = 0; i < part->n_spans; i++) {
        const struct kv_span *span = &spans[part->first_span + i];
        const size_t end = span->n_cached + span->n_rows;

        for (size_t j = span->n_cached / KV_BLOCK_TOKENS; j * KV_BLOCK_TOKENS < end; j++) {
            cache->writers[span->blocks[j]] = cache->writer_base + index;
        }
    }
}

/* true when no span of the part reads a page that another part writes to. */
static bool reads_own_pages(const struct policy_cache *cache, const struct policy_part *part,
                            size_t index, const struct kv_span *spans)
{
    for (size_t i = 0; i < part->n_spans; i++) {
        const struct kv_span *span = &spans[part->first_span + i];
        const size_t n_tokens = span->n_cached + span->n_rows;

        for (size_t j = 0; j * KV_BLOCK_TOKENS < n_tokens; j++) {
            const uint64_t writer = cache->writers[span->blocks[j]];

            if (writer >= cache->writer_base && writer != cache->writer_base + index) {
                return false;
            }
        }
    }
    return true;
}

static bool are_apart(const struct policy *policy, struct policy_cache *cache,
                      const struct kv_span *spans, size_t n)
{
    bool are_so = true;

    cache->writer_base += policy->n_parts; /* no page has a mark as high as this */
    for (size_t i = 0; i < n; i++) {
        mark_pages(cache, &policy->parts[i], i, spans);
    }
    for (size_t i = 0; i < n && are_so; i++) {
        are_so = reads_own_pages(cache, &policy->parts[i], i, spans);
    }
    return are_so;
}

/* Logit rows: a part's own draws, or as equal shares as there are when not all have room. */
static void share_logits(struct policy *policy, size_t n_draws, size_t n)
{
    const size_t n_rows = policy->logit_rows;

    for (size_t i = 0; i < n; i++) {
        struct policy_part *part = &policy->parts[i];

        part->logit_at = n_draws <= n_rows ? part->first_draw : n_rows * i / n;
        part->logit_rows =
            n_draws <= n_rows ? part->n_draws : n_rows * (i + 1) / n - part->logit_at;
    }
}

/* The parts' spans, their rows counted from the part's first. */
static void place_spans(struct policy *policy, const struct kv_span *spans, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct policy_part *part = &policy->parts[i];

        for (size_t j = part->first_span; j < part->first_span + part->n_spans; j++) {
            policy->spans[j] = spans[j];
            policy->spans[j].first_row -= part->first_row;
        }
    }
}

/* Whether n parts of n_rows rows in all have work enough, in flop, for the weights they read. */
static bool is_worth_it(const struct policy *policy, size_t n_rows, double work, size_t n)
{
    static const size_t value_bytes[] = {
        [PRECISION_F32] = 4, [PRECISION_BF16] = 2, [PRECISION_FP8] = 1};

    if (policy->options.part_rows_min > 0) {
        return n_rows >= n * policy->options.part_rows_min;
    }
    const double bytes =
        model_weight_bytes(&policy->config, n_rows / n, value_bytes[policy_linear(policy)],
                           value_bytes[policy_unquantised(policy)]);
    const double least = bytes <= CACHE_BYTES ? INTENSITY_CACHE : INTENSITY_MEMORY;

    return n_rows >= n && work >= least * bytes * (double)n;
}

size_t policy_parts_cut(struct policy *policy, struct policy_cache *cache,
                        const struct policy_extend_args *args)
{
    const size_t n = policy->n_parts < args->n_spans ? policy->n_parts : args->n_spans;

    if (n < 2 || policy->logit_rows < n ||
        !is_worth_it(policy, args->n_rows, total_work(policy, args), n) ||
        !are_ascending(args->draw_rows, args->n_draws) || !share_spans(policy, args, n) ||
        !are_apart(policy, cache, args->spans, n)) {
        return 1;
    }
    share_logits(policy, args->n_draws, n);
    place_spans(policy, args->spans, n);
    return n;
}
