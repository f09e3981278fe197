/* Owns the parts of a forward: runs of spans that one thread each takes through the whole step,
 * from the embedding to the draws or the targets, without waiting for another one. A part is the
 * policy over again, its row buffers beginning at the part's first row: parts share weights and
 * pages, and write to rows of their own. policy_cut.c says which spans are whose. */
#include "base/memory.h"
#include "model/model_cost.h"
#include "model/policy_part_internal.h"

#include <string.h>

size_t policy_n_activations(const struct policy *policy)
{
    return policy->options.is_trainable ? policy->config.n_layers + policy->config.n_mtp_modules
                                        : 1;
}

/* What a part has of its own beside its place in the forward. */
struct policy_part_buffers {
    struct policy view;
    struct policy_activations *activations; /* of the view */
    uint32_t *counts;                       /* as the policy's */
};

static size_t n_counts(const struct policy *policy)
{
    return model_config_moe_layers(&policy->config) * policy->sizes.n_experts;
}

static enum status create_buffers(struct policy *policy)
{
    struct policy_part_buffers *buffers;

    TRY(memory_alloc(policy->n_parts, sizeof(*buffers), &buffers));
    for (size_t i = 0; i < policy->n_parts; i++) {
        policy->parts[i].buffers = &buffers[i];
    }
    for (size_t i = 0; i < policy->n_parts; i++) {
        TRY(memory_alloc(policy_n_activations(policy), sizeof(struct policy_activations),
                         &buffers[i].activations));
        TRY(memory_alloc(n_counts(policy), sizeof(uint32_t), &buffers[i].counts));
    }
    return STATUS_OK;
}

enum status policy_parts_create(struct policy *policy)
{
    const struct model_config *config = &policy->config;
    const size_t n = policy->backend->n_parts;

    if (n < 2) {
        return STATUS_OK;
    }
    policy->row_work = model_forward_flops(config, 0, true, false);
    policy->key_work = model_forward_flops(config, 1, true, false) - policy->row_work;
    policy->draw_work = 2.0 * (double)(config->vocab_size * config->hidden_size);
    TRY(memory_alloc(2 * policy->options.max_rows, sizeof(struct kv_span), &policy->part_spans));
    TRY(memory_alloc(n, sizeof(*policy->parts), &policy->parts));
    policy->n_parts = n;
    return create_buffers(policy);
}

void policy_parts_destroy(struct policy *policy)
{
    struct policy_part_buffers *buffers = policy->n_parts == 0 ? NULL : policy->parts[0].buffers;

    for (size_t i = 0; buffers != NULL && i < policy->n_parts; i++) {
        memory_free(buffers[i].activations);
        memory_free(buffers[i].counts);
    }
    memory_free(buffers);
    memory_free(policy->parts);
    memory_free(policy->part_spans);
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

/* Without training, or with activations made again, one set serves layers of different widths: then
 * the room of a row is that of the widest, lest parts in different layers meet. */
static bool has_shared_set(const struct policy *policy)
{
    return !policy->options.is_trainable || policy->options.recomputes;
}

static void view_activations(const struct policy *policy, size_t row, struct policy *view)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t widest = larger(s->gate_up_stride[0], s->gate_up_stride[1]);

    for (size_t i = 0; i < policy_n_activations(policy); i++) {
        const bool is_moe = model_config_is_moe_layer(&policy->config, i);

        view->activations[i] = policy->activations[i];
        move_activations(s, row, has_shared_set(policy) ? widest : s->gate_up_stride[is_moe],
                         &view->activations[i]);
    }
}

/* Rows `at` .. of the head's inputs and results. */
static void view_head(struct policy *view, size_t at)
{
    view->head_x += at * view->sizes.d_stride;
    view->logp += at;
    view->entropy += at;
    view->lse += at;
    view->target_rows += at;
}

static struct policy *view_rows(const struct policy *policy, struct backend *backend,
                                const struct policy_part *part)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t row = part->first_row;
    struct policy *view = &part->buffers->view;

    *view = *policy;
    view->backend = backend;
    view->first_row = row;
    view->first_draw = part->first_draw;
    view->spans = part->spans;
    view->n_spans = part->n_spans;
    view->n_copies = part->n_copies;
    view->uses += row;
    view->tokens += row;
    view->positions += row;
    view->staging += row * larger(s->top_k, 1);
    view->router_logits = floats_at(view->router_logits, row, s->n_experts);
    view->ffn_hidden += row * policy_stride(larger(s->ffn_width[0], s->ffn_width[1]));
    view->normed += row * s->d_stride;
    view->rstd_final += row;
    view->trunk_out = floats_at(view->trunk_out, row, s->d_stride);
    view->activations = part->buffers->activations;
    view_activations(policy, row, view);
    return view;
}

struct policy *policy_part_of_draws(const struct policy *policy, struct backend *backend,
                                    const struct policy_part *part)
{
    struct policy *view = view_rows(policy, backend, part);

    view_head(view, part->logit_at);
    view->logit_rows = part->logit_rows;
    view->logits += part->logit_at * policy_stride(policy->config.vocab_size);
    view->draws += part->logit_at;
    view->drawn += part->logit_at;
    view->host_values += part->logit_at;
    return view;
}

struct policy *policy_part_of_batch(const struct policy *policy, struct backend *backend,
                                    const struct policy_part *part)
{
    struct policy *view = view_rows(policy, backend, part);

    view_head(view, part->first_draw);
    view->targets += part->first_draw;
    view->n_targets = part->n_draws;
    view->counts = part->buffers->counts;
    memset(view->counts, 0, n_counts(policy) * sizeof(*view->counts));
    return view;
}

void policy_parts_join(struct policy *policy, size_t n)
{
    const size_t *strides = policy->sizes.gate_up_stride;
    const bool is_moved = has_shared_set(policy) && strides[0] > 0 && strides[1] > 0;

    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n_counts(policy); j++) {
            policy->counts[j] += policy->parts[i].buffers->counts[j];
        }
    }
    /* Rows that lie as the widest layer's would are not what a backward pass expects. */
    policy->held_layer = is_moved ? SIZE_MAX : policy->config.n_layers - 1;
}
