/* Owns the register tiles of attention; see attention_tile.h. */
#include "kernels/cpu/simd/attention_tile.h"

typedef float quad __attribute__((vector_size(16)));
typedef float quad_in_memory __attribute__((vector_size(16), aligned(4), may_alias));

/* Rows and vectors of the largest tile: what the register file holds. */
#define TILE_ROWS ((size_t)4)
#define TILE_WIDE (SIMD_TILE_VECTORS >= 4 ? (size_t)4 : (size_t)1)
#define TILE_TALL (SIMD_TILE_VECTORS >= 4 ? (size_t)8 : (size_t)4)

/* Rows row .. row + R - 1 by V vectors from column on; n lanes of the last vector (R, V constant
 * after inlining). */
SIMD_INLINE void tile_run(const struct tile_product *t, size_t row, size_t column, const size_t R,
                          const size_t V, const size_t n)
{
    f32x16 acc[8][4];
    const float *x = t->x + row * t->x_row_stride;
    float *y = t->y + row * t->y_stride + column;

#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < V; v++) {
            acc[r][v] = t->accumulate ? lanes_load(y + r * t->y_stride + 16 * v, n) : vec_zero();
        }
    }
    for (size_t first = 0; first < t->n_k; first += t->block_rows) {
        const float *w = t->blocks[first / t->block_rows] + column;
        const size_t n_k = t->n_k - first < t->block_rows ? t->n_k - first : t->block_rows;
        for (size_t k = 0; k < n_k; k++) {
            f32x16 wv[4];
#pragma GCC unroll 4
            for (size_t v = 0; v < V; v++) {
                wv[v] = lanes_load(w + 16 * v, n);
            }
#pragma GCC unroll 8
            for (size_t r = 0; r < R; r++) {
                const f32x16 xv = vec_set1(x[r * t->x_row_stride]);
#pragma GCC unroll 4
                for (size_t v = 0; v < V; v++) {
                    acc[r][v] = vec_fma(xv, wv[v], acc[r][v]);
                }
            }
            x += t->x_k_stride;
            w += t->w_stride;
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < V; v++) {
            lanes_store(y + r * t->y_stride + 16 * v, acc[r][v], n);
        }
    }
}

/* All rows of V vectors of columns: R at a time, then one by one. */
SIMD_INLINE void tile_columns(const struct tile_product *t, size_t column, const size_t R,
                              const size_t V, const size_t n)
{
    size_t row = 0;

    for (; row + R <= t->n_rows; row += R) {
        tile_run(t, row, column, R, V, n);
    }
    for (; row < t->n_rows; row++) {
        tile_run(t, row, column, 1, V, n);
    }
}

void ISA(tile_multiply)(const struct tile_product *product)
{
    const size_t n = product->n_columns;
    size_t column = 0;

    for (; TILE_WIDE == 4 && column + 64 <= n; column += 64) {
        tile_columns(product, column, TILE_ROWS, 4, SIMD_LANES);
    }
    for (; TILE_WIDE == 4 && column + 32 <= n; column += 32) {
        tile_columns(product, column, TILE_ROWS, 2, SIMD_LANES);
    }
    for (; column + 16 <= n; column += 16) {
        tile_columns(product, column, TILE_TALL, 1, SIMD_LANES);
    }
    if (column < n) {
        tile_columns(product, column, TILE_ROWS, 1, n - column);
    }
}

static inline quad quad_load(const float *p)
{
    return *(const quad_in_memory *)p;
}

static inline void quad_store(float *p, quad a)
{
    *(quad_in_memory *)p = a;
}

/* Four tokens' four dimensions. */
static inline void transpose_4x4(const float *from, size_t from_stride, float *to)
{
    const quad a = quad_load(from), b = quad_load(from + from_stride);
    const quad c = quad_load(from + 2 * from_stride), d = quad_load(from + 3 * from_stride);
    const quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);

    quad_store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    quad_store(to + KEY_BLOCK, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    quad_store(to + 2 * KEY_BLOCK, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    quad_store(to + 3 * KEY_BLOCK, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

void ISA(tile_transpose_page)(const float *entries, size_t entry_stride, size_t width, float *to)
{
    size_t d = 0;

    for (; d + 4 <= width; d += 4) {
        for (size_t token = 0; token < KV_BLOCK_TOKENS; token += 4) {
            transpose_4x4(entries + token * entry_stride + d, entry_stride,
                          to + d * KEY_BLOCK + token);
        }
    }
    for (; d < width; d++) {
        for (size_t token = 0; token < KV_BLOCK_TOKENS; token++) {
            to[d * KEY_BLOCK + token] = entries[token * entry_stride + d];
        }
    }
}
