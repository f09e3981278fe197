/* Owns the entries of FP8 pages, and what coded values of BF16 pages are rounded to (struct
 * kv_pages). An entry is its groups one behind the other, then the other values:
 *
 *   a group         codes of its coded_group values, a byte each; then a byte of scale for each of
 *                   its tiles: 2^(byte - 127)
 *   an even byte    the other values as bfloat16
 *
 * Zeros, and what rounds to zero, are +0. A tile with a value that is not finite has scale 255, and
 * is all NaN: so would be what attention makes of it. */
#ifndef HONE_KERNELS_CPU_SIMD_KV_CODES_H
#define HONE_KERNELS_CPU_SIMD_KV_CODES_H

#include "kernels/backend.h"
#include "kernels/cpu/simd/e4m3.h"
#include "kernels/cpu/simd/halves.h"

#define SCALE_NAN 255U
#define NAN_BITS 0x7FC00000

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

/* n halves that lie anywhere. */
#ifdef __AVX512BW__
SIMD_INLINE void halves_copy(const uint8_t *from, size_t n, uint16_t *to)
{
    for (; n >= 32; n -= 32, from += 64, to += 32) {
        _mm512_storeu_si512(to, _mm512_loadu_si512(from));
    }
    if (n > 0) {
        const uint32_t mask = (1U << n) - 1;
        _mm512_mask_storeu_epi16(to, mask, _mm512_maskz_loadu_epi16(mask, from));
    }
}
#else
SIMD_INLINE void halves_copy(const uint8_t *from, size_t n, uint16_t *to)
{
    memcpy(to, from, n * sizeof(*to));
}
#endif

/* Codes of the n values of a tile; returns their scale's byte. */
static inline uint8_t code_tile(const float *x, size_t n, uint8_t *codes)
{
    const f32x16 infinity = ivec_as_float(ivec_set1(0x7F800000));
    const float scale = e4m3_scale(vec_hmax(e4m3_largest(vec_zero(), x, n)));
    const f32x16 inverse = vec_set1(1.0F / scale); /* exact: a power of two */
    uint32_t bits, n_finite = 0;

    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        const f32x16 values = lanes_load(x + j, left);
        bytes_store(codes + j, e4m3_codes(e4m3_round_scaled(vec_mul(values, inverse))), left);
        n_finite += mask_bits(vec_lt(vec_abs(values), infinity)) == 0xFFFFU;
    }
    memcpy(&bits, &scale, sizeof(bits));
    return n_finite == (n + SIMD_LANES - 1) / SIMD_LANES ? (uint8_t)(bits >> 23) : SCALE_NAN;
}

/* Values of the codes of a tile, which bfloat16 holds. */
SIMD_INLINE f32x16 coded_values(i32x16 codes, uint8_t scale)
{
    const f32x16 factor = ivec_as_float(ivec_set1((int32_t)scale << 23));

    return scale == SCALE_NAN ? ivec_as_float(ivec_set1(NAN_BITS))
                              : vec_mul(code_value(codes), factor);
}

#ifdef __AVX512BF16__
/* Low byte of the bfloat16 of each code. */
static const uint8_t code_low[128] __attribute__((aligned(64))) = {
    0x00, 0x00, 0x80, 0xc0, 0x00, 0x20, 0x40, 0x60, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0,
    0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xc0,
};
/* High bytes of the codes' values as bfloat16 times 2^120, which has room for every code's exponent
 * and its scale's: a saturating subtraction from them leaves zeros what they are. */
static const uint8_t code_high[128] __attribute__((aligned(64))) = {
    0x00, 0x77, 0x77, 0x77, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78,
    0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79, 0x79,
    0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a, 0x7a,
    0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b, 0x7b,
    0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c,
    0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d, 0x7d,
    0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e, 0x7e,
    0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f,
};

/* 64 codes: quarters are put in the order that makes the halves of the result adjacent. */
SIMD_INLINE void expand_64(__m512i codes, uint8_t scale, __m512i *first, __m512i *second)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i in_order = _mm512_permutexvar_epi64(order, codes);
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(code_low), in_order,
                                                 _mm512_load_si512(code_low + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(code_high), in_order,
                                                       _mm512_load_si512(code_high + 64));
    const __m512i high =
        _mm512_ternarylogic_epi32(magnitude, in_order, _mm512_set1_epi8(INT8_MIN), 0xF8);
    const __m512i power = _mm512_set1_epi16((int16_t)((120 + 127 - scale) * 128));

    *first = _mm512_subs_epu16(_mm512_unpacklo_epi8(low, high), power);
    *second = _mm512_subs_epu16(_mm512_unpackhi_epi8(low, high), power);
}

/* The first n of 64 values. */
SIMD_INLINE void expand_some(const uint8_t *codes, size_t n, uint8_t scale, uint16_t *to)
{
    const uint64_t mask = (UINT64_C(1) << n) - 1;
    __m512i first, second;

    expand_64(_mm512_maskz_loadu_epi8(mask, codes), scale, &first, &second);
    _mm512_mask_storeu_epi16(to, (uint32_t)mask, first);
    _mm512_mask_storeu_epi16(to + 32, (uint32_t)(mask >> 32), second);
}

/* The values of a tile's codes as bfloat16. */
SIMD_INLINE void expand_codes(const uint8_t *codes, size_t n, uint8_t scale, uint16_t *to)
{
    size_t j = 0;

    for (; j + 64 <= n; j += 64) {
        __m512i first, second;
        expand_64(_mm512_loadu_si512(codes + j), scale, &first, &second);
        _mm512_storeu_si512(to + j, first);
        _mm512_storeu_si512(to + j + 32, second);
    }
    if (j < n) {
        expand_some(codes + j, n - j, scale, to + j);
    }
}
#else
SIMD_INLINE void expand_codes(const uint8_t *codes, size_t n, uint8_t scale, uint16_t *to)
{
    for (size_t j = 0; j < n; j += SIMD_LANES) {
        const size_t left = lanes_left(j, n);
        halves_store(to + j, coded_values(bytes_load(codes + j, left), scale), left);
    }
}
#endif

/* Values of an entry that lie side by side: of one tile, or not coded. */
struct code_run {
    size_t at; /* bytes into the entry: of codes, else of halves */
    size_t scale_at;
    size_t n;
    bool is_coded;
};

/* Bytes of a group. */
static inline size_t group_bytes(const struct kv_pages *pages)
{
    return pages->coded_group + kv_group_tiles(pages);
}

/* Bytes of all groups. */
static inline size_t groups_bytes(const struct kv_pages *pages)
{
    return pages->n_coded + kv_tiles(pages);
}

/* The run of an FP8 entry from value `at` on, which ends before value `end`. */
static inline struct code_run code_run_at(const struct kv_pages *pages, size_t at, size_t end)
{
    if (at >= pages->n_coded) {
        const size_t n_halves = (groups_bytes(pages) + 1) / 2; /* in front of them */

        return (struct code_run){.at = (n_halves + at - pages->n_coded) * sizeof(uint16_t),
                                 .n = end - at};
    }
    const size_t first = at / pages->coded_group * group_bytes(pages);
    const size_t in_group = at % pages->coded_group, tile = in_group / FP8_BLOCK;
    const size_t tile_end = (tile + 1) * FP8_BLOCK;
    const size_t left = (tile_end < pages->coded_group ? tile_end : pages->coded_group) - in_group;

    return (struct code_run){.at = first + in_group,
                             .scale_at = first + pages->coded_group + tile,
                             .n = left < end - at ? left : end - at,
                             .is_coded = true};
}

/* The same of BF16 pages too, where every value is a half. */
static inline struct code_run page_run_at(const struct kv_pages *pages, size_t at, size_t end)
{
    return pages->precision == PRECISION_FP8
               ? code_run_at(pages, at, end)
               : (struct code_run){.at = at * sizeof(uint16_t), .n = end - at};
}

/* Bytes [first, end) of an entry. */
struct entry_bytes {
    size_t first, end;
};

/* Those that hold values [at, at + width), with their scales. */
static inline struct entry_bytes part_bytes(const struct kv_pages *pages, size_t at, size_t width)
{
    const size_t size = pages->precision == PRECISION_F32 ? sizeof(float) : sizeof(uint16_t);

    if (pages->precision != PRECISION_FP8) {
        return (struct entry_bytes){at * size, (at + width) * size};
    }
    const size_t end = at + width, n_groups = (end + pages->coded_group - 1) / pages->coded_group;

    return (struct entry_bytes){code_run_at(pages, at, end).at,
                                end > pages->n_coded ? code_run_at(pages, end, end).at
                                                     : n_groups * group_bytes(pages)};
}

/* Values [j, j + n) of a run of the entry. */
SIMD_INLINE f32x16 code_run_load(const struct code_run *run, const void *entry, size_t j, size_t n)
{
    const uint8_t *bytes = entry;
    const void *const values = bytes + run->at;
    const uint16_t *halves = values;

    return run->is_coded ? coded_values(bytes_load(bytes + run->at + j, n), bytes[run->scale_at])
                         : halves_load(halves + j, n);
}

/* The values of a tile's codes under any scale as bfloat16. */
SIMD_INLINE void expand_tile(const uint8_t *codes, size_t n, uint8_t scale, uint16_t *to)
{
    if (__builtin_expect(scale == SCALE_NAN, 0)) {
        for (size_t j = 0; j < n; j++) {
            to[j] = NAN_BITS >> 16;
        }
        return;
    }
    expand_codes(codes, n, scale, to);
}

/* A run as bfloat16, of n entries that lie entry_bytes apart, to rows of to_stride halves. */
SIMD_INLINE void expand_run(struct code_run run, const void *entries, size_t entry_bytes, size_t n,
                            uint16_t *to, size_t to_stride)
{
    const uint8_t *entry = entries;

    if (!run.is_coded) {
        for (size_t k = 0; k < n; k++) {
            halves_copy(entry + k * entry_bytes + run.at, run.n, to + k * to_stride);
        }
        return;
    }
    for (size_t k = 0; k < n; k++, entry += entry_bytes) {
        expand_tile(entry + run.at, run.n, entry[run.scale_at], to + k * to_stride);
    }
}

#endif
