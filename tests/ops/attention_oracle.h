/* Owns attention in double precision: what the op's outputs and gradients are compared with. */
#ifndef HONE_TESTS_OPS_ATTENTION_ORACLE_H
#define HONE_TESTS_OPS_ATTENTION_ORACLE_H

#include "tests/ops/attention_fixture.h"

/* The three differentiable operands as one vector: q_latent, q_rope, entries. */
struct oracle_view {
    const double *q_latent, *q_rope, *entries;
};

static inline struct oracle_view view_of(const struct attention_case *c, const double *x)
{
    const size_t n_pairs = c->n_rows * c->shape.n_heads;
    return (struct oracle_view){x, x + n_pairs * c->shape.rk,
                                x + n_pairs * (c->shape.rk + c->shape.dr)};
}

static inline double oracle_score(const struct attention_case *c, const struct oracle_view *v,
                                  size_t pair, size_t key_row)
{
    const struct shape s = c->shape;
    const double *entry = v->entries + key_row * entry_width(s) + key_at(s, pair % s.n_heads);
    double dot = 0.0;

    for (size_t j = 0; j < s.rk; j++) {
        dot += v->q_latent[pair * s.rk + j] * entry[j];
    }
    for (size_t j = 0; j < s.dr; j++) {
        dot += v->q_rope[pair * s.dr + j] * entry[s.rk + j];
    }
    return (double)SCALE * dot;
}

static inline bool is_seen(const struct attention_case *c, size_t row, size_t position)
{
    const size_t k = c->shape.n_selected;

    for (size_t i = 0; i < k; i++) {
        if (c->selected[row * k + i] == (int32_t)position) {
            return true;
        }
    }
    return k == 0;
}

/* out (rk) of a pair that sees rows first .. last; returns the log-sum-exp. */
static inline double oracle_pair(const struct attention_case *c, const struct oracle_view *v,
                                 size_t pair, size_t first, size_t last, double *out)
{
    const size_t width = entry_width(c->shape);
    const double *values = v->entries + value_at(c->shape, pair % c->shape.n_heads);
    double max = -HUGE_VAL, sum = 0.0;

    for (size_t key = first; key <= last; key++) {
        if (is_seen(c, last, key - first)) {
            max = fmax(max, oracle_score(c, v, pair, key));
        }
    }
    memset(out, 0, c->shape.rk * sizeof(*out));
    for (size_t key = first; key <= last; key++) {
        const double e =
            is_seen(c, last, key - first) ? exp(oracle_score(c, v, pair, key) - max) : 0.0;
        sum += e;
        for (size_t j = 0; j < c->shape.rk; j++) {
            out[j] += e * values[key * width + j];
        }
    }
    for (size_t j = 0; j < c->shape.rk; j++) {
        out[j] /= sum;
    }
    return max + log(sum);
}

/* out then lse of all rows, laid out as the op's. */
static inline void oracle_forward(const struct attention_case *c, const double *x, double *out)
{
    const struct oracle_view v = view_of(c, x);
    const size_t n_heads = c->shape.n_heads, n_pairs = c->n_rows * n_heads;
    size_t first = 0;

    for (size_t s = 0; s < c->n_sequences; s++) {
        for (size_t i = 0; i < c->lengths[s] * n_heads; i++) {
            const size_t pair = first * n_heads + i;
            out[n_pairs * c->shape.rk + pair] =
                oracle_pair(c, &v, pair, first, first + i / n_heads, out + pair * c->shape.rk);
        }
        first += c->lengths[s];
    }
}

static inline double oracle_loss_of(const double *x, const void *context)
{
    const struct attention_case *c = context;
    double *out = new_doubles(out_floats(c)), loss = 0.0;

    oracle_forward(c, x, out);
    for (size_t i = 0; i < c->n_rows * c->shape.n_heads * c->shape.rk; i++) {
        loss += (double)c->d_out[i] * out[i];
    }
    memory_free(out);
    return loss;
}

#endif
