/* Owns the number formats of checkpoints and block quantisation (model.md 10.1, 10.2):
 *
 *   E4M3 ("fn")  1 sign, 4 exponent (bias 7), 3 mantissa bits; largest 448; 0x7F and 0xFF are NaN
 *   E8M0         2^(byte - 127); 0xFF is NaN
 *   BF16, F16    the upper half of a float; IEEE half
 *
 * A quantised matrix (rows, columns) has one code an element and one scale a block; value = code
 * value * scale. Scales are powers of two rounded up, so dividing by them is exact. */
#ifndef HONE_MODEL_QUANT_H
#define HONE_MODEL_QUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUANT_BLOCK ((size_t)128) /* edge of a weight's block, width of an activation's tile */
/* Above this a block's scale makes 448 * scale leave the range of a float. */
#define QUANT_SCALE_MAX 0x1p119f

float quant_e4m3_value(uint8_t code);
float quant_e8m0_value(uint8_t byte);
float quant_bf16_value(uint16_t bits);
float quant_f16_value(uint16_t bits);
/* Round to nearest even; magnitudes above 448 become 448, NaN stays NaN. */
uint8_t quant_e4m3_code(float value);
/* Round to nearest even; too large magnitudes become infinite, NaN stays NaN. */
uint16_t quant_bf16_bits(float value);

/* Values of all E4M3 codes. */
void quant_e4m3_table(float out[256]);
/* The smallest power of two that is at least max(amax, 1e-4) / 448. */
float quant_scale(float amax);
/* Blocks along one edge of n elements. */
size_t quant_blocks(size_t n);
/* Quantises values (n_rows, n_columns): codes likewise, scales (ceil(n_rows / block_rows),
 * quant_blocks(n_columns)). block_rows is QUANT_BLOCK for weights, 1 for activations. */
void quant_matrix(const float *values, size_t n_rows, size_t n_columns, size_t block_rows,
                  uint8_t *codes, float *scales);
void quant_bf16_row(const float *values, size_t n, uint16_t *out);
/* The values of n halves at any alignment. */
void quant_bf16_values(const unsigned char *bits, size_t n, float *out);
void quant_f16_values(const unsigned char *bits, size_t n, float *out);
/* True when no value is infinite or NaN. */
bool quant_all_finite(const float *values, size_t n);

#endif
