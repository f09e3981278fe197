/* Owns what the two halves of forward attention share: a thread's memory, and the values of a block
 * of keys. attention.c makes scores of a block, attention_values.c probabilities and results. */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_BLOCK_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_BLOCK_H

#include "kernels/cpu/simd/attention_fetch.h"
#include "kernels/cpu/simd/attention_pairs.h"

/* Keys that are scored together: few enough to stay in the first cache, whole vectors of a tile. */
#define SCORE_KEYS ((size_t)64)

/* One thread's memory. P = pairs of a chunk, D = key_dim + rope_dim, V = value_dim. Under bfloat16
 * q and scores become rows of pairs, keys and values words of two. */
struct workspace {
    float *q;      /* (P, q_stride) */
    float *scores; /* (P, KEY_BLOCK) */
    float *keys;   /* (D, SCORE_KEYS) transposed */
    float *max;    /* (P) */
    float *sum;    /* (P) */
    float *gathered;
    float *values; /* bfloat16: (KEY_BLOCK / 2, V) pairs of keys, and the row of an odd last one */
    float *query;  /* bfloat16: one query, then zeros */
    size_t q_stride;
    struct fetch_pace pace; /* of what is read later */
};

static inline bool has_pairs(const struct attention_args *a)
{
    return a->pages.precision != PRECISION_F32;
}

/* Values of a block on their way to the results. */
struct block_values {
    const struct key_rows *rows; /* floats, or words of two values */
    size_t n_keys;
    bool is_first;  /* results are assigned */
    bool is_direct; /* words go into the products unzipped */
};

/* Pairs of keys for the products of a block of bfloat16 entries. */
void ISA(attention_zip)(const struct attention_args *a, struct workspace *w,
                        const struct block_values *values);

/* All rows of the chunk with the keys of the block from first_key on, scores given. */
void ISA(attention_values)(const struct attention_args *a, const struct chunk *c,
                           struct workspace *w, size_t first_key,
                           const struct block_values *values);

/* Sums of all blocks -> results, and lse if it is wanted. */
void ISA(attention_finish)(const struct attention_args *a, const struct chunk *c,
                           struct workspace *w);

#endif
