/* Owns the oracle's lightning indexer (model.md 11): scores, selection of keys, and the KL loss. */
#include "tests/support/oracle_internal.h"

#include <math.h>

#define INDEX_EPS 1e-6

/* LayerNorm with weight and bias, in place. */
static void layer_norm(const double *w, const double *b, double *x, size_t n)
{
    double mean = 0, variance = 0;

    for (size_t i = 0; i < n; i++) {
        mean += x[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = w[i] * (x[i] - mean) / sqrt(variance + INDEX_EPS) + b[i];
    }
}

/* I[t,s] = sum over heads of w ReLU(q . k), with the two square roots. */
static double score_of(struct oracle *o, const double *q, const double *k, const double *w)
{
    const struct oracle_config *c = &o->config;
    double score = 0;

    for (size_t h = 0; h < c->index_heads; h++) {
        const double z = oracle_dot(q + h * c->index_dim, k, c->index_dim);

        oracle_note_margin(o, fabs(z));
        score += w[h] * (z > 0 ? z / sqrt((double)c->index_dim) : 0);
    }
    return score / sqrt((double)c->index_heads);
}

void oracle_index_scores(struct oracle *o, const struct oracle_layer *layer, size_t n,
                         oracle_stream x, oracle_wide q_latent, oracle_square scores)
{
    const struct oracle_config *c = &o->config;
    oracle_wide k;
    double q[ORACLE_WIDTH_MAX], w[ORACLE_HEADS_MAX];

    for (size_t t = 0; t < n; t++) {
        oracle_linear(o, layer->index_k, ORACLE_ABSENT, x[t], c->d, c->index_dim, k[t]);
        layer_norm(o->data + layer->index_norm, o->data + layer->index_norm_bias, k[t],
                   c->index_dim);
        oracle_rotate(o, k[t], t, c->index_interleave);
    }
    for (size_t t = 0; t < n; t++) {
        oracle_linear(o, layer->index_q, ORACLE_ABSENT, q_latent[t], c->q_rank,
                      c->index_heads * c->index_dim, q);
        for (size_t h = 0; h < c->index_heads; h++) {
            oracle_rotate(o, q + h * c->index_dim, t, c->index_interleave);
        }
        oracle_linear(o, layer->index_weights, ORACLE_ABSENT, x[t], c->d, c->index_heads, w);
        for (size_t s = 0; s <= t; s++) {
            scores[t][s] = score_of(o, q, k[s], w);
        }
    }
}

/* The best key of those not yet taken; the lower position of equals. */
static size_t best_key(const double *scores, const double *taken, size_t n)
{
    size_t best = n;

    for (size_t s = 0; s < n; s++) {
        if (taken[s] == 0 && (best == n || scores[s] > scores[best])) {
            best = s;
        }
    }
    return best;
}

void oracle_select_keys(struct oracle *o, size_t n, oracle_square scores, oracle_square selected)
{
    const size_t top = o->config.index_topk;

    for (size_t t = 0; t < n; t++) {
        size_t last = 0;

        for (size_t s = 0; s <= t; s++) {
            selected[t][s] = 0;
        }
        for (size_t k = 0; k < top && k <= t; k++) {
            last = best_key(scores[t], selected[t], t + 1);
            selected[t][last] = 1;
        }
        if (t + 1 > top) {
            const double gap = scores[t][last] - scores[t][best_key(scores[t], selected[t], t + 1)];

            /* Equal ones are all clipped by the ReLU, here as anywhere. */
            if (gap != 0) {
                oracle_note_margin(o, gap);
            }
            o->result.n_dropped_keys += o->is_base ? t + 1 - top : 0;
        }
    }
}

double oracle_indexer_kl(size_t n, oracle_square probabilities, oracle_square selected,
                         oracle_square scores)
{
    double loss = 0, q[ORACLE_TOKENS_MAX];

    for (size_t t = 0; t < n; t++) {
        double sum = 0;

        for (size_t s = 0; s <= t; s++) {
            q[s] = selected[t][s] == 0 ? -HUGE_VAL : scores[t][s];
            sum += probabilities[t][s];
        }
        oracle_softmax(q, t + 1);
        for (size_t s = 0; s <= t; s++) {
            const double p = probabilities[t][s] / sum;

            loss += p > 0 ? p * log(p / q[s]) : 0;
        }
    }
    return loss;
}
