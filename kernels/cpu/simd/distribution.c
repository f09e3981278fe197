/* Owns how a row's distribution is made: maximum, cut of the filters, sums. See distribution.h.
 * min_p compares e_v = p_v / p_max directly, which no renormalisation changes. */
#include "kernels/cpu/simd/distribution.h"
#include "kernels/cpu/simd/cut.h"

#include <math.h>

static float float_log(float x)
{
    return vec_hmax(vec_log(vec_set1(x)));
}

static void cut_at(struct distribution *d, struct cut_rule rule)
{
    struct cut cut;

    if (!ISA(cut_narrow)(d, rule, &cut)) {
        cut = ISA(cut_search)(d, rule);
    }
    d->cut = cut;
    d->is_filtered = true;
}

static void cut_min_p(struct distribution *d, float min_p)
{
    f32x16 lowest = vec_set1(d->max);

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const mask16 enough = vec_le(vec_set1(min_p), vec_exp(vec_sub(u, vec_set1(d->max))));
        const mask16 stays = mask_and(enough, distribution_kept(d, v, n, u));
        lowest = vec_min(vec_select(stays, u, lowest), lowest);
    }
    const float value = -vec_hmax(vec_neg(lowest));
    if (!d->is_filtered || value > d->cut.value) {
        d->cut = (struct cut){.value = value, .last = (int32_t)d->vocab - 1};
        d->is_filtered = true;
    }
}

/* top_k, top_p, min_p in this order, each on what the one before left. */
static void cut_filters(struct distribution *d, const struct sampling_params *sampling)
{
    if (sampling->top_k > 0 && (size_t)sampling->top_k < d->vocab) {
        cut_at(d, (struct cut_rule){.top_k = (size_t)sampling->top_k});
    }
    if (sampling->top_p < 1.0F) {
        cut_at(d, (struct cut_rule){.top_p = sampling->top_p});
    }
    if (sampling->min_p > 0.0F) {
        cut_min_p(d, sampling->min_p);
    }
}

/* Four vectors a step, so that one maximum need not wait for the last. */
#define MAX_STEP ((size_t)4)

struct extremes {
    f32x16 best, worst, zero;
};

SIMD_INLINE void extremes_add(struct extremes *x, const struct distribution *d, size_t v, size_t n)
{
    const f32x16 u = distribution_u(d, v, n);

    x->best = vec_max(vec_select(mask_first(n), u, x->best), x->best);
    x->worst = vec_min(vec_select(mask_first(n), u, x->worst), x->worst);
    x->zero = vec_fma(u, vec_zero(), x->zero); /* NaN as soon as a u is not finite */
}

/* Maximum and minimum of u; false if a u is not finite. */
static bool find_extremes(struct distribution *d)
{
    const size_t whole = d->vocab - d->vocab % (MAX_STEP * SIMD_LANES);
    struct extremes x[MAX_STEP];

    for (size_t i = 0; i < MAX_STEP; i++) {
        x[i] = (struct extremes){
            .best = vec_set1(-INFINITY), .worst = vec_set1(INFINITY), .zero = vec_zero()};
    }
    for (size_t v = 0; v < whole; v += MAX_STEP * SIMD_LANES) {
#pragma GCC unroll 4
        for (size_t i = 0; i < MAX_STEP; i++) {
            extremes_add(&x[i], d, v + i * SIMD_LANES, SIMD_LANES);
        }
    }
    for (size_t v = whole; v < d->vocab; v += SIMD_LANES) {
        extremes_add(&x[0], d, v, lanes_left(v, d->vocab));
    }
    for (size_t i = 1; i < MAX_STEP; i++) {
        x[0].best = vec_max(x[0].best, x[i].best);
        x[0].worst = vec_min(x[0].worst, x[i].worst);
        x[0].zero = vec_add(x[0].zero, x[i].zero);
    }
    d->max = vec_hmax(x[0].best);
    d->min = -vec_hmax(vec_neg(x[0].worst));
    return vec_sum(x[0].zero) == 0.0F;
}

static void cut_greedy(struct distribution *d)
{
    uint32_t found = 0;
    size_t v = 0;

    for (; found == 0; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const mask16 equal = vec_eq(distribution_u(d, v, n), vec_set1(d->max));
        found = mask_bits(mask_and(mask_first(n), equal));
    }
    const size_t arg_max = v - SIMD_LANES + (size_t)__builtin_ctz(found);
    d->cut = (struct cut){.value = d->max, .last = (int32_t)arg_max};
    d->is_filtered = true;
}

/* One pass: the sum of the kept set, and the entropy log s + sum e (max - u) / s of all. */
SIMD_INLINE float add_up(struct distribution *d, bool is_filtered)
{
    const f32x16 max = vec_set1(d->max);
    f32x16 kept = vec_zero(), all = vec_zero(), weighted = vec_zero();

    for (size_t v = 0; v < d->vocab; v += SIMD_LANES) {
        const size_t n = lanes_left(v, d->vocab);
        const f32x16 u = distribution_u(d, v, n);
        const f32x16 below = vec_sub(u, max);
        const f32x16 e = vec_select(mask_first(n), vec_exp(below), vec_zero());
        all = vec_add(all, e);
        weighted = vec_fma(e, below, weighted);
        if (is_filtered) {
            kept = vec_add(kept, vec_select(distribution_kept(d, v, n, u), e, vec_zero()));
        }
    }
    const float total = vec_sum(all);
    const float log_total = float_log(total);
    d->lse_all = d->max + log_total;
    d->entropy = log_total - vec_sum(weighted) / total;
    return is_filtered ? vec_sum(kept) : total;
}

bool ISA(distribution_begin)(const float *logits, size_t vocab,
                             const struct sampling_params *sampling, int32_t forced,
                             struct distribution *d)
{
    const bool is_greedy = sampling->temperature == 0.0F;

    *d = (struct distribution){.logits = logits,
                               .vocab = vocab,
                               .inv_temperature = is_greedy ? 1.0F : 1.0F / sampling->temperature,
                               .is_greedy = is_greedy,
                               .forced = -1};
    if (!find_extremes(d)) {
        return false;
    }
    if (is_greedy) {
        cut_greedy(d);
    } else {
        cut_filters(d, sampling);
        d->forced = forced;
    }
    return true;
}

void ISA(distribution_close)(struct distribution *d, float sum)
{
    d->sum = sum;
    d->lse = d->max + float_log(d->sum);
}

bool ISA(distribution_init)(const float *logits, size_t vocab,
                            const struct sampling_params *sampling, int32_t forced,
                            struct distribution *d)
{
    if (!ISA(distribution_begin)(logits, vocab, sampling, forced, d)) {
        return false;
    }
    if (d->is_greedy) {
        ISA(distribution_close)(d, 1.0F);
    } else if (d->is_filtered) {
        ISA(distribution_close)(d, add_up(d, true));
    } else {
        ISA(distribution_close)(d, add_up(d, false));
    }
    return true;
}

float ISA(distribution_logp)(const struct distribution *d, int32_t v)
{
    if (d->is_greedy && v != d->cut.last) {
        return -INFINITY;
    }
    return d->logits[v] * d->inv_temperature - d->lse;
}
