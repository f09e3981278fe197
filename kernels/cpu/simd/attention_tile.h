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
#include <string.h>

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

/* Rows i .. i + n_rows - 1 of a span with the heads of one KV head. A pair is one row and one of
 * these heads: pair = r * group + head. */
struct chunk {
    const struct kv_span *span;
    size_t i, n_rows;
    size_t kv_head;
};

/* Query heads of a KV head. */
static inline size_t group_heads(const struct attention_args *a)
{
    return a->n_heads / a->n_kv_heads;
}

/* Floats of a key. */
static inline size_t key_width(const struct attention_args *a)
{
    return a->key_dim + a->rope_dim;
}

/* Rows of a span that are worked on together, by the heads of a KV head. */
static inline size_t chunk_rows(size_t group)
{
    return group < CHUNK_PAIRS ? CHUNK_PAIRS / group : 1;
}

static inline size_t max_pairs(const struct attention_args *a)
{
    return chunk_rows(group_heads(a)) * group_heads(a);
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The row of the batch, and the query head, of a pair. */
static inline size_t pair_row(const struct chunk *c, size_t pair, size_t group)
{
    return c->span->first_row + c->i + pair / group;
}

static inline size_t pair_head(const struct chunk *c, size_t pair, size_t group)
{
    return c->kv_head * group + pair % group;
}

/* One query as adjacent floats [first part | second part]. */
static inline void gather_query(const struct attention_args *a, size_t row, size_t head, float *to)
{
    memcpy(to, a->q + row * a->q_stride + head * a->q_head_stride, a->key_dim * sizeof(*to));
    if (a->rope_dim > 0) {
        memcpy(to + a->key_dim, a->q_rope + row * a->q_rope_stride + head * a->q_rope_head_stride,
               a->rope_dim * sizeof(*to));
    }
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

/* Pages of the n_keys keys from first_key on, `at` floats into their entries. */
static inline void list_pages(const struct kv_pages *pages, const struct kv_span *span,
                              size_t first_key, size_t n_keys, size_t at,
                              const float *list[PAGES_PER_BLOCK])
{
    for (size_t k = 0; k < n_keys; k += KV_BLOCK_TOKENS) {
        list[k / KV_BLOCK_TOKENS] = page_of(pages, span, first_key + k) + at;
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
