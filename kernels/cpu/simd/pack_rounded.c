/* Owns the packing of weights as BF16 and FP8, and of floats that are rounded like those: a chunk
 * of 128 of k by a panel's 32 columns is gathered, rounded, and written in its form. */
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/simd/cpu_ops.h"
#include "kernels/cpu/simd/e4m3.h"
#include "kernels/cpu/simd/pack_job.h"
#include "kernels/cpu/simd/pairs.h"

#include <assert.h>
#include <string.h>

#define CHUNK_K FP8_BLOCK

/* A chunk, k-major, and where it lies in the matrix. */
struct chunk {
    float values[CHUNK_K * PANEL_COLUMNS];
    size_t column, k, n_columns, n_k;
};

static size_t count_blocks(size_t n)
{
    return (n + FP8_BLOCK - 1) / FP8_BLOCK;
}

void ISA(pack_job_scale)(const struct pack_job *job, size_t index)
{
    const struct pack_args *const a = &job->args;
    const size_t whole_rows = a->whole_rows != 0 ? a->whole_rows : job->n_rows;
    const size_t column = index % job->n_column_blocks * FP8_BLOCK;
    const size_t left = job->n_columns - column;
    const size_t width = left < FP8_BLOCK ? left : FP8_BLOCK;
    const float *const whole = a->src - a->row_at * a->src_stride;
    const size_t row = (job->first_block + index / job->n_column_blocks) * FP8_BLOCK;
    const size_t row_end = row + FP8_BLOCK < whole_rows ? row + FP8_BLOCK : whole_rows;
    f32x16 largest = vec_zero();
    for (size_t i = row; i < row_end; i++) {
        largest = e4m3_largest(largest, whole + i * a->src_stride + column, width);
    }
    job->scales[index] =
        a->has_float_scales ? e4m3_float_scale(vec_hmax(largest)) : e4m3_scale(vec_hmax(largest));
}

/* The scale of src[row][column]. */
static float scale_of(const struct pack_job *job, size_t row, size_t column)
{
    const size_t block = (job->args.row_at + row) / FP8_BLOCK - job->first_block;
    return job->scales[block * job->n_column_blocks + column / FP8_BLOCK];
}

static void gather_chunk(const struct pack_args *args, struct chunk *chunk)
{
    const size_t n = chunk->n_columns;
    if (n < PANEL_COLUMNS || chunk->n_k % 2 == 1) {
        memset(chunk->values, 0, sizeof(chunk->values));
    }
    if (args->transposed) {
        ISA(pack_rows)(args, chunk->column, n, chunk->k, chunk->n_k, chunk->values);
    } else {
        ISA(pack_turn)(args, chunk->column, n, chunk->k, chunk->n_k, chunk->values);
    }
}

/* a divided by its scale, rounded to what a code can hold. The inverse of a power of two is exact,
 * and so is then the product with it. */
SIMD_INLINE f32x16 round_scaled(const struct pack_job *job, f32x16 a, f32x16 scale, f32x16 inverse)
{
    return e4m3_round(job->args.has_float_scales ? vec_div(a, scale) : vec_mul(a, inverse));
}

/* Codes' values; times their scale unless they become codes. */
static void round_columns(const struct pack_job *job, struct chunk *chunk)
{
    const bool is_coded = job->args.precision == PRECISION_FP8;
    float scales[PANEL_COLUMNS];
    for (size_t c = 0; c < PANEL_COLUMNS; c++) {
        const size_t column = chunk->column + (c < chunk->n_columns ? c : 0);
        scales[c] = scale_of(job, column, chunk->k);
    }
    for (size_t v = 0; v < PANEL_COLUMNS; v += SIMD_LANES) {
        const f32x16 scale = vec_load(scales + v);
        const f32x16 inverse = vec_div(vec_set1(1.0F), scale);
        for (size_t k = 0; k < chunk->n_k; k++) {
            float *const at = chunk->values + k * PANEL_COLUMNS + v;
            const f32x16 value = round_scaled(job, vec_load(at), scale, inverse);
            vec_store(at, is_coded ? value : vec_mul(value, scale));
        }
    }
}

/* The same of a transposed chunk, whose rows have one scale each. */
static void round_rows(const struct pack_job *job, struct chunk *chunk)
{
    for (size_t k = 0; k < chunk->n_k; k++) {
        const f32x16 scale = vec_set1(scale_of(job, chunk->k + k, chunk->column));
        const f32x16 inverse = vec_div(vec_set1(1.0F), scale);
        for (size_t v = 0; v < PANEL_COLUMNS; v += SIMD_LANES) {
            float *const at = chunk->values + k * PANEL_COLUMNS + v;
            vec_store(at, vec_mul(round_scaled(job, vec_load(at), scale, inverse), scale));
        }
    }
}

static void round_to_codes(const struct pack_job *job, struct chunk *chunk)
{
    if (job->args.transposed) {
        round_rows(job, chunk);
    } else {
        round_columns(job, chunk);
    }
}

static void round_to_bf16(struct chunk *chunk)
{
    for (size_t i = 0; i < chunk->n_k * PANEL_COLUMNS; i += SIMD_LANES) {
        vec_store(chunk->values + i, vec_round_bf16(vec_load(chunk->values + i)));
    }
}

/* dst: the panel's pair of chunk->k; the values are rounded. */
static void write_pairs(const struct chunk *chunk, float *dst)
{
    for (size_t k = 0; k < chunk->n_k; k += 2) {
        for (size_t c = 0; c < PANEL_COLUMNS; c += SIMD_LANES) {
            const float *const at = chunk->values + k * PANEL_COLUMNS + c;
            vec_store(dst + k / 2 * PANEL_COLUMNS + c,
                      pairs_join(vec_load(at), vec_load(at + PANEL_COLUMNS)));
        }
    }
}

static void write_codes(const struct chunk *chunk, float *dst)
{
    for (size_t k = 0; k < chunk->n_k; k += 2) {
        const float *const even = chunk->values + k * PANEL_COLUMNS;
        const float *const odd = even + PANEL_COLUMNS;
        vec_store(dst + k / 2 * SIMD_LANES,
                  codes_join(e4m3_codes(vec_load(even)), e4m3_codes(vec_load(odd)),
                             e4m3_codes(vec_load(even + SIMD_LANES)),
                             e4m3_codes(vec_load(odd + SIMD_LANES))));
    }
}

static void write_chunk(const struct pack_job *job, const struct chunk *chunk, float *panel)
{
    const size_t n_in = job->args.n_in;
    switch (job->args.precision) {
    case PRECISION_F32:
        memcpy(panel + chunk->k * PANEL_COLUMNS, chunk->values,
               chunk->n_k * PANEL_COLUMNS * sizeof(float));
        break;
    case PRECISION_BF16:
        write_pairs(chunk, panel + chunk->k / 2 * PANEL_COLUMNS);
        break;
    case PRECISION_FP8:
        panel[chunk->k / FP8_BLOCK] = scale_of(job, chunk->column, chunk->k);
        write_codes(chunk, panel + packed_words(PRECISION_FP8, n_in, 1) -
                               (n_in + 1) / 2 * SIMD_LANES + chunk->k / 2 * SIMD_LANES);
        break;
    }
}

void ISA(pack_job_panel)(const struct pack_job *job, size_t panel)
{
    const struct pack_args *const args = &job->args;
    struct chunk chunk;
    chunk.column = panel * PANEL_COLUMNS;
    const size_t left = args->n_out - chunk.column;
    chunk.n_columns = left < PANEL_COLUMNS ? left : PANEL_COLUMNS;
    for (chunk.k = 0; chunk.k < args->n_in; chunk.k += CHUNK_K) {
        chunk.n_k = args->n_in - chunk.k < CHUNK_K ? args->n_in - chunk.k : CHUNK_K;
        gather_chunk(args, &chunk);
        if (job->rounding == PRECISION_FP8) {
            round_to_codes(job, &chunk);
        } else if (job->rounding == PRECISION_BF16 && args->precision == PRECISION_F32) {
            round_to_bf16(&chunk);
        }
        write_chunk(job, &chunk, args->dst + panel * job->panel_stride);
    }
}

void ISA(pack_job_plan)(const struct pack_args *args, struct pack_job *out)
{
    const size_t panel_words = packed_words(args->precision, args->n_in, 1);
    *out = (struct pack_job){
        .args = *args,
        .rounding = args->precision == PRECISION_FP8 ? PRECISION_FP8 : args->rounding,
        .n_panels = (args->n_out + PANEL_COLUMNS - 1) / PANEL_COLUMNS,
        .n_rows = args->transposed ? args->n_in : args->n_out,
        .n_columns = args->transposed ? args->n_out : args->n_in,
        .panel_stride = args->panel_stride != 0 ? args->panel_stride : panel_words,
    };
    assert(args->precision != PRECISION_FP8 || (!args->transposed && args->row_at == 0));
    if (out->rounding == PRECISION_FP8) {
        out->first_block = args->row_at / FP8_BLOCK;
        out->n_column_blocks = count_blocks(out->n_columns);
        out->n_scales =
            (count_blocks(args->row_at + out->n_rows) - out->first_block) * out->n_column_blocks;
    }
}
