/* Owns the arithmetic that attention's forward and backward share: a small matrix product on
 * unpacked operands, and the transposed copy of a page.
 *
 * Every product of attention is one shape: y (rows, columns) = sum over k of x[row][k]
 * w[k][column], one fma chain per element over k ascending from zero (or from y), columns in vector
 * lanes. scores      row = (query, head), k = dimension, column = key (w is the transposed copy)
 *   values      row = (query, head), k = key,       column = dimension
 *   d of pages  row = key,           k = (query, head), column = dimension */
#ifndef HONE_KERNELS_CPU_SIMD_ATTENTION_TILE_H
#define HONE_KERNELS_CPU_SIMD_ATTENTION_TILE_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/lanes.h"

#include <stdbool.h>

#define KEY_BLOCK ((size_t)128) /* keys whose softmax is one step; fixed by key position */
#define STEPS_PER_BLOCK (KEY_BLOCK / KV_STEP_TOKENS)

struct key_fetch;

/* What a product asks for while it runs: n_lines for every FETCH_UNIT rows of w and tile; fetch
 * NULL: nothing (attention_fetch.h). */
#define FETCH_UNIT ((size_t)16)
struct fetch_pace {
    struct key_fetch *fetch;
    size_t n_lines;
};

/* Row k of w is blocks[k / block_rows] + k % block_rows * w_stride. */
struct tile_product {
    const float *x;
    size_t x_row_stride, x_k_stride;
    const float *const *blocks;
    size_t block_rows, w_stride;
    float *y;
    size_t y_stride;
    size_t n_rows, n_k, n_columns;
    bool accumulate;
    struct fetch_pace pace;
};

void ISA(tile_multiply)(const struct tile_product *product);

/* Height of the next of a column's tiles: `left` rows dealt evenly, at most `most` to each. */
static inline size_t tile_height(size_t left, size_t most)
{
    const size_t n_tiles = (left + most - 1) / most;

    return (left + n_tiles - 1) / n_tiles;
}

/* to[d * to_stride + token] = entries[token * entry_stride + d] for n_tokens, 1 to 16, of a step;
 * the others' columns are written too, with the last one's values. */
void ISA(tile_transpose_step)(const float *entries, size_t n_tokens, size_t entry_stride,
                              size_t width, float *to, size_t to_stride);

/* Transposed copies of all steps of a key block: to (width, KEY_BLOCK). */
static inline void transpose_block(const float *const list[STEPS_PER_BLOCK], size_t n_keys,
                                   size_t entry_stride, size_t width, float *to)
{
    for (size_t k = 0; k < n_keys; k += KV_STEP_TOKENS) {
        const size_t left = n_keys - k;

        ISA(tile_transpose_step)
        (list[k / KV_STEP_TOKENS], left < KV_STEP_TOKENS ? left : KV_STEP_TOKENS, entry_stride,
         width, to + k, KEY_BLOCK);
    }
}

#endif
