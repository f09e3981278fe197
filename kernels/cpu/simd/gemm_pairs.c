/* Owns the tiles of y = x . w^T where w is packed as BF16 or FP8. The order for one output is in
 * kernels/op_packing.h; tiles, rows and threads do not change it. Rows of x are those of
 * gemm_rows.c. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/gemm_chain.h"

#include <stdbool.h>

#define BLOCK_PAIRS (FP8_BLOCK / 2)

SIMD_INLINE void bf16_chains(const struct gemm_tile *tile, const size_t rows, const size_t vectors,
                             const size_t lines)
{
    f32x16 sums[TILE_SUMS_MAX];
    const struct chain chain = {tile->x, tile->w, tile->fetch, (tile->n_in + 1) / 2};
    if (tile->continues) {
        float kept[TILE_SUMS_MAX * SIMD_LANES];
        tile_load_y(tile, kept, rows, vectors);
        sums_resume(sums, kept, rows * vectors);
    } else {
        sums_clear(sums, rows * vectors);
    }
    chain_sums(tile, chain, sums, rows, vectors, PRECISION_BF16, lines);
    tile_store(tile, sums, rows, vectors, true);
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
    const size_t skip = packed_scale_words(tile->n_in);
    const size_t n_pairs = (tile->n_in + 1) / 2;
    size_t pair = 0;
    sums_clear(sums, rows * vectors);
    do {
        const size_t left = n_pairs - pair;
        const struct chain chain = {
            .x = tile->x + skip + pair * PAIR_WORDS,
            .w = tile->w + skip + pair * SIMD_LANES,
            .fetch = tile->fetch + pair * lines * SIMD_LANES,
            .n = left < BLOCK_PAIRS ? left : BLOCK_PAIRS,
        };
        sums_keep(sums, total, rows * vectors);
        sums_clear(sums, rows * vectors);
        chain_sums(tile, chain, sums, rows, vectors, PRECISION_FP8, lines);
        scale_sums(tile, pair / BLOCK_PAIRS, sums, total, rows, vectors);
        pair += chain.n;
    } while (pair < n_pairs);
    tile_store(tile, sums, rows, vectors, false);
}

#if SIMD_TILE_VECTORS >= 4
TILES_3(GEMM_TILE, bf16, 8)
TILES_6(GEMM_TILE, bf16, 4)
TILES_12(GEMM_TILE, bf16, 2)
TILES_2(GEMM_TILE, fp8, 8)
TILES_6(GEMM_TILE, fp8, 4)
TILES_12(GEMM_TILE, fp8, 2)

/* As with floats (gemm_floats.c). Codes are decoded once a tile: tall tiles decode less. */
const struct tile_shape ISA(gemm_shapes_bf16)[] = {
    {8, 3, NEVER_MANY, TILE_NAMES(3, bf16, 8)},
    {4, 6, 25, TILE_NAMES(6, bf16, 4)},
    {2, 12, 1, TILE_NAMES(12, bf16, 2)},
};
const struct tile_shape ISA(gemm_shapes_fp8)[] = {
    {8, 2, NEVER_MANY, TILE_NAMES(2, fp8, 8)},
    {4, 6, NEVER_MANY, TILE_NAMES(6, fp8, 4)},
    {2, 12, 1, TILE_NAMES(12, fp8, 2)},
};
#else
TILES_3(GEMM_TILE, bf16, 2)
TILES_3(GEMM_TILE, fp8, 2)

const struct tile_shape ISA(gemm_shapes_bf16)[] = {{2, 3, 1, TILE_NAMES(3, bf16, 2)}};
const struct tile_shape ISA(gemm_shapes_fp8)[] = {{2, 3, 1, TILE_NAMES(3, fp8, 2)}};
#endif
