/* Owns the double oracle of the sampling distribution (grpo.md 2.1): kept set by sorting,
 * log-probabilities, entropy. */
#ifndef HONE_TESTS_OPS_DISTRIBUTION_ORACLE_H
#define HONE_TESTS_OPS_DISTRIBUTION_ORACLE_H

#include "kernels/backend.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#define ORACLE_VOCAB_MAX 5000

struct oracle_distribution {
    size_t vocab;
    double temperature;
    double u[ORACLE_VOCAB_MAX];
    bool kept[ORACLE_VOCAB_MAX];
};

struct oracle_token {
    double u;
    size_t id;
};

static inline int oracle_order(const void *a, const void *b)
{
    const struct oracle_token *x = a, *y = b;
    if (x->u != y->u) {
        return x->u > y->u ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

static inline double oracle_mass(const struct oracle_token *sorted, size_t n)
{
    double mass = 0.0;
    for (size_t i = 0; i < n; i++) {
        mass += exp(sorted[i].u - sorted[0].u);
    }
    return mass;
}

/* How many of the sorted tokens the filters leave. */
static inline size_t oracle_prefix(const struct oracle_token *sorted, size_t n,
                                   const struct sampling_params *sampling)
{
    if (sampling->temperature == 0.0F) {
        return 1;
    }
    if (sampling->top_k > 0 && (size_t)sampling->top_k < n) {
        n = (size_t)sampling->top_k;
    }
    if (sampling->top_p < 1.0F) {
        const double goal = (double)sampling->top_p * oracle_mass(sorted, n);
        size_t kept = 1;
        while (kept < n && oracle_mass(sorted, kept) < goal) {
            kept++;
        }
        n = kept;
    }
    while (n > 1 && exp(sorted[n - 1].u - sorted[0].u) < (double)sampling->min_p) {
        n--;
    }
    return n;
}

/* logits in double; forced: a token that is kept in any case, or -1. */
static inline void oracle_make(const double *logits, size_t vocab,
                               const struct sampling_params *sampling, int32_t forced,
                               struct oracle_distribution *d)
{
    static struct oracle_token sorted[ORACLE_VOCAB_MAX];

    d->vocab = vocab;
    d->temperature = sampling->temperature == 0.0F ? 1.0 : (double)sampling->temperature;
    for (size_t v = 0; v < vocab; v++) {
        d->u[v] = logits[v] / d->temperature;
        d->kept[v] = (int32_t)v == forced;
        sorted[v] = (struct oracle_token){d->u[v], v};
    }
    qsort(sorted, vocab, sizeof(sorted[0]), oracle_order);
    const size_t n = oracle_prefix(sorted, vocab, sampling);
    for (size_t i = 0; i < n; i++) {
        d->kept[sorted[i].id] = true;
    }
}

static inline double oracle_lse(const struct oracle_distribution *d, bool whole)
{
    double max = -HUGE_VAL, sum = 0.0;
    for (size_t v = 0; v < d->vocab; v++) {
        max = fmax(max, d->u[v]);
    }
    for (size_t v = 0; v < d->vocab; v++) {
        sum += whole || d->kept[v] ? exp(d->u[v] - max) : 0.0;
    }
    return max + log(sum);
}

/* Of the whole vocabulary. */
static inline double oracle_entropy(const struct oracle_distribution *d)
{
    const double lse = oracle_lse(d, true);
    double entropy = 0.0;
    for (size_t v = 0; v < d->vocab; v++) {
        entropy -= exp(d->u[v] - lse) * (d->u[v] - lse);
    }
    return entropy;
}

#endif
