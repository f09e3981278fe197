/* Owns the pieces that attention's forward and backward share: a small matrix product on unpacked
 * operands, the transposed copy of a page, and the split of work.
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
#define PAGES_PER_BLOCK (KEY_BLOCK / KV_BLOCK_TOKENS)
#define CHUNK_PAIRS ((size_t)64) /* (query, head) pairs a chunk holds, if a row has no more */

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
};

void ISA(tile_multiply)(const struct tile_product *product);

/* to[d * KEY_BLOCK + token] = entries[token * entry_stride + d] for the 16 tokens of a page. */
void ISA(tile_transpose_page)(const float *entries, size_t entry_stride, size_t width, float *to);

/* Rows of a span that are worked on together. */
static inline size_t chunk_rows(size_t n_heads)
{
    return n_heads < CHUNK_PAIRS ? CHUNK_PAIRS / n_heads : 1;
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Keys that rows [0, i] of a span see together, in multiply-adds. */
static inline size_t span_work(const struct kv_span *span, size_t n_rows)
{
    return n_rows * span->n_cached + n_rows * (n_rows + 1) / 2;
}

/* The thread whose share of `total` work holds the work unit number `done`. */
static inline size_t work_owner(size_t done, size_t total, size_t n_threads)
{
    return total == 0 ? 0 : done * n_threads / total;
}

/* First entry of the page that holds token `token`. */
static inline float *page_of(const struct kv_pages *pages, const struct kv_span *span, size_t token)
{
    return pages->data + (size_t)span->blocks[token / KV_BLOCK_TOKENS] * pages->page_stride;
}

/* Pages of the n_keys keys from first_key on. */
static inline void list_pages(const struct kv_pages *pages, const struct kv_span *span,
                              size_t first_key, size_t n_keys, const float *list[PAGES_PER_BLOCK])
{
    for (size_t k = 0; k < n_keys; k += KV_BLOCK_TOKENS) {
        list[k / KV_BLOCK_TOKENS] = page_of(pages, span, first_key + k);
    }
}

/* Transposed copies of all pages of a key block: to (width, KEY_BLOCK). */
static inline void transpose_block(const float *const list[PAGES_PER_BLOCK], size_t n_keys,
                                   size_t entry_stride, size_t width, float *to)
{
    for (size_t k = 0; k < n_keys; k += KV_BLOCK_TOKENS) {
        ISA(tile_transpose_page)(list[k / KV_BLOCK_TOKENS], entry_stride, width, to + k);
    }
}

#endif
