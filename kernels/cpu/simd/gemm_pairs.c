/* Owns y = x . w^T where w is packed as BF16 or FP8: the tiles, and rows of x as they read them.
 * The order for one output is in kernels/op_packing.h; tiles, rows and threads do not change it.
 *
 * A row of x: BF16 has its pairs; FP8 has a scale each 128 of k, padded to whole cache lines, then
 * the pairs of its rounded values. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/e4m3.h"
#include "kernels/cpu/simd/gemm_tile.h"
#include "kernels/cpu/simd/pairs.h"

#define BLOCK_PAIRS (FP8_BLOCK / 2)
#define PAIR_STORE (2 * SIMD_LANES) /* values that are stored at a time */

/* Words of the scales of a row or a panel. */
SIMD_INLINE size_t scale_words(size_t n_in)
{
    return ((n_in + FP8_BLOCK - 1) / FP8_BLOCK + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES;
}

size_t ISA(gemm_row_words)(enum precision precision, size_t n_in)
{
    const size_t pairs = (n_in + PAIR_STORE - 1) / PAIR_STORE * SIMD_LANES * PAIR_WORDS;
    return cpu_padded_stride(pairs + (precision == PRECISION_FP8 ? scale_words(n_in) : 0));
}

static void convert_bf16(const float *x, size_t n_in, float *row)
{
    size_t k = 0;
    for (; k + PAIR_STORE <= n_in; k += PAIR_STORE) {
        pairs_store(row + k / 2 * PAIR_WORDS, vec_load(x + k), vec_load(x + k + SIMD_LANES));
    }
    if (k < n_in) {
        const size_t n = lanes_left(k, n_in);
        const size_t n_second = n_in - k - n;
        pairs_store(row + k / 2 * PAIR_WORDS, vec_load_n(x + k, n),
                    n_second > 0 ? vec_load_n(x + k + SIMD_LANES, n_second) : vec_zero());
    }
}

/* x / scale rounded, n <= 128 values. */
static void convert_tile(const float *x, size_t n, f32x16 inverse, float *pairs)
{
    for (size_t k = 0; k < n; k += PAIR_STORE) {
        const size_t n_first = lanes_left(k, n);
        const size_t n_second = n - k > SIMD_LANES ? lanes_left(k + SIMD_LANES, n) : 0;
        const f32x16 first = lanes_load(x + k, n_first);
        const f32x16 second = n_second > 0 ? lanes_load(x + k + SIMD_LANES, n_second) : vec_zero();
        pairs_store(pairs + k / 2 * PAIR_WORDS, e4m3_round_scaled(vec_mul(first, inverse)),
                    e4m3_round_scaled(vec_mul(second, inverse)));
    }
}

/* Eight vectors, kept in registers from the largest magnitude to the rounding. */
static float convert_whole_tile(const float *x, float *pairs)
{
    f32x16 in[FP8_BLOCK / SIMD_LANES];
    f32x16 largest = vec_zero();
#pragma GCC unroll 8
    for (size_t i = 0; i < FP8_BLOCK / SIMD_LANES; i++) {
        in[i] = vec_load(x + i * SIMD_LANES);
        largest = vec_max(vec_abs(in[i]), largest);
    }
    const float scale = e4m3_scale(vec_hmax(largest));
    const f32x16 inverse = vec_set1(1.0F / scale);
#pragma GCC unroll 8
    for (size_t i = 0; i < FP8_BLOCK / SIMD_LANES; i += 2) {
        pairs_store(pairs + i / 2 * SIMD_LANES * PAIR_WORDS,
                    e4m3_round_scaled(vec_mul(in[i], inverse)),
                    e4m3_round_scaled(vec_mul(in[i + 1], inverse)));
    }
    return scale;
}

static void convert_fp8(const float *x, size_t n_in, float *row)
{
    float *const pairs = row + scale_words(n_in);
    for (size_t k = 0; k < n_in; k += FP8_BLOCK) {
        float *const out = pairs + k / 2 * PAIR_WORDS;
        if (n_in - k >= FP8_BLOCK) {
            row[k / FP8_BLOCK] = convert_whole_tile(x + k, out);
        } else {
            const float scale = e4m3_scale(vec_hmax(e4m3_largest(vec_zero(), x + k, n_in - k)));
            const f32x16 inverse = vec_set1(1.0F / scale); /* exact: a power of two */
            row[k / FP8_BLOCK] = scale;
            convert_tile(x + k, n_in - k, inverse, out);
        }
    }
}

void ISA(gemm_convert)(enum precision precision, const float *x, size_t n_in, float *row)
{
    if (precision == PRECISION_FP8) {
        convert_fp8(x, n_in, row);
    } else {
        convert_bf16(x, n_in, row);
    }
}

/* The weights of one pair of k: V vectors from the words at w. */
SIMD_INLINE void load_pairs(const struct gemm_tile *tile, const float *w, pair16 *out,
                            const size_t vectors, const bool is_coded)
{
#pragma GCC unroll 4
    for (size_t v = 0; v < vectors; v += 2) {
        const float *const at = w + v / PANEL_VECTORS * tile->panel_stride;
        if (is_coded) {
            pairs_decode(at, &out[v], &out[v + 1]);
        } else {
            out[v] = pairs_load(at);
            out[v + 1] = pairs_load(at + SIMD_LANES);
        }
    }
}

/* A stretch of n pairs of k: the first row's first pair, its weights, and what to ask for. */
struct chain {
    const float *x, *w, *fetch;
    size_t n;
};

/* sums go on along the chain. */
SIMD_INLINE void chain_sums(const struct gemm_tile *tile, struct chain chain, f32x16 *sums,
                            const size_t rows, const size_t vectors, const bool is_coded,
                            const size_t lines)
{
    const size_t step = is_coded ? SIMD_LANES : PANEL_COLUMNS;
    const size_t x_stride = tile->x_stride;
    for (; chain.n > 0; chain.n--) {
        pair16 pairs[8];
        load_pairs(tile, chain.w, pairs, vectors, is_coded);
        chain.fetch = tile_fetch(chain.fetch, lines);
#pragma GCC unroll 12
        for (size_t r = 0; r < rows; r++) {
            const pair_x a = pair_broadcast(chain.x + r * x_stride);
#pragma GCC unroll 8
            for (size_t v = 0; v < vectors; v++) {
                sums[r * vectors + v] = pair_fma(a, pairs[v], sums[r * vectors + v]);
            }
        }
        chain.w += step;
        chain.x += PAIR_WORDS;
    }
}

SIMD_INLINE void clear_sums(f32x16 *sums, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_zero();
    }
}

SIMD_INLINE void load_sums(const struct gemm_tile *tile, f32x16 *sums, const size_t rows,
                           const size_t vectors)
{
    float kept[TILE_SUMS_MAX * SIMD_LANES];
    tile_load_y(tile, kept, rows, vectors);
#pragma GCC unroll 24
    for (size_t i = 0; i < rows * vectors; i++) {
        sums[i] = vec_load(kept + i * SIMD_LANES);
    }
}

SIMD_INLINE void bf16_chains(const struct gemm_tile *tile, const size_t rows, const size_t vectors,
                             const size_t lines)
{
    f32x16 sums[TILE_SUMS_MAX];
    const struct chain chain = {tile->x, tile->w, tile->fetch, (tile->n_in + 1) / 2};
    if (tile->continues) {
        load_sums(tile, sums, rows, vectors);
    } else {
        clear_sums(sums, rows * vectors);
    }
    chain_sums(tile, chain, sums, rows, vectors, false, lines);
    tile_store(tile, sums, rows, vectors, true);
}

SIMD_INLINE void run_bf16(const struct gemm_tile *tile, const size_t rows, const size_t vectors)
{
#define CHAINS(lines) bf16_chains(tile, rows, vectors, lines)
    TILE_WITH_LINES(tile, rows, vectors, CHAINS);
#undef CHAINS
}

/* sums = fma(sums, scale of x times scale of w, total) for block `index` of k. */
SIMD_INLINE void scale_sums(const struct gemm_tile *tile, size_t index, f32x16 *sums,
                            const float *total, const size_t rows, const size_t vectors)
{
#pragma GCC unroll 12
    for (size_t r = 0; r < rows; r++) {
        const f32x16 x_scale = vec_set1(tile->x[r * tile->x_stride + index]);
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) {
            const size_t i = r * vectors + v;
            const f32x16 w_scale =
                vec_set1(tile->w[v / PANEL_VECTORS * tile->panel_stride + index]);
            sums[i] = vec_fma(sums[i], vec_mul(x_scale, w_scale), vec_load(total + i * SIMD_LANES));
        }
    }
}

SIMD_INLINE void fp8_chains(const struct gemm_tile *tile, const size_t rows, const size_t vectors,
                            const size_t lines)
{
    f32x16 sums[TILE_SUMS_MAX];
    float total[TILE_SUMS_MAX * SIMD_LANES];
    const size_t skip = scale_words(tile->n_in);
    const size_t n_pairs = (tile->n_in + 1) / 2;
    size_t pair = 0;
    clear_sums(sums, rows * vectors);
    do {
        const size_t left = n_pairs - pair;
        const struct chain chain = {
            .x = tile->x + skip + pair * PAIR_WORDS,
            .w = tile->w + skip + pair * SIMD_LANES,
            .fetch = tile->fetch + pair * lines * SIMD_LANES,
            .n = left < BLOCK_PAIRS ? left : BLOCK_PAIRS,
        };
        tile_keep(sums, total, rows * vectors);
        clear_sums(sums, rows * vectors);
        chain_sums(tile, chain, sums, rows, vectors, true, lines);
        scale_sums(tile, pair / BLOCK_PAIRS, sums, total, rows, vectors);
        pair += chain.n;
    } while (pair < n_pairs);
    tile_store(tile, sums, rows, vectors, false);
}

SIMD_INLINE void run_fp8(const struct gemm_tile *tile, const size_t rows, const size_t vectors)
{
#define CHAINS(lines) fp8_chains(tile, rows, vectors, lines)
    TILE_WITH_LINES(tile, rows, vectors, CHAINS);
#undef CHAINS
}

#define TILE(rows, vectors)                                                                        \
    static void bf16_##rows##_##vectors(const struct gemm_tile *tile)                              \
    {                                                                                              \
        run_bf16(tile, rows, vectors);                                                             \
    }                                                                                              \
    static void fp8_##rows##_##vectors(const struct gemm_tile *tile)                               \
    {                                                                                              \
        run_fp8(tile, rows, vectors);                                                              \
    }
TILE(1, 2)
TILE(2, 2)
TILE(3, 2)
#if SIMD_TILE_VECTORS >= 4
TILE(4, 2)
TILE(5, 2)
TILE(6, 2)
TILE(7, 2)
TILE(8, 2)
TILE(9, 2)
TILE(10, 2)
TILE(11, 2)
TILE(12, 2)
TILE(1, 4)
TILE(2, 4)
TILE(3, 4)
TILE(4, 4)
TILE(5, 4)
TILE(6, 4)
TILE(1, 8)
TILE(2, 8)
TILE(3, 8)

#define SHAPES(kind)                                                                               \
    {                                                                                              \
        {8, 3, {kind##_1_8, kind##_2_8, kind##_3_8}},                                              \
            {4, 6, {kind##_1_4, kind##_2_4, kind##_3_4, kind##_4_4, kind##_5_4, kind##_6_4}},      \
            {2,                                                                                    \
             12,                                                                                   \
             {kind##_1_2, kind##_2_2, kind##_3_2, kind##_4_2, kind##_5_2, kind##_6_2, kind##_7_2,  \
              kind##_8_2, kind##_9_2, kind##_10_2, kind##_11_2, kind##_12_2}},                     \
    }
static const struct tile_shape shapes[2][3] = {SHAPES(bf16), SHAPES(fp8)};

#define NARROW_ROWS_MAX ((size_t)24)
const struct tile_shape *ISA(pair_shape)(enum precision precision, size_t n_rows, size_t n_vectors)
{
    const struct tile_shape *const of = shapes[precision == PRECISION_FP8];
    if (n_rows <= of[0].rows_max && n_vectors >= of[0].vectors) {
        return &of[0];
    }
    /* Codes are decoded once a tile: tall tiles decode less. As in gemm.c they are better for
     * weights that come from memory, too. */
    const bool prefers_tall = precision == PRECISION_FP8 || n_rows <= NARROW_ROWS_MAX;
    if (n_vectors >= of[1].vectors && (n_rows <= of[1].rows_max || !prefers_tall)) {
        return &of[1];
    }
    return &of[2];
}
#else
static const struct tile_shape shapes[2] = {{2, 3, {bf16_1_2, bf16_2_2, bf16_3_2}},
                                            {2, 3, {fp8_1_2, fp8_2_2, fp8_3_2}}};

const struct tile_shape *ISA(pair_shape)(enum precision precision, size_t n_rows, size_t n_vectors)
{
    (void)n_rows;
    (void)n_vectors;
    return &shapes[precision == PRECISION_FP8];
}
#endif

/* Chains of a burst: as many as a tile has. */
#define N_CHAINS ((size_t)(6 * SIMD_TILE_VECTORS))
#define SECTION ((size_t)8)

size_t ISA(pair_burst)(size_t n_rounds, float *sink)
{
    f32x16 sums[N_CHAINS];
    float words[SIMD_LANES * 2];
#pragma GCC unroll 24
    for (size_t i = 0; i < N_CHAINS; i++) {
        sums[i] = vec_set1((float)i + *sink);
    }
    pairs_store(words, vec_set1(0.5F), vec_set1(0.25F));
    const pair_x a = pair_broadcast(words);
    const pair16 b = pairs_load(words);
    for (size_t round = 0; round < n_rounds; round++) {
#pragma GCC unroll 8
        for (size_t s = 0; s < SECTION; s++) {
#pragma GCC unroll 24
            for (size_t i = 0; i < N_CHAINS; i++) {
                sums[i] = pair_fma(a, b, sums[i]);
            }
        }
    }
    f32x16 sum = sums[0];
#pragma GCC unroll 24
    for (size_t i = 1; i < N_CHAINS; i++) {
        sum = vec_add(sum, sums[i]);
    }
    *sink = vec_sum(sum);
    return 4 * SIMD_LANES * N_CHAINS * SECTION * n_rounds;
}
