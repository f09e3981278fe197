/* Owns the oracle's attention, un-absorbed (model.md 6.1, 12.1): latent attention expands its keys
 * and values for every head, grouped attention repeats them by group; both then attend alike. */
#include "tests/support/oracle_internal.h"

#include <math.h>
#include <string.h>

/* Queries (heads), keys and values (kv_heads) of one sequence, heads adjacent in a row. */
struct attended {
    size_t heads, kv_heads, key_dim, value_dim;
    oracle_wide q, k, v;
};

/* Probabilities of query t of head h over s <= t. */
static void probabilities_of(const struct oracle *oracle, const struct attended *a, size_t t,
                             size_t h, oracle_square selected, double *p)
{
    const size_t kv = h / (a->heads / a->kv_heads);

    for (size_t s = 0; s <= t; s++) {
        p[s] = selected[t][s] == 0
                   ? -HUGE_VAL
                   : oracle->softmax_scale * oracle_dot(a->q[t] + h * a->key_dim,
                                                        a->k[s] + kv * a->key_dim, a->key_dim);
    }
    oracle_softmax(p, t + 1);
}

/* out (value_dim) = what head h of query t gathers with the probabilities p. */
static void gather_values(const struct attended *a, size_t t, size_t h, const double *p,
                          double *out)
{
    const size_t kv = h / (a->heads / a->kv_heads);

    for (size_t j = 0; j < a->value_dim; j++) {
        out[j] = 0;
        for (size_t s = 0; s <= t; s++) {
            out[j] += p[s] * a->v[s][kv * a->value_dim + j];
        }
    }
}

/* out[t] (heads, value_dim); sums[t][s] = probabilities summed over heads. */
static void attend(const struct oracle *oracle, const struct attended *a, size_t n,
                   oracle_square selected, oracle_wide out, oracle_square sums)
{
    double p[ORACLE_TOKENS_MAX];

    memset(sums, 0, sizeof(oracle_square));
    for (size_t t = 0; t < n; t++) {
        for (size_t h = 0; h < a->heads; h++) {
            probabilities_of(oracle, a, t, h, selected, p);
            gather_values(a, t, h, p, out[t] + h * a->value_dim);
            for (size_t s = 0; s <= t; s++) {
                sums[t][s] += p[s];
            }
        }
    }
}

/* q (heads, nope + rope) and, with q_lora, the normed latent it comes from. */
static void latent_queries(const struct oracle *o, const struct oracle_layer *layer, size_t t,
                           const double *x, double *q_latent, double *q)
{
    const struct oracle_config *c = &o->config;
    const size_t width = c->nope + c->rope_dim;

    if (c->q_rank > 0) {
        oracle_linear(o, layer->q_a, layer->q_a_bias, x, c->d, c->q_rank, q_latent);
        oracle_rms_norm(o->data + layer->q_a_norm, q_latent, c->q_rank, c->latent_eps, q_latent);
        oracle_linear(o, layer->q_b, ORACLE_ABSENT, q_latent, c->q_rank, c->n_heads * width, q);
    } else {
        oracle_linear(o, layer->q, ORACLE_ABSENT, x, c->d, c->n_heads * width, q);
    }
    for (size_t h = 0; h < c->n_heads; h++) {
        oracle_rotate(o, q + h * width + c->nope, t, c->interleave);
    }
}

/* Keys (heads, nope + rope) and values (heads, v) of one token, from its latent. */
static void latent_keys(const struct oracle *o, const struct oracle_layer *layer, size_t t,
                        const double *x, double *k, double *v)
{
    const struct oracle_config *c = &o->config;
    const size_t width = c->nope + c->rope_dim, rows = c->nope + c->v_dim;
    double z[ORACLE_WIDTH_MAX], expanded[ORACLE_WIDTH_MAX];

    oracle_linear(o, layer->kv_a, layer->kv_a_bias, x, c->d, c->kv_rank + c->rope_dim, z);
    oracle_rotate(o, z + c->kv_rank, t, c->interleave);
    oracle_rms_norm(o->data + layer->kv_a_norm, z, c->kv_rank, c->latent_eps, z);
    oracle_linear(o, layer->kv_b, ORACLE_ABSENT, z, c->kv_rank, c->n_heads * rows, expanded);
    for (size_t h = 0; h < c->n_heads; h++) {
        memcpy(k + h * width, expanded + h * rows, c->nope * sizeof(double));
        memcpy(k + h * width + c->nope, z + c->kv_rank, c->rope_dim * sizeof(double));
        memcpy(v + h * c->v_dim, expanded + h * rows + c->nope, c->v_dim * sizeof(double));
    }
}

/* Norm per head, then rotation, of the heads of one token. */
static void prepare_heads(const struct oracle *o, size_t norm, size_t t, size_t n_heads, double *x)
{
    const struct oracle_config *c = &o->config;

    for (size_t h = 0; h < n_heads; h++) {
        double *const head = x + h * c->head_dim;

        if (c->has_qk_norm) {
            oracle_rms_norm(o->data + norm, head, c->head_dim, c->eps, head);
        }
        oracle_rotate(o, head, t, false);
    }
}

static void project_mla(struct oracle *o, const struct oracle_layer *layer, size_t n,
                        oracle_stream x, oracle_wide q_latent, struct attended *out)
{
    const struct oracle_config *c = &o->config;

    out->heads = out->kv_heads = c->n_heads;
    out->key_dim = c->nope + c->rope_dim;
    out->value_dim = c->v_dim;
    for (size_t t = 0; t < n; t++) {
        latent_queries(o, layer, t, x[t], q_latent[t], out->q[t]);
        latent_keys(o, layer, t, x[t], out->k[t], out->v[t]);
    }
}

static void project_gqa(struct oracle *o, const struct oracle_layer *layer, size_t n,
                        oracle_stream x, struct attended *out)
{
    const struct oracle_config *c = &o->config;
    const size_t kv_dim = c->n_kv_heads * c->head_dim;

    out->heads = c->n_heads;
    out->kv_heads = c->n_kv_heads;
    out->key_dim = out->value_dim = c->head_dim;
    for (size_t t = 0; t < n; t++) {
        oracle_linear(o, layer->q, layer->q_bias, x[t], c->d, c->n_heads * c->head_dim, out->q[t]);
        oracle_linear(o, layer->k, layer->k_bias, x[t], c->d, kv_dim, out->k[t]);
        oracle_linear(o, layer->v, layer->v_bias, x[t], c->d, kv_dim, out->v[t]);
        prepare_heads(o, layer->q_norm, t, c->n_heads, out->q[t]);
        prepare_heads(o, layer->k_norm, t, c->n_kv_heads, out->k[t]);
    }
}

static void see_everything(size_t n, oracle_square selected)
{
    for (size_t t = 0; t < n; t++) {
        for (size_t s = 0; s <= t; s++) {
            selected[t][s] = 1;
        }
    }
}

void oracle_attention(struct oracle *o, const struct oracle_layer *layer, size_t layer_index,
                      size_t n, oracle_stream x, oracle_stream out)
{
    const struct oracle_config *c = &o->config;
    struct attended a;
    oracle_wide q_latent, values;
    oracle_square scores, selected, sums;

    if (c->is_mla) {
        project_mla(o, layer, n, x, q_latent, &a);
    } else {
        project_gqa(o, layer, n, x, &a);
    }
    see_everything(n, selected);
    if (c->index_heads > 0) {
        oracle_index_scores(o, layer, n, x, q_latent, scores);
        if (!o->batch.is_warmup) {
            oracle_select_keys(o, n, scores, selected);
        }
    }
    attend(o, &a, n, selected, values, sums);
    if (c->index_heads > 0) {
        const double kl = oracle_indexer_kl(n, sums, selected, scores);

        o->indexer_term += kl;
        o->result.indexer_loss[layer_index] += o->is_base ? kl : 0;
    }
    for (size_t t = 0; t < n; t++) {
        oracle_linear(o, layer->o, layer->o_bias, values[t], a.heads * a.value_dim, c->d, out[t]);
    }
}
