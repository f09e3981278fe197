/* Owns where the gradients of rows lie, which exist in passing. */
#include "model/policy_layout_internal.h"

/* Of a layer's feed-forward half. */
static void carve_ffn_gradients(struct carver *c, struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;
    const size_t widest = s->ffn_width[0] > s->ffn_width[1] ? s->ffn_width[0] : s->ffn_width[1];
    struct policy_gradients_scratch *g = &policy->grad;

    g->d_gate_up[0] = carve_floats(c, t, s->gate_up_stride[0]);
    g->d_gate_up[1] = carve_floats(c, t, s->gate_up_stride[1]);
    g->d_hidden = carve_floats(c, t, policy_stride(widest));
    g->d_route_weights = carve_floats(c, t, s->top_k);
    g->d_logits = carve_floats(c, t, s->n_experts);
}

/* Of its attention. */
static void carve_attention_gradients(struct carver *c, struct policy *policy)
{
    const struct policy_sizes *s = &policy->sizes;
    const size_t t = policy->options.max_rows;
    struct policy_gradients_scratch *g = &policy->grad;

    g->d_project = carve_floats(c, t, s->project_stride);
    g->d_q = s->has_own_q ? carve_floats(c, t, s->q_stride) : g->d_project;
    g->d_q_latent = carve_floats(c, t, s->q_rank_stride);
    g->d_latent = carve_floats(c, t, s->kv_rank_stride);
    g->d_absorbed = carve_floats(c, t, s->latent_stride);
    g->d_attended = carve_floats(c, t, s->latent_stride);
    g->d_values = carve_floats(c, t, s->value_stride);
    g->d_pages = carve_floats(c, policy->n_entries, s->d_entry_stride);
    g->d_index = carve_floats(c, t, s->index_stride);
    g->d_index_q = carve_floats(c, t, s->index_q_stride);
}

/* The two halves of a layer come one after the other, and leave nothing there. */
static void carve_half_gradients(struct carver *c, struct policy *policy)
{
    const size_t begin = c->used;

    carve_ffn_gradients(c, policy);

    const size_t end = c->used;

    c->used = begin;
    carve_attention_gradients(c, policy);
    c->used = c->used > end ? c->used : end;
}

/* Of the MTP modules. */
static void carve_module_gradients(struct carver *c, struct policy *policy)
{
    const size_t t = policy->options.max_rows, stride = policy->sizes.d_stride;
    struct policy_gradients_scratch *g = &policy->grad;

    g->d_h_mtp = carve_floats(c, t, stride);
    g->d_eh = carve_floats(c, t, policy_stride(2 * policy->sizes.d));
    g->d_mtp_hidden = carve_floats(c, t, stride);
    g->merged_x = carve_floats(c, (1 + policy->config.n_mtp_modules) * t, stride);
}

void policy_carve_gradients(struct carver *c, struct policy *policy)
{
    const size_t t = policy->options.max_rows, stride = policy->sizes.d_stride;
    const size_t nt = (1 + policy->config.n_mtp_modules) * t;
    struct policy_gradients_scratch *g = &policy->grad;

    g->d_h = carve_floats(c, nt, stride);
    g->d_normed = carve_floats(c, t, stride);
    carve_half_gradients(c, policy);
    g->index_loss = carve_floats(c, t, 1);
    g->d_final = carve_floats(c, t + 1, stride);
    g->d_head = carve_floats(c, nt, stride);
    g->g = carve_floats(c, nt, 1);
    g->h = carve_floats(c, nt, 1);
    g->merged_g = carve_floats(c, nt, 1);
    g->merged_h = carve_floats(c, nt, 1);
    g->merged_lse = carve_floats(c, nt, 1);
    g->merged_entropy = carve_floats(c, nt, 1);
    g->merged_logp = carve_floats(c, nt, 1);
    g->merged_rows = carve_ids(c, nt);
    g->merged_targets = carve_ids(c, nt);
    g->merged_scatter = carve_ids(c, nt);
    if (policy->config.n_mtp_modules > 0) {
        carve_module_gradients(c, policy);
    }
}
