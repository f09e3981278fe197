/* Owns conversion between floats and the small formats, bit for bit (model.md 10.1, 10.2). The
 * loops have a fixed inner length so that they vectorise without aggressive options. */
#include "model/quant.h"

#include <string.h>

#define AMAX_MIN 1e-4f
#define E4M3_MAX 448.0f
#define LANES ((size_t)32)

static float float_of_bits(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint32_t bits_of_float(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

float quant_e4m3_value(uint8_t code)
{
    const uint32_t sign = (uint32_t)(code & 0x80u) << 24;
    const uint32_t magnitude = code & 0x7fu;

    if (magnitude == 0x7f) {
        return float_of_bits(sign | 0x7fc00000u);
    }
    if (magnitude < 8) { /* subnormal: multiples of 2^-9 */
        return float_of_bits(sign | bits_of_float((float)magnitude * 0x1p-9f));
    }
    return float_of_bits(sign | ((magnitude << 20) + ((127u - 7u) << 23)));
}

float quant_e8m0_value(uint8_t byte)
{
    if (byte == 0xff) {
        return float_of_bits(0x7fc00000u);
    }
    return byte == 0 ? 0x1p-127f : float_of_bits((uint32_t)byte << 23);
}

float quant_bf16_value(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

float quant_f16_value(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t exponent = ((uint32_t)bits >> 10) & 0x1fu;
    const uint32_t mantissa = bits & 0x3ffu;

    if (exponent == 31) {
        return float_of_bits(sign | 0x7f800000u | (mantissa << 13));
    }
    if (exponent == 0) {
        return float_of_bits(sign | bits_of_float((float)mantissa * 0x1p-24f));
    }
    return float_of_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint8_t quant_e4m3_code(float value)
{
    const uint32_t bits = bits_of_float(value);
    const uint32_t sign = (bits >> 24) & 0x80u;
    const uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u) {
        return (uint8_t)(sign | 0x7fu);
    }
    if (magnitude >= bits_of_float(E4M3_MAX)) {
        return (uint8_t)(sign | 0x7eu);
    }
    if (magnitude < bits_of_float(0x1p-6f)) {
        /* 2^14 has a last place of 2^-9, so the addition rounds to a multiple of that. */
        const float shifted = float_of_bits(magnitude) + 0x1p14f;

        return (uint8_t)(sign | (bits_of_float(shifted) - bits_of_float(0x1p14f)));
    }

    const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);

    return (uint8_t)(sign | ((rounded >> 20) - ((127u - 7u) << 3)));
}

uint16_t quant_bf16_bits(float value)
{
    const uint32_t bits = bits_of_float(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

void quant_e4m3_table(float out[256])
{
    for (size_t i = 0; i < 256; i++) {
        out[i] = quant_e4m3_value((uint8_t)i);
    }
}

float quant_scale(float amax)
{
    const float q = (amax > AMAX_MIN ? amax : AMAX_MIN) / E4M3_MAX;
    const uint32_t bits = bits_of_float(q); /* never subnormal: q is at least 2e-7 */

    return float_of_bits(((bits >> 23) + ((bits & 0x7fffffu) != 0)) << 23);
}

size_t quant_blocks(size_t n)
{
    return n / QUANT_BLOCK + (n % QUANT_BLOCK != 0);
}

/* Largest magnitude of a block whose rows are `stride` apart. */
static float find_amax(const float *values, size_t n_rows, size_t n_columns, size_t stride)
{
    uint32_t largest = 0; /* magnitudes compare like their bits */

    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < n_columns; j++) {
            const uint32_t magnitude = bits_of_float(values[i * stride + j]) & 0x7fffffffu;

            largest = magnitude > largest ? magnitude : largest;
        }
    }
    return float_of_bits(largest);
}

/* Codes of one block under 1 / inverse. */
static void quantise_block(const float *values, size_t n_rows, size_t n_columns, size_t stride,
                           float inverse, uint8_t *codes)
{
    for (size_t i = 0; i < n_rows; i++) {
        for (size_t j = 0; j < n_columns; j++) {
            codes[i * stride + j] = quant_e4m3_code(values[i * stride + j] * inverse);
        }
    }
}

void quant_matrix(const float *values, size_t n_rows, size_t n_columns, size_t block_rows,
                  uint8_t *codes, float *scales)
{
    for (size_t row = 0; row < n_rows; row += block_rows) {
        const size_t height = n_rows - row < block_rows ? n_rows - row : block_rows;

        for (size_t column = 0; column < n_columns; column += QUANT_BLOCK) {
            const size_t left = n_columns - column;
            const size_t width = left < QUANT_BLOCK ? left : QUANT_BLOCK;
            const size_t begin = row * n_columns + column;
            const float scale = quant_scale(find_amax(values + begin, height, width, n_columns));

            *scales++ = scale;
            /* 1 / scale is exact: both are powers of two. */
            quantise_block(values + begin, height, width, n_columns, 1 / scale, codes + begin);
        }
    }
}

void quant_bf16_row(const float *values, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = quant_bf16_bits(values[i]);
    }
}

void quant_bf16_values(const unsigned char *bits, size_t n, float *out)
{
    uint16_t halves[LANES];

    for (; n >= LANES; n -= LANES) {
        memcpy(halves, bits, sizeof(halves));
        for (size_t i = 0; i < LANES; i++) {
            out[i] = quant_bf16_value(halves[i]);
        }
        bits += sizeof(halves);
        out += LANES;
    }
    memcpy(halves, bits, n * sizeof(halves[0]));
    for (size_t i = 0; i < n; i++) {
        out[i] = quant_bf16_value(halves[i]);
    }
}

void quant_f16_values(const unsigned char *bits, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;

        memcpy(&half, bits + 2 * i, sizeof(half));
        out[i] = quant_f16_value(half);
    }
}

bool quant_all_finite(const float *values, size_t n)
{
    uint32_t flags = 0; /* bit 31: an exponent of all ones was seen */
    size_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            flags |= (bits_of_float(values[i + j]) & 0x7f800000u) + 0x00800000u;
        }
    }
    for (; i < n; i++) {
        flags |= (bits_of_float(values[i]) & 0x7f800000u) + 0x00800000u;
    }
    return flags >> 31 == 0;
}
