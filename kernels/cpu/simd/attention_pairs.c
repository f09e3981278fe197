/* Owns the register tiles of pairs; see attention_pairs.h. */
#include "kernels/cpu/simd/attention_pairs.h"
#include "kernels/cpu/simd/attention_fetch.h"

#include <string.h>

/* Rows and vectors of the largest tile; narrow ones are taller. */
#define TILE_ROWS ((size_t)4)
#define TILE_VECTORS (SIMD_TILE_VECTORS >= 4 ? (size_t)4 : (size_t)1)
#if SIMD_TILE_VECTORS >= 4
#define TILE_HEIGHT(vectors) ((vectors) <= 2 ? 2 * TILE_ROWS : TILE_ROWS)
#else
#define TILE_HEIGHT(vectors) TILE_ROWS
#endif

#ifdef __AVX512BW__
typedef short half32 __attribute__((vector_size(64)));

/* Words of 32 columns of two rows, or of one and zeros. */
SIMD_INLINE void zip_words(const float *first, const float *second, const bool has_second,
                           f32x16 words[2])
{
    const half32 a = (half32)_mm512_loadu_si512(first);
    const half32 b = has_second ? (half32)_mm512_loadu_si512(second) : (half32){0};
    const half32 low =
        __builtin_shufflevector(a, b, 0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40,
                                9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47);
    const half32 high =
        __builtin_shufflevector(a, b, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23,
                                55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63);
    words[0] = _mm512_castsi512_ps((__m512i)low);
    words[1] = _mm512_castsi512_ps((__m512i)high);
}

/* 32 columns. */
SIMD_INLINE void zip_32(const float *first, const float *second, const bool has_second, float *to)
{
    f32x16 words[2];

    zip_words(first, second, has_second, words);
    vec_store(to, words[0]);
    vec_store(to + SIMD_LANES, words[1]);
}
#else
/* Never called: PAIRS_FROM_ROWS is false. */
SIMD_INLINE void zip_words(const float *first, const float *second, const bool has_second,
                           f32x16 words[2])
{
    words[0] = vec_load(first);
    words[1] = has_second ? vec_load(second) : vec_zero();
}
#endif

/* rows and vectors are constant after inlining; n lanes of each vector are stored. */
struct tile {
    f32x16 acc[8][4];
    size_t rows, vectors;
};

SIMD_INLINE void tile_begin(struct tile *tile, const struct pair_product *t, const float *y,
                            size_t n)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] =
                t->accumulate ? lanes_load(y + r * t->y_stride + 16 * v, n) : vec_zero();
        }
    }
}

SIMD_INLINE void tile_end(const struct tile *tile, const struct pair_product *t, float *y, size_t n)
{
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            lanes_store(y + r * t->y_stride + 16 * v, tile->acc[r][v], n);
        }
    }
}

/* One pair of each row. */
SIMD_INLINE void tile_add(struct tile *tile, const float *x, size_t x_stride, const float *w)
{
    pair16 wv[4];

#pragma GCC unroll 4
    for (size_t v = 0; v < tile->vectors; v++) {
        wv[v] = pairs_load(w + 16 * v);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
        const pair_x xv = pair_broadcast(x + r * x_stride);
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] = pair_fma(xv, wv[v], tile->acc[r][v]);
        }
    }
}

/* One pair of each row with two rows of values, or with one and zeros. */
SIMD_INLINE void tile_add_rows(struct tile *tile, const float *x, size_t x_stride,
                               const float *first, const float *second, const bool has_second)
{
    f32x16 words[4];

#pragma GCC unroll 2
    for (size_t v = 0; v < tile->vectors; v += 2) {
        zip_words(first + v * SIMD_LANES / 2, second + v * SIMD_LANES / 2, has_second, words + v);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < tile->rows; r++) {
        const pair_x xv = pair_broadcast(x + r * x_stride);
#pragma GCC unroll 4
        for (size_t v = 0; v < tile->vectors; v++) {
            tile->acc[r][v] = pair_fma(xv, pairs_of(words[v]), tile->acc[r][v]);
        }
    }
}

/* All pairs of rows of keys, from a column on. */
SIMD_INLINE void tile_add_keys(struct tile *tile, const struct pair_product *t, const float *x,
                               size_t column)
{
    const size_t per_step = KV_STEP_TOKENS / 2, stride = t->rows->stride;

    for (size_t k = 0; k < t->n_pairs; k += per_step) {
        const float *first = t->rows->steps[k / per_step] + column / 2;
        if (k % FETCH_UNIT == 0) {
            fetch_lines(&t->pace);
        }
        for (size_t left = smaller(t->n_pairs - k, per_step); left > 0; left--) {
            tile_add_rows(tile, x, t->x_stride, first, first + stride, true);
            x += PAIR_WORDS;
            first += 2 * stride;
        }
    }
    if (t->is_odd) {
        const size_t k = 2 * t->n_pairs;
        const float *const last = t->rows->steps[k / KV_STEP_TOKENS] + k % KV_STEP_TOKENS * stride;
        tile_add_rows(tile, x, t->x_stride, last + column / 2, last + column / 2, false);
    }
}

SIMD_INLINE void tile_run(const struct pair_product *t, size_t row, size_t column, size_t rows,
                          size_t vectors, size_t n)
{
    struct tile tile; /* not zeroed: tile_begin does it */
    const float *x = t->x + row * t->x_stride, *w = t->w + column;
    float *y = t->y + row * t->y_stride + column;

    tile.rows = rows;
    tile.vectors = vectors;
    tile_begin(&tile, t, y, n);
    if (PAIRS_FROM_ROWS && vectors % 2 == 0 && t->rows != NULL) {
        tile_add_keys(&tile, t, x, column);
        tile_end(&tile, t, y, n);
        return;
    }
    for (size_t left = t->n_pairs; left > 0;) {
        const size_t unit = smaller(left, FETCH_UNIT);
        fetch_lines(&t->pace);
        for (size_t k = 0; k < unit; k++) {
            tile_add(&tile, x, t->x_stride, w);
            x += PAIR_WORDS;
            w += t->w_stride;
        }
        left -= unit;
    }
    if (t->last != NULL) {
        tile_add(&tile, x, t->x_stride, t->last + column);
    }
    tile_end(&tile, t, y, n);
}

#if SIMD_TILE_VECTORS >= 4
/* Five to eight rows. */
SIMD_INLINE void tile_run_tall(const struct pair_product *t, size_t row, size_t column, size_t rows,
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
SIMD_INLINE void tile_columns(const struct pair_product *t, size_t column, size_t vectors, size_t n)
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

/* Not inlined: no product may move out from between flush_begin and flush_end. */
static __attribute__((noinline)) void multiply(const struct pair_product *t)
{
    size_t column = 0;

    for (; TILE_VECTORS == 4 && column + 64 <= t->n_columns; column += 64) {
        tile_columns(t, column, 4, SIMD_LANES);
    }
    for (; TILE_VECTORS == 4 && t->rows == NULL && column + 48 <= t->n_columns; column += 48) {
        tile_columns(t, column, 3, SIMD_LANES);
    }
    for (; TILE_VECTORS == 4 && column + 32 <= t->n_columns; column += 32) {
        tile_columns(t, column, 2, SIMD_LANES);
    }
    for (; column + 16 <= t->n_columns; column += 16) {
        tile_columns(t, column, 1, SIMD_LANES);
    }
    if (column < t->n_columns) {
        tile_columns(t, column, 1, t->n_columns - column);
    }
}

void ISA(pair_multiply)(const struct pair_product *product)
{
    if (PAIRS_FLUSH_THEMSELVES) {
        multiply(product);
        return;
    }
    const uint32_t mode = flush_begin();
    multiply(product);
    flush_end(mode);
}

void ISA(pair_round)(const float *values, size_t n, float *pairs)
{
    for (size_t j = 0; j < n; j += PAIR_VALUES) {
        const f32x16 first = vec_load(values + j), second = vec_load(values + j + SIMD_LANES);
        pairs_store(pairs + j / 2 * PAIR_WORDS, first, second);
    }
}

void ISA(pair_transpose_step)(const float *entries, size_t n_tokens, size_t entry_stride,
                              size_t width, float *to, size_t to_stride)
{
    const size_t n_words = half_words(width);
    float *last = to + (n_words - 1) * to_stride;

    ISA(tile_transpose_step)(entries, n_tokens, entry_stride, n_words, to, to_stride);
    if (width % 2 != 0) {
        const i32x16 words = vec_bits(vec_load(last));
        vec_store(last, ivec_as_float(ivec_and(words, ivec_set1(0xFFFF))));
    }
}

void ISA(pair_zip)(const float *first, const float *second, size_t width, float *to)
{
    size_t c = 0;

#ifdef __AVX512BW__
    for (; c + PAIR_VALUES <= width; c += PAIR_VALUES) {
        zip_32(first + c / 2, (second == NULL ? first : second) + c / 2, second != NULL, to + c);
    }
#endif
    for (; c < width; c++) {
        uint16_t pair[2] = {0};

        memcpy(&pair[0], (const char *)first + c * sizeof(pair[0]), sizeof(pair[0]));
        if (second != NULL) {
            memcpy(&pair[1], (const char *)second + c * sizeof(pair[1]), sizeof(pair[1]));
        }
        memcpy(to + c, pair, sizeof(pair));
    }
}

void ISA(pair_zip_step)(const float *rows, size_t stride, size_t n_pairs, size_t width, float *to,
                        size_t to_stride)
{
    size_t c = 0;

#ifdef __AVX512BW__
    for (; c + PAIR_VALUES <= width; c += PAIR_VALUES) {
        for (size_t k = 0; k < n_pairs; k++) {
            const float *first = rows + 2 * k * stride + c / 2;
            zip_32(first, first + stride, true, to + k * to_stride + c);
        }
    }
#endif
    for (size_t k = 0; c < width && k < n_pairs; k++) {
        const float *first = rows + 2 * k * stride + c / 2;
        ISA(pair_zip)(first, first + stride, width - c, to + k * to_stride + c);
    }
}
