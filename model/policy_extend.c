/* Owns sampling's side: one forward over new tokens that attend to what is cached, with a
 * draw for some of them. Prefill, chunks of it and decode differ only in the spans. */
#include "model/policy_part_internal.h"

#include <string.h>

size_t policy_max_drafts(const struct policy *policy)
{
    return policy->config.n_mtp_modules > 0 ? policy->options.n_drafts : 0;
}

size_t policy_draft_modules(const struct policy *policy)
{
    const size_t n = policy->config.n_mtp_modules;

    return n < policy->options.n_drafts ? n : policy->options.n_drafts;
}

static enum status check_extend(const struct policy *policy, const struct policy_cache *cache,
                                const struct policy_extend_args *args)
{
    if (args->n_rows == 0 || args->n_rows > policy->options.max_rows) {
        return status_set(STATUS_BAD_ARGUMENT, "a batch of %zu rows, sized for 1 to %zu",
                          args->n_rows, policy->options.max_rows);
    }
    TRY(policy_check_tokens(policy, "token", args->tokens, args->n_rows));
    for (size_t i = 0; i < args->n_rows; i++) {
        if (args->positions[i] < 0 || (size_t)args->positions[i] >= policy->config.max_positions) {
            return status_set(STATUS_BAD_ARGUMENT, "row %zu is at position %d, the model has %zu",
                              i, (int)args->positions[i], policy->config.max_positions);
        }
    }
    for (size_t i = 0; i < args->n_draws; i++) {
        if (args->draw_rows[i] < 0 || (size_t)args->draw_rows[i] >= args->n_rows) {
            return status_set(STATUS_BAD_ARGUMENT, "draw %zu wants row %d of %zu", i,
                              (int)args->draw_rows[i], args->n_rows);
        }
    }
    return policy_check_spans(cache, args->spans, args->n_spans, args->n_rows);
}

/* true when every value is finite. */
static bool are_finite(const float *values, size_t n)
{
    uint32_t worst = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, &values[i], sizeof(bits));
        bits <<= 1; /* without the sign, order of bits is order of magnitude */
        worst = bits > worst ? bits : worst;
    }
    return worst < 0xff000000u;
}

enum status policy_logits(struct policy *policy, const float *x, size_t n)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->gemm(
        policy->backend, &(struct gemm_args){.x = x,
                                             .x_stride = s->d_stride,
                                             .w = policy->w_head,
                                             .precision = policy_unquantised(policy),
                                             .y = policy->logits,
                                             .y_stride = policy_stride(policy->config.vocab_size),
                                             .n_rows = n,
                                             .n_in = s->d,
                                             .n_out = policy->config.vocab_size});
}

/* Which of n draws failed for its logits, in the caller's count. */
static enum status name_draw(const struct policy *policy, size_t n, enum status status)
{
    const size_t vocab = policy->config.vocab_size;

    for (size_t i = 0; i < n && status == STATUS_NUMERICS; i++) {
        if (!are_finite(policy->logits + i * policy_stride(vocab), vocab)) {
            return status_set(STATUS_NUMERICS, "a logit of draw %zu is not finite",
                              policy->first_draw + i);
        }
    }
    return status;
}

/* A draw for each of n rows of logits. */
static enum status sample_rows(struct policy *policy, const struct sample_row *draws, size_t n,
                               int32_t *drawn, float *logp)
{
    const struct backend_ops *ops = policy->backend->ops;
    const size_t vocab = policy->config.vocab_size, stride = policy_stride(vocab);

    TRY(ops->upload(policy->backend, policy->draws, draws, n * sizeof(struct sample_row)));
    const enum status status =
        ops->sample(policy->backend, &(struct sample_args){.logits = policy->logits,
                                                           .logits_stride = stride,
                                                           .rows = policy->draws,
                                                           .tokens = policy->drawn,
                                                           .logp = policy->logp,
                                                           .n_rows = n,
                                                           .vocab = vocab});
    if (status != STATUS_OK) {
        return name_draw(policy, n, status);
    }
    TRY(ops->download(policy->backend, drawn, policy->drawn, n * sizeof(int32_t)));
    return ops->download(policy->backend, logp, policy->logp, n * sizeof(float));
}

enum status policy_draw(struct policy *policy, const float *x, const struct sample_row *draws,
                        size_t n, int32_t *drawn, float *logp)
{
    TRY(policy_logits(policy, x, n));
    return sample_rows(policy, draws, n, drawn, logp);
}

/* Rows of x through the final norm. */
static enum status norm_final(struct policy *policy, const float *x, float *y, size_t n_rows)
{
    const struct policy_sizes *s = &policy->sizes;

    return policy->backend->ops->rms_norm(
        policy->backend, &(struct rms_norm_args){.x = x,
                                                 .x_stride = s->d_stride,
                                                 .w = policy->weights + policy->final_norm,
                                                 .y = y,
                                                 .y_stride = s->d_stride,
                                                 .n_rows = n_rows,
                                                 .d = s->d,
                                                 .eps = (float)policy->config.rms_norm_eps});
}

/* What policy_draft reads, out of the way of its own layers. */
static enum status keep_rows(struct policy *policy, const float *h, size_t n_rows)
{
    if (policy->config.has_pre_norm_mtp && policy->trunk_out != NULL) {
        TRY(policy_copy_rows(policy, h, policy->trunk_out, n_rows));
    }
    return norm_final(policy, h, policy->normed, n_rows);
}

/* The head's inputs of n draws from rows of the last layer; draw_rows count from the batch's first
 * row, h from the policy's. */
static enum status gather_heads(struct policy *policy, const int32_t *draw_rows, const float *h,
                                size_t n)
{
    const struct policy_sizes *s = &policy->sizes;
    const bool is_normed = policy_draft_modules(policy) > 0; /* keep_rows did it */
    const float *x = is_normed ? policy->normed : h;

    if (n == 0) {
        return STATUS_OK;
    }
    TRY(policy_upload_rows(policy, policy->target_rows, draw_rows, n));
    TRY(policy->backend->ops->gather_rows(
        policy->backend, &(struct rows_args){.src = x - policy->first_row * s->d_stride,
                                             .src_stride = s->d_stride,
                                             .rows = policy->target_rows,
                                             .dst = policy->head_x,
                                             .dst_stride = s->d_stride,
                                             .n_rows = n,
                                             .d = s->d}));
    return is_normed ? STATUS_OK : norm_final(policy, policy->head_x, policy->head_x, n);
}

/* Logits and draws of the rows that draw, as many at a time as there is room for. */
static enum status draw_rows(struct policy *policy, const struct policy_extend_args *args,
                             const float *h)
{
    for (size_t i = 0; i < args->n_draws; i += policy->logit_rows) {
        const size_t left = args->n_draws - i;
        const size_t n = left < policy->logit_rows ? left : policy->logit_rows;

        TRY(gather_heads(policy, args->draw_rows + i, h, n));
        TRY(policy_draw(policy, policy->head_x, args->draws + i, n, args->drawn + i,
                        args->logp + i));
    }
    return STATUS_OK;
}

/* Tokens of the rows of one policy, which may be a part's -> h_in of the first layer. */
static enum status embed_rows(struct policy *policy, const struct policy_extend_args *args)
{
    TRY(policy_upload_rows(policy, policy->tokens, args->tokens, args->n_rows));
    TRY(policy_upload_rows(policy, policy->positions, args->positions, args->n_rows));
    return policy->backend->ops->embedding(
        policy->backend, &(struct embedding_args){.table = policy->weights + policy->embedding,
                                                  .ids = policy->tokens,
                                                  .out = policy_activations_of(policy, 0)->h_in,
                                                  .out_stride = policy->sizes.d_stride,
                                                  .n_rows = args->n_rows,
                                                  .d = policy->sizes.d});
}

/* Layers [first, end); with to_experts the last one without its routed experts. */
static enum status run_layers(struct policy *policy, const struct policy_cache *cache,
                              const struct policy_extend_args *args, size_t first, size_t end,
                              bool to_experts)
{
    struct policy_block_rows rows = {.n_rows = args->n_rows,
                                     .positions = policy->positions,
                                     .spans = args->spans,
                                     .n_spans = args->n_spans};

    for (size_t i = first; i < end; i++) {
        const struct policy_activations *a = policy_activations_of(policy, i);

        rows.pages = policy_cache_layer(cache, i);
        if (to_experts && i + 1 == end) {
            return policy_block_to_experts(policy, &policy->layers[i], a, &rows);
        }
        TRY(policy_block_forward(policy, &policy->layers[i], a, &rows));
    }
    return STATUS_OK;
}

static const float *last_rows(struct policy *policy)
{
    return policy_activations_of(policy, policy->config.n_layers - 1)->h_out;
}

/* The whole step for the rows of one policy, which may be a part's. */
static enum status extend_rows(struct policy *policy, const struct policy_cache *cache,
                               const struct policy_extend_args *args)
{
    TRY(embed_rows(policy, args));
    TRY(run_layers(policy, cache, args, 0, policy->config.n_layers, false));
    if (policy_draft_modules(policy) > 0) {
        TRY(keep_rows(policy, last_rows(policy), args->n_rows));
    }
    return draw_rows(policy, args, last_rows(policy));
}

/* --- Parts --- */

struct extending {
    struct policy *policy;
    const struct policy_cache *cache;
    const struct policy_extend_args *args;
};

static struct policy_extend_args args_of_part(const struct extending *e,
                                              const struct policy_part *part)
{
    struct policy_extend_args args = *e->args;

    args.tokens += part->first_row;
    args.positions += part->first_row;
    args.n_rows = part->n_rows;
    args.spans = part->spans;
    args.n_spans = part->n_spans;
    args.draw_rows += part->first_draw;
    args.draws += part->first_draw;
    args.n_draws = part->n_draws;
    args.drawn += part->first_draw;
    args.logp += part->first_draw;
    return args;
}

static enum status extend_part(void *context, size_t index, struct backend *backend)
{
    const struct extending *e = context;
    const struct policy_part *part = &e->policy->parts[index];
    const struct policy_extend_args args = args_of_part(e, part);

    return extend_rows(policy_part_of_draws(e->policy, backend, part), e->cache, &args);
}

/* --- Parts that meet --- */

/* Layers of a step whose parts meet: from the first one on to the experts of the last one, or to
 * the head's inputs. */
struct stretch {
    const struct extending *extending;
    size_t first, end;
    bool to_experts;
};

static enum status stretch_part(void *context, size_t index, struct backend *backend)
{
    const struct stretch *s = context;
    const struct extending *e = s->extending;
    const struct policy_part *part = &e->policy->parts[index];
    const struct policy_extend_args args = args_of_part(e, part);
    struct policy *policy = policy_part_of_draws(e->policy, backend, part);

    if (s->first == 0) {
        TRY(embed_rows(policy, &args));
    }
    TRY(run_layers(policy, e->cache, &args, s->first, s->end, s->to_experts));
    if (s->to_experts) {
        return STATUS_OK;
    }
    if (policy_draft_modules(policy) > 0) {
        TRY(keep_rows(policy, last_rows(policy), args.n_rows));
    }
    return gather_heads(policy, args.draw_rows, last_rows(policy), args.n_draws);
}

static enum status sample_part(void *context, size_t index, struct backend *backend)
{
    const struct extending *e = context;
    const struct policy_part *part = &e->policy->parts[index];
    const struct policy_extend_args args = args_of_part(e, part);

    return sample_rows(policy_part_of_draws(e->policy, backend, part), args.draws, args.n_draws,
                       args.drawn, args.logp);
}

/* The first layer with experts from `first` on, or how many layers there are. */
static size_t next_experts(const struct policy *policy, size_t first)
{
    while (first < policy->config.n_layers && !policy->layers[first].is_moe) {
        first++;
    }
    return first;
}

/* From layer `first` on through the experts of `layer`, or to the head's inputs. */
static enum status run_stretch(const struct extending *e, size_t n_parts, size_t first,
                               size_t layer)
{
    struct policy *policy = e->policy;
    const bool to_experts = layer < policy->config.n_layers;
    struct stretch stretch = {.extending = e,
                              .first = first,
                              .end = to_experts ? layer + 1 : layer,
                              .to_experts = to_experts};

    TRY(policy->backend->ops->run_parts(policy->backend, n_parts, stretch_part, &stretch));
    return to_experts ? policy_block_experts(policy, &policy->layers[layer],
                                             policy_activations_of(policy, layer), e->args->n_rows)
                      : STATUS_OK;
}

/* A step whose parts meet for the experts and the head: threads share these products, which read
 * most of the weights. What is left of a part reads few. */
static enum status extend_meeting(struct extending *e, size_t n_parts)
{
    struct policy *policy = e->policy;
    size_t first = 0, layer = 0;

    do {
        layer = next_experts(policy, first);
        TRY(run_stretch(e, n_parts, first, layer));
        first = layer + 1;
    } while (layer < policy->config.n_layers);
    if (e->args->n_draws == 0) {
        return STATUS_OK;
    }
    TRY(policy_logits(policy, policy->head_x, e->args->n_draws));
    return policy->backend->ops->run_parts(policy->backend, n_parts, sample_part, e);
}

enum status policy_extend(struct policy *policy, struct policy_cache *cache,
                          const struct policy_extend_args *args)
{
    struct extending extending = {.policy = policy, .cache = cache, .args = args};

    policy->n_rows = 0; /* the activations of a forward pass end here */
    policy->n_extended = 0;
    TRY(check_extend(policy, cache, args));
    const size_t n_parts = policy_cut_extend(policy, cache, args);

    if (n_parts == 1) {
        TRY(extend_rows(policy, cache, args));
    } else if (policy->parts_meet) {
        TRY(extend_meeting(&extending, n_parts));
    } else {
        TRY(policy->backend->ops->run_parts(policy->backend, n_parts, extend_part, &extending));
    }
    policy->n_extended = policy_draft_modules(policy) > 0 ? args->n_rows : 0;
    return STATUS_OK;
}
