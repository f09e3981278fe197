/* Owns the entries of FP8 pages, and what coded values of BF16 pages are rounded to (struct
 * kv_pages). An entry, tiles and values in order:
 *
 *   byte 0          ..  a code of each of the n_coded values
 *   byte n_coded    ..  a scale of each tile: 2^(byte - 127); 255: the tile had a value that was
 *                       infinite, and all its values are NaN
 *   an even byte    ..  the other values as bfloat16
 *
 * A value that was NaN is NaN; zeros, and what rounds to zero, are +0. */
#ifndef HONE_KERNELS_CPU_SIMD_KV_CODES_H
#define HONE_KERNELS_CPU_SIMD_KV_CODES_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/e4m3.h"
#include "kernels/cpu/simd/halves.h"

#define SCALE_NAN 255U

#ifdef __AVX512BW__
SIMD_INLINE i32x16 bytes_load(const uint8_t *from, size_t n)
{
    return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask_first(n), from));
}

SIMD_INLINE void bytes_store(uint8_t *to, i32x16 a, size_t n)
{
    _mm_mask_storeu_epi8(to, mask_first(n), _mm512_cvtepi32_epi8(a));
}
#else
SIMD_INLINE i32x16 bytes_load(const uint8_t *from, size_t n)
{
    int32_t lanes[SIMD_LANES] = {0};

    for (size_t j = 0; j < n; j++) {
        lanes[j] = from[j];
    }
    return ivec_load(lanes);
}

SIMD_INLINE void bytes_store(uint8_t *to, i32x16 a, size_t n)
{
    int32_t lanes[SIMD_LANES];

    ivec_store(lanes, a);
    for (size_t j = 0; j < n; j++) {
        to[j] = (uint8_t)lanes[j];
    }
}
#endif

/* Codes of the n values of a tile; returns their scale's byte. */
static inline uint8_t code_tile(const float *x, size_t n, uint8_t *codes)
{
    const float scale = e4m3_scale(vec_hmax(e4m3_largest(vec_zero(), x, n)));
    const f32x16 inverse = vec_set1(1.0F / scale); /* exact: a power of two */
    uint32_t bits;

    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        const f32x16 scaled = vec_mul(lanes_load(x + j, left), inverse);
        bytes_store(codes + j, e4m3_codes(e4m3_round_scaled(scaled)), left);
    }
    memcpy(&bits, &scale, sizeof(bits));
    return (uint8_t)(bits >> 23);
}

/* Values of the codes of a tile, which bfloat16 holds. */
SIMD_INLINE f32x16 coded_values(i32x16 codes, uint8_t scale)
{
    const f32x16 factor = ivec_as_float(ivec_set1((int32_t)scale << 23));

    return scale == SCALE_NAN ? ivec_as_float(ivec_set1(0x7FC00000))
                              : vec_mul(code_value(codes), factor);
}

/* Values of an entry that lie side by side: of one tile, or behind the coded ones. */
struct code_run {
    uint8_t *codes;   /* NULL: halves */
    uint8_t *scale;   /* of codes */
    uint16_t *halves; /* NULL: codes */
    size_t n;
};

/* The run of an FP8 entry from value `at` on, which ends before value `end`; or, of any entry, how
 * far its tile reaches. */
static inline struct code_run code_run_at(const struct kv_pages *pages, void *entry, size_t at,
                                          size_t end)
{
    uint8_t *bytes = entry;
    uint16_t *halves = entry;

    if (at >= pages->n_coded) {
        return (struct code_run){.halves = halves + (pages->n_coded + kv_tiles(pages) + 1) / 2 +
                                           (at - pages->n_coded),
                                 .n = end - at};
    }
    const size_t group = at / pages->coded_group, tile = at % pages->coded_group / FP8_BLOCK;
    const size_t group_end = (group + 1) * pages->coded_group;
    const size_t tile_end = group * pages->coded_group + (tile + 1) * FP8_BLOCK;
    const size_t run_end = tile_end < group_end ? tile_end : group_end;

    return (struct code_run){.codes = bytes + at,
                             .scale = bytes + pages->n_coded + group * kv_group_tiles(pages) + tile,
                             .n = (run_end < end ? run_end : end) - at};
}

/* The same of BF16 pages too, where every value is a half. */
static inline struct code_run page_run_at(const struct kv_pages *pages, void *entry, size_t at,
                                          size_t end)
{
    uint16_t *halves = entry;

    return pages->precision == PRECISION_FP8
               ? code_run_at(pages, entry, at, end)
               : (struct code_run){.halves = halves + at, .n = end - at};
}

SIMD_INLINE f32x16 code_run_load(const struct code_run *run, size_t j, size_t n)
{
    return run->codes == NULL ? halves_load(run->halves + j, n)
                              : coded_values(bytes_load(run->codes + j, n), *run->scale);
}

/* The run's values as bfloat16. */
static inline void expand_run(const struct code_run *run, uint16_t *to)
{
    if (run->codes == NULL) {
        memcpy(to, run->halves, run->n * sizeof(*to));
        return;
    }
    for (size_t j = 0; j < run->n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, run->n);
        halves_store(to + j, code_run_load(run, j, left), left);
    }
}

#endif
