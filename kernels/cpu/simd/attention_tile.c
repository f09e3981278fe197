/* Owns the register tiles of attention; see attention_tile.h. */
#include "kernels/cpu/simd/attention_tile.h"
#include "kernels/cpu/simd/attention_fetch.h"

typedef float quad __attribute__((vector_size(16)));
typedef float quad_in_memory __attribute__((vector_size(16), aligned(4), may_alias));

/* Rows and vectors of the largest tile: what the register file holds; narrow ones are taller. */
#define TILE_ROWS ((size_t)4)
#define TILE_WIDE (SIMD_TILE_VECTORS >= 4 ? (size_t)4 : (size_t)1)
#if SIMD_TILE_VECTORS >= 4
#define TILE_HEIGHT(vectors) ((vectors) <= 2 ? 2 * TILE_ROWS : TILE_ROWS)
#else
#define TILE_HEIGHT(vectors) TILE_ROWS
#endif

/* A tile in registers: rows by vectors, both constant after inlining; n lanes of each vector. */
struct tile {
    f32x16 acc[8][4];
    size_t rows, vectors, n;
};

SIMD_INLINE void tile_load(struct tile *tile, const float *y, size_t y_stride)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] = lanes_load(y + r * y_stride + 16 * v, tile->n);
        }
    }
}

SIMD_INLINE void tile_clear(struct tile *tile)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] = vec_zero();
        }
    }
}

SIMD_INLINE void tile_store(const struct tile *tile, float *y, size_t y_stride)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            lanes_store(y + r * y_stride + 16 * v, tile->acc[r][v], tile->n);
        }
    }
}

/* One k. */
SIMD_INLINE void tile_add(struct tile *tile, const float *x, size_t x_row_stride, const float *w)
{
    f32x16 wv[4];

#pragma GCC unroll 4
    for (size_t v = 0; v < tile->vectors; v++) {
        wv[v] = lanes_load(w + 16 * v, tile->n);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
        const f32x16 xv = vec_set1(x[r * x_row_stride]);
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] = vec_fma(xv, wv[v], tile->acc[r][v]);
        }
    }
}

/* Rows from row on by vectors from column on. */
SIMD_INLINE void tile_run(const struct tile_product *t, size_t row, size_t column, size_t rows,
                          size_t vectors, size_t n)
{
    struct tile tile; /* not zeroed: tile_load or tile_clear does it */
    const float *x = t->x + row * t->x_row_stride;
    float *y = t->y + row * t->y_stride + column;

    tile.rows = rows;
    tile.vectors = vectors;
    tile.n = n;
    if (t->accumulate) {
        tile_load(&tile, y, t->y_stride);
    } else {
        tile_clear(&tile);
    }
    for (size_t first = 0; first < t->n_k; first += t->block_rows) {
        const float *w = t->blocks[first / t->block_rows] + column;
        size_t left = smaller(t->n_k - first, t->block_rows);
        while (left > 0) {
            const size_t unit = smaller(left, FETCH_UNIT);
            fetch_lines(&t->pace);
            for (size_t k = 0; k < unit; k++) {
                tile_add(&tile, x, t->x_row_stride, w);
                x += t->x_k_stride;
                w += t->w_stride;
            }
            left -= unit;
        }
    }
    tile_store(&tile, y, t->y_stride);
}

#if SIMD_TILE_VECTORS >= 4
/* Five to eight rows. */
SIMD_INLINE void tile_run_tall(const struct tile_product *t, size_t row, size_t column, size_t rows,
                               size_t vectors, size_t n)
{
    if (rows == 8) {
        tile_run(t, row, column, 8, vectors, n);
    } else if (rows == 7) {
        tile_run(t, row, column, 7, vectors, n);
    } else if (rows == 6) {
        tile_run(t, row, column, 6, vectors, n);
    } else {
        tile_run(t, row, column, 5, vectors, n);
    }
}
#endif

/* All rows of some vectors of columns, in tiles of about the same height: chains of few rows wait
 * for one another. */
SIMD_INLINE void tile_columns(const struct tile_product *t, size_t column, size_t vectors, size_t n)
{
    const size_t most = TILE_HEIGHT(vectors);
    size_t rows;

    for (size_t row = 0; row < t->n_rows; row += rows) {
        rows = tile_height(t->n_rows - row, most);
#if SIMD_TILE_VECTORS >= 4
        if (vectors <= 2 && rows > TILE_ROWS) {
            tile_run_tall(t, row, column, rows, vectors, n);
            continue;
        }
#endif
        if (rows == 4) {
            tile_run(t, row, column, 4, vectors, n);
        } else if (rows == 3) {
            tile_run(t, row, column, 3, vectors, n);
        } else if (rows == 2) {
            tile_run(t, row, column, 2, vectors, n);
        } else {
            tile_run(t, row, column, 1, vectors, n);
        }
    }
}

void ISA(tile_multiply)(const struct tile_product *product)
{
    const size_t n = product->n_columns;
    size_t column = 0;

    for (; TILE_WIDE == 4 && column + 64 <= n; column += 64) {
        tile_columns(product, column, 4, SIMD_LANES);
    }
    for (; TILE_WIDE == 4 && column + 32 <= n; column += 32) {
        tile_columns(product, column, 2, SIMD_LANES);
    }
    for (; column + 16 <= n; column += 16) {
        tile_columns(product, column, 1, SIMD_LANES);
    }
    if (column < n) {
        tile_columns(product, column, 1, n - column);
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

/* Four tokens' four dimensions, from dimension `at` on. */
static inline void transpose_4x4(const float *const rows[4], size_t at, float *to, size_t to_stride)
{
    const quad a = quad_load(rows[0] + at), b = quad_load(rows[1] + at);
    const quad c = quad_load(rows[2] + at), d = quad_load(rows[3] + at);
    const quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);

    quad_store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    quad_store(to + to_stride, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    quad_store(to + 2 * to_stride, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    quad_store(to + 3 * to_stride, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

#if SIMD_TILE_VECTORS >= 4
typedef float wide __attribute__((vector_size(64)));
typedef float wide_in_memory __attribute__((vector_size(64), aligned(4), may_alias));

/* Of each quarter: the first, or the last, two values of a and b in turn. */
#define ZIP_LOW(a, b)                                                                              \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define ZIP_HIGH(a, b)                                                                             \
    __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
/* Of each quarter: the first, or the last, half of a, then that of b. */
#define JOIN_LOW(a, b)                                                                             \
    __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define JOIN_HIGH(a, b)                                                                            \
    __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
/* Quarters: the first or last two of a and of b; then every other one of each. */
#define HALVES_LOW(a, b)                                                                           \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HALVES_HIGH(a, b)                                                                          \
    __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define EVEN(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD(a, b)                                                                                  \
    __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)

/* The same of sixteen tokens and dimensions. Quarter i of out[4 g + j] is then dimension 4 i + j of
 * the tokens 4 g .. 4 g + 3, and the last step brings the quarters of one dimension together. */
SIMD_INLINE void transpose_16x16(const float *const rows[KV_STEP_TOKENS], size_t at, float *to,
                                 size_t to_stride)
{
    wide part[16];

#pragma GCC unroll 4
    for (size_t g = 0; g < 4; g++) {
        const wide a = *(const wide_in_memory *)(rows[4 * g] + at);
        const wide b = *(const wide_in_memory *)(rows[4 * g + 1] + at);
        const wide c = *(const wide_in_memory *)(rows[4 * g + 2] + at);
        const wide d = *(const wide_in_memory *)(rows[4 * g + 3] + at);
        const wide ab_low = ZIP_LOW(a, b), ab_high = ZIP_HIGH(a, b);
        const wide cd_low = ZIP_LOW(c, d), cd_high = ZIP_HIGH(c, d);
        part[4 * g] = JOIN_LOW(ab_low, cd_low);
        part[4 * g + 1] = JOIN_HIGH(ab_low, cd_low);
        part[4 * g + 2] = JOIN_LOW(ab_high, cd_high);
        part[4 * g + 3] = JOIN_HIGH(ab_high, cd_high);
    }
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        const wide low_a = HALVES_LOW(part[j], part[4 + j]);
        const wide low_b = HALVES_LOW(part[8 + j], part[12 + j]);
        const wide high_a = HALVES_HIGH(part[j], part[4 + j]);
        const wide high_b = HALVES_HIGH(part[8 + j], part[12 + j]);
        *(wide_in_memory *)(to + j * to_stride) = EVEN(low_a, low_b);
        *(wide_in_memory *)(to + (4 + j) * to_stride) = ODD(low_a, low_b);
        *(wide_in_memory *)(to + (8 + j) * to_stride) = EVEN(high_a, high_b);
        *(wide_in_memory *)(to + (12 + j) * to_stride) = ODD(high_a, high_b);
    }
}
#endif

void ISA(tile_transpose_step)(const float *entries, size_t n_tokens, size_t entry_stride,
                              size_t width, float *to, size_t to_stride)
{
    const float *rows[KV_STEP_TOKENS];
    size_t d = 0;

    for (size_t token = 0; token < KV_STEP_TOKENS; token++) {
        rows[token] = entries;
        entries += token + 1 < n_tokens ? entry_stride : 0;
    }
#if SIMD_TILE_VECTORS >= 4
    for (; d + KV_STEP_TOKENS <= width; d += KV_STEP_TOKENS) {
        transpose_16x16(rows, d, to + d * to_stride, to_stride);
    }
#endif
    for (; d + 4 <= width; d += 4) {
        for (size_t token = 0; token < KV_STEP_TOKENS; token += 4) {
            transpose_4x4(rows + token, d, to + d * to_stride + token, to_stride);
        }
    }
    for (; d < width; d++) {
        for (size_t token = 0; token < KV_STEP_TOKENS; token++) {
            to[d * to_stride + token] = rows[token][d];
        }
    }
}
