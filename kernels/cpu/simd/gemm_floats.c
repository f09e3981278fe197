/* Owns the tiles of y = x . w^T for floats. The order for one output: K blocks of 64, each a chain
 * of fma over ascending k from zero, block sums added ascending, then the bias, then (accumulate)
 * y + that. */
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/gemm_chain.h"

#include <stdbool.h>

/* Between K blocks the running totals are on the stack. Of many the compiler may not hold copies in
 * registers, which it would, and then the loop over k lacks them. */
#define MANY_SUMS 12
SIMD_INLINE void keep_total(const f32x16 *sums, float *total, const size_t n)
{
    sums_keep(sums, total, n);
    if (n > MANY_SUMS) {
        __asm__ volatile("" : : "r"(total) : "memory");
    }
}

/* sums = total + sums. */
SIMD_INLINE void add_total(f32x16 *sums, const float *total, const size_t n)
{
#pragma GCC unroll 24
    for (size_t i = 0; i < n; i++) {
        sums[i] = vec_add(vec_load(total + i * SIMD_LANES), sums[i]);
    }
}

SIMD_INLINE void f32_chains(const struct gemm_tile *tile, const size_t rows, const size_t vectors,
                            const size_t lines)
{
    f32x16 sums[TILE_SUMS_MAX];
    float total[TILE_SUMS_MAX * SIMD_LANES];
    size_t k = 0;
    bool has_total = tile->continues;
    if (has_total) {
        tile_load_y(tile, total, rows, vectors);
    }
    do {
        const size_t left = tile->n_in - k;
        const struct chain chain = {
            .x = tile->x + k,
            .w = tile->w + k * PANEL_COLUMNS,
            .fetch = tile->fetch + k * lines * SIMD_LANES,
            .n = left < GEMM_K_BLOCK ? left : GEMM_K_BLOCK,
        };
        sums_clear(sums, rows * vectors);
        chain_sums(tile, chain, sums, rows, vectors, PRECISION_F32, lines);
        if (has_total) {
            add_total(sums, total, rows * vectors);
        }
        k += chain.n;
        if (k < tile->n_in) {
            keep_total(sums, total, rows * vectors);
            has_total = true;
        }
    } while (k < tile->n_in);
    tile_store(tile, sums, rows, vectors, false);
}

#if SIMD_TILE_VECTORS >= 4
TILES_3(GEMM_TILE, f32, 8)
TILES_6(GEMM_TILE, f32, 4)
TILES_12(GEMM_TILE, f32, 2)
TILES_12(GEMM_TILE, f32, 1)

/* Few rows stream the weights once through many short sums; many rows reuse each weight. In
 * between, weights often come from memory, and passes over a narrow panel, which the first cache
 * holds until the last of them, are a quarter faster than over a wide one. */
const struct tile_shape ISA(gemm_shapes_f32)[] = {
    {8, 3, NEVER_MANY, TILE_NAMES(3, f32, 8)},
    {4, 6, 37, TILE_NAMES(6, f32, 4)},
    {2, 12, 1, TILE_NAMES(12, f32, 2)},
    {1, 12, 1, TILE_NAMES(12, f32, 1)},
};
#else
TILES_6(GEMM_TILE, f32, 1)

const struct tile_shape ISA(gemm_shapes_f32)[] = {{1, 6, 1, TILE_NAMES(6, f32, 1)}};
#endif
