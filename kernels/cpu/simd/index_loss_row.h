/* Owns the loss of the indexer for one row of scores, and its gradients (index_loss.c). Rows have
 * whole vectors. */
#ifndef HONE_KERNELS_CPU_SIMD_INDEX_LOSS_ROW_H
#define HONE_KERNELS_CPU_SIMD_INDEX_LOSS_ROW_H

#include "kernels/cpu/simd/lanes.h"

#include <math.h>

static inline float index_row_sum(const float *x, size_t n)
{
    f32x16 sum = vec_zero();

    for (size_t k = 0; k < n; k += SIMD_LANES) {
        sum = vec_add(sum, lanes_load(x + k, lanes_left(k, n)));
    }
    return vec_sum(sum);
}

/* log sum exp of n scores. */
static inline float index_row_lse(const float *x, size_t n)
{
    f32x16 best = vec_set1(-INFINITY), sum = vec_zero();

    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 is_seen = mask_first(lanes_left(k, n));
        best = vec_max(vec_select(is_seen, vec_load(x + k), vec_set1(-INFINITY)), best);
    }
    const f32x16 max = vec_set1(vec_hmax(best));
    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 is_seen = mask_first(lanes_left(k, n));
        const f32x16 e = vec_exp(vec_sub(vec_load(x + k), max));
        sum = vec_add(sum, vec_select(is_seen, e, vec_zero()));
    }
    const f32x16 log_sum = vec_log(vec_set1(vec_sum(sum)));
    return vec_hmax(vec_add(max, log_sum));
}

/* The loss of a row that sees n keys; its scores become their gradient. */
static inline float index_row_loss(float *target, float *scores, size_t n, float coefficient)
{
    const f32x16 share = vec_set1(1.0F / index_row_sum(target, n)),
                 lse = vec_set1(index_row_lse(scores, n));
    f32x16 sum = vec_zero();

    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 is_seen = mask_first(lanes_left(k, n));
        const f32x16 p = vec_mul(vec_load(target + k), share);
        const f32x16 logp = vec_sub(vec_load(scores + k), lse);
        const f32x16 term = vec_mul(p, vec_sub(vec_log(p), logp));
        const mask16 counts = mask_and(is_seen, vec_lt(vec_zero(), p));
        const f32x16 d = vec_mul(vec_sub(vec_exp(logp), p), vec_set1(coefficient));
        sum = vec_add(sum, vec_select(counts, term, vec_zero()));
        vec_store(scores + k, vec_select(is_seen, d, vec_zero()));
    }
    return vec_sum(sum);
}

/* z of one head -> its gradient; returns its share of dw. Lanes behind the seen hold no gradient.
 */
static inline float index_head_gradient(float *z, const float *d_scores, size_t n, float weight,
                                        float scale)
{
    const f32x16 factor = vec_set1(scale), w = vec_set1(weight);
    f32x16 sum = vec_zero();

    for (size_t k = 0; k < n; k += SIMD_LANES) {
        const mask16 is_seen = mask_first(lanes_left(k, n));
        const f32x16 product = vec_load(z + k);
        const mask16 is_active = mask_and(is_seen, vec_lt(vec_zero(), product));
        const f32x16 d = vec_mul(vec_load(d_scores + k), factor);
        sum = vec_add(sum, vec_select(is_active, vec_mul(d, product), vec_zero()));
        vec_store(z + k, vec_select(is_active, vec_mul(d, w), vec_zero()));
    }
    return vec_sum(sum);
}

#endif
