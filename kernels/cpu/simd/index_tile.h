/* Owns what the indexer's selection and its loss share: the products of queries and index keys, and
 * how heads become one score. */
#ifndef HONE_KERNELS_CPU_SIMD_INDEX_TILE_H
#define HONE_KERNELS_CPU_SIMD_INDEX_TILE_H

#include "kernels/cpu/simd/attention_chunk.h"

/* Queries of a chunk's rows as adjacent (pairs, dim). */
static inline void gather_index_queries(const struct index_args *a, const struct chunk *c,
                                        float *to)
{
    const size_t width = a->n_heads * a->dim;

    for (size_t r = 0; r < c->n_rows; r++) {
        memcpy(to + r * width, a->q + (c->span->first_row + c->i + r) * a->q_stride,
               width * sizeof(*to));
    }
}

/* z (pairs, KEY_BLOCK) = q (pairs, dim) . keys; transposed (dim, KEY_BLOCK) takes the keys. */
static inline void index_products(const struct index_args *a, size_t n_pairs, const float *q,
                                  const struct key_rows *keys, size_t n_keys, float *transposed,
                                  float *z)
{
    const float *blocks[1] = {transposed};
    struct tile_product product = {.x = q,
                                   .x_row_stride = a->dim,
                                   .x_k_stride = 1,
                                   .blocks = blocks,
                                   .block_rows = a->dim,
                                   .w_stride = KEY_BLOCK,
                                   .y_stride = KEY_BLOCK,
                                   .n_rows = n_pairs,
                                   .n_k = a->dim,
                                   .n_columns = whole_lanes(n_keys)};

    product.y = z;
    transpose_block(keys->steps, n_keys, keys->stride, a->dim, transposed);
    ISA(tile_multiply)(&product);
}

/* Scores of one row with a block's keys: heads are one fma chain ascending, then times scale. */
static inline void index_combine(const struct index_args *a, const float *z, const float *w,
                                 size_t n_keys, float *scores)
{
    for (size_t k = 0; k < n_keys; k += SIMD_LANES) {
        f32x16 sum = vec_zero();
        for (size_t h = 0; h < a->n_heads; h++) {
            const f32x16 relu = vec_max(vec_load(z + h * KEY_BLOCK + k), vec_zero());
            sum = vec_fma(vec_set1(w[h]), relu, sum);
        }
        vec_store(scores + k, vec_mul(sum, vec_set1(a->scale)));
    }
}

#endif
