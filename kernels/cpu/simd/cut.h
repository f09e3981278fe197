/* Owns where the filters cut the order "larger u first, then lower id": after the shortest prefix,
 * of what is kept so far, with top_k tokens or with a share top_p of the mass sum of exp(u - max).
 *
 * cut_search says where, and takes five passes over the row, most of them scalar. cut_narrow finds
 * the same cut in about two, with sums in another order: it answers only where what it found holds
 * by more than any rounding of either. */
#ifndef HONE_KERNELS_CPU_SIMD_CUT_H
#define HONE_KERNELS_CPU_SIMD_CUT_H

#include "kernels/cpu/simd/distribution.h"

struct cut_rule {
    size_t top_k; /* 0: by mass */
    float top_p;
};

struct cut ISA(cut_search)(const struct distribution *d, struct cut_rule rule);

/* False: not decided here (ties, sums too close to the goal, a cut deep in the tail). */
bool ISA(cut_narrow)(const struct distribution *d, struct cut_rule rule, struct cut *cut);

#endif
