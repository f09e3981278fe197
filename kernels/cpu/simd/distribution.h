/* Owns the sampling distribution of one row of logits (grpo.md 2.1, 2.5): the one piece of code
 * behind sample, lm_head_logprob and lm_head_backward, so that their log-probabilities are equal
 * bit for bit.
 *
 *   u_v = z_v * (1 / temperature)             one rounding each
 *   lse = max + log(sum over kept v of exp(u_v - max))
 *   log p_v = u_v - lse
 * Sums take element v in lane v % 16, v ascending, then the fixed tree of vec_sum.
 *
 * Every filter keeps a prefix of the order "larger u first, then lower id", so any kept set is one
 * cut in that order and no list of ids is ever made. */
#ifndef HONE_KERNELS_CPU_SIMD_DISTRIBUTION_H
#define HONE_KERNELS_CPU_SIMD_DISTRIBUTION_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/simd.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Keeps v if u_v > value, or u_v == value and v <= last. */
struct cut {
    float value;
    int32_t last;
};

struct distribution {
    const float *logits; /* one row, borrowed */
    size_t vocab;
    float inv_temperature; /* 1 at temperature 0 */
    float max, min;        /* of u */
    bool is_greedy;        /* temperature 0: only the arg max is kept */
    bool is_filtered;
    struct cut cut; /* used if is_filtered */
    int32_t forced; /* a token that is kept in any case, or -1 */
    float sum;      /* of exp(u - max) over the kept set */
    float lse;
    float lse_all; /* before the filters; unused if greedy */
    float entropy; /* of the whole vocabulary, before the filters; 0 if greedy */
};

/* Fills d for a row. forced: the target, or -1. False if a u is not finite. */
bool ISA(distribution_init)(const float *logits, size_t vocab,
                            const struct sampling_params *sampling, int32_t forced,
                            struct distribution *d);

/* The same in two steps, for who looks at every token in between and needs neither entropy nor
 * lse_all: all but the sums; then, given the sum of what distribution_mass says of all tokens, v
 * ascending, sum and lse. */
bool ISA(distribution_begin)(const float *logits, size_t vocab,
                             const struct sampling_params *sampling, int32_t forced,
                             struct distribution *d);
void ISA(distribution_close)(struct distribution *d, float sum);

/* log p_v; -INFINITY for what a greedy row cannot draw. v is kept. */
float ISA(distribution_logp)(const struct distribution *d, int32_t v);

/* The first row whose logits are not finite, whatever thread meets it; SIZE_MAX if none. */
static inline void bad_row_note(atomic_size_t *bad_row, size_t row)
{
    size_t seen = atomic_load(bad_row);

    while (row < seen && !atomic_compare_exchange_weak(bad_row, &seen, row)) {
    }
}

static inline enum status bad_row_status(const atomic_size_t *bad_row)
{
    const size_t row = atomic_load(bad_row);

    return row == SIZE_MAX
               ? STATUS_OK
               : status_set(STATUS_NUMERICS, "the logits of row %zu are not finite", row);
}

SIMD_INLINE i32x16 lane_ids(size_t v)
{
    static const int32_t lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return ivec_add(ivec_load(lanes), ivec_set1((int32_t)v));
}

SIMD_INLINE f32x16 distribution_u(const struct distribution *d, size_t v, size_t n)
{
    return vec_mul(lanes_load(d->logits + v, n), vec_set1(d->inv_temperature));
}

/* The lanes of tokens v .. v + n - 1 that the distribution keeps. */
SIMD_INLINE mask16 distribution_kept(const struct distribution *d, size_t v, size_t n, f32x16 u)
{
    const mask16 present = mask_first(n);
    if (!d->is_filtered) {
        return present;
    }
    const i32x16 ids = lane_ids(v);
    const f32x16 value = vec_set1(d->cut.value);
    const mask16 tied = mask_and(vec_eq(u, value), ivec_lt(ids, ivec_set1(d->cut.last + 1)));
    const mask16 forced = ivec_eq(ids, ivec_set1(d->forced));
    return mask_and(present, mask_or(forced, mask_or(vec_lt(value, u), tied)));
}

/* exp(u - max) of the tokens v .. v + n - 1 that are kept, 0 in the other lanes. is_filtered is
 * d's, for the compiler. */
SIMD_INLINE f32x16 distribution_mass(const struct distribution *d, size_t v, size_t n,
                                     bool is_filtered)
{
    const f32x16 u = distribution_u(d, v, n);
    const f32x16 e = vec_exp(vec_sub(u, vec_set1(d->max)));
    const mask16 kept = is_filtered ? distribution_kept(d, v, n, u) : mask_first(n);
    return vec_select(kept, e, vec_zero());
}

#endif
